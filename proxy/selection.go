package proxy

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// selection is what JSON bodies are compared by: a tree of the members that are
// taken in and left out. What is taken of a body is written as RFC 8785 has it,
// but for numbers: those are compared exactly, since beyond 2^53 two would be
// one in a float64, and a request be refused for another's.
type selection struct {
	all     bool // of the value, but what is left out below
	out     bool // nothing of it
	members map[string]*selection
	each    *selection // of the elements of an array
}

// Steps of a path, and a whole one with what follows it in a list.
var (
	jsonStep = regexp.MustCompile(`\.([^].,*'"\[\s]+)|\['([^'[:cntrl:]]+)'\]|\[\*\]`)
	jsonPath = regexp.MustCompile(`^(-?)\$((?:` + jsonStep.String() + `)*)(?:,|$)`)
)

// ParseJSONPaths reads a list PATH,… of what JSON bodies are compared by. A path
// is $ and steps .NAME, ['NAME'] for any name but one with an apostrophe, or [*]
// for each element of an array; with a dash in front it is left out.
func ParseJSONPaths(text string) ([]string, error) {
	var paths []string
	for more := true; more; {
		match := jsonPath.FindStringSubmatch(text)
		if match == nil {
			return nil, errors.New("not a list of paths: write them as $.event.id, $['a name'], $.items[*].id or -$.timestamp, separated by commas, or $")
		}
		text, more = text[len(match[0]):], strings.HasSuffix(match[0], ",")
		path := match[1] + "$" + jsonStep.ReplaceAllStringFunc(match[2], func(step string) string {
			if plain := "." + strings.TrimSuffix(strings.TrimPrefix(step, "['"), "']"); jsonStep.FindString(plain) == plain {
				return plain
			}
			return step
		})
		switch {
		case path == "-$":
			return nil, errors.New("-$ leaves nothing to compare: take it out")
		case slices.Contains(paths, path):
			return nil, errors.New("a path is given twice: write it once")
		}
		paths = append(paths, path)
	}
	for _, out := range paths {
		for _, in := range paths {
			if below, ok := strings.CutPrefix("-"+in, out); ok && out[0] == '-' && (below == "" || below[0] == '.' || below[0] == '[') {
				return nil, errors.New("one path leaves out what another takes in: write one of them")
			}
		}
	}
	return paths, nil
}

// selects returns the selection of paths that ParseJSONPaths has returned; it is
// nil if there are none.
func selects(paths []string) *selection {
	if len(paths) == 0 {
		return nil
	}
	root := &selection{all: !slices.ContainsFunc(paths, func(p string) bool { return p[0] == '$' })}
	for _, path := range paths {
		at := root
		for _, step := range jsonStep.FindAllStringSubmatch(path, -1) {
			name := step[1] + step[2]
			if name == "" {
				if at.each == nil {
					at.each = &selection{}
				}
				at = at.each
				continue
			}
			if at.members == nil {
				at.members = map[string]*selection{}
			}
			if at.members[name] == nil {
				at.members[name] = &selection{}
			}
			at = at.members[name]
		}
		at.all, at.out = at.all || path[0] == '$', at.out || path[0] == '-'
	}
	return root
}

// Bounds of what is read as JSON; what is beyond is compared byte by byte.
const (
	maxJSON      = 1 << 20 // bytes of a body
	maxJSONDepth = 100
)

// comparing bounds how much memory comparisons take at once, which may be many
// times a body's size where it has many short members.
var comparing = make(chan struct{}, runtime.GOMAXPROCS(0))

// of returns what is compared of a body. It is not ok for one of which all bytes
// are: it is no object or array in UTF-8, has a name twice, is too large or too
// deep, or has nothing of what was asked for.
func (s *selection) of(h http.Header, body *heldBody) (text []byte, ok bool) {
	if s == nil || body.size > maxJSON || !isUTF8(h.Get("Content-Type")) {
		return nil, false
	}
	comparing <- struct{}{}
	defer func() { <-comparing }()
	reader := body.Open()
	defer reader.Close()
	p := projection{in: jsontext.NewDecoder(reader)}
	if kind := p.in.PeekKind(); kind != '{' && kind != '[' || p.value(s, false) != nil || !p.found {
		return nil, false
	}
	if _, err := p.in.ReadToken(); err != io.EOF {
		return nil, false
	}
	value := jsontext.Value(p.out)
	err := value.Canonicalize(jsontext.CanonicalizeRawInts(false), jsontext.CanonicalizeRawFloats(false))
	return value, err == nil
}

