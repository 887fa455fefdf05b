# make run    run a replica for $WEBHOOK_URL, or without one the demo
# make test   install what the tests need, and run all of them
# make check  formatting, linters, known vulnerabilities
# make bench  benchmarks of the verdict, the fingerprint and the whole handler

GO          ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
BENCHSTAT   := golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da
RUNS        ?= 5

.PHONY: build run test check bench deps

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/throttle-proxy ./cmd/throttle-proxy

run:
	@if test -n "$$WEBHOOK_URL"; then $(GO) run ./cmd/throttle-proxy --port 44444 --register slack=env:WEBHOOK_URL; \
	else $(GO) run ./cmd/throttle-proxy demo; fi

test: deps
	PATH="$$PATH:/usr/sbin" $(GO) test -race -shuffle=on ./...

check:
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "gofmt: $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) mod tidy -diff
	$(GO) run $(STATICCHECK) ./...
	@# The database of vulnerabilities is on the network: without it there is nothing to compare with.
	@if curl -fsS --max-time 10 -o /dev/null https://vuln.go.dev/index/db.json; then $(GO) run $(GOVULNCHECK) ./...; \
	else echo "govulncheck: its database cannot be reached, skipped"; fi

bench:
	@mkdir -p bin
	$(GO) test -run '^$$' -bench . -benchmem -count $(RUNS) ./... | tee bin/bench.txt
	$(GO) run $(BENCHSTAT) bin/bench.txt

# Real servers for the tests, by the system's package manager; quiet when they
# are there.
deps:
	@PATH="$$PATH:/usr/sbin"; missing=""; \
	command -v redis-server >/dev/null || missing="$$missing redis-server"; \
	command -v nginx >/dev/null || missing="$$missing nginx-light"; \
	command -v gcc >/dev/null || missing="$$missing gcc libc6-dev"; \
	test -n "$$missing" || exit 0; \
	sudo=""; test "$$(id -u)" = 0 || sudo=sudo; \
	if command -v apt-get >/dev/null; then \
	  $$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -qqy --no-install-recommends $$missing >/dev/null; \
	else echo "make test needs:$$missing" >&2; exit 1; fi
