package proxy

import (
	"bytes"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"
)

// form is a request with a form of two parts, as mime/multipart writes it.
func form(t *testing.T, boundary, text string) (kind, body string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	if err := w.SetBoundary(boundary); err != nil {
		t.Fatal(err)
	}
	_ = w.WriteField("channel", "random")
	file, _ := w.CreateFormFile("file", "a.txt")
	_, _ = file.Write([]byte(text))
	_ = w.Close()
	return w.FormDataContentType(), b.String()
}

func TestWhichFormsAreEqual(t *testing.T) {
	const one, other = "----WebKitFormBoundary7MA4YWxkTrZu0gW", "b"
	large := strings.Repeat("0123456789\r\n--", 10_000)
	of := func(boundary, text string) [2]string { k, b := form(t, boundary, text); return [2]string{k, b} }
	as := func(f [2]string, kind string) [2]string { f[0] = kind; return f }
	in := func(f [2]string, old, new string) [2]string { f[1] = strings.Replace(f[1], old, new, 1); return f }
	for name, tt := range map[string]struct {
		a, b  [2]string // Content-Type and body
		equal bool
	}{
		"another boundary":              {of(one, "hello"), of(other, "hello"), true},
		"another boundary, large":       {of(one, large), of(other, large), true},
		"a boundary in capitals":        {of("b", "hello"), of("B", "hello"), true},
		"another text":                  {of(one, "hello"), of(other, "Hello"), false},
		"another text, large":           {of(one, large+"a"), of(one, large+"b"), false},
		"a part's field":                {of(one, "hello"), in(of(one, "hello"), "a.txt", "b.txt"), false},
		"a part taken out":              {of(one, "hello"), in(of(one, "hello"), "\r\n--"+one+"\r\n", "\r\n\r\n"), false},
		"a part moved":                  {of(one, "hello\r\n\r\n"), in(of(one, "hello\r\n\r\n"), "hello\r\n\r\n", "\r\n\r\nhello"), false},
		"a delimiter moved":             {[2]string{"multipart/form-data; boundary=b", "--b\r\n1\r\n--b2\r\n--b--"}, [2]string{"multipart/form-data; boundary=b", "--b\r\n12\r\n--b\r\n--b--"}, false},
		"a quoted boundary":             {of(one, "hello"), as(of(one, "hello"), `Multipart/Form-Data; Boundary="`+one+`"`), true},
		"a parameter more":              {of(one, "hello"), as(of(one, "hello"), "multipart/form-data; charset=utf-8; boundary="+one), false},
		"a preamble":                    {of(one, "hello"), in(of(one, "hello"), "--"+one, "x\r\n--"+one), false},
		"an end":                        {of(one, "hello"), in(of(one, "hello"), "--\r\n", "--\r\nx"), false},
		"a boundary that no line is of": {as(of(one, "hello"), "multipart/form-data; boundary=x"), as(of(other, "hello"), "multipart/form-data; boundary=x"), false},
		"text that has the boundary":    {of("x1", "a--x1b"), of("x2", "a--x2b"), false},
		"text that begins like one":     {of("x1", "a\r\n--x1b"), of("x2", "a\r\n--x2b"), false},
		"text that begins like the end": {of("x1", "a\r\n--x1--b"), of("x2", "a\r\n--x2--b"), false},
		"a form without a last line":    {[2]string{"multipart/form-data; boundary=x1", "--x1\r\n\r\na\r\n--x1--"}, [2]string{"multipart/form-data; boundary=x2", "--x2\r\n\r\na\r\n--x2--"}, true},
		"no boundary":                   {as(of(one, "hello"), "multipart/form-data"), as(of(other, "hello"), "multipart/form-data"), false},
		"a boundary of many":            {as(of(one, "hello"), "multipart/form-data; boundary="+strings.Repeat("b", 71)), as(of(one, "hello"), "multipart/form-data; boundary="+strings.Repeat("c", 71)), false},
		"a broken type":                 {as(of(one, "hello"), "multipart/form-data; boundary="+one+"; ="), as(of(other, "hello"), "multipart/form-data; boundary="+other+"; ="), false},
		"other parts than a form's":     {as(of(one, "hello"), "multipart/mixed; boundary="+one), as(of(other, "hello"), "multipart/mixed; boundary="+other), false},
	} {
		rt := newRig(t, answers(ok, "")).routes["hook"]
		sum := func(f [2]string) any {
			return *rt.fingerprint(&http.Request{Method: "POST", Header: http.Header{"Content-Type": {f[0]}}}, "/", held(f[1]))
		}
		if got := sum(tt.a) == sum(tt.b); got != tt.equal {
			t.Errorf("%s: equal: got %v, want %v", name, got, tt.equal)
		}
	}
}

// Wherever chunks of a body end.
func FuzzFormSum(f *testing.F) {
	f.Add("--b\r\n\r\na\r\n--b--\r\n", "b", 5)
	f.Add("\r\n--\r\n--b\r\n--b", "b", 1)
	f.Add("--b\r\n\r\na\r\n--b--x\r\n--bb\r\n--b--", "b", 1)
	f.Add("--b\r\n\r\na\r\n--b--x\r\n--bb\r\n--b--", "b", 7)
	f.Fuzz(func(t *testing.T, text, boundary string, size int) {
		size = max(1, size)
		whole, parts := new(heldBody).begin(), new(heldBody).begin()
		whole.chunks, whole.size = [][]byte{[]byte(text)}, int64(len(text))
		parts.size = whole.size
		for rest := []byte(text); len(rest) > 0; {
			n := min(size, len(rest))
			parts.chunks, rest = append(parts.chunks, rest[:n]), rest[n:]
		}
		if !bytes.Equal(whole.appendFormSum(nil, boundary), parts.appendFormSum(nil, boundary)) {
			t.Errorf("%q by %q: another sum in chunks of %d", text, boundary, size)
		}
	})
}
