package config

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// Fault is one thing wrong with a configuration.
type Fault struct {
	Path    string // key, like tables[1].mode; in what Check returns, below the struct that is checked ("" is the struct itself)
	Value   string // what stands there, "" if it is not worth showing; never a secret's
	Message string // what is wrong and, after a semicolon, what to write
	Line    int    // from 1; 0 where the fault is in no file (environment, missing key)
	Column  int    // from 1
}

// Faults is everything wrong with a configuration: all of it at once, in the order of the file. To errors.As it is also
// a *trouble.Error with the code trouble.Config.
type Faults struct {
	File   string // "" if none was read
	Absent bool   // there is no such file
	List   []Fault
}

// Error gives the number of faults and a line for each.
func (f *Faults) Error() string {
	var b strings.Builder
	f.write(&b)
	return strings.TrimRight(b.String(), "\n")
}

// Print writes the faults for a person at a terminal; program is the binary's name.
func (f *Faults) Print(w io.Writer, program string) {
	var b strings.Builder
	b.WriteString("error: ")
	f.write(&b)
	fmt.Fprintf(&b, "  see    %s config show --defaults      every key, its default and its meaning\n", program)
	_, _ = io.WriteString(w, b.String())
}

func (f *Faults) write(b *strings.Builder) {
	name := f.File
	if name == "" {
		name = "configuration"
	}
	count := "1 fault"
	if len(f.List) != 1 {
		count = fmt.Sprintf("%d faults", len(f.List))
	}
	fmt.Fprintf(b, "%s has %s\n", name, count)
	places, subjects := make([]string, len(f.List)), make([]string, len(f.List))
	placeWidth, subjectWidth := 0, 0
	for i, fault := range f.List {
		places[i], subjects[i] = name, fault.Path
		if fault.Line > 0 {
			places[i] = fmt.Sprintf("%s:%d:%d", filepath.Base(name), fault.Line, fault.Column)
		}
		if fault.Value != "" {
			subjects[i] = strings.TrimPrefix(fmt.Sprintf("%s: %q", fault.Path, fault.Value), ": ")
		}
		placeWidth = max(placeWidth, len(places[i]))
		subjectWidth = max(subjectWidth, len(subjects[i]))
	}
	for i, fault := range f.List {
		line := fmt.Sprintf("  %-*s  %-*s  %s", placeWidth, places[i], subjectWidth, subjects[i], fault.Message)
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}

// As makes the faults a trouble, so that logs and metrics know them by their code.
func (f *Faults) As(target any) bool {
	t, ok := target.(**trouble.Error)
	if !ok {
		return false
	}
	lines := strings.SplitN(f.Error(), "\n", 2)
	*t = &trouble.Error{
		Code:    trouble.Config,
		Op:      "read configuration",
		Subject: f.File,
		Cause:   textError(strings.TrimSpace(lines[len(lines)-1])),
		Means:   "nothing was attempted",
	}
	return true
}

type textError string

func (t textError) Error() string { return string(t) }

// sorted puts faults in the order of the file; those without a place come last.
func sorted(faults []Fault) []Fault {
	slices.SortStableFunc(faults, func(a, b Fault) int {
		if (a.Line == 0) != (b.Line == 0) {
			return b.Line - a.Line
		}
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return faults
}

// Nearest gives the known name at most two edits away from name, "" if there is none.
func Nearest(name string, known []string) string {
	best, bestDistance := "", 3
	for _, k := range known {
		if d := distance(strings.ToLower(name), strings.ToLower(k)); d < bestDistance && d < len(k) {
			best, bestDistance = k, d
		}
	}
	return best
}

// distance is Levenshtein's: the number of characters to insert, delete or replace.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
