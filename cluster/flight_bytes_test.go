package cluster

import "testing"

// A script keeps everybody else waiting while it runs, and one call of answers of 256
// KiB each could have 16 MiB of them.
func TestAnswersOfOneCallAreBounded(t *testing.T) {
	t.Parallel()
	var calls []*call
	for range 2 * batchSize {
		end := landing{told: true, ending: Ending{Kind: Answered, Answer: make([]byte, 256<<10)}}
		calls = append(calls, &call{script: landScript, what: end}, &call{script: landScript, what: landing{}})
	}
	got := 0
	for left := calls; len(left) > 0; {
		n := fitting(left)
		batch := left[:n]
		left = left[n:]
		inBatch := 0
		for _, group := range grouped(batch, groupSize) {
			inGroup := 0
			for _, c := range group {
				inGroup += c.bytes()
			}
			if inGroup > groupBytes {
				t.Fatalf("got %d bytes in one run of a script, want at most %d", inGroup, groupBytes)
			}
			inBatch += inGroup
			got += len(group)
		}
		if inBatch > batchBytes {
			t.Fatalf("got %d bytes in one pipeline, want at most %d", inBatch, batchBytes)
		}
	}
	if got != len(calls) {
		t.Errorf("got %d calls in all, want %d", got, len(calls))
	}
	alone := &call{script: landScript, what: landing{told: true, ending: Ending{Answer: make([]byte, 2*batchBytes)}}}
	if n := fitting([]*call{alone, alone}); n != 1 {
		t.Errorf("got %d calls of too long answers in one pipeline, want 1", n)
	}
}
