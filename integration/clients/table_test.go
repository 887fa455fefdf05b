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
	most, tries := 1, mostTries
	if strings.HasPrefix(s.name, "409") {
		tries = 2 // of the message, and of its duplicate
	}
	if x.client.repeats != "" {
		tries = mostTries
		if s.name == "409 held" {
			most = 2
		}
	}
	if x.reached > most {
		x.Errorf("the upstream got it %d times; answers: %s", x.reached, folded(x.tries))
	}
	if len(x.tries) > tries {
		x.Errorf("%d tries; answers: %s", len(x.tries), folded(x.tries))
	}
	if x.successes > x.accepted {
		x.Errorf("%d successes seen, %d were; answers: %s", x.successes, x.accepted, folded(x.tries))
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
