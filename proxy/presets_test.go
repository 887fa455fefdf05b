package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestPresetOf(t *testing.T) {
	for url, want := range map[string]string{
		"https://hooks.slack.com/services/T0/B0/x":                  "Slack's published limit",
		"https://HOOKS.Slack.com/services/T0/B0/x":                  "Slack's published limit",
		"https://hooks.slack.com":                                   "Slack's published limit",
		"https://discord.com/api/webhooks/1/x":                      "Discord's limit, which is not published",
		"https://canary.discord.com/api/v10/webhooks/1/x":           "Discord's limit, which is not published",
		"https://discordapp.com/api/webhooks/1/x?wait=true":         "Discord's limit, which is not published",
		"https://discord.com/api/v10":                               "Discord's published limit of a bot",
		"https://discord.com":                                       "Discord's published limit of a bot",
		"https://team.webhook.office.com/webhookb2/x":               "Microsoft's published limit",
		"https://outlook.office.com/webhook/x":                      "Microsoft's published limit",
		"https://api.github.com":                                    "GitHub's published limit of a user",
		"https://api.github.com/repos/a/b":                          "GitHub's published limit of a user",
		"https://slack.com/api":                                     "",
		"https://hooks.slack.com.example/":                          "",
		"https://example/hooks.slack.com/":                          "",
		"https://notdiscord.com/api/webhooks/1/x":                   "",
		"https://outlook.office.com/api":                            "",
		"https://webhook.office.com.example/":                       "",
		"https://prod.westeurope.logic.azure.com/workflows/x?sig=y": "",
		"https://github.com/a/b":                                    "",
	} {
		if got := PresetOf(mustParse(t, url)); got.Source != want || (got.Limits == nil) != (want == "") {
			t.Errorf("%s: got %+v, want %q", url, got, want)
		}
	}
	for _, p := range presets {
		for _, l := range p.Limits {
			if err := l.Validate(); err != nil {
				t.Errorf("%s: %v", p.Source, err)
			}
		}
	}
}

