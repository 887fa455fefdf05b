# make run    run a replica for $WEBHOOK_URL, or without one the demo
# make test   install what the tests need, and run all of them
# make soak   random histories against the laws of the design: a long one without
#             faults of store or replicas, and some with all of them, and clients
#             that obey all they are told (SEED=1 replays)
# make test-clients  what real clients make of the answers: installs them, Node 20
#             or newer not among them (WRITE=1 writes the table of docs/clients-table.md)
# make test-page  the operators' page in a real browser (WRITE=1 takes the pictures of docs/page.md)
# make check  formatting, linters, known vulnerabilities
# make release  of the commit's tag: archives, completions, manual page and checksums in bin/release, and the image, which
#             is pushed to KO_DOCKER_REPO; where GITHUB_TOKEN is set, a release is made there. SNAPSHOT=1: of any commit,
#             nothing leaves bin/release, and there needs to be no network
# make image  the image into the local Docker, as ko.local/throttle-proxy
# make test-deploy  what needs a Docker engine with Compose: the image and deploy/compose.yaml, run for real
# make recording  docs/demo.svg, from what the demo says
# make bench  Go benchmarks (RUNS of each), then the product beside a bare
#             ReverseProxy and nginx: the table of docs/speed.md
# make bench-growth  how cost grows: the table of docs/growth.md
# make bench-memory  how memory grows, and that it does not with time: the table of docs/memory.md

GO          ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
BENCHSTAT   := golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da
GORELEASER  := v2.16.0
KO          := v0.19.1
RUNS        ?= 6

# What a release says of itself.
export COMMIT  := $(shell git rev-parse HEAD 2>/dev/null)
export VERSION := $(or $(shell git describe --tags --match "v[0-9]*" --dirty 2>/dev/null),snapshot-$(shell git rev-parse --short HEAD 2>/dev/null))

.PHONY: build run test soak test-clients test-page check release image test-deploy bench bench-growth bench-memory recording deps

# The flags of a plain `go build` and `go run`, so that they find each other's work; those for the linker alone cost
# nothing. A release is built by itself, without cgo.
build:
	@echo "make: compiling bin/throttle-proxy: about a minute the first time, and a few seconds from then on"
	@$(GO) build -ldflags '-s -w' -o bin/throttle-proxy ./cmd/throttle-proxy

run: build
	@if test -n "$$WEBHOOK_URL"; then \
	  echo 'make: serving $$WEBHOOK_URL at http://localhost:44444/slack until ^C. In another terminal: bin/throttle-proxy try slack'; \
	  exec bin/throttle-proxy --port 44444 --register slack=env:WEBHOOK_URL; \
	else \
	  echo 'make: $$WEBHOOK_URL is not set, so this is the demo'; \
	  exec bin/throttle-proxy demo; \
	fi

test: deps
	PATH="$$PATH:/usr/sbin" $(GO) test -race -shuffle=on -timeout 30m ./...
	cd integration/deploy && $(GO) test -race -shuffle=on .

# Tools of a release, which are large: compiled once, and there without a network from then on.
bin/tools/$(GORELEASER)/goreleaser: MODULE = github.com/goreleaser/goreleaser/v2@$(GORELEASER)
bin/tools/$(KO)/ko: MODULE = github.com/google/ko@$(KO)
bin/tools/$(GORELEASER)/goreleaser bin/tools/$(KO)/ko:
	@echo "compiling $(MODULE) (the first time takes some minutes)"
	@GOFLAGS= GOBIN=$(CURDIR)/$(@D) $(GO) install $(MODULE)

# The base image is what deploy/scratch writes into ko's cache, so that no registry is asked for one.
ko = KOCACHE=$(CURDIR)/bin/ko KO_DEFAULTBASEIMAGE=scratch@$$($(GO) run ./deploy/scratch bin/ko/img) \
	bin/tools/$(KO)/ko build --base-import-paths --tags $(VERSION),latest \
	--image-label org.opencontainers.image.title=throttle-proxy \
	--image-label org.opencontainers.image.description="Refuses duplicates of requests in flight and requests over a budget" \
	--image-label org.opencontainers.image.licenses=MIT \
	--image-label org.opencontainers.image.version=$(VERSION) \
	--image-label org.opencontainers.image.revision=$(COMMIT)

release: build bin/tools/$(GORELEASER)/goreleaser bin/tools/$(KO)/ko
	@test -n "$(SNAPSHOT)$(KO_DOCKER_REPO)" || { echo "KO_DOCKER_REPO: write where the image is to be pushed, or SNAPSHOT=1" >&2; exit 1; }
	@mkdir -p bin/extras
	@for shell in bash zsh fish; do bin/throttle-proxy completion $$shell >bin/extras/throttle-proxy.$$shell || exit 1; done
	@bin/throttle-proxy man >bin/extras/throttle-proxy.1
	bin/tools/$(GORELEASER)/goreleaser release --clean $(if $(SNAPSHOT),--snapshot)
	$(if $(SNAPSHOT),KO_DOCKER_REPO=snapshot) $(ko) $(if $(SNAPSHOT),--push=false) --oci-layout-path bin/release/image --sbom-dir bin/release/sbom ./cmd/throttle-proxy

