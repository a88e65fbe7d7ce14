package service

import (
	"net/http"

	"github.com/tributary-cdc/tributary/pkg/config"
)

// Asked says of which tables /status is asked, by its parameters; the zero value is all.
type Asked struct {
	Table  string // with * and ? as wildcards
	Source string
	State  string
	Steady bool // as pages show it: see Steady
}

// All says whether all is asked for.
func (a Asked) All() bool { return a.Table == "" && a.Source == "" && a.State == "" }

func askedBy(r *http.Request) Asked {
	q := r.URL.Query()
	return Asked{q.Get("table"), q.Get("source"), q.Get("state"), q.Get("steady") != ""}
}

// Takes says whether a table is among them. It may have more than one name.
func (a Asked) Takes(source, state string, names ...string) bool {
	if a.Source != "" && a.Source != source || a.State != "" && a.State != state {
		return false
	}
	for _, name := range names {
		if config.Fits(a.Table, name) {
			return true
		}
	}
	return a.Table == ""
}
