package terminal

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/pkg/service"
)

// Tail are the flags of a verb that follows changes, a line each, and the form of its lines.
type Tail struct {
	Last   int64 // offsets before the end of each partition, from which it begins
	Values bool  // of columns are shown

	ops []string
}

// tailOps are what can be done to a row.
var tailOps = []string{"insert", "update", "delete", "truncate", "read"}

// Flags gives the verb its flags.
func (l *Tail) Flags(cmd *cobra.Command) {
	JSON(cmd)
	cmd.Flags().Int64Var(&l.Last, "last", 0, "begin so many offsets before the end of each partition")
	cmd.Flags().BoolVar(&l.Values, "values", false, "with the values of the columns")
	cmd.Flags().StringSliceVar(&l.ops, "op", nil, "only these operations: "+strings.Join(tailOps, ", "))
	_ = cmd.RegisterFlagCompletionFunc("op", cobra.FixedCompletions(tailOps, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
}

// Check refuses flags that cannot be.
func (l *Tail) Check() error {
	if l.Last < 0 {
		return Usagef("--last is a number from 0 on")
	}
	for _, op := range l.ops {
		if !slices.Contains(tailOps, op) {
			return Usagef("--op is %q%s; write insert, update, delete, truncate or read", op, Meant(op, tailOps))
		}
	}
	return nil
}

// Ready says that changes are followed from here on.
func (l *Tail) Ready(out *Output, topics int) {
	hint := ""
	if !l.Values {
		hint = "; values: --values"
	}
	out.Note("Ready. Reading %s (Ctrl-C ends%s)\n", service.Plural(topics, "topic"), hint)
}

// Print writes a change, unless its operation is not wanted: document as JSON, or a line.
func (l *Tail) Print(out *Output, at time.Time, position, op string, document any, fields ...string) error {
	if len(l.ops) > 0 && !slices.Contains(l.ops, op) {
		return nil
	}
	if out.JSON {
		return out.Line(document)
	}
	separator := "  "
	if !out.Terminal {
		separator = "\t"
	}
	fields = append([]string{at.Local().Format("15:04:05.000"), position, fmt.Sprintf("%-8s", op)}, fields...)
	for i := range fields {
		fields[i] = Clean(fields[i])
	}
	_, err := fmt.Fprintln(out.Out, strings.TrimRight(strings.Join(fields, separator), " \t"))
	return err
}

// TailColumn is a column of a change. Value is only told where values are asked for; nil then is NULL.
type TailColumn struct {
	Name      string  `json:"name"`
	Value     *string `json:"value,omitempty"`
	Unchanged bool    `json:"unchanged,omitempty"` // not sent again by the source
}

// Text names the column, with its value where that is wanted.
func (c TailColumn) Text(value bool) string {
	switch {
	case c.Unchanged:
		return c.Name + " not sent again"
	case value && c.Value == nil:
		return c.Name + "=null"
	case value:
		return fmt.Sprintf("%s=%q", c.Name, *c.Value)
	}
	return c.Name
}

// Columns names columns, with their values where these are wanted; many without values are only counted.
func (l *Tail) Columns(columns []TailColumn) string {
	const most = 4
	if !l.Values && len(columns) > most {
		return fmt.Sprintf("%d columns", len(columns))
	}
	parts := make([]string, len(columns))
	for i, c := range columns {
		parts[i] = c.Text(l.Values)
	}
	return strings.Join(parts, ", ")
}
