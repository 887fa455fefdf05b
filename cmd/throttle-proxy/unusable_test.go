package main

import (
	"slices"
	"strings"
	"testing"
)

// unusable are command lines that end before anything listens, each with the
// flag that the message names and what it says to write.
var unusable = []struct{ line, flag, says string }{
	{"--port 444444", "--port", `"444444" is not a port: write a number from 0 to 65535`},
	{"--port abc", "--port", "write a number from 0 to 65535"},
	{"--port=-1", "--port", "write a number from 0 to 65535"},
	{"--port -1", "--port", "missing value: write --port N, or --port=N if it begins with a dash"},
	{"--listen :1 --port 2", "--listen", "--port says where to listen too: write one of them"},
	{"health --listen :1 --port 2", "--listen", "--port says where to listen too: write one of them"},
	{"--port=", "--port", "write a number from 0 to 65535"},
	{"--port", "--port", "missing value"},
	{"PORT=abc", "--port", "write a number from 0 to 65535"},
	{"THROTTLE_PROXY_PORT=65536", "--port", "write a number from 0 to 65535"},
	{"--listen localhost", "--listen", "write host:port, :port or unix:/path"},
	{"--listen localhost:http", "--listen", "write host:port, :port or unix:/path"},
	{"--listen ::1", "--listen", "write host:port, :port or unix:/path"},
	{"--listen unix:", "--listen", "write unix:/path/to/socket"},

	{"THROTTLE_PROXY_REGISTER= serve", "--register", "write --register NAME=URL, as in --register slack=env:WEBHOOK_URL"},
	{"--register slack", "--register", "write NAME=URL"},
	{"--register https://hooks.slack.com/CANARY", "--register", "write NAME=URL"},
	{"--register https://hooks.slack.com/CANARY?a=b", "--register", "write NAME=URL"},
	{"--register user:CANARY@host?a=b", "--register", "write NAME=URL"},
	{"--register slack https://hooks.slack.com/CANARY", "--register", "write --register NAME=URL"},
	{"slack=https://hooks.slack.com/CANARY", "--register", "write --register NAME=URL"},
	{"--register Slack=https://host/CANARY", "--register", "no capital letters"},
	{"--register a␣b=https://host/CANARY", "--register", `this cannot name a route: write up to 63 of a-z, 0-9, dot, dash and underscore`},
	{"--register /slack=https://host/CANARY", "--register", "the name of a route has no slash: write slack=URL"},
	{"--register slack/eng=https://host/CANARY", "--register", "the name of a route has no slash: write NAME=URL"},
	{"--register a='https://host/CANARY'", "--register", "quotation marks are a part of the value: take them out"},
	{"THROTTLE_PROXY_REGISTER=\"a=https://host/CANARY\" serve", "--register", "quotation marks are a part of the value: take them out"},
	{"THROTTLE_PROXY_REGISTER=a=env:A,b=env:B serve", "--register", "in a variable they stand apart by white space"},
	{"--register a=https://host/CANARY,b=https://host/CANARY", "--register", "write --register for each"},
	{"--register=-=https://host/CANARY", "--register", "beginning with a letter or digit"},
	{"--register a=http://host --register a=http://CANARY", "--register", "route a is registered twice: write one URL for each name"},
	{"--register a=https:///CANARY", "--register", "the URL has no host: write https://host/path"},
	{"--register a=ftp://host/CANARY", "--register", `unknown scheme: write http, https or h2c`},
	{"--register a=hooks.slack.com/CANARY", "--register", "write https://host/path, env:VARIABLE or file:PATH"},
	{"--register a=hooks.slack.com:443/CANARY", "--register", "write https://host/path, env:VARIABLE or file:PATH"},
	{"--register a=https://host:99999/CANARY", "--register", "write a number from 1 to 65535"},
	{"--register a=https://host/CANARY#CANARY", "--register", "take out what follows #"},
	{"--register a=https://host/CANARY%zz", "--register", "write https://host/path, special characters escaped as in %20"},
	{"--register a=https://user:CANARY%@host/", "--register", "special characters escaped"},
	{"--register a=", "--register", "route a: the URL is empty: is the variable set? Write https://host/path"},
	{"--register a=env:WEBHOOK_URL", "--register", "env:WEBHOOK_URL is empty or not set: put the value there, and export it"},
	{"WEBHOOK_URL=␣ --register a=env:WEBHOOK_URL", "--register", "env:WEBHOOK_URL is empty or not set: put the value there, and export it"},
	{"WEBHOOK_URL=CANARY --register a=env:WEBHOOK_URL", "--register", "write https://host/path"},
	{"--register a=env:CANARY1CANARY2CANARY3", "--register", "the variable after env: is empty or not set: write its name, without a $"},
	{"--register a=env:", "--register", "write env:VARIABLE"},
	{"--register a=env:https://host/CANARY", "--register", "write env:VARIABLE, without a $"},
	{"--register a=env:hooks.slack.com/CANARY", "--register", "write env:VARIABLE, without a $"},
	{"--register a=file:https://host/CANARY", "--register", "or file:PATH"},
	{"--register a=file:/nowhere/webhook", "--register", "no such file or directory: write the path of a file that holds the value"},
	{"--register a=file:main_test.go", "--register", "write https://host/path"},

	{"--register a=https://*/CANARY", "--register", "the * of a host stands for whole labels, and once: write https://*.example.com"},
	{"--register a=https://*.*.example.com/CANARY", "--register", "write https://*.example.com"},
	{"--register a=https://x*.example.com/CANARY", "--register", "write https://*.example.com"},
	{"--register a=https://*x.example.com/CANARY", "--register", "write https://*.example.com"},
	{"--register a=https://*.com/CANARY", "--register", "must be a domain that somebody has registered: write https://*.example.com"},
	{"--register a=https://*.co.uk/CANARY", "--register", "must be a domain that somebody has registered"},
	{"--register a=https://*.github.io/CANARY", "--register", "must be a domain that somebody has registered"},
	{"--register a=https://*.internal/CANARY", "--register", "must be a domain that somebody has registered"},
	{"--register a=https://*.0.0.1/CANARY", "--register", "must be a domain that somebody has registered"},
	{"--register a=https://*./CANARY", "--register", "write https://*.example.com"},
	{"--register a=https://*.example.com/CANARY", "--register", "route a: its URL has a *, and no host says what for: write --host a=*.SUFFIX"},
	{"--register a=http+unix:CANARY", "--register", "write http+unix:/path"},
	{"--register a=http+unix://CANARY", "--register", "write http+unix:/path"},
	{"--register a=http+unix:/CANARY?x", "--register", "write http+unix:/path"},
	{"--register a=unix:/CANARY", "--register", "write http, https or h2c, or http+unix:/path"},

	{"--host a.example.com", "--host", "write ROUTE=HOST, as in api=api.example.com, or ROUTE=*"},
	{"--host slak=a.example.com", "--host", `no route "slak" is registered: write --register NAME=URL, or correct the name`},
	{"--host slack=", "--host", "write api.example.com, *.example.com or *"},
	{"--host slack=a.example.com,", "--host", "write api.example.com, *.example.com or *"},
	{"--host slack=https://a.example.com", "--host", "a host has no scheme, port or path: write api.example.com"},
	{"--host slack=a.example.com:443", "--host", "a host has no scheme, port or path"},
	{"--host slack=127.0.0.1:443", "--host", "a host has no scheme, port or path"},
	{"--host slack=[::1]:443", "--host", "a host has no scheme, port or path"},
	{"--host slack=a.example.com/x", "--host", "a host has no scheme, port or path"},
	{"--host slack=a..example.com", "--host", "not a host: write api.example.com"},
	{"--host slack=a.*.example.com", "--host", "not a host: write api.example.com, *.example.com or *"},
	{"--host slack=a*.example.com", "--host", "not a host: write api.example.com, *.example.com or *"},
	{"--host slack=a␣b", "--host", "not a host: write api.example.com"},
	{"--register a=http://a --register slack=http://s --host slack=x.example --host a=X.Example.", "--host", "value 2 of 2: x.example is a host of route slack too: give it to one of them"},
	{"--register a=http://a --register slack=http://s --host slack=* --host a=*", "--host", "* is a host of route slack too"},
	{"--register a=http://a --register slack=http://s --host slack=*.x.example --host a=*.x.example", "--host", "*.x.example is a host of route slack too"},
	{"--register a=https://*.example.com --host a=a.example.com", "--host", "route a: its URL has a *, for which each of its hosts must have one: write *.SUFFIX"},
	{"--register a=https://*.example.com --host a=*", "--host", "write *.SUFFIX"},
	{"--pass-host yes", "--pass-host", "write on or off"},
	{"--pass-host slak=on", "--pass-host", `no route "slak" is registered`},
	{"--allow-private yes", "--allow-private", "write on or off"},
	{"--upstream-tls main_test.go", "--upstream-tls", "write ca=FILE,cert=FILE,key=FILE,server-name=HOST"},
	{"--upstream-tls slack=main_test.go", "--upstream-tls", "write ca=FILE,cert=FILE,key=FILE"},
	{"--upstream-tls ca=", "--upstream-tls", "ca= is empty or there twice"},
	{"--upstream-tls slack=", "--upstream-tls", "no files: write ca=FILE"},
	{"--upstream-tls ca=main_test.go", "--upstream-tls", "ca: no PEM certificate in it: write the path of a PEM file"},
	{"--upstream-tls ca=/nowhere/CANARY", "--upstream-tls", "ca: no such file or directory: write the path of a PEM file"},
	{"--upstream-tls ca=main_test.go,ca=b", "--upstream-tls", "ca= is empty or there twice"},
	{"--upstream-tls cert=main_test.go", "--upstream-tls", "write cert=FILE,key=FILE, or neither"},
	{"--upstream-tls slack=key=main_test.go", "--upstream-tls", "write cert=FILE,key=FILE, or neither"},
	{"--upstream-tls cert=main_test.go,key=main_test.go", "--upstream-tls", "write the PEM files of a certificate and its key"},
	{"--upstream-tls cert=/nowhere/CANARY,key=main_test.go", "--upstream-tls", "cert: no such file or directory"},
	{"--upstream-tls server-name=https://a", "--upstream-tls", "server-name: not the name of a host: write one without scheme and port"},
	{"--upstream-tls slak=server-name=a", "--upstream-tls", `no route "slak" is registered`},
	{"--upstream-keepalive x", "--upstream-keepalive", "is not a time: write a time, as in 90s, 90s,age=5m, or off"},
	{"--upstream-keepalive 0s", "--upstream-keepalive", "write a time, as in 90s"},
	{"--upstream-keepalive 90s,5m", "--upstream-keepalive", "given twice: write a time, as in 90s"},
	{"--upstream-keepalive 90s,age=0s", "--upstream-keepalive", "write a time, as in 90s"},
	{"--upstream-keepalive 90s,age=5m,age=6m", "--upstream-keepalive", "given twice"},

	{"--rate other=1/s", "--rate", `no route "other" is registered: write --register other=URL, or correct the name`},
	{"--rate slack", "--rate", "write requests/period, as in 10/s or 100/10m,burst=20"},
	{"--rate slack=", "--rate", "write requests/period, as in 10/s"},
	{"--rate 0/s", "--rate", "write a whole number of at least 1, as in 10/s"},
	{"--rate=-1/s", "--rate", "write a whole number of at least 1, as in 10/s"},
	{"--rate 1.5/s", "--rate", "write a whole number of at least 1, as in 10/s"},
	{"--rate 1/x", "--rate", "write s, m, h or d, or a duration longer than 0 such as 10m"},
	{"--rate 1/0s", "--rate", "write s, m, h or d, or a duration longer than 0 such as 10m"},
	{"--rate 2000000/s", "--rate", "write a lower rate, or off"},
	{"--rate 1/d,burst=36501", "--rate", "write a smaller burst or a higher rate"},
	{"--rate 1000000/s,burst=2000000000000000", "--rate", "write a smaller burst"},
	{"check --rate 1000000/s,burst=2000000000000000", "--rate", "write a smaller burst"},
	{"--rate 1/s,burst=0", "--rate", "write a whole number of at least 1, as in 1/s,burst=20"},
	{"--rate 1/s,burst=1,burst=2", "--rate", "burst= is given twice: write one"},
	{"--rate 1/s,by=client,by=header:X-Key", "--rate", "by= is given twice: write one"},
	{"--rate 1/s,per=client", "--rate", "write burst=B, by=client, by=header:NAME, name=X, strict or candidate"},
	{"--rate 1/s,by=foo", "--rate", "write by=client, by=client/PREFIX or by=header:NAME"},
	{"--rate 1/s,by=client/", "--rate", "write a number from 1 to 128, as in by=client/56"},
	{"--rate 1/s,by=client/0", "--rate", "write a number from 1 to 128, as in by=client/56"},
	{"--rate 1/s,by=client/129", "--rate", "write a number from 1 to 128, as in by=client/56"},
	{"--rate 1/s,by=client/-1", "--rate", "write a number from 1 to 128, as in by=client/56"},
	{"--rate 1/s,by=header:connection", "--rate", "Connection belongs to a connection and is never compared: take it out"},
	{"--rate 1/s,by=header:TE", "--rate", "Te belongs to a connection"},
	{"--rate 1/s,by=header:", "--rate", "write by=client, by=client/PREFIX or by=header:NAME"},
	{"--rate 1/s,by=header:a␣b", "--rate", "write by=client, by=client/PREFIX or by=header:NAME"},
	{"--rate 1/s,name=BAD", "--rate", "write up to 63 of a-z, 0-9, dot, dash and underscore"},
	{"--rate off --rate 1/s", "--rate", "value 2 of 2: off and a rate at once for all routes: write one of them"},
	{"--rate slack=1/s --rate slack=off", "--rate", "off and a rate at once for slack: write one of them"},
	{"--rate slack=1/s --rate slack=9/m,name=slack", "--rate", "two budgets of slack are called slack: give one of them another name="},
	{pooled + "--rate p=1/s --rate a=1/s,name=p", "--rate", "two budgets of p are called p: give one of them another name="},
	{pooled + "--rate p=1/s --rate 1/s,name=each", "--rate", "two budgets of p are called each: give one of them another name="},
	{pooled + "--rate p=1/s --rate a=1/s,name=b", "--rate", "two budgets of p are called b: give one of them another name="},
	{"--rate 1/s,burst=2,strict", "--rate", "write at most burst=1"},
	{"--rate 10/s,strict,strict", "--rate", "strict= is given twice: write one"},
	{"--rate 10/s,strict=1", "--rate", "write burst=B, by=client, by=header:NAME, name=X, strict or candidate"},
	{"--rate 10/s,name=slack --rate 5/s,name=slack,candidate", "--rate", "two budgets of slack are called slack: give one of them another name="},
	{"--wait 0s", "--wait", "write a duration of at most 1h, as in 3s or 200ms, or off"},
	{"--wait 2h", "--wait", "write a duration of at most 1h"},
	{"--wait 10", "--wait", `"10" has no unit: write 10s, or 10ms`},
	{"--wait never", "--wait", "write off, or a duration of at most 1h"},
	{"--wait on", "--wait", `"on" is not a time to wait`},
	{"--wait slack=1s --wait slack=2s", "--wait", "given twice for slack: write one value"},
	{"--concurrency 0", "--concurrency", "write a whole number from 1 to 100000"},
	{"--concurrency many", "--concurrency", `"many" is not a number of exchanges at once`},
	{"--concurrency 5,by=ip", "--concurrency", "write by=client, by=client/PREFIX or by=header:NAME"},
	{"--concurrency 5,by=client,by=client", "--concurrency", "by= is given twice: write one"},
	{"--concurrency 5,burst=3", "--concurrency", "write by=client, by=header:NAME or name=X"},
	{"--concurrency 5,name=slack", "--concurrency", "two limits of slack are called slack: give one of them another name="},
	{pooled + "--rate p=1/s --concurrency a=5,name=x --concurrency b=3,name=x", "--concurrency", "a and b of pool p have each a limit called x: give one of them another name=, or write it for the pool"},
	{"--concurrency off --concurrency 5", "--concurrency", "off and a number at once for all routes: write one of them"},
	{"--concurrency other=5", "--concurrency", `no route "other" is registered`},
	{"--pool p", "--pool", "write NAME=ROUTE,ROUTE"},
	{"--pool P=slack", "--pool", "write NAME=ROUTE,ROUTE, the name in lower case"},
	{"--pool p=other --rate p=1/s", "--pool", `pool p: "other" is no route: register it, or take it out`},
	{"--pool p= --rate p=1/s", "--pool", "pool p: this is no route: register it, or take it out"},
	{"--pool slack=slack", "--pool", "slack is a route: give the pool another name"},
	{pooled, "--pool", "add --rate p=N/PERIOD"},
	{pooled + "--rate p=off", "--pool", "add --rate p=N/PERIOD"},
	{pooled + "--pool q=b --rate p=1/s --rate q=1/s", "--pool", "route b is in pool p and pool q: a route can be in one"},
	{pooled + "--pool p=b --rate p=1/s", "--pool", "pool p is defined twice: write all its routes in one"},
	{"--pool p=slack,slack --rate p=1/s", "--pool", "route slack stands there twice: write it once"},

	{"--dedupe maybe", "--dedupe", "write on, off, all or key"},
	{"--dedupe other=on", "--dedupe", "write --register other=URL, or correct the name"},
	{"--dedupe-header a␣b", "--dedupe-header", "write names separated by commas, or none"},
	{"--dedupe-header=", "--dedupe-header", "write names separated by commas, or none"},
	{"--dedupe-header X-User,Content-Length", "--dedupe-header", "Content-Length belongs to a connection and is never compared: take it out"},
	{"--dedupe-header transfer-encoding", "--dedupe-header", "Transfer-Encoding belongs to a connection"},
	{"--dedupe-header Trailer", "--dedupe-header", "Trailer belongs to a connection"},
	{"--dedupe-header keep-alive", "--dedupe-header", "Keep-Alive belongs to a connection"},
	{"--dedupe-header :authority", "--dedupe-header", "write names separated by commas, or none"},
	{"--dedupe-json event.id", "--dedupe-json", "write them as $.event.id"},
	{"--dedupe-json=", "--dedupe-json", "write them as $.event.id"},
	{"--dedupe-json $..id", "--dedupe-json", "write them as $.event.id"},
	{"--dedupe-json $.items[0]", "--dedupe-json", "write them as $.event.id"},
	{"--dedupe-json $.a,", "--dedupe-json", "write them as $.event.id"},
	{"--dedupe-json $.a,$.a", "--dedupe-json", "a path is given twice: write it once"},
	{"--dedupe-json $.a.b,-$.a", "--dedupe-json", "one path leaves out what another takes in"},
	{"--dedupe-json=-$", "--dedupe-json", "-$ leaves nothing to compare"},
	{"--dedupe-json other=$.a", "--dedupe-json", `no route "other" is registered`},
	{"--hold=-1s", "--hold", "write a duration of at least 0s, as in 1s or 200ms"},
	{"--hold x", "--hold", "write a duration of at least 0s, as in 1s or 200ms"},
	{"--hold 1s,unknown=x", "--hold", "write a duration of at least 0s, as in 1s or 200ms"},
	{"--hold 1s,unknown=-1m", "--hold", "write a duration of at least 0s, as in 1s or 200ms"},
	{"--hold 1s,unknown=", "--hold", "write a duration of at least 0s, as in 1s or 200ms"},
	{"--hold 1s,2s", "--hold", "write DURATION,unknown=DURATION, as in 1s,unknown=1m"},
	{"--hold 1s,unknwon=1m", "--hold", "write DURATION,unknown=DURATION, as in 1s,unknown=1m"},
	{"--hold 1s,unknown=1m,unknown=2m", "--hold", "write DURATION,unknown=DURATION, as in 1s,unknown=1m"},
	{"--hold unknown=1m,2s", "--hold", "write DURATION,unknown=DURATION, as in 1s,unknown=1m"},
	{"--hold slak=1s,unknown=1m", "--hold", `no route "slak" is registered`},
	{"--hold 1", "--hold", `"1" has no unit: write 1s, or 1ms`},
	{"--hold", "--hold", "missing value"},
	{"--hold slack=1s --hold slack=2s", "--hold", "given twice for slack: write one value"},
	{"THROTTLE_PROXY_HOLD=1s␣2s", "--hold", "given twice for all routes: write one value"},
	{"--duplicate-status 199", "--duplicate-status", "write an error from 400 to 599, or a success from 200 to 299"},
	{"--duplicate-status 303", "--duplicate-status", "write an error from 400 to 599, or a success from 200 to 299"},
	{"--duplicate-status 600", "--duplicate-status", "write an error from 400 to 599, or a success from 200 to 299"},
	{"--upstream-closed-status 200", "--upstream-closed-status", "write a number from 400 to 599"},
	{"--max-body 0", "--max-body", "write bytes, or a number with KiB, MiB or GiB, as in 10MiB"},
	{"--max-body foo", "--max-body", "write bytes, or a number with KiB, MiB or GiB, as in 10MiB"},
	{"--max-body 2TiB", "--max-body", "from 1 byte to 1TiB"},
	{"--body-memory 0", "--body-memory", "write bytes, or a number with KiB, MiB or GiB, as in 10MiB"},
	{"--body-memory 1MiB", "--body-memory", "1MiB is less than --max-body, 10MiB: write at least that"},
	{"--max-in-flight 0", "--max-in-flight", "write a whole number from 1 to 2147483647"},
	{"--max-in-flight many", "--max-in-flight", "write a whole number from 1 to 2147483647"},
	{"--header-timeout 0s", "--header-timeout", "write a duration longer than 0, as in 5s or 200ms"},
	{"--body-idle x", "--body-idle", "write a duration longer than 0, as in 5s or 200ms"},
	{"--write-idle=-1s", "--write-idle", "write a duration longer than 0, as in 5s or 200ms"},
	{"--answer-idle 0s", "--answer-idle", "write a duration longer than 0, as in 5s or 200ms"},
	{"--forwarded maybe", "--forwarded", "write on or off"},
	{"--set-header Authorization", "--set-header", "write NAME=VALUE or ROUTE=NAME=VALUE"},
	{"--set-header slak=X-Api-Key=CANARY", "--set-header", `no route "slak" is registered: write "slack" if that is meant; else correct the name, or begin it with a capital letter`},
	{"--set-header Authorization:␣Bearer␣CANARY", "--set-header", "write NAME=VALUE or ROUTE=NAME=VALUE, and NAME=env:VARIABLE for a value with spaces"},
	{"THROTTLE_PROXY_SET_HEADER=Authorization=Bearer␣CANARY", "--set-header", "value 2 of 2: not a header field"},
	{"THROTTLE_PROXY_SET_HEADER=Authorization=Basic␣Q0FOQVJZCANARY==", "--set-header", "value 2 of 2: the value is empty: is the variable set?"},
	{"--set-header X-Key=", "--set-header", "the value is empty: is the variable set?"},
	{"--set-header a␣b=CANARY", "--set-header", "write NAME=VALUE or ROUTE=NAME=VALUE"},
	{"--set-header Content-Length=5", "--set-header", "Content-Length frames the message and cannot be set: take it out"},
	{"--set-header X-Key=env:MISSING", "--set-header", "env:MISSING is empty or not set"},
	{"KEY=CANARY\x01 --set-header X-Key=env:KEY", "--set-header", "take out line ends and the like"},
	{"--tls-cert cert.pem", "--tls-cert", "write both --tls-cert and --tls-key"},
	{"--tls-key key.pem", "--tls-key", "write both --tls-cert and --tls-key"},
	{"--tls-cert missing.pem --tls-key missing.pem", "--tls-cert", "write the PEM files of a certificate and its key"},
	{"--timeout 0s", "--timeout", "write a duration longer than 0, as in 5s or 200ms"},
	{"--client-gone foo", "--client-gone", "write finish or cancel"},
	{"--upstream-closed-status 600", "--upstream-closed-status", "write a number from 400 to 599"},
	{"--trusted-proxy foo", "--trusted-proxy", "write CIDR as in 10.0.0.0/8, an address, or unix"},
	{"--trusted-proxy 10.0.0.0/8,10.1.0.1", "--trusted-proxy", "write header=NAME, the field in which this proxy sends the client's address, as in header=CF-Connecting-IP; each network needs a --trusted-proxy of its own"},
	{"--trusted-proxy 10.0.0.0/8,header=", "--trusted-proxy", "write header=NAME"},
	{"--trusted-proxy 10.0.0.0/8,header=Authorization", "--trusted-proxy", "write header=NAME"},
	{"--trusted-proxy 10.0.0.0/8,header=Host", "--trusted-proxy", "write header=NAME"},
	{"--trusted-proxy 10.0.0.0/8,header=Connection", "--trusted-proxy", "write header=NAME"},
	{"--trusted-proxy 10.0.0.0/8 --trusted-proxy 10.1.0.0/8,header=X-Real-IP", "--trusted-proxy", "this network is given twice: write it once"},
	{"--trusted-proxy ::ffff:10.0.0.0/104", "--trusted-proxy", "write CIDR as in 10.0.0.0/8, an address, or unix"},
	{"--shadow maybe", "--shadow", "write on or off"},

	{"--store-timeout 0s", "--store-timeout", "write a duration longer than 0, as in 5s or 200ms"},
	{"--store-timeout 10us", "--store-timeout", "write at least 1ms"},
	{"--when-undecided foo", "--when-undecided", "write local, open or closed"},
	{"--redis-pipeline yes", "--redis-pipeline", "write on or off"},
	{"--admin 9090", "--admin", "write host:port, :port or unix:/path"},
	{"--admin unix:", "--admin", "write unix:/path/to/socket"},
	{"--listen 127.0.0.1:7 --admin 127.0.0.1:7", "--admin", "write another address"},
	{"--replicas 0", "--replicas", "write a whole number from 1 to 10000"},
	{"--replicas many", "--replicas", "write a whole number from 1 to 10000"},
	{"--cool-down yes", "--cool-down", "write on, off or learn"},
	{"--max-cool-down 0s", "--max-cool-down", "write a duration longer than 0, as in 5s or 200ms"},
	{"--lock-ttl x", "--lock-ttl", "write a duration longer than 0, as in 5s or 200ms"},
	{"--lock-ttl 900ms --store-timeout 100ms", "--lock-ttl", "write at least 1s, or a lower --store-timeout"},
	{"--redis CANARY", "--redis", "write redis://host:port"},
	{"--redis=", "--redis", "write redis://host:port"},
	{"REDIS_URL=CANARY", "--redis", "write redis://host:port"},
	{"--redis env:CACHE_URL", "--redis", "env:CACHE_URL is empty or not set: put the value there, and export it"},
	{"--redis file:/nowhere/redis", "--redis", "no such file or directory: write the path of a file that holds the value"},
	{"--redis redis://:CANARY@", "--redis", "write redis://host:port"},
	{"--redis redis://:CANARY@host,", "--redis", "write redis://host:port"},
	{"--redis redis://:CANARY@host:0", "--redis", "write a number from 1 to 65535"},
	{"--redis redis://:CANARY@host:redis", "--redis", "write a number from 1 to 65535"},
	{"--redis http://:CANARY@host", "--redis", `unknown scheme: write redis, rediss, unix, redis+sentinel or redis+cluster`},
	{"--redis redis+tls://:CANARY@host", "--redis", "write redis, rediss, unix, redis+sentinel or redis+cluster"},
	{"--redis redis+sentinel://:CANARY@host", "--redis", "add ?master_name=NAME"},
	{"--redis redis://:CANARY@host1,host2", "--redis", "write redis+sentinel or redis+cluster for what they are"},
	{"--redis redis://:CANARY@host/zero", "--redis", "write its number, or nothing for a cluster"},
	{"--redis redis://:CANARY@host/-1", "--redis", "write its number, or nothing for a cluster"},
	{"--redis redis+cluster://:CANARY@host/1", "--redis", "write its number, or nothing for a cluster"},
	{"--redis redis://:CANARY@host?retries=3", "--redis", "a parameter in the URL is unknown: take it out"},
	{"--redis redis://:CANARY%zz@host", "--redis", "escape special characters of the password, as in %40 for @"},
	{"--redis redis://:4/CANARY@host", "--redis", "escape special characters of the password"},
	{"--redis redis://user:4/CANARY@host", "--redis", "escape special characters of the password"},
	{"--redis redis://user:CANARY/x@host", "--redis", "escape special characters of the password"},
	{"--redis redis://user:4?CANARY@host", "--redis", "escape special characters of the password"},
	{"--redis redis://user:4#CANARY@host", "--redis", "escape special characters of the password"},
	{"--redis redis://host#CANARY", "--redis", "escape special characters of the password"},
	{"--redis redis://host?a;b", "--redis", "escape special characters"},
	{"--redis unix://redis.sock", "--redis", "write unix:///path/to/socket"},
	{"--redis redis://host --redis-tls ca=main_test.go", "--redis", "write rediss in place of redis"},
	{"--redis-tls ca=main_test.go", "--redis-tls", "write --redis rediss://host:port"},
	{"--redis rediss://host --redis-tls ca=/nowhere/ca.pem", "--redis-tls", "ca: no such file or directory: write the path of a PEM file"},
	{"--redis rediss://host --redis-tls ca=main_test.go", "--redis", "no PEM certificate in it"},
	{"--redis rediss://host --redis-tls cert=main_test.go", "--redis-tls", "write cert=FILE,key=FILE, or neither"},
	{"--redis rediss://host --redis-tls key=main_test.go", "--redis-tls", "write cert=FILE,key=FILE, or neither"},
	{"--redis rediss://host --redis-tls cert=/nowhere/cert.pem,key=main_test.go", "--redis-tls", "cert: no such file or directory: write the path of a PEM file"},
	{"--redis rediss://host --redis-tls main_test.go", "--redis-tls", "write ca=FILE,cert=FILE,key=FILE,server-name=HOST"},
	{"--redis rediss://host --redis-tls ca=", "--redis-tls", "ca= is empty or there twice"},
	{"--redis rediss://host --redis-tls server-name=a,server-name=b", "--redis-tls", "server-name= is empty or there twice"},
	{"--redis rediss://host --redis-ca main_test.go", "--redis-ca", "write --redis-tls ca=FILE"},
	{"--redis rediss://host --redis-cert main_test.go", "--redis-cert", "write --redis-tls cert=FILE,key=FILE"},
	{"--redis-prefix=a␣b", "--redis-prefix", "write letters, digits and _ . : -"},
	{"--redis-prefix a{b}", "--redis-prefix", "write letters, digits and _ . : -"},
	{"--redis-prefix=", "--redis-prefix", "write letters, digits and _ . : -"},

	{"--drain-delay=-1s", "--drain-delay", "write a duration of at least 0s, as in 1s or 200ms"},
	{"--drain-delay 5", "--drain-delay", "write 5s, or 5ms"},
	{"--drain-timeout 0s", "--drain-timeout", "write a duration longer than 0, as in 5s or 200ms"},
	{"--drain-timeout x", "--drain-timeout", "write a duration longer than 0, as in 5s or 200ms"},
	{"--log-format xml", "--log-format", "write text or json"},
	{"--log-level loud", "--log-level", "write debug, info, warn or error"},

	{"-p 80", "-p", "write --port"},
	{"-r a=http://host", "-r", "write --register"},
	{"-v", "-v", "write version"},
	{"--route a=http://host", "--route", "write --register"},
	{"--config x", "--config", "there are flags and environment variables, and no configuration file"},
	{"--env-file x", "--env-file", "there are flags and environment variables, and no configuration file"},
	{"--shadow", "--shadow", "missing value: write --shadow on"},
	{"--set-heade=X=CANARY", "--set-heade", `did you mean "--set-header"?`},
	{"demo --once=CANARY", "--once", "it has no value: take it out"},
	{"chek", "--help", `unexpected argument, did you mean "check"? The commands are serve, `},
	{"server", "--help", `did you mean "serve"?`},
	{"--holds 1s", "--holds", `did you mean "--hold"?`},
	{"--webhook=https://host/CANARY", "--webhook", "write --register NAME=URL\nRun throttle-proxy --help"},
	{"serv", "--help", `unexpected argument, did you mean "serve"?`},
	{"serve stray", "--help", "write quotation marks around a value with spaces"},
	{"--register a=http://host/CANARY check", "--register", "write the command before its flags, and only flags that it has: throttle-proxy check …"},
	{"check --hold x", "--hold", "write a duration of at least 0s"},
	{"health --port abc", "--port", "write a number from 0 to 65535"},
}

