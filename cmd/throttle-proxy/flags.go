package main

import "github.com/alecthomas/kong"

const description = `A reverse proxy for webhooks and APIs that must not be hammered: a repeat of what is in flight gets 409, what is over the budget 429, and the rest is forwarded. Replicas that share a Redis decide together.`

var groups = []kong.Group{
	{Key: "routes", Title: "Routes:"},
	{Key: "limits", Title: "Budgets (429):"},
	{Key: "duplicates", Title: "Duplicates (409):"},
	{Key: "exchange", Title: "Upstreams and clients:"},
	{Key: "store", Title: "Fleet:"},
	{Key: "operation", Title: "Operation:"},
}

// flags are those of serve, which check takes too. All are text: what they
// mean, and what is wrong with them, is config's to say.
type flags struct {
	Register []string `sep:"none" group:"routes" placeholder:"NAME=URL" help:"Register a route: /NAME is forwarded to URL (http, https, h2c, or http+unix:/path). env:VARIABLE or file:PATH in place of URL keeps a secret off the command line. Repeatable, required."`
	Host     []string `sep:"none" group:"routes" placeholder:"R=HOST,HOST" help:"Hosts whose requests are a route's, with their whole path: api.example.com, *.example.com, or * for whatever names no other route. Repeatable."`
	Port     string   `group:"routes" default:"44444" placeholder:"N" help:"Port to listen on, on all interfaces (${default})."`
	Listen   string   `group:"routes" placeholder:"ADDRESS" help:"host:port or unix:/path to listen on, in place of --port."`
	TLSCert  string   `name:"tls-cert" group:"routes" placeholder:"FILE" help:"Certificate for TLS and HTTP/2 to clients, read again when the file changes."`
	TLSKey   string   `name:"tls-key" group:"routes" placeholder:"FILE" help:"Its key."`

	Rate []string `sep:"none" group:"limits" placeholder:"[R=]RATE" help:"N/PERIOD[,burst=B][,by=client[/PREFIX]|header:NAME][,name=X][,strict][,candidate], or off; PERIOD is s, m, h, d or a duration. Repeat for several windows: all must admit. (10/s,burst=20; for hooks.slack.com 1/s,burst=5)"`
	Wait []string `sep:"none" group:"limits" placeholder:"[R=]TIME" help:"Longest that a request waits for its budget, and for --concurrency, in place of a 429; or off. (off)"`

	Concurrency []string `sep:"none" group:"limits" placeholder:"[R=]N" help:"N[,by=client[/PREFIX]|header:NAME][,name=X], or off: exchanges at once over all replicas. Repeatable. (off)"`

	Pool []string `sep:"none" group:"limits" placeholder:"NAME=R,R" help:"Routes that share the budgets of --rate NAME=…, besides their own."`

	Dedupe          []string `sep:"none" group:"duplicates" placeholder:"[R=]MODE" help:"Which requests are refused as duplicates. on: every method but GET, HEAD, OPTIONS, TRACE; all: those too; key: those with an Idempotency-Key; off. (on)"`
	DedupeHeader    []string `sep:"none" group:"duplicates" placeholder:"[R=]NAMES" help:"Header fields, separated by commas, in which equal requests agree, or none. (Authorization, Cookie, X-Api-Key, Api-Key, Idempotency-Key, X-Idempotency-Key, Content-Range, Upload-Offset, Range, If-Match, If-None-Match, SOAPAction, X-HTTP-Method-Override)"`
	DedupeJSON      []string `name:"dedupe-json" sep:"none" group:"duplicates" placeholder:"[R=]PATHS" help:"What JSON bodies are compared by, separated by commas: members ($.event.id), all but some (-$.timestamp), or all in any order ($); none for every byte. (none)"`
	Hold            []string `sep:"none" group:"duplicates" placeholder:"[R=]TIME" help:"How long equal requests stay refused: TIME after a success, and with ,unknown=TIME where the upstream may have acted and nobody knows. (1s,unknown=1m)"`
	OnDuplicate     []string `sep:"none" group:"duplicates" placeholder:"[R=]MODE" help:"What a duplicate gets. refuse: a 409; join: the answer of the request in flight, on whatever replica; fresh: that of one that began after it came. (refuse)"`
	DuplicateStatus []string `sep:"none" group:"duplicates" placeholder:"[R=]CODE" help:"Status of the answer to a duplicate; 200 to 299 too, with a plain JSON body. (409)"`
	Idempotency     []string `sep:"none" group:"duplicates" placeholder:"[R=]TIME" help:"TIME[,required][,by=header:NAME], or off: for how long the answer to an Idempotency-Key is kept, and given to whoever repeats the request. (off)"`
	LockTTL         string   `name:"lock-ttl" group:"duplicates" default:"5s" placeholder:"TIME" help:"Longest that a lock outlives a replica that died (${default})."`
	MaxBody         string   `group:"duplicates" default:"10MiB" placeholder:"SIZE" help:"Largest body that is read to compare requests (${default})."`
	BodyMemory      string   `group:"duplicates" default:"256MiB" placeholder:"SIZE" help:"All bodies that are held to compare requests (${default})."`

	Timeout              []string `sep:"none" group:"exchange" placeholder:"[R=]TIME" help:"From the request's last byte sent until the answer begins. (60s)"`
	AnswerIdle           []string `sep:"none" group:"exchange" placeholder:"[R=]TIME" help:"Longest pause in an answer's body. (5m)"`
	SetHeader            []string `sep:"none" group:"exchange" placeholder:"[R=]NAME=VALUE" help:"Header field to send upstream, in place of the client's: a credential that clients need not have. env:VARIABLE and file:PATH too. Repeatable."`
	Forwarded            []string `sep:"none" group:"exchange" placeholder:"[R=]on|off" help:"Send X-Forwarded-* and Via upstream. (on)"`
	PassHost             []string `sep:"none" group:"exchange" placeholder:"[R=]on|off" help:"The upstream gets the client's Host. (off)"`
	AllowPrivate         []string `sep:"none" group:"exchange" placeholder:"[R=]on|off" help:"A route whose URL has a * may lead to private addresses. (off)"`
	UpstreamTLS          []string `name:"upstream-tls" sep:"none" group:"exchange" placeholder:"[R=]FILES" help:"ca=FILE,cert=FILE,key=FILE,server-name=HOST, or a part of it: how an https upstream is verified, and who we are to it. (the system's certificates)"`
	UpstreamKeepalive    []string `sep:"none" group:"exchange" placeholder:"[R=]IDLE[,age=AGE]" help:"Longest that an unused upstream connection is kept, and that any takes new requests, so that a changed DNS answer counts; or off. (90s,age=5m)"`
	ClientGone           []string `sep:"none" group:"exchange" placeholder:"[R=]POLICY" help:"When the client of a locked exchange leaves: finish it until the answer's header is there, or cancel it. (finish)"`
	UpstreamClosedStatus []string `sep:"none" group:"exchange" placeholder:"[R=]CODE" help:"Status where the upstream cut the connection before answering. (499)"`
	TrustedProxy         []string `sep:"none" group:"exchange" placeholder:"CIDR|unix[,header=NAME]" help:"From whom X-Forwarded-* is believed, or the field that has the client's address alone. Repeatable."`
	CoolDown             []string `sep:"none" group:"exchange" placeholder:"[R=]on|off|learn" help:"Pause a route, for callers with the same credentials, where its upstream answers 429, 503 or 403 with Retry-After; learn: also where an answer says that nothing is left. (on)"`
	MaxCoolDown          string   `group:"exchange" default:"5m" placeholder:"TIME" help:"Longest such pause (${default})."`
	HeaderTimeout        string   `group:"exchange" default:"10s" placeholder:"TIME" help:"For a client to send a request's header (${default})."`
	BodyIdle             string   `group:"exchange" default:"30s" placeholder:"TIME" help:"Longest pause in a client's body (${default})."`
	WriteIdle            string   `group:"exchange" default:"1m" placeholder:"TIME" help:"Longest that a client may leave a part of its answer unread (${default})."`
	MaxInFlight          string   `group:"exchange" default:"10000" placeholder:"N" help:"Exchanges of this replica at once (${default})."`
	Shadow               []string `sep:"none" group:"exchange" placeholder:"[R=]on|off" help:"Decide and report, but refuse nothing. (off)"`

	Redis         string `group:"store" placeholder:"URL" default:"none" help:"redis://, rediss://, unix://, redis+sentinel://h1,h2/0?master_name=m or redis+cluster://h1,h2; env:VARIABLE and file:PATH too (${default})."`
	RedisTLS      string `name:"redis-tls" group:"store" placeholder:"ca=FILE,cert=FILE,key=FILE,server-name=HOST" help:"Certificates to trust for rediss in place of the system's, a client certificate and its key, and the name to expect of the server; any part may be left out. The files are read again for each connection."`
	RedisPrefix   string `group:"store" default:"throttle" placeholder:"PREFIX" help:"First part of every key: fleets with different prefixes share nothing (${default})."`
	RedisPipeline string `group:"store" default:"on" placeholder:"on|off" help:"Send what concurrent requests ask in one write to Redis (${default})."`
	StoreTimeout  string `group:"store" default:"100ms" placeholder:"TIME" help:"Longest that a request waits for a verdict (${default})."`

	WhenUndecided []string `sep:"none" group:"store" placeholder:"[R=]POLICY" help:"While Redis gives no answer. local: this replica decides by its own locks and its share of each budget; open: forward; closed: 503. (local)"`
	Replicas      string   `group:"store" default:"1" placeholder:"N" help:"By how many replicas budgets are divided while Redis has never told how many live (${default})."`

	DrainDelay   string `group:"operation" default:"0s" placeholder:"TIME" help:"After SIGTERM, serve on for this long while readiness fails (${default})."`
	DrainTimeout string `group:"operation" default:"25s" placeholder:"TIME" help:"Then, longest that exchanges in flight, streams and tunnels may take to end (${default})."`

	Admin       []string `sep:"none" group:"operation" placeholder:"ADDRESS" help:"Where operators ask: host:port to read metrics and status, without authentication; unix:/path, which only this user can open, to change things too. Repeatable, or off. (off)"`
	ReplicaName string   `group:"operation" placeholder:"NAME" help:"Name of this replica, for operators (host name)."`
	LogFormat   string   `group:"operation" placeholder:"text|json" help:"Format of the log on standard error. (text; short lines at a terminal)"`
	LogLevel    string   `group:"operation" default:"info" placeholder:"LEVEL" help:"debug, info, warn or error (${default})."`
}
