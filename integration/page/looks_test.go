package page

import (
	"fmt"
	"slices"
	"strings"

	"github.com/chromedp/chromedp"
)

// What has to hold of the page whatever it says.

// contrasts finds text whose contrast with what is behind it is less than 4.5, by
// WCAG 2's formula, and what is drawn with less than 3.
const contrasts = `(() => {
	const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
	const rgba = color => {
		canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
		const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
		return [r, g, b, a / 255];
	};
	const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
	const luminance = c => {
		const [r, g, b] = c.map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
		return .2126 * r + .7152 * g + .0722 * b;
	};
	const ratio = (a, b) => { const [x, y] = [luminance(a), luminance(b)]; return (Math.max(x, y) + .05) / (Math.min(x, y) + .05); };
	const behind = element => {
		const layers = [];
		for (let e = element; e; e = e.parentElement) layers.unshift(rgba(getComputedStyle(e).backgroundColor));
		return layers.reduce((below, top) => over(top, below), [255, 255, 255, 1]);
	};
	const low = [], seen = new Set();
	const judge = (what, color, background, least) => {
		const got = ratio(over(rgba(color), background), background);
		if (got < least) low.push(what + ' ' + got.toFixed(2));
	};
	let texts = 0, drawings = 0;
	const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	for (let node; node = walker.nextNode();) {
		const words = node.data.trim(), element = node.parentElement;
		if (!words || element.closest('style')) continue;
		texts++;
		judge('"' + words.slice(0, 40) + '"', getComputedStyle(element).color, behind(element), 4.5);
		const before = getComputedStyle(element, '::before');
		if (before.content !== 'none' && before.content !== 'normal') judge(before.content, before.color, behind(element), 4.5);
	}
	for (const shape of document.querySelectorAll('svg .forwarded, svg .limited, svg .level, svg .failed, svg path.duplicate')) {
		const style = getComputedStyle(shape);
		drawings++;
		judge(shape.getAttribute('class'), shape.matches('.duplicate') ? style.stroke : style.fill, behind(shape.closest('td, th') || document.querySelector('table')), 3);
	}
	return {low, texts, drawings};
})()`

// expectLooks fails if what b shows cannot be read by everybody.
func (b *browser) expectLooks(when string) {
	b.t.Helper()
	type judgement struct {
		Low             []string
		Texts, Drawings int
	}
	for _, width := range []int64{1200, 375} {
		b.size(width)
		for _, scheme := range []string{"light", "dark"} {
			b.scheme(scheme)
			j := value[judgement](b, contrasts)
			if len(j.Low) > 0 || j.Texts < 40 || j.Drawings < 4 {
				b.t.Errorf("%s, %s, %d px: of %d texts and %d drawings these lack contrast: %q", when, scheme, width, j.Texts, j.Drawings, j.Low)
			}
		}
		if got := value[int64](b, "document.documentElement.scrollWidth"); got > width {
			b.t.Errorf("%s: it is %d px wide in a window of %d", when, got, width)
		}
	}
	b.scheme("light")
	b.size(1200)
}

// expectTold fails if a screen reader is not told what is seen.
func (b *browser) expectTold(when string) {
	b.t.Helper()
	for _, width := range []int64{1200, 375} {
		b.size(width)
		roles := map[string]int{}
		levels := ""
		for _, node := range b.tree() {
			role := text(node.Role)
			if node.Ignored {
				continue
			}
			roles[role]++
			switch role {
			case "heading":
				for _, property := range node.Properties {
					if property.Name == "level" {
						levels += text(property.Value)
					}
				}
			case "image", "link", "region", "navigation":
				if text(node.Name) == "" {
					b.t.Errorf("%s, %d px: a %s has no name", when, width, role)
				}
			}
		}
		for _, role := range []string{"banner", "main", "navigation", "contentinfo"} {
			if roles[role] != 1 {
				b.t.Errorf("%s, %d px: got %d of the landmark %s, want one: %v", when, width, roles[role], role, roles)
			}
		}
		tables := value[int](b, "document.querySelectorAll('table').length")
		rows := value[int](b, "document.querySelectorAll('tbody tr').length")
		columns := value[int](b, "document.querySelectorAll('thead th').length")
		if roles["table"] != tables || roles["rowheader"] != rows || roles["columnheader"] != columns || tables < 2 {
			b.t.Errorf("%s, %d px: of %d tables with %d columns and %d rows it is told %v", when, width, tables, columns, rows, roles)
		}
		if rest, ok := strings.CutPrefix(levels, "1"); !ok || strings.Trim(rest, "2") != "" || rest == "" {
			b.t.Errorf("%s: the levels of headings are %s, want 1 and then 2", when, levels)
		}
	}
	b.size(1200)
}

// expectKeyboard fails if whoever has no mouse cannot get everywhere in order, or
// does not see where they are.
func (b *browser) expectKeyboard() {
	b.t.Helper()
	all := value[[]string](b, `[...document.querySelectorAll('a[href],button,input,select,summary,[tabindex]')].map(e => e.textContent.trim())`)
	if len(all) < 8 {
		b.t.Errorf("got %d places to go to, want the sections at least: %q", len(all), all)
	}
	for _, scheme := range []string{"light", "dark"} {
		b.scheme(scheme)
		value[bool](b, "document.activeElement.blur(); getSelection().collapse(document.body, 0); true")
		var order []string
		for i := range all {
			act(b, "tab", chromedp.KeyEvent("\t"))
			if i == 0 && value[bool](b, "document.activeElement === document.body") {
				act(b, "tab", chromedp.KeyEvent("\t")) // the first one has led into the page
			}
			focus := value[struct {
				Text, Style, Width string
				Seen               bool
			}](b, `(() => {
				const e = document.activeElement, style = getComputedStyle(e), at = e.getBoundingClientRect();
				return {text: e.textContent.trim().slice(0, 40), style: style.outlineStyle, width: style.outlineWidth,
					seen: at.width > 0 && at.left >= 0 && at.right <= innerWidth && at.top >= 0 && at.bottom <= innerHeight};
			})()`)
			if focus.Style != "solid" || focus.Width != "2px" || !focus.Seen {
				b.t.Errorf("%s: it is not seen that %q has the focus: %+v", scheme, focus.Text, focus)
			}
			order = append(order, focus.Text)
		}
		if !slices.Equal(order, all) {
			b.t.Errorf("the order of the keyboard is %q, want that of the page, %q", order, all)
		}
	}
	b.scheme("light")
}

// figure reads a cell: of the row with this header, under this column.
func figure(row, column string) string {
	return fmt.Sprintf(`[...document.querySelectorAll('tbody tr')].filter(r => r.querySelector('th').firstChild.textContent.trim() === %q)
		.map(r => r.querySelector('td[data-is=%q]')).filter(c => c).map(c => c.firstChild.textContent.trim())[0] || ''`, row, column)
}
