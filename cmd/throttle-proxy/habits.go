package main

import (
	"slices"
	"strings"
)

// habits returns args with what people type by habit spelled as a command.
func habits(args []string) []string {
	if slices.Contains(args, "--help-all") {
		return []string{"serve", "--help"}
	}
	if len(args) == 0 {
		return args
	}
	switch args[0] {
	case "help":
		if len(args) > 1 && slices.Contains([]string{"flags", "all", "--all"}, args[1]) {
			return []string{"serve", "--help"}
		}
		return append(slices.Clone(args[1:]), "--help")
	case "-?", "/?", "-help", "--usage":
		return []string{"--help"}
	case "--version", "-V", "-version":
		return []string{"version"}
	}
	return args
}

// meant is what to do in place of words that other programs know: flags, and
// first arguments. Here they would be an error that leaves one guessing.
type meant map[string]string

func (m meant) add(advice, words string) {
	for word := range strings.FieldsSeq(words) {
		m[word] = advice
	}
}

var flagsElsewhere, wordsElsewhere = elsewhere()

// elsewhere returns the habits of nginx, Traefik, Envoy, Caddy, Docker,
// Kubernetes and curl: flags, without their dashes if they have two, and words.
func elsewhere() (flags, words meant) {
	flags = meant{}
	for _, habit := range [][2]string{
		{"write --register NAME=URL", "-r -u route routes upstream upstreams backend backends target targets to url uri webhook webhook-url proxy-pass forward forward-to origin destination dest slack service services endpoint add http-backend"},
		{"write --port N", "-p publish expose http-port https-port secure-port listen-port server-port"},
		{"write --listen ADDRESS, as in --listen 127.0.0.1:8080", "-b bind bind-address bind-addr address addr from http-address http-addr listen-address listen-addr web interface ip entrypoints entrypoint socket unix-socket web-listen-address"},
		{"write version, or --log-level debug for more of the log", "-v"},
		{"there are flags and environment variables, and no configuration file: write what is in it as flags", "-c -f config conf configfile config-file config-path config-yaml env-file file providers adapter watch values set"},
		{"write throttle-proxy check in place of it", "-t -T test configtest validate mode dry-run lint"},
		{"take it out: it runs in the foreground, as systemd and containers want it", "-d -D daemon daemonize detach background foreground pid pid-file pidfile"},
		{"send the process SIGTERM to stop it", "-s signal stop quit"},
		{"write --log-level debug", "-vv v verbose debug trace"},
		{"write --log-level warn", "-q quiet silent no-log"},
		{"write --log-level LEVEL", "-l level loglevel verbosity log-verbosity"},
		{"write --log-format json", "log-json json-log json-logs log-fmt log-output-format"},
		{"the log goes to standard error: write 2>FILE behind the command", "log log-file logfile log-path log-output access-log accesslog error-log access-logfile"},
		{"take it out: all cores are used, and GOMAXPROCS sets how many", "-j -w worker workers worker-processes thread threads cpus procs"},
		{"take it out: start it as that user", "user group uid gid chroot"},
		{"write --hold [R=]TIME", "ttl window dedupe-window dedupe-ttl interval expire expiry cache-ttl hold-time"},
		{"write --rate [R=]N/PERIOD, as in --rate 10/s,burst=20", "limit limits limit-req rps qps rate-limit ratelimit ratelimits throttle throttling requests-per-second max-requests quota quotas budget burst average period rpm per-minute per-second"},
		{"write --wait [R=]TIME", "max-wait wait-time wait-timeout max-wait-time queue queue-timeout queue-size queueing backpressure pace pacing nodelay"},
		{"write --concurrency [R=]N, for exchanges at once over all replicas", "concurrent concurrent-requests max-concurrent max-concurrency max-concurrent-requests parallel parallelism max-parallel simultaneous semaphore slots bulkhead limit-conn"},
		{"write --dedupe [R=]on, off, all or key", "dedup deduplicate deduplication duplicates unique no-duplicates"},
		{"write --tls-cert FILE and --tls-key FILE", "cert key tls https ssl certificate certificates crt ssl-cert ssl-certificate ssl-key tls-crt certfile keyfile cert-file key-file tls-cert-file tls-private-key-file certificatesresolvers ssl-certfile ssl-keyfile"},
		{"write --set-header [R=]NAME=VALUE", "-H header headers add-header header-up proxy-set-header request-header"},
		{"take it out: that is curl's, and this starts a server", "-X data-raw request"},
		{"write --redis URL, as in --redis redis://host:6379", "redis-host redis-port redis-addr redis-address redis-url redis-uri redis-server redis-connection-url store store-url cache cache-url"},
		{"put it into the URL: write --redis redis://user:password@host:6379/0, or --redis env:REDIS_URL", "redis-password redis-pass redis-auth redis-username redis-user redis-db redis-database"},
		{"write --redis rediss://host:6379", "redis-ssl redis-use-tls"},
		{"write --redis-tls ca=FILE", "redis-ca redis-cacert redis-ca-file redis-tls-ca"},
		{"write --redis-tls cert=FILE,key=FILE", "redis-cert redis-key redis-tls-cert redis-tls-key"},
		{"write --redis redis+sentinel://h1,h2/0?master_name=NAME", "redis-sentinel redis-sentinels redis-master redis-master-name sentinel"},
		{"write --redis redis+cluster://h1,h2", "redis-cluster redis-nodes cluster"},
		{"write --redis-prefix PREFIX", "prefix key-prefix redis-key-prefix"},
		{"write --admin ADDRESS, as in --admin 127.0.0.1:9090", "metrics metric metrics-port metrics-addr metrics-address metrics-bind-address prometheus status status-port status-addr pprof admin-port admin-addr admin-address admin-listen dashboard api stats telemetry telemetry-address"},
		{"take it out: /-/healthy and /-/ready answer where clients connect", "health healthcheck health-check health-port health-addr health-probe-bind-address ping ready readiness"},
		{"write --max-in-flight N", "max-connections max-conns max-clients worker-connections connections max-requests-in-flight"},
		{"write --max-body SIZE", "body-size max-body-size client-max-body-size body-limit max-request-size max-size"},
		{"take it out: no request is sent twice", "retry retries attempts max-retries"},
		{"write --timeout [R=]TIME", "read-timeout proxy-read-timeout response-timeout upstream-timeout backend-timeout request-timeout connect-timeout proxy-connect-timeout send-timeout"},
		{"write --answer-idle, --body-idle or --write-idle, by whose pause is meant", "idle idle-timeout keepalive keep-alive keepalive-timeout keep-alive-timeout"},
		{"write --drain-timeout TIME", "grace grace-period graceful-timeout shutdown-timeout shutdown-grace-period shutdown-delay stop-timeout termination-grace-period drain drain-time drain-time-s"},
		{"write --trusted-proxy CIDR", "trusted-proxies trust-proxy trusted-ips trusted real-ip real-ip-from set-real-ip-from real-ip-header reverse-proxy forwarded-allow-ips"},
		{"write --replica-name NAME", "name instance instance-id id hostname service-node node-id node-name"},
		{"take it out: replicas need no leader and know no peers, but share a --redis", "leader-elect leader-election peers peer join bootstrap seed"},
		{"start more replicas, each with the same --redis", "scale replica nodes instances"},
		{"take it out: clients are not asked who they are; what does that stands in front", "auth basic-auth password username api-key apikey token htpasswd email-domain client-id allow-ip whitelist allowlist"},
		{"take it out: docker's options stand before the name of the image", "-e -i -it -ti env rm restart network volume privileged entrypoint-override"},
		{"take it out: kubectl's options are none of the program's", "-n -o namespace output kubeconfig context"},
	} {
		flags.add(habit[0], habit[1])
	}
	words = meant{}
	for _, habit := range [][2]string{
		{"write serve, or nothing: a replica is what runs without a command", "run start up launch daemon listen begin proxy gateway agent node"},
		{"send the process SIGTERM to stop it", "stop quit kill down shutdown"},
		{"send the process SIGTERM, and start it again: flags are read once, certificates again by themselves", "reload restart upgrade"},
		{"write check, which says what would be served, and whether all can be reached", "validate verify test configtest lint config adapt doctor diagnose dry-run"},
		{"write health", "healthcheck healthz ping probe ready readyz alive live"},
		{"write --admin 127.0.0.1:9090, which serves the status at /-/status and metrics at /metrics", "ps top info stats metrics inspect list ls routes describe get"},
		{"the log goes to standard error", "log logs tail"},
		{"write --register NAME=URL, as in --register slack=env:WEBHOOK_URL", "add register route upstream reverse-proxy forward http https tcp expose tunnel"},
		{"write try NAME to send a message to a route of a replica that runs", "curl send post request test-message"},
		{"take it out: the program's own name is no argument", "throttle-proxy ./throttle-proxy /throttle-proxy bin/throttle-proxy /usr/local/bin/throttle-proxy"},
		{"take it out: this is no shell, and its image has none", "sh bash ash /bin/sh /bin/bash exec sleep tini dumb-init"},
		{"write --help", "docs usage info? ? h"},
		{"there are flags and environment variables, and no configuration file: write what is in it as flags", "config.yml config.yaml config.json config.toml nginx.conf envoy.yaml traefik.yml Caddyfile"},
	} {
		words.add(habit[0], habit[1])
	}
	return flags, words
}
