package limiter

import (
	"fmt"
	"testing"
	"time"
)

func TestDenials(t *testing.T) {
	d := NewDenials(2)
	d.Set("a", time.Hour, time.Second)
	d.Set("b", time.Minute, time.Hour)
	for _, test := range []struct {
		key       string
		now, want time.Duration // 0 if it is not known to refuse
	}{
		{"a", 0, time.Hour}, {"a", time.Second - 1, time.Hour}, {"a", time.Second, 0},
		{"b", 0, time.Minute}, {"b", time.Minute - 1, time.Minute}, {"b", time.Minute, 0},
		{"c", 0, 0},
	} {
		if next, ok := d.Next(test.key, test.now); next != test.want || ok != (test.want > 0) {
			t.Errorf("%s at %v: got %v, %t, want %v", test.key, test.now, next, ok, test.want)
		}
	}
	// What is believed for the shortest time goes first.
	d.Set("c", time.Hour, time.Hour)
	if _, ok := d.Next("a", 0); ok || d.Len() != 2 {
		t.Errorf("got %d, one of them a %t, want the others", d.Len(), ok)
	}
	// But not what was just set.
	for i := range 10 {
		key := fmt.Sprint(i)
		if d.Set(key, 1, 1); d.Len() != 2 {
			t.Errorf("got %d, want 2", d.Len())
		}
		if _, ok := d.Next(key, 0); !ok {
			t.Errorf("%s is not known", key)
		}
	}
	for range 2 {
		d.Expire(time.Hour)
	}
	if d.Len() != 0 {
		t.Errorf("got %d left, want none", d.Len())
	}
}
