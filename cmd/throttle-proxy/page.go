package main

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
)

var (
	//go:embed page.html
	pageHTML string
	//go:embed page.css
	pageStyle string

	pageTemplate = template.Must(template.New("page").Parse(pageHTML))

	// pagePolicy is what a browser may do for the page: apply this style, and draw
	// the icon that is in it.
	pagePolicy = fmt.Sprintf("default-src 'none'; style-src '%s'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'", hashOf(pageStyle))
)

// pageReload is after how many seconds the page comes again by itself.
const pageReload = 5

func hashOf(style string) string {
	sum := sha256.Sum256([]byte(style))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// pageIcons are what the browser's tab shows: the form says it too, not the colour
// alone.
var pageIcons = map[string]template.URL{
	"ok":   pageIcon(`<circle cx='8' cy='8' r='7' fill='%232f8f63'/><path d='M4.500 8.300l2.400 2.400 4.600-5' fill='none' stroke='white' stroke-width='1.800'/>`),
	"warn": pageIcon(`<path d='M8 1l7.500 14H.5z' fill='%23c98300'/><path d='M8 6v4.500M8 12.200v1' stroke='white' stroke-width='1.800'/>`),
	"bad":  pageIcon(`<rect x='1' y='1' width='14' height='14' rx='2' fill='%23c4362c'/><path d='M5 5l6 6M11 5l-6 6' stroke='white' stroke-width='1.800'/>`),
}

func pageIcon(drawing string) template.URL {
	return template.URL("data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>" + drawing + "</svg>")
}

// servePage shows what all replicas do.
func (a *admin) servePage(w http.ResponseWriter, r *http.Request) {
	writePage(w, newPageView(a.fleet(r.Context()), r.URL.Query()))
}

func writePage(w http.ResponseWriter, v *pageView) {
	v.Style, v.Icon = template.CSS(pageStyle), pageIcons[v.Tone]
	var text bytes.Buffer
	if err := pageTemplate.Execute(&text, v); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", pagePolicy)
	header.Set("Cache-Control", "no-store")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(text.Bytes()) // or the operator has left
}
