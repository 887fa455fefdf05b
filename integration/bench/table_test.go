package main

import "testing"

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3},
		{[]float64{3, 1, 2}, 2},
		{[]float64{4, 1, 2, 3}, 2.5},
	} {
		if got := median(test.values); got != test.want {
			t.Errorf("%v: got %v, want %v", test.values, got, test.want)
		}
	}
}

func TestShow_RatiosAreOfTheSameRound(t *testing.T) {
	ratios := pairs([]float64{10, 40, 90}, []float64{10, 20, 30}, ratio)
	if got, want := show("%.1f", ratios, true), "2.0 [1.0–3.0]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := show("%.1f", nil, true), "–"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