// isUTF8 reports whether a Content-Type names no other charset.
func isUTF8(contentType string) bool {
	_, params, _ := mime.ParseMediaType(contentType)
	charset, given := params["charset"]
	return !given || strings.EqualFold(charset, "utf-8") || strings.EqualFold(charset, "us-ascii")
}

// projection writes what a selection takes of the values that it reads.
type projection struct {
	in    *jsontext.Decoder
	out   []byte
	found bool // something that was asked for
}

var errTooDeep = errors.New("too deep")

// value writes what s takes of the next value, or with all, all but what s
// leaves out.
func (p *projection) value(s *selection, all bool) error {
	if s != nil {
		all = all || s.all
	}
	p.found = p.found || all
	switch kind := p.in.PeekKind(); {
	case kind == '{' || kind == '[':
		return p.composite(s, all)
	default:
		raw, err := p.in.ReadValue()
		if kind == '0' {
			p.out = appendNumber(p.out, raw)
		} else {
			p.out = append(p.out, raw...)
		}
		return err
	}
}

// composite is value for an object or array.
func (p *projection) composite(s *selection, all bool) error {
	open, err := p.in.ReadToken()
	if err != nil {
		return err
	}
	if p.in.StackDepth() > maxJSONDepth {
		return errTooDeep
	}
	object := open.Kind() == '{'
	p.out = append(p.out, open.String()...)
	for first := true; ; {
		kind := p.in.PeekKind()
		if kind == '}' || kind == ']' {
			end, err := p.in.ReadToken()
			p.out = append(p.out, end.String()...)
			return err
		}
		undo := len(p.out)
		if !first {
			p.out = append(p.out, ',')
		}
		below := s.element()
		if object {
			name, err := p.in.ReadToken()
			if err != nil {
				return err
			}
			text := name.String()
			below = s.member(text)
			if p.out, err = jsontext.AppendQuote(p.out, text); err != nil {
				return err
			}
			p.out = append(p.out, ':')
		}
		if !below.takes(p.in.PeekKind(), all) {
			p.out = p.out[:undo]
			if err := p.in.SkipValue(); err != nil {
				return err
			}
			continue
		}
		if err := p.value(below, all); err != nil {
			return err
		}
		first = false
	}
}

func (s *selection) member(name string) *selection {
	if s == nil {
		return nil
	}
	return s.members[name]
}

func (s *selection) element() *selection {
	if s == nil {
		return nil
	}
	return s.each
}

// takes reports whether anything of a value of that kind is taken, where all of
// what is around it is, or not.
func (s *selection) takes(kind jsontext.Kind, all bool) bool {
	switch {
	case s == nil:
		return all
	case s.out:
		return false
	case all || s.all:
		return true
	case kind == '{':
		return s.members != nil
	case kind == '[':
		return s.each != nil
	}
	return false
}

// appendNumber appends a JSON number in the one form that all that are equal to
// it share: its digits without zeros at the end, and a power of ten.
func appendNumber(b, number []byte) []byte {
	mantissa, power, raised := number, "0", false
	if i := bytes.IndexAny(number, "eE"); i >= 0 {
		mantissa, power, raised = number[:i], string(number[i+1:]), true
	}
	exponent, err := strconv.ParseInt(power, 10, 32)
	if raised && err != nil {
		return append(b, number...) // nobody counts so far: as it is written
	}
	mantissa, negative := bytes.CutPrefix(mantissa, []byte("-"))
	whole, fraction, _ := bytes.Cut(mantissa, []byte("."))
	start := len(b)
	if negative {
		b = append(b, '-')
	}
	sign := len(b)
	b = append(append(b, whole...), fraction...)
	exponent -= int64(len(fraction))
	digits := bytes.TrimLeft(b[sign:], "0")
	exponent += int64(len(digits) - len(bytes.TrimRight(digits, "0")))
	digits = bytes.TrimRight(digits, "0")
	if len(digits) == 0 {
		return append(b[:start], '0')
	}
	b = append(b[:sign], digits...)
	if exponent != 0 {
		b = strconv.AppendInt(append(b, 'e'), exponent, 10)
	}
	return b
}