image: bin/tools/$(KO)/ko
	KO_DOCKER_REPO=ko.local $(ko) ./cmd/throttle-proxy

test-deploy: SNAPSHOT = 1
test-deploy: deps release image
	cd integration/deploy && $(GO) test -count 1 -v -timeout 30m ./engine

soak: deps
	PATH="$$PATH:/usr/sbin" $(GO) test -race -count 1 -v -timeout 2h -run '^TestHistory$$' ./integration -history.seed $(or $(SEED),0) -history.faults none -history.ops 100000
	PATH="$$PATH:/usr/sbin" $(GO) test -race -count 1 -v -timeout 2h -run '^TestHistory$$' ./integration -history.seed $(or $(SEED),0) -history.faults all -history.ops 10000 -history.runs 5
	PATH="$$PATH:/usr/sbin" $(GO) test -race -count 1 -v -timeout 2h -run '^TestObedientClientsNeverSendTwice$$' ./integration -obedient.seed $(or $(SEED),0) -obedient.messages 10000

test-clients: deps integration/clients/node/node_modules
	cd integration/clients && $(GO) vet ./... && $(GO) test -race -count 1 -timeout 10m ./... $(if $(WRITE),-args -write)

integration/clients/node/node_modules: integration/clients/node/package-lock.json
	cd $(@D) && npm ci --loglevel=error && touch $(@F)

test-clients: CLIENTS = yes

test-page: BROWSER = yes
test-page: deps
	cd integration/page && $(GO) test -race -count 1 -timeout 10m . $(if $(WRITE),-args -write)

check:
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "gofmt: $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) mod tidy -diff
	$(GO) run $(STATICCHECK) ./...
	cd integration/deploy && $(GO) vet ./... && $(GO) mod tidy -diff && $(GO) run $(STATICCHECK) ./...
	cd integration/clients && $(GO) mod tidy -diff
	cd integration/page && $(GO) vet ./... && $(GO) mod tidy -diff && $(GO) run $(STATICCHECK) ./...
	@# The database of vulnerabilities is on the network: without it there is nothing to compare with.
	@if curl -fsS --max-time 10 -o /dev/null https://vuln.go.dev/index/db.json; then $(GO) run $(GOVULNCHECK) ./...; \
	else echo "govulncheck: its database cannot be reached, skipped"; fi

recording: build
	@$(GO) run ./integration/recording bin/throttle-proxy > bin/demo.svg && mv bin/demo.svg docs/demo.svg

bench: deps
	@mkdir -p bin
	PATH="$$PATH:/usr/sbin" $(GO) test -run '^$$' -bench . -benchmem -count $(RUNS) ./... > bin/bench.txt || { cat bin/bench.txt; exit 1; }
	$(GO) run $(BENCHSTAT) bin/bench.txt
	PATH="$$PATH:/usr/sbin" $(GO) run ./integration/bench -plots docs -history integration/bench/history.csv

bench-growth: deps
	PATH="$$PATH:/usr/sbin" $(GO) run ./integration/bench -growth -runs 3

bench-memory: deps
	PATH="$$PATH:/usr/sbin" $(GO) run ./integration/bench -memory

bench bench-growth bench-memory: LOADER = wrk

# Real servers for the tests, and what loads them for the benchmarks, by the system's package manager; quiet when they
# are there.
deps:
	@PATH="$$PATH:/usr/sbin"; missing=""; \
	command -v redis-server >/dev/null || missing="$$missing redis-server"; \
	command -v nginx >/dev/null || missing="$$missing nginx-light"; \
	command -v promtool >/dev/null || missing="$$missing prometheus"; \
	command -v systemd-analyze >/dev/null || missing="$$missing systemd"; \
	for package in haproxy caddy zsh fish; do command -v $$package >/dev/null || missing="$$missing $$package"; done; \
	command -v gcc >/dev/null || missing="$$missing gcc libc6-dev"; \
	test -z "$(LOADER)" || command -v $(LOADER) >/dev/null || missing="$$missing $(LOADER)"; \
	test -z "$(CLIENTS)" || command -v npm >/dev/null || missing="$$missing npm"; \
	test -z "$(CLIENTS)" || command -v curl >/dev/null || missing="$$missing curl"; \
	test -z "$(CLIENTS)" || for python in python3 /usr/bin/python3; do $$python -c 'import requests' 2>/dev/null && break; done || missing="$$missing python3-requests"; \
	test -z "$(BROWSER)" || command -v chromium >/dev/null || missing="$$missing chromium fonts-inter fonts-jetbrains-mono"; \
	test -n "$$missing" || exit 0; \
	sudo=""; test "$$(id -u)" = 0 || sudo=sudo; \
	if command -v apt-get >/dev/null; then \
	  $$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -qqy --no-install-recommends $$missing >/dev/null; \
	else echo "needed:$$missing" >&2; exit 1; fi
