package clients

import (
	"cmp"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// page has the table, between its words.
const page = "../../docs/clients-table.md"

// cannotBeTold is where no answer with the ordinary status keeps a client from
// sending twice, and why.
var cannotBeTold = map[string]string{
	"@slack/web-api/409 held":        "it repeats whatever is neither 200 nor 429, so it is there again when the hold is over",
	"octokit, plugin-retry/409 held": "it repeats every status but seven, so it is there again when the hold is over",
}

// mostTries is what no client needs, unless it asks without a pause.
const mostTries = 8

// Fails if a client makes the upstream get a message twice, takes a refusal for
// a success, asks without a pause, or does otherwise than the documentation says.
func TestClients(t *testing.T) {
	clients, situations := allClients(t), allSituations(t)
	table := make([][]string, len(clients))
	figures := make([][]string, len(clients))
	t.Run("cells", func(t *testing.T) { // returns when all have ended
		for i, c := range clients {
			table[i], figures[i] = make([]string, len(situations)), make([]string, len(situations))
			for j, s := range situations {
				t.Run(c.name+"/"+s.name, func(t *testing.T) {
					t.Parallel()
					x := newCell(t, c)
					began := time.Now()
					err := s.plays(x)
					table[i][j] = x.judge(s, err)
					figures[i][j] = fmt.Sprintf("%s [%s] %.1fs", table[i][j], x.answered(), time.Since(began).Seconds())
					t.Logf("%s: %v", figures[i][j], err)
				})
			}
		}
	})
	if *binary != "" || testing.Verbose() {
		fmt.Println(markdown(clients, situations, figures))
	}
	if *binary == "" {
		compare(t, markdown(clients, situations, table))
	}
}

// compare fails the test unless the page has the table, or writes it there.
func compare(t *testing.T, table string) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, _, _ := strings.Cut(string(text), "\n| ")
	after := string(text[strings.LastIndex(string(text), "|\n")+len("|\n"):])
	got := before + "\n" + table + after
	if *write {
		if err := os.WriteFile(page, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got != string(text) {
		t.Errorf("%s is of another run (make test-clients WRITE=1 writes it). This one:\n%s", page, table)
	}
}

// judge returns what the table says of a cell.
func (x *cell) judge(s situation, err error) string {
	x.mu.Lock()
	defer x.mu.Unlock()
	why := cannotBeTold[x.client.name+"/"+s.name]
	if x.reached > 1 && why == "" {
		x.Errorf("the upstream got it %d times; answers: %s", x.reached, folded(x.tries))
	}
	if x.reached < 2 && why != "" {
		x.Errorf("it can be told after all; answers: %s", folded(x.tries))
	}
	if x.successes > x.accepted {
		x.Errorf("%d successes seen, %d were; answers: %s", x.successes, x.accepted, folded(x.tries))
	}
	if len(x.tries) > mostTries {
		x.Errorf("%d tries", len(x.tries))
	}
	saw := "ok"
	if err != nil {
		saw = "error"
	}
	return fmt.Sprintf("%d, %s", x.reached, saw)
}

// markdown returns a table with a row for each client.
func markdown(clients []client, situations []situation, cells [][]string) string {
	var text strings.Builder
	text.WriteString("| client |")
	for _, s := range situations {
		fmt.Fprintf(&text, " %s |", s.name)
	}
	text.WriteString("\n|--|" + strings.Repeat("--|", len(situations)) + "\n")
	for i, c := range clients {
		fmt.Fprintf(&text, "| %s |", c.name)
		for _, cell := range cells[i] {
			fmt.Fprintf(&text, " %s |", cmp.Or(cell, "–"))
		}
		text.WriteString("\n")
	}
	return text.String()
}
