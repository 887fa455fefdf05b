package main

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// wrong are command lines as people type them who know other programs, each with
// the first line that they are told: what to write instead.
var wrong = []struct{ line, says string }{
	// nginx
	{"-c nginx.conf", "unknown flag -c: there are flags and environment variables, and no configuration file: write what is in it as flags"},
	{"-t", "unknown flag -t: write throttle-proxy check in place of it"},
	{"-s reload", "unknown flag -s: send the process SIGTERM to stop it"},
	{"-g daemon␣off;", "unknown flag of one letter: write one of those in throttle-proxy --help-all, which are words with two dashes"},
	{"-T", "unknown flag -T: write throttle-proxy check in place of it"},
	{"reload", "unexpected argument: send the process SIGTERM, and start it again: flags are read once, certificates again by themselves"},
	{"configtest", "unexpected argument: write check, which says what would be served, and whether all can be reached"},
	{"--user www-data", "unknown flag --user: take it out: start it as that user"},
	{"--client-max-body-size 10m", "unknown flag --client-max-body-size: write --max-body SIZE"},
	{"--proxy-read-timeout 60s", "unknown flag --proxy-read-timeout: write --timeout [R=]TIME"},
	{"--proxy-pass http://127.0.0.1:8080", "unknown flag --proxy-pass: write --register NAME=URL"},
	{"--limit-conn addr␣10", "unknown flag --limit-conn: write --concurrency [R=]N"},
	{"--queue-timeout 30s", "unknown flag --queue-timeout: write --wait [R=]TIME"},
	{"--max-concurrency 5", "unknown flag --max-concurrency: write --concurrency [R=]N"},
	{"--limit-req zone=one", "unknown flag --limit-req: write --rate [R=]N/PERIOD, as in --rate 10/s,burst=20"},
	{"--rate 10r/s", "--rate: not a rate: write requests/period, as in 10/s or 100/10m,burst=20, or off"},
	{"--rate 10/s␣burst=20", "--rate: not a rate: write requests/period, as in 10/s or 100/10m,burst=20, or off"},
	{"--rate 10/s,nodelay", "--rate: unknown option: write burst=B, by=client, by=header:NAME, name=X, strict or candidate"},
	{"--rate 10/s,burst", "--rate: burst= is no number: write a whole number of at least 1, as in 1/s,burst=20"},
	{"--error-log /dev/stderr", "unknown flag --error-log: the log goes to standard error: write 2>FILE behind the command"},

	// traefik
	{"--configFile=traefik.yml", "unknown flag --configfile: there are flags and environment variables, and no configuration file: write what is in it as flags"},
	{"--providers.docker=true", "unknown flag --providers: there are flags and environment variables, and no configuration file: write what is in it as flags"},
	{"--providers.file.filename=x.yml", "unknown flag --providers: there are flags and environment variables, and no configuration file: write what is in it as flags"},
	{"--entrypoints.web.address=:80", "unknown flag --entrypoints: write --listen ADDRESS, as in --listen 127.0.0.1:8080"},
	{"--entryPoints.websecure.address=:443", "unknown flag --entrypoints: write --listen ADDRESS, as in --listen 127.0.0.1:8080"},
	{"--api.insecure=true", "unknown flag --api: write --admin ADDRESS, as in --admin 127.0.0.1:9090"},
	{"--log.filePath=/x", "unknown flag --log: the log goes to standard error: write 2>FILE behind the command"},
	{"--metrics.prometheus=true", "unknown flag --metrics: write --admin ADDRESS, as in --admin 127.0.0.1:9090"},
	{"--ping", "unknown flag --ping: take it out: /-/healthy and /-/ready answer where clients connect"},
	{"--certificatesresolvers.le.acme.email=CANARY@example.com", "unknown flag --certificatesresolvers: write --tls-cert FILE and --tls-key FILE"},
	{"healthcheck", "unexpected argument: write health"},

	// envoy
	{"--config-path envoy.yaml", "unknown flag --config-path: there are flags and environment variables, and no configuration file: write what is in it as flags"},
	{"-l debug", "unknown flag -l: write --log-level LEVEL"},
	{"--mode validate", "unknown flag --mode: write throttle-proxy check in place of it"},
	{"--service-node n1", "unknown flag --service-node: write --replica-name NAME"},
	{"--drain-time-s 30", "unknown flag --drain-time-s: write --drain-timeout TIME"},
	{"--component-log-level http:debug", "unknown flag --component-log-level: find the one that is meant in throttle-proxy --help-all, or take it out"},

	// caddy
	{"run", "unexpected argument: write serve, or nothing: a replica is what runs without a command"},
	{"start", "unexpected argument: write serve, or nothing: a replica is what runs without a command"},
	{"reverse-proxy --from :2015 --to 127.0.0.1:9000", "unexpected argument: write --register NAME=URL, as in --register slack=env:WEBHOOK_URL"},
	{"--from :2015", "unknown flag --from: write --listen ADDRESS, as in --listen 127.0.0.1:8080"},
	{"--to 127.0.0.1:9000", "unknown flag --to: write --register NAME=URL"},
	{"validate", "unexpected argument: write check, which says what would be served, and whether all can be reached"},
	{"--watch", "unknown flag --watch: there are flags and environment variables, and no configuration file: write what is in it as flags"},
	{"stop", "unexpected argument: send the process SIGTERM to stop it"},
	{"fmt", "unexpected argument."},

	// docker
	{"-d", "unknown flag -d: take it out: it runs in the foreground, as systemd and containers want it"},
	{"-it", "unknown flag -i: take it out: docker's options stand before the name of the image"},
	{"-e A=CANARY", "unknown flag -e: take it out: docker's options stand before the name of the image"},
	{"--rm", "unknown flag --rm: take it out: docker's options stand before the name of the image"},
	{"--restart always", "unknown flag --restart: take it out: docker's options stand before the name of the image"},
	{"--publish 80:80", "unknown flag --publish: write --port N"},
	{"-p 80:80", "unknown flag -p: write --port N"},
	{"--network host", "unknown flag --network: take it out: docker's options stand before the name of the image"},
	{"up", "unexpected argument: write serve, or nothing: a replica is what runs without a command"},
	{"down", "unexpected argument: send the process SIGTERM to stop it"},
	{"ps", "unexpected argument: write --admin 127.0.0.1:9090, which serves the status at /-/status and metrics at /metrics"},
	{"logs", "unexpected argument: the log goes to standard error"},
	{"sh", "unexpected argument: take it out: this is no shell, and its image has none"},
	{"/bin/sh -c CANARY", "unexpected argument: take it out: this is no shell, and its image has none"},
	{"exec", "unexpected argument: take it out: this is no shell, and its image has none"},
	{"throttle-proxy serve", "unexpected argument: take it out: the program's own name is no argument"},
	{"/usr/local/bin/throttle-proxy", "unexpected argument: take it out: the program's own name is no argument"},

	// kubernetes
	{"apply -f x.yaml", "unexpected argument."},
	{"-n default", "unknown flag -n: take it out: kubectl's options are none of the program's"},
	{"-v=2", "unknown flag -v: write version, or --log-level debug for more of the log"},
	{"--v=2", "unknown flag --v: write --log-level debug"},
	{"--leader-elect", "unknown flag --leader-elect: take it out: replicas need no leader and know no peers, but share a --redis"},
	{"--metrics-bind-address :8080", "unknown flag --metrics-bind-address: write --admin ADDRESS, as in --admin 127.0.0.1:9090"},
	{"--health-probe-bind-address :8081", "unknown flag --health-probe-bind-address: take it out: /-/healthy and /-/ready answer where clients connect"},
	{"--secure-port 6443", "unknown flag --secure-port: write --port N"},
	{"--kubeconfig x", "unknown flag --kubeconfig: take it out: kubectl's options are none of the program's"},
	{"--tls-private-key-file x", "unknown flag --tls-private-key-file: write --tls-cert FILE and --tls-key FILE"},

	// curl
	{"-X POST", "unknown flag -X: take it out: that is curl's, and this starts a server"},
	{"-H Authorization:␣CANARY", "unknown flag -H: write --set-header [R=]NAME=VALUE"},
	{"--data CANARY", "unknown flag --data: it is one of try's: write throttle-proxy try … --data"},
	{"health --register a=CANARY", "unknown flag --register: it is one of serve's: write throttle-proxy serve … --register"},
	{"--data-raw CANARY", "unknown flag --data-raw: take it out: that is curl's, and this starts a server"},
	{"--data-raw {}", "unknown flag --data-raw: take it out: that is curl's, and this starts a server"},
	{"curl", "unexpected argument: write try NAME to send a message to a route of a replica that runs"},
	{"try", "a word is missing: write throttle-proxy try <route> [flags]"},
	{"http://localhost:44444", "unexpected argument that looks like a URL: write --register NAME=URL"},

	// names
	{"-register slack=https://host/CANARY", "unknown flag -register: write --register, with two dashes"},
	{"-port 80", "unknown flag -port: write --port, with two dashes"},
	{"-redis=redis://host", "unknown flag -redis: write --redis, with two dashes"},
	{"--Register a=http://h", "flags are written in small letters, with dashes between words: write --register"},
	{"--PORT=80", "flags are written in small letters, with dashes between words: write --port"},
	{"--lock_ttl 5s", "flags are written in small letters, with dashes between words: write --lock-ttl"},
	{"--redis.prefix x", "flags are written in small letters, with dashes between words: write --redis-prefix"},
	{"--regster a=http://h", `unknown flag --regster, did you mean "--register"?`},
	{"--rte 1/s", `unknown flag --rte, did you mean "--rate"?`},
	{"--shaddow on", `unknown flag --shaddow, did you mean "--shadow"?`},
	{"--time-out 5s", `unknown flag --time-out, did you mean "--timeout"?`},
	{"--dedup on", "unknown flag --dedup: write --dedupe [R=]on, off, all or key"},
	{"--dedup-header X", `unknown flag --dedup-header, did you mean "--dedupe-header"?`},
	{"--drain 5s", "unknown flag --drain: write --drain-timeout TIME"},
	{"--no-dedupe", "unknown flag --no-dedupe: write --dedupe off"},
	{"--disable-cool-down", "unknown flag --disable-cool-down: write --cool-down off"},
	{"--enable-shadow", "unknown flag --enable-shadow: write --shadow on"},
	{"--no-rate", "unknown flag --no-rate: write --rate off"},
	{"--tls", "unknown flag --tls: write --tls-cert FILE and --tls-key FILE"},
	{"--cert x", "unknown flag --cert: write --tls-cert FILE and --tls-key FILE"},
	{"--metrics", "unknown flag --metrics: write --admin ADDRESS, as in --admin 127.0.0.1:9090"},
	{"--verbose", "unknown flag --verbose: write --log-level debug"},
	{"--debug", "unknown flag --debug: write --log-level debug"},
	{"-q", "unknown flag -q: write --log-level warn"},
	{"--bind 0.0.0.0:80", "unknown flag --bind: write --listen ADDRESS, as in --listen 127.0.0.1:8080"},
	{"--webhook https://host/CANARY", "unknown flag --webhook: write --register NAME=URL"},
	{"--redis-host localhost", "unknown flag --redis-host: write --redis URL, as in --redis redis://host:6379"},
	{"--redis-password CANARY", "unknown flag --redis-password: put it into the URL: write --redis redis://user:password@host:6379/0, or --redis env:REDIS_URL"},
	{"--redis-cluster", "unknown flag --redis-cluster: write --redis redis+cluster://h1,h2"},
	{"--redis-sentinel a", "unknown flag --redis-sentinel: write --redis redis+sentinel://h1,h2/0?master_name=NAME"},
	{"--workers 4", "unknown flag --workers: take it out: all cores are used, and GOMAXPROCS sets how many"},
	{"--ttl 5s", "unknown flag --ttl: write --hold [R=]TIME"},
	{"--rps 10", "unknown flag --rps: write --rate [R=]N/PERIOD, as in --rate 10/s,burst=20"},
	{"--burst 20", "unknown flag --burst: write --rate [R=]N/PERIOD, as in --rate 10/s,burst=20"},
	{"--retries 3", "unknown flag --retries: take it out: no request is sent twice"},
	{"--grace-period 30s", "unknown flag --grace-period: write --drain-timeout TIME"},
	{"--keepalive 60s", "unknown flag --keepalive: write --answer-idle, --body-idle or --write-idle, by whose pause is meant"},
	{"--cors", "unknown flag --cors: find the one that is meant in throttle-proxy --help-all, or take it out"},
	{"--frobnicate", "unknown flag --frobnicate: find the one that is meant in throttle-proxy --help-all, or take it out"},
	{"--a-very-long-name-of-a-flag-that-no-program-has-ever-had-until-now", "unknown flag: find the one that is meant in throttle-proxy --help-all, or take it out"},
	{"-", "unexpected argument."},
	{"-z", "unknown flag of one letter: write one of those in throttle-proxy --help-all, which are words with two dashes"},
	{"–port 80", "unexpected argument with a long dash, as text editors make it of two: write --"},
	{"—register slack=https://host/CANARY", "unexpected argument with a long dash, as text editors make it of two: write --"},
	{"register slack=https://host/CANARY", "unexpected argument: write --register NAME=URL, as in --register slack=env:WEBHOOK_URL"},
	{"port 80", "unexpected argument: write --port, with two dashes"},
	{"44444", "unexpected argument: write --port N if a number alone is the port"},
	{"localhost:44444", "unexpected argument: write --listen ADDRESS if that is where to listen"},
	{"slack", "unexpected argument."},
	{"check check", "unexpected argument: write one command, and before its flags"},
	{"verson", `unexpected argument, did you mean "version"?`},
	{"healt", `unexpected argument, did you mean "health"?`},
	{"dem", `unexpected argument, did you mean "demo"?`},
	{"help frobnicate", "unexpected argument."},
	{"serve CANARY", "unexpected argument."},

	// values
	{"--register", "--register: missing value: write --register NAME=URL, or --register=NAME=URL if it begins with a dash"},
	{"--register=", "--register: a value without a name: write NAME=URL, as in slack=env:WEBHOOK_URL"},
	{"--register slack:https://host/CANARY", "--register: a value without a name: write NAME=URL, as in slack=env:WEBHOOK_URL"},
	{"--register slack␣https://host/CANARY", "--register: a value without a name: write NAME=URL, as in slack=env:WEBHOOK_URL"},
	{"--register slack=$WEBHOOK_URL", "--register: route slack: a $ that nothing has replaced by a value: take out single quotes, or write env:VARIABLE, without a $"},
	{"--register slack=${WEBHOOK_URL}", "--register: route slack: a $ that nothing has replaced by a value: take out single quotes, or write env:VARIABLE, without a $"},
	{"--register slack=$(WEBHOOK_URL)", "--register: route slack: a $ that nothing has replaced by a value: take out single quotes, or write env:VARIABLE, without a $"},
	{"--register slack=<URL>", "--register: route slack: this is a place for the URL: write the URL itself, without < and >"},
	{"--register slack=WEBHOOK_URL", "--register: route slack: not a URL with a scheme: write https://host/path, env:VARIABLE or file:PATH"},
	{"--register slack=env:$WEBHOOK_URL", "--register: route slack: the variable after env: is empty or not set: write its name, without a $, and put the value there"},
	{"--register slack=env:WEBHOOK-URL", "--register: route slack: the variable after env: is empty or not set: write its name, without a $, and put the value there"},
	{"--register slack=localhost:8080", "--register: route slack: not a URL with a scheme: write https://host/path, env:VARIABLE or file:PATH"},
	{"--register slack=8080", "--register: route slack: not a URL with a scheme: write https://host/path, env:VARIABLE or file:PATH"},
	{"--register slack=/services/CANARY", "--register: route slack: not a URL with a scheme: write https://host/path, env:VARIABLE or file:PATH"},
	{"--register slack=ws://host", "--register: route slack: unknown scheme: write http, https or h2c"},
	{"--register slack=grpc://host", "--register: route slack: unknown scheme: write http, https or h2c"},
	{"--register slack=unix:/run/app.sock", "--register: route slack: unknown scheme: write http, https or h2c"},
	{"--register slack=http://", "--register: route slack: the URL has no host: write https://host/path"},
	{"--register slack=https:host", "--register: route slack: not a URL with a scheme: write https://host/path, env:VARIABLE or file:PATH"},
	{"--register slack=http//host", "--register: route slack: not a URL with a scheme: write https://host/path, env:VARIABLE or file:PATH"},
	{"--register SLACK=https://host/CANARY", "--register: the name of a route has no capital letters: write it in small ones"},
	{"--register /slack=https://host/CANARY", "--register: the name of a route has no slash: write slack=URL"},
	{"--register slack/=https://host/CANARY", "--register: the name of a route has no slash: write slack=URL"},
	{"--register my␣slack=https://host/CANARY", "--register: this cannot name a route: write up to 63 of a-z, 0-9, dot, dash and underscore, beginning with a letter or digit"},
	{"--register “slack=https://host/CANARY”", "--register: quotation marks are a part of the value: take them out"},
	{"--register slack=https://host/CANARY␣api=http://host", "--register: route slack: a second route in one value: write --register for each; in a variable they stand apart by white space"},
	{"--register slack=file:webhook.txt", "--register: route slack: file: no such file or directory: write the path of a file that holds the value"},
	{"--register slack=@webhook.txt", "--register: route slack: a file is written file:PATH here, without @"},
	{"--register *=http://host", "--register: this cannot name a route: write up to 63 of a-z, 0-9, dot, dash and underscore, beginning with a letter or digit"},
	{"--register slack==https://host/CANARY", "--register: route slack: two = between name and URL: write one"},
	{"--port http", `--port: "http" is not a port: write a number from 0 to 65535 (0 takes a free one), or --listen host:port`},
	{"--port :80", "--port: this is not a port: write a number from 0 to 65535 (0 takes a free one), or --listen host:port"},
	{"--port 80:80", "--port: this is not a port: write a number from 0 to 65535 (0 takes a free one), or --listen host:port"},
	{"--port 80/tcp", "--port: this is not a port: write a number from 0 to 65535 (0 takes a free one), or --listen host:port"},
	{"--port 0.0.0.0:80", "--port: this is not a port: write a number from 0 to 65535 (0 takes a free one), or --listen host:port"},
	{"--port 1␣000", "--port: this is not a port: write a number from 0 to 65535 (0 takes a free one), or --listen host:port"},
	{"--listen 80", `--listen: "80" is not an address: write host:port, :port or unix:/path`},
	{"--listen 0.0.0.0", `--listen: "0.0.0.0" is not an address: write host:port, :port or unix:/path`},
	{"--listen http://0.0.0.0:80", "--listen: this is not an address: write host:port, :port or unix:/path"},
	{"--listen *", "--listen: this is not an address: write host:port, :port or unix:/path"},
	{"--listen /run/x.sock", "--listen: this is not an address: write host:port, :port or unix:/path"},
	{"--listen :80,:443", "--listen: this is not an address: write host:port, :port or unix:/path"},
	{"--rate 10", "--rate: not a rate: write requests/period, as in 10/s or 100/10m,burst=20, or off"},
	{"--rate 0", "--rate: not a rate: write requests/period, as in 10/s or 100/10m,burst=20, or off"},
	{"--rate none", "--rate: not a rate: write requests/period, as in 10/s or 100/10m,burst=20, or off"},
	{"--rate unlimited", "--rate: not a rate: write requests/period, as in 10/s or 100/10m,burst=20, or off"},
	{"--rate 10rps", "--rate: not a rate: write requests/period, as in 10/s or 100/10m,burst=20, or off"},
	{"--rate 10/", `--rate: "" is not a period: write s, m, h or d, or a duration longer than 0 such as 10m`},
	{"--rate /s", "--rate: not a rate: write requests/period, as in 10/s or 100/10m,burst=20, or off"},
	{"--rate 10/week", `--rate: "week" is not a period: write s, m, h or d, or a duration longer than 0 such as 10m`},
	{"--rate 10␣per␣second", "--rate: not a rate: write requests/period, as in 10/s or 100/10m,burst=20, or off"},
	{"--rate slack:1/s", "--rate: a route and its value stand apart by =: write slack=VALUE"},
	{"--rate slak=1/s", `--rate: no route "slak" is registered: write "slack" if that is meant; else write --register slak=URL, or correct the name`},
	{"--rate Slack=1/s", "--rate: routes are written in small letters: write slack=VALUE"},
	{"--rate slack=1/s,by=ip", "--rate: unknown by=: write by=client, by=client/PREFIX or by=header:NAME"},
	{"--rate 1/s,by=user", "--rate: unknown by=: write by=client, by=client/PREFIX or by=header:NAME"},
	{"--rate 1/s;burst=5", "--rate: not a rate: write requests/period, as in 10/s or 100/10m,burst=20, or off"},
	{"--rate 1/s,burst=lots", "--rate: burst= is no number: write a whole number of at least 1, as in 1/s,burst=20"},
	{"--rate=-5/s", `--rate: "-5" is not a number of requests: write a whole number of at least 1, as in 10/s`},
	{"--rate 1e3/s", "--rate: not a rate: write requests/period, as in 10/s or 100/10m,burst=20, or off"},
	{"--rate 1,000/s", "--rate: not a rate: write requests/period, as in 10/s or 100/10m,burst=20, or off"},
	{"--hold 1000", `--hold: "1000" has no unit: write 1000s, or 1000ms`},
	{"--hold forever", `--hold: "forever" is not a time: write 0s`},
	{"--hold off", `--hold: "off" is not a time: write 0s`},
	{"--hold none", `--hold: "none" is not a time: write 0s`},
	{"--hold 1m30", "--hold: this is not a time: write a duration of at least 0s, as in 1s or 200ms"},
	{"--hold 5x", `--hold: "5x" is not a time: write a duration of at least 0s, as in 1s or 200ms`},
	{"--hold slak=5s", `--hold: no route "slak" is registered: write "slack" if that is meant; else write --register slak=URL, or correct the name`},
	{"--timeout 60", `--timeout: "60" has no unit: write 60s, or 60ms`},
	{"--timeout 0", `--timeout: "0" is not a time: write a duration longer than 0, as in 5s or 200ms`},
	{"--dedupe true", `--dedupe: "true" is unknown: write on, off, all or key`},
	{"--dedupe yes", `--dedupe: "yes" is unknown: write on, off, all or key`},
	{"--dedupe no", `--dedupe: "no" is unknown: write on, off, all or key`},
	{"--dedupe slak=off", `--dedupe: no route "slak" is registered: write "slack" if that is meant; else write --register slak=URL, or correct the name`},
	{"--dedupe slack=of", `--dedupe: "of" is unknown: write on, off, all or key`},
	{"--shadow true", `--shadow: "true" is unknown: write on or off`},
	{"--shadow 1", `--shadow: "1" is unknown: write on or off`},
	{"--shadow", "--shadow: missing value: write --shadow on"},
	{"--log-level warning", `--log-level: "warning" is unknown: write debug, info, warn or error`},
	{"--log-level trace", `--log-level: "trace" is unknown: write debug, info, warn or error`},
	{"--log-format logfmt", `--log-format: "logfmt" is unknown: write text or json`},
	{"--max-body unlimited", `--max-body: "unlimited" is not a size from 1 byte to 1TiB: write bytes, or a number with KiB, MiB or GiB, as in 10MiB`},
	{"--max-body -1", "--max-body: missing value: write --max-body SIZE, or --max-body=SIZE if it begins with a dash"},
	{"--max-body 10␣megabytes", "--max-body: this is not a size from 1 byte to 1TiB: write bytes, or a number with KiB, MiB or GiB, as in 10MiB"},
	{"--max-in-flight unlimited", `--max-in-flight: "unlimited" is not a number of exchanges: write a whole number from 1 to 2147483647`},
	{"--redis localhost:6379", "--redis: not a URL: write redis://host:port"},
	{"--redis localhost", "--redis: not a URL: write redis://host:port"},
	{"--redis memory", "--redis: not a URL: write redis://host:port"},
	{"--redis true", "--redis: not a URL: write redis://host:port"},
	{"--redis off", "--redis: not a URL: write redis://host:port"},
	{"--redis tcp://host:6379", "--redis: unknown scheme: write redis, rediss, unix, redis+sentinel or redis+cluster"},
	{"--redis host:6379:CANARY", "--redis: not a URL: write redis://host:port"},
	{"--redis $REDIS_URL", "--redis: not a URL: write redis://host:port"},
	{"--trusted-proxy private", `--trusted-proxy: "private" is not a network: write CIDR as in 10.0.0.0/8, an address, or unix`},
	{"--trusted-proxy *", "--trusted-proxy: this is not a network: write CIDR as in 10.0.0.0/8, an address, or unix"},
	{"--trusted-proxy 10.0.0.0/33", "--trusted-proxy: this is not a network: write CIDR as in 10.0.0.0/8, an address, or unix"},
	{"--trusted-proxy 10.0.0", `--trusted-proxy: "10.0.0" is not a network: write CIDR as in 10.0.0.0/8, an address, or unix`},
	{"--trusted-proxy localhost", `--trusted-proxy: "localhost" is not a network: write CIDR as in 10.0.0.0/8, an address, or unix`},
	{"--admin on", `--admin: "on" is not an address: write host:port, :port or unix:/path`},
	{"--admin 9090", `--admin: "9090" is not an address: write host:port, :port or unix:/path`},
	{"--admin localhost", `--admin: "localhost" is not an address: write host:port, :port or unix:/path`},
	{"--admin :9090/metrics", "--admin: this is not an address: write host:port, :port or unix:/path"},
	{"--when-undecided allow", `--when-undecided: "allow" is unknown: write local, open or closed`},
	{"--when-undecided fail-open", `--when-undecided: "fail-open" is unknown: write local, open or closed`},
	{"--replicas auto", `--replicas: "auto" is not a number of replicas: write a whole number from 1 to 10000`},
	{"--set-header X-Key", "--set-header: not a header field: write NAME=VALUE or ROUTE=NAME=VALUE, and NAME=env:VARIABLE for a value with spaces"},
	{"--set-header X-Key:CANARY", "--set-header: not a header field: write NAME=VALUE or ROUTE=NAME=VALUE, and NAME=env:VARIABLE for a value with spaces"},
	{"--set-header slack=X-Key:CANARY", "--set-header: not a header field: write NAME=VALUE or ROUTE=NAME=VALUE, and NAME=env:VARIABLE for a value with spaces"},
	{"--client-gone abort", `--client-gone: "abort" is unknown: write finish or cancel`},
	{"--cool-down 30s", `--cool-down: "30s" is unknown: write on, off or learn`},
	{"--max-cool-down off", `--max-cool-down: "off" is not a time: write a long one, as in 24h: it cannot be turned off`},
	{"--lock-ttl 5", `--lock-ttl: "5" has no unit: write 5s, or 5ms`},
	{"--store-timeout 100", `--store-timeout: "100" has no unit: write 100s, or 100ms`},
	{"--redis-prefix throttle/", "--redis-prefix: this cannot begin a key: write letters, digits and _ . : -"},
	{"--duplicate-status 99", `--duplicate-status: "99" is no status for a duplicate: write an error from 400 to 599, or a success from 200 to 299`},
	{"--duplicate-status conflict", `--duplicate-status: "conflict" is no status for a duplicate: write an error from 400 to 599, or a success from 200 to 299`},
	{"--upstream-closed-status 200", `--upstream-closed-status: "200" is not an error status: write a number from 400 to 599`},
	{"--pool slack", "--pool: not a pool: write NAME=ROUTE,ROUTE, the name in lower case"},
	{"--pool p:slack", "--pool: not a pool: write NAME=ROUTE,ROUTE, the name in lower case"},
	{"--pool p=slak", `--pool: pool p: "slak" is no route: write slack if that is meant; else register it, or take it out`},
	{"WEBHOOK_URL=https://host/CANARY --register slack=WEBHOOK_URL", "--register: route slack: this is a variable's name: write slack=env:WEBHOOK_URL"},
	{"WEBHOOK_URL=https://host/CANARY␣b --register slack=env:WEBHOOK_URL", "--register: route slack: the URL has white space in it: write one URL for each --register, and %20 for a space that is a part of it"},

	{"--hold 1␣s", "--hold: this is not a time: write a duration of at least 0s, as in 1s or 200ms"},
}

