package service

import (
	"fmt"
	"testing"
	"time"
)

// What lasts for a moment is no state that anybody is told of, unless it needs somebody.
func TestTurns(t *testing.T) {
	var turns turns
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for second, state := range []string{
		StateStarting, StateUpToDate, StateCatchingUp, StateUpToDate, StateUpToDate, StateUpToDate, StateUpToDate, StateStuck, StateUpToDate, StateUpToDate, StateUpToDate, StateUpToDate,
	} {
		turns.see(at.Add(time.Duration(second)*time.Second), state, 0)
	}
	got := ""
	for _, turn := range turns.Newest() {
		got += fmt.Sprintf("%s %s ", turn.At.Format("05"), turn.State)
	}
	if want := "13 up_to_date 12 stuck 08 up_to_date 05 starting "; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for i := range 100 {
		turns.see(at.Add(time.Duration(i)*time.Hour), []string{StateStopped, StateStuck}[i%2], 0)
	}
	if n := len(turns.Newest()); n != maxTurns {
		t.Errorf("%d turns are kept", n)
	}
}

// What is shown changes at once to what is red, else when it has lasted for three seconds; until then it is what was said before.
func TestSteady(t *testing.T) {
	var s Steady[string]
	at, got := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), ""
	for second, state := range []string{
		StateUpToDate, StateUpToDate, StateWaiting, StateUpToDate, StateCatchingUp, StateBehind, StateBehind, StateBehind, StateBehind, StateQuarantined, StateUpToDate, StateUpToDate, StateUpToDate, StateUpToDate,
	} {
		now, words := at.Add(time.Duration(second)*time.Second), fmt.Sprintf("%s %d", state, second)
		before := s.Shown(now, state, 0, words) // a page that is made before the look of this second
		s.See(now, state, 0, words)
		got += before + "; "
		if after := s.Shown(now, state, 0, words); after != before {
			got += "then " + after + "; "
		}
	}
	if want := "up_to_date 0; up_to_date 1; up_to_date 1; up_to_date 3; up_to_date 3; up_to_date 3; up_to_date 3; up_to_date 3; up_to_date 3; then falling_behind 8; " +
		"quarantined 9; quarantined 9; quarantined 9; quarantined 9; quarantined 9; then up_to_date 13; "; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := s.Shown(at.Add(time.Hour), StateWaiting, 0, "now"); got != "now" {
		t.Errorf("an hour later %q is shown", got)
	}
	now := at.Add(14 * time.Second) // somebody is waited for only when that has lasted
	if got := s.Shown(now, StateWaiting, WaitingAfter, "waiting"); got != "waiting" {
		t.Errorf("%q is shown though the state has lasted", got)
	}
	if s.See(now, StateWaiting, WaitingAfter, "waiting"); s.Newest()[0] != (Turn{now.Add(-WaitingAfter), StateWaiting}) {
		t.Errorf("%+v", s.Newest()[0])
	}
}

// Events of a table are not those of one with a longer name.
func TestEventsAbout(t *testing.T) {
	events := []Event{{Text: "new table, table public.orders"}, {Text: "topic shop.public.order, and public.order"}, {Text: "public.order_line"}, {Text: "public.order"}}
	if got := About(events, 20, "public.order"); len(got) != 2 || got[0].Text != events[1].Text {
		t.Errorf("%v", got)
	}
	if got := About(events, 1, "public.order"); len(got) != 1 {
		t.Errorf("%v", got)
	}
}

func TestAsked(t *testing.T) {
	for _, one := range []struct {
		asked Asked
		takes bool
	}{
		{Asked{}, true},
		{Asked{Table: "public.orders"}, true},
		{Asked{Table: "shop/public.*"}, true},
		{Asked{Table: "*order?"}, true},
		{Asked{Table: "orders"}, false},
		{Asked{Source: "shop", State: StateStuck}, true},
		{Asked{Source: "other"}, false},
		{Asked{State: StateUpToDate}, false},
	} {
		if got := one.asked.Takes("shop", StateStuck, "shop/public.orders", "public.orders"); got != one.takes {
			t.Errorf("%+v: %t", one.asked, got)
		}
	}
}
