package service

import (
	"fmt"
	"testing"
	"time"
)

// What lasts for a moment is no state that anybody is told of, unless it needs somebody.
func TestTurns(t *testing.T) {
	var turns Turns
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for second, state := range []string{
		StateStarting, StateUpToDate, StateCatchingUp, StateUpToDate, StateUpToDate, StateUpToDate, StateUpToDate, StateStuck, StateUpToDate, StateUpToDate, StateUpToDate, StateUpToDate,
	} {
		turns.See(at.Add(time.Duration(second)*time.Second), state)
	}
	got := ""
	for _, turn := range turns.Newest() {
		got += fmt.Sprintf("%s %s ", turn.At.Format("05"), turn.State)
	}
	if want := "13 up_to_date 12 stuck 08 up_to_date 05 starting "; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for i := range 100 {
		turns.See(at.Add(time.Duration(i)*time.Hour), []string{StateStopped, StateStuck}[i%2])
	}
	if n := len(turns.Newest()); n != maxTurns {
		t.Errorf("%d turns are kept", n)
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