// pooled is the beginning of a command line with two routes in a pool.
const pooled = "--register a=http://a --register b=http://b --pool p=a,b "

func TestUnusableCommandLineEndsBeforeAnythingListens(t *testing.T) {
	elsewhere := occupied(t)
	for _, test := range unusable {
		t.Run(test.line, func(t *testing.T) {
			line := "THROTTLE_PROXY_REGISTER=slack=https://hooks.slack.com/services/CANARY " + test.line
			if test.flag != "--port" { // which --listen would stand in for
				line = "THROTTLE_PROXY_LISTEN=" + elsewhere + " " + line
			}
			status, stdout, stderr := execute(line)
			if status != exitUsage || stdout != "" {
				t.Errorf("got status %d and %q, want %d and nothing on standard output", status, stdout, exitUsage)
			}
			for _, want := range []string{"throttle-proxy: ", test.flag, test.says} {
				if !strings.Contains(stderr, want) {
					t.Errorf("got %q, want %q in it", stderr, want)
				}
			}
			if first, _, _ := strings.Cut(stderr, "\n"); !doing.MatchString(first) {
				t.Errorf("%q does not say what to do", first)
			}
			for _, not := range []string{canary, "listening", "cannot listen", "%!"} {
				if strings.Contains(stderr, not) {
					t.Errorf("got %q, want no %q in it", stderr, not)
				}
			}
		})
	}
}

func TestEveryFlagHasUnusableValues(t *testing.T) {
	anything := []string{"replica-name"}
	for _, flag := range flagsOf(t, "serve") {
		named := false
		for _, test := range unusable {
			named = named || test.flag == "--"+flag.Name
		}
		if want := !slices.Contains(anything, flag.Name); named != want {
			t.Errorf("--%s: got a test of an unusable value: %t, want %t", flag.Name, named, want)
		}
	}
}

func TestAllMistakesAreReportedAtOnce(t *testing.T) {
	_, _, stderr := execute("--register a=CANARY --port x --rate 1/x --hold x --redis x --max-body x --log-level x")
	var got []string
	for _, line := range strings.Split(strings.TrimSpace(stderr), "\n") {
		_, flag, _ := strings.Cut(line, "--")
		got = append(got, flag[:strings.IndexByte(flag, ':')])
	}
	want := []string{"port", "register", "rate", "hold", "redis", "max-body", "log-level"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v in\n%s", got, want, stderr)
	}
}
