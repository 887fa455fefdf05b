package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"throttle-proxy/proxy"
)

// harmless is what a message may repeat: a number with its unit, or a few
// words.
var harmless = regexp.MustCompile(`^(-?[0-9][0-9.]{0,9}[A-Za-zµ]{0,3}|[a-z]{1,16}([._-][a-z]{1,16}){0,2}[0-9]?)$`)

// quote is how a message speaks of a value, or of a part of one, and the only
// way for either to get into a message: anything might be a secret that was
// pasted where it does not belong. What flags read that secrets are for
// (register, redis and set-header) is not even quoted by it.
func quote(text string) string {
	if harmless.MatchString(text) {
		return strconv.Quote(text)
	}
	return "this"
}

// nth says which of several values a message is about.
func nth(values []string, i int) string {
	if len(values) == 1 {
		return ""
	}
	return fmt.Sprintf("value %d of %d: ", i+1, len(values))
}

// cause is err without the path or address that it quotes.
func cause(err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Err
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return errors.New(dns.Err)
	}
	if addr, ok := errors.AsType[*net.AddrError](err); ok {
		return errors.New(addr.Err)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

// read returns what parse makes of the value of a flag.
func read[T any](p *parsing, flag, value string, parse func(string) (T, error)) T {
	parsed, err := parse(value)
	if err != nil {
		p.fail(flag, "%w", err)
	}
	return parsed
}

// number returns a parser of how many there are of something, at least 1.
func number(of string, most int) func(string) (int, error) {
	return func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > most {
			return 0, fmt.Errorf("%s is not a number of %s: write a whole number from 1 to %d", quote(s), of, most)
		}
		return n, nil
	}
}

// oneOf returns a parser of the given words.
func oneOf[T ~string](words ...T) func(string) (T, error) {
	return func(s string) (T, error) {
		list := ""
		for i, word := range words {
			if s == string(word) {
				return word, nil
			}
			switch {
			case i == 0:
			case i == len(words)-1:
				list += " or "
			default:
				list += ", "
			}
			list += string(word)
		}
		return "", fmt.Errorf("%s is unknown: write %s", quote(s), list)
	}
}

func parseSwitch(s string) (bool, error) {
	_, err := oneOf("on", "off")(s)
	return s == "on", err
}

func parseTime(s string) (time.Duration, error) {
	d, err := parseDuration(s)
	if err := wrongTime(s, "write a long one, as in 24h: it cannot be turned off"); err != nil {
		return 0, err
	}
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%s is not a time: write a duration longer than 0, as in 5s or 200ms", quote(s))
	}
	return d, nil
}

// maxWait bounds --wait: whoever would wait for longer has left.
const maxWait = time.Hour

// parseWait reads how long requests wait for their budget; 0 is off.
func parseWait(s string) (time.Duration, error) {
	if s == "off" {
		return 0, nil
	}
	if err := wrongTime(s, "write off, or a duration of at most 1h"); err != nil {
		return 0, err
	}
	d, err := parseDuration(s)
	if err != nil || d <= 0 || d > maxWait {
		return 0, fmt.Errorf("%s is not a time to wait: write a duration of at most 1h, as in 3s or 200ms, or off", quote(s))
	}
	return d, nil
}

// parseDelay is parseTime for a time that may be 0.
func parseDelay(s string) (time.Duration, error) {
	d, err := parseDuration(s)
	if err := wrongTime(s, "write 0s"); err != nil {
		return 0, err
	}
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%s is not a time: write a duration of at least 0s, as in 1s or 200ms", quote(s))
	}
	return d, nil
}

// parseHold reads DURATION[,unknown=DURATION]. What is left out stays as it is by
// default.
func parseHold(s string) (hold proxy.Hold, err error) {
	hold = defaultHold
	success, unknown, both := strings.Cut(s, ",unknown=")
	if !both {
		if unknown, both = strings.CutPrefix(s, "unknown="); both {
			success = brief(hold.Success)
		}
	}
	if strings.Contains(success+unknown, ",") {
		return hold, errors.New("not a time after a success and one after an unknown outcome: write DURATION,unknown=DURATION, as in 1s,unknown=1m")
	}
	if hold.Success, err = parseDelay(success); err == nil && both {
		hold.Unknown, err = parseDelay(unknown)
	}
	return hold, err
}

// wrongTime says what to write in place of a number without a unit, or of a word
// that turns other things off.
func wrongTime(s, off string) error {
	switch {
	case s == "" || s == "0":
		return nil
	case !strings.ContainsFunc(s, notDigit) && len(s) < 8:
		return fmt.Errorf("%s has no unit: write %ss, or %[2]sms", quote(s), s)
	case slices.Contains([]string{"off", "none", "no", "never", "false", "disabled", "unlimited", "forever", "infinite"}, s):
		return fmt.Errorf("%s is not a time: %s", quote(s), off)
	}
	return nil
}

// parseDuration is [time.ParseDuration], but that a day is known, and units as
// people write them.
func parseDuration(s string) (time.Duration, error) {
	s = inUnits(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(s)
}

// units are those of time as people write them, by their letters here.
var units = map[string]string{
	"sec": "s", "secs": "s", "second": "s", "seconds": "s",
	"min": "m", "mins": "m", "minute": "m", "minutes": "m",
	"hr": "h", "hrs": "h", "hour": "h", "hours": "h",
	"day": "d", "days": "d",
}

// inUnits returns a time or a period with the letter of its unit: 5m of 5min.
func inUnits(s string) string {
	number := strings.TrimRight(s, "abcdefghijklmnopqrstuvwxyz")
	if letter, ok := units[s[len(number):]]; ok {
		return number + letter
	}
	return s
}

// parseSize reads a number of bytes.
func parseSize(s string) (int64, error) {
	n, err := humanize.ParseBytes(s)
	if err != nil || n == 0 || n > 1<<40 {
		return 0, fmt.Errorf("%s is not a size from 1 byte to 1TiB: write bytes, or a number with KiB, MiB or GiB, as in 10MiB", quote(s))
	}
	return int64(n), nil
}

func parseStatus(s string) (int, error) {
	status, err := strconv.Atoi(s)
	if err != nil || status < 400 || status > 599 {
		return 0, fmt.Errorf("%s is not an error status: write a number from 400 to 599", quote(s))
	}
	return status, nil
}

// parseDuplicateStatus is parseStatus, but that a success can be written too.
func parseDuplicateStatus(s string) (int, error) {
	status, err := strconv.Atoi(s)
	if err != nil || status < 200 || status > 599 || status/100 == 3 {
		return 0, fmt.Errorf("%s is no status for a duplicate: write an error from 400 to 599, or a success from 200 to 299", quote(s))
	}
	return status, nil
}