// What a known service answers when it has had enough.
func TestRefusalsOfKnownServices(t *testing.T) {
	const slack, discord, github = "https://hooks.slack.com/services/T0", "https://discord.com/api/webhooks/1/x", "https://api.github.com"
	const unknown = "https://upstream.example"
	isJSON, isHTML := []string{"Content-Type", "application/json"}, []string{"Content-Type", "text/html; charset=UTF-8"}
	with := func(all ...[]string) (fields []string) {
		for _, some := range all {
			fields = append(fields, some...)
		}
		return fields
	}
	limited := `{"message": "You are being rate limited.", "retry_after": 3.336, "global": false}`
	padding := strings.Repeat(" ", refusalLength)
	for name, tt := range map[string]struct {
		url    string
		status int
		header []string
		body   string
		want   time.Duration
	}{
		"Discord's fields":                                          {discord, 429, with(isJSON, []string{"Retry-After", "4", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset-After", "3.336", "X-RateLimit-Scope", "user"}), limited, 4 * time.Second},
		"Discord's X-RateLimit-Reset-After alone":                   {discord, 429, with(isJSON, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset-After", "6.1", "X-RateLimit-Reset", "4000000000.5"}), limited, 7 * time.Second},
		"Discord's JSON alone":                                      {discord, 429, isJSON, limited, 4 * time.Second},
		"Discord's JSON without an end that is known":               {discord, 429, with(isJSON, []string{"X-Chunked", "yes"}), limited, 4 * time.Second},
		"Discord's JSON, long":                                      {discord, 429, isJSON, limited + padding, 4 * time.Second},
		"Discord's JSON, too long to be read":                       {discord, 429, isJSON, padding + limited, time.Minute},
		"Discord's JSON, empty":                                     {discord, 429, isJSON, "", time.Minute},
		"Discord's JSON, of other members":                          {discord, 429, isJSON, `{"code": 0, "message": "You are being blocked"}`, time.Minute},
		"Discord's JSON, negative":                                  {discord, 429, isJSON, `{"retry_after": -1}`, time.Minute},
		"Discord's JSON, a number that is none":                     {discord, 429, isJSON, `{"retry_after": "soon"}`, time.Minute},
		"Discord's JSON, for ever":                                  {discord, 429, isJSON, `{"retry_after": 1e300}`, 5 * time.Minute},
		"Discord's JSON, compressed":                                {discord, 429, with(isJSON, []string{"Content-Encoding", "gzip"}), limited, time.Minute},
		"Cloudflare's HTML":                                         {discord, 429, isHTML, "<html>error code: 1015</html>", time.Minute},
		"Cloudflare's HTML with Retry-After":                        {discord, 429, with(isHTML, []string{"Retry-After", "30"}), "<html>error code: 1015</html>", 30 * time.Second},
		"Discord, 400":                                              {discord, 400, isJSON, limited, 0},
		"Discord, 403":                                              {discord, 403, isJSON, limited, 0},
		"Discord, 204 with nothing left":                            {discord, 204, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset-After", "1"}, "", 0},
		"GitHub's primary limit, 403":                               {github, 403, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "946684830", "X-RateLimit-Limit", "60"}, "{}", 30 * time.Second},
		"GitHub's primary limit, 429":                               {github, 429, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "946684830"}, "{}", 30 * time.Second},
		"GitHub's secondary limit":                                  {github, 403, []string{"Retry-After", "60", "X-RateLimit-Remaining", "10"}, "{}", time.Minute},
		"GitHub's secondary limit without a word":                   {github, 429, []string{"X-RateLimit-Remaining", "10"}, "{}", time.Minute},
		"GitHub, forbidden":                                         {github, 403, []string{"X-RateLimit-Remaining", "10", "X-RateLimit-Reset", "946684830"}, "{}", 0},
		"GitHub, the last of the budget":                            {github, 200, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "946684830"}, "{}", 0},
		"Slack":                                                     {slack, 429, []string{"Retry-After", "30"}, "rate_limited", 30 * time.Second},
		"Slack without a word":                                      {slack, 429, isJSON, limited, 0},
		"an unknown service, whose bodies and fields mean anything": {unknown, 429, with(isJSON, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset-After", "6"}), limited, 0},
	} {
		bubble(t, name, func(t *testing.T) {
			up := roundTrip(func(req *http.Request) (*http.Response, error) {
				connected(req)
				res := answer(tt.status, tt.body)
				for i := 0; i < len(tt.header); i += 2 {
					res.Header.Add(tt.header[i], tt.header[i+1])
				}
				if res.Header.Get("X-Chunked") != "" {
					res.ContentLength = -1
				}
				return res, nil
			})
			r := newRig(t, up, upstreamURL(t, tt.url))
			if res := r.do(post("first")); res.StatusCode != tt.status || text(t, res) != tt.body {
				t.Errorf("its caller got %d, or another body", res.StatusCode)
			}
			if e := <-r.events; e.CoolDown != tt.want {
				t.Errorf("got a cool-down of %s, want %s", e.CoolDown, tt.want)
			}
			if tt.want > 0 {
				wantCooling(t, r, post("second"), fmt.Sprint(int(tt.want.Seconds())))
			} else {
				wantOutcome(t, r.do(post("second")), fmt.Sprint(tt.status))
			}
		})
	}
}

// A body is passed on as it comes, whatever it may say.
func TestRefusalIsPassedOnAsItComes(t *testing.T) {
	reader, writer := io.Pipe()
	up := roundTrip(func(req *http.Request) (*http.Response, error) {
		connected(req)
		res := answer(http.StatusTooManyRequests, "")
		res.Body, res.ContentLength = reader, -1
		res.Header.Set("Content-Type", "application/json")
		return res, nil
	})
	r := newRig(t, up, upstreamURL(t, "https://discord.com/api/webhooks/1/x"))
	server := serve(t, r)
	res, err := http.Post(server.URL+"/hook", "text/plain", strings.NewReader("first"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for _, part := range []string{`{"retry_after": 6, `, `"global": false}`} {
		if _, err := io.WriteString(writer, part); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(part))
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != part {
			t.Errorf("got %q, %v, want %q before the rest is there", got, err, part)
		}
	}
	_ = writer.Close()
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 {
		t.Errorf("got %q, %v behind it", rest, err)
	}
	wantCooling(t, r, post("second"), "6")
}