func TestWrongCommandLineIsToldWhatToWrite(t *testing.T) {
	elsewhere := occupied(t)
	for _, test := range wrong {
		line := "THROTTLE_PROXY_REGISTER=slack=https://hooks.slack.com/services/CANARY " + test.line
		if !strings.Contains(test.line, "--port") {
			line = "THROTTLE_PROXY_LISTEN=" + elsewhere + " " + line
		}
		status, stdout, stderr := execute(line)
		first, _, _ := strings.Cut(stderr, "\n")
		if want := "throttle-proxy: " + test.says; status != exitUsage || stdout != "" || !strings.HasPrefix(first, want) {
			t.Errorf("%s: got status %d, %q and %q, want %d and %q", test.line, status, stdout, first, exitUsage, want)
		}
		for _, not := range []string{canary, "listening", "taken", "%!"} {
			if strings.Contains(stderr, not) {
				t.Errorf("%s: got %q, want no %q in it", test.line, stderr, not)
			}
		}
		if !doing.MatchString(first) {
			t.Errorf("%s: %q does not say what to do", test.line, first)
		}
	}
	if len(wrong) < 150 {
		t.Errorf("got %d, want at least 150", len(wrong))
	}
}

// doing is how a message says what to do.
var doing = regexp.MustCompile(`(?i)\b(write|give|escape|choose|set|use|written|take (it |them )?out|add|correct|find|send|start|put|did you mean|goes to|stand apart by)\b`)

// Fails if what stands in place of another program's habit is none of ours.
func TestHabitsLeadToFlagsThatThereAre(t *testing.T) {
	known := []string{"help-all", "help"}
	for _, flag := range flagsOf(t, "") {
		known = append(known, flag.Name)
	}
	parser, _ := grammar(t, nil)
	commands := commandsOf(parser.Model)
	for _, habits := range []meant{flagsElsewhere, wordsElsewhere} {
		for word, advice := range habits {
			for _, flag := range flagInTable.FindAllString(advice, -1) {
				if !slices.Contains(known, strings.TrimPrefix(flag, "--")) {
					t.Errorf("%s: %s is no flag", word, flag)
				}
			}
		}
	}
	for _, flag := range known {
		if advice := flagsElsewhere[flag]; advice != "" {
			t.Errorf("--%s is a flag, and %q stands in place of it", flag, advice)
		}
	}
	for _, command := range commands {
		if advice := wordsElsewhere[command]; advice != "" {
			t.Errorf("%s is a command, and %q stands in place of it", command, advice)
		}
	}
}
