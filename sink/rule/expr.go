package rule

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"

	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// costLimit is how many steps, as CEL counts them, an expression may take for one row. Only those that go through lists
// can take more steps than they have words, so only they are counted.
const costLimit = 1_000_000

// Names that no user can write: what rewrite puts into an expression.
const (
	isNullFunction  = "@is_null"
	nullFunction    = "@null"
	numericFunction = "@numeric"
	textPrefix      = "@text "
	columnPrefix    = "@column "
)

// baseEnv is what all expressions share: the language, its functions and ours.
var baseEnv = sync.OnceValue(func() *cel.Env {
	a, n := cel.TypeParamType("A"), numericType
	options := []cel.EnvOption{
		cel.CrossTypeNumericComparisons(true),
		ext.Strings(), ext.Math(),
		cel.Function(isNullFunction, cel.Overload("is_null", []*cel.Type{a}, cel.BoolType,
			cel.UnaryBinding(func(v ref.Val) ref.Val { return types.Bool(v == types.NullValue) }))),
		cel.Function(nullFunction, cel.Overload("null", nil, a, cel.FunctionBinding(func(...ref.Val) ref.Val { return types.NullValue }))),
		cel.Function("coalesce",
			cel.Overload("coalesce_2", []*cel.Type{a, a}, a, cel.BinaryBinding(func(x, y ref.Val) ref.Val { return firstValue(x, y) })),
			cel.Overload("coalesce_3", []*cel.Type{a, a, a}, a, cel.FunctionBinding(firstValue))),
		cel.Function("lower", cel.Overload("lower_string", []*cel.Type{cel.StringType}, cel.StringType, textFunction(strings.ToLower))),
		cel.Function("upper", cel.Overload("upper_string", []*cel.Type{cel.StringType}, cel.StringType, textFunction(strings.ToUpper))),
		cel.Function("date",
			cel.Overload("date_string", []*cel.Type{cel.StringType}, cel.TimestampType, cel.UnaryBinding(func(v ref.Val) ref.Val {
				days, ok := record.ParseDate([]byte(v.(types.String)))
				if !ok {
					return types.NewErr("text is no date; write 2024-03-10")
				}
				return timeValue(int64(days)*secondsPerDay, 0, true)
			})),
			cel.Overload("date_timestamp", []*cel.Type{cel.TimestampType}, cel.TimestampType, cel.UnaryBinding(func(v ref.Val) ref.Val {
				seconds := v.(types.Timestamp).Unix()
				return timeValue(seconds-(seconds%secondsPerDay+secondsPerDay)%secondsPerDay, 0, true)
			}))),
		cel.Function("string", cel.Overload("numeric_to_string", []*cel.Type{n}, cel.StringType, conversion(types.StringType))),
		cel.Function("double", cel.Overload("numeric_to_double", []*cel.Type{n}, cel.DoubleType, conversion(types.DoubleType))),
		cel.Function("int", cel.Overload("numeric_to_int", []*cel.Type{n}, cel.IntType, conversion(types.IntType))),
		cel.Function(operators.Negate, cel.Overload("negate_numeric", []*cel.Type{n}, n)),
	}
	for operator, name := range map[string]string{operators.Less: "less", operators.LessEquals: "less_equals", operators.Greater: "greater", operators.GreaterEquals: "greater_equals"} {
		options = append(options, cel.Function(operator, cel.Overload(name+"_numeric", []*cel.Type{n, n}, cel.BoolType)))
	}
	for operator, name := range map[string]string{operators.Add: "add", operators.Subtract: "subtract", operators.Multiply: "multiply"} {
		options = append(options, cel.Function(operator, cel.Overload(name+"_numeric", []*cel.Type{n, n}, n)))
	}
	for function, args := range map[string][]*cel.Type{
		"numeric":       {n, cel.IntType, cel.UintType, cel.DoubleType, cel.StringType},
		numericFunction: {n, cel.IntType, cel.UintType, cel.DoubleType},
	} {
		for _, arg := range args {
			options = append(options, cel.Function(function, cel.Overload(function+"_"+arg.TypeName(), []*cel.Type{arg}, n, cel.UnaryBinding(toNumeric))))
		}
	}
	env, err := cel.NewEnv(options...)
	if err != nil {
		panic("rule: expressions: " + err.Error()) // nothing of it is the user's
	}
	return env
})

func firstValue(values ...ref.Val) ref.Val {
	for _, v := range values {
		if v != types.NullValue {
			return v
		}
	}
	return types.NullValue
}

func conversion(to ref.Type) cel.OverloadOpt {
	return cel.UnaryBinding(func(v ref.Val) ref.Val { return v.ConvertToType(to) })
}

func textFunction(f func(string) string) cel.OverloadOpt {
	return cel.UnaryBinding(func(v ref.Val) ref.Val { return types.String(f(string(v.(types.String)))) })
}

// expression is compiled for one version of a relation. It is immutable and safe for concurrent use.
type expression struct {
	source  string
	info    *ast.SourceInfo
	program cel.Program
	typ     *cel.Type
	inputs  []input
	absent  []change.Value // of the columns behind those of a row
}

// input is a column that an expression reads.
type input struct {
	name   string // in the expression
	column int    // index into the columns of naming
	decode func(text []byte) ref.Val
}

// fault is what is wrong with an expression, and where in it: line and column count from 1.
type fault struct {
	line, column int
	message      string
}

func (f *fault) Error() string {
	if f.line > 1 {
		return fmt.Sprintf("at line %d, character %d: %s", f.line, f.column, f.message)
	}
	return fmt.Sprintf("at character %d: %s", f.column, f.message)
}

// parseExpression says whether source is an expression at all.
func parseExpression(source string) (*cel.Ast, error) {
	parsed, issues := baseEnv().Parse(source)
	if issues.Err() != nil {
		return nil, firstIssue(issues, nil)
	}
	return parsed, nil
}

// compileExpression compiles source for rows of rel. The error, a *fault, names the place in the expression.
func compileExpression(rel *schema.Relation, names map[string]string, source string) (*expression, error) {
	parsed, err := parseExpression(source)
	if err != nil {
		return nil, err
	}
	tree := parsed.NativeRep()
	rw := &rewriter{rel: rel, factory: ast.NewExprFactory(), info: tree.SourceInfo(), next: ast.MaxID(tree) + 1, locals: map[string]int{}}
	rw.visit(tree.Expr())
	if rw.fault != nil {
		return nil, rw.fault
	}
	env, err := baseEnv().Extend(variables(rel, names)...)
	if err != nil {
		return nil, &fault{1, 1, err.Error()}
	}
	checked, issues := env.Check(parsed)
	if issues.Err() != nil {
		return nil, firstIssue(issues, rel)
	}
	x := &expression{source: source, info: checked.NativeRep().SourceInfo(), typ: checked.OutputType()}
	seen := map[string]bool{}
	for _, reference := range checked.NativeRep().ReferenceMap() {
		if seen[reference.Name] {
			continue
		}
		seen[reference.Name] = true
		if in, ok := inputOf(rel, reference.Name); ok {
			x.inputs = append(x.inputs, in)
		}
	}
	options := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize)}
	if rw.loops {
		options = append(options, cel.CostLimit(costLimit))
	}
	if x.program, err = env.Program(checked, options...); err != nil {
		return nil, &fault{1, 1, err.Error()}
	}
	return x, nil
}

// variables declares the columns of a relation, and the names that its rule gives.
func variables(rel *schema.Relation, names map[string]string) []cel.EnvOption {
	var options []cel.EnvOption
	for i := range rel.Columns {
		c := &rel.Columns[i]
		options = append(options, cel.Variable(variable(c.Name), celType(&c.Type)), cel.Variable(textPrefix+c.Name, cel.StringType))
	}
	for name, value := range names {
		options = append(options, cel.Constant(name, cel.StringType, types.String(value)))
	}
	return options
}

// reserved are words that CEL keeps to itself. A column of such a name is written col("name") where the word is no name
// at all; that of a type stands for the column, if there is one.
var reserved = map[string]bool{}

func init() {
	for word := range strings.FieldsSeq(`as break const continue else for function if import let loop package namespace return
		var void while in true false null bool bytes double dyn int list map null_type string type uint optional_type`) {
		reserved[word] = true
	}
}

// variable gives the name by which expressions know a column.
func variable(column string) string {
	if reserved[column] || column == "" {
		return columnPrefix + column
	}
	for i, c := range []byte(column) {
		if c != '_' && (c|0x20 < 'a' || c|0x20 > 'z') && (i == 0 || c < '0' || c > '9') {
			return columnPrefix + column
		}
	}
	return column
}

func inputOf(rel *schema.Relation, name string) (input, bool) {
	if column, ok := strings.CutPrefix(name, textPrefix); ok {
		return input{name, rel.Column(column), decodeString}, true
	}
	for i := range rel.Columns {
		if variable(rel.Columns[i].Name) == name {
			return input{name, i, decoder(&rel.Columns[i].Type)}, true
		}
	}
	return input{}, false
}

// alias gives the column that the expression is nothing but; -1 for none.
func (x *expression) alias() int {
	if len(x.inputs) == 1 && !strings.HasPrefix(x.inputs[0].name, textPrefix) {
		name := strings.TrimSpace(x.source)
		if name == x.inputs[0].name {
			return x.inputs[0].column
		}
	}
	return -1
}

// scope gives an expression the values of one row. It is reused from row to row.
type scope struct {
	x        *expression
	row, old change.Tuple // old has what row lacks, if anything has
}

var errUnchanged = errors.New("a value is not in the change: it is large, and the UPDATE did not touch it")

// ResolveName implements cel.Activation. A value is decoded when it is asked for.
func (s *scope) ResolveName(name string) (any, bool) {
	for i := range s.x.inputs {
		in := &s.x.inputs[i]
		if in.name != name {
			continue
		}
		v := s.value(in.column)
		switch v.State {
		case change.Present:
			return in.decode(v.Text), true
		case change.Unchanged:
			return types.WrapErr(errUnchanged), true
		}
		return types.NullValue, true
	}
	return nil, false
}

// Parent implements cel.Activation.
func (s *scope) Parent() cel.Activation { return nil }

func (s *scope) value(column int) *change.Value {
	if column >= len(s.row) {
		return &s.x.absent[column-len(s.row)]
	}
	if s.row[column].State == change.Unchanged && s.old != nil {
		return &s.old[column]
	}
	return &s.row[column]
}

// unchanged says whether there are inputs, and none of them is in the row.
func (s *scope) unchanged(x *expression) bool {
	for i := range x.inputs {
		if s.value(x.inputs[i].column).State != change.Unchanged {
			return false
		}
	}
	return len(x.inputs) > 0
}

// evaluate gives the value for the row of the scope. The error, a *fault, holds no value of the row.
func (s *scope) evaluate(x *expression) (ref.Val, error) {
	s.x = x
	v, _, err := x.program.Eval(s)
	if err == nil {
		return v, nil
	}
	f := &fault{line: 1, column: 1}
	if e, ok := errors.AsType[*types.Err](err); ok && e.NodeID() != 0 {
		f.at(x.info, e.NodeID())
	}
	f.message = s.explain(x, err)
	return nil, f
}

func (f *fault) at(info *ast.SourceInfo, id int64) {
	if at := info.GetStartLocation(id); at.Line() > 0 {
		f.line, f.column = at.Line(), at.Column()+1
	}
}

// explain says why an evaluation failed, without the words of CEL that quote values.
func (s *scope) explain(x *expression, err error) string {
	text := err.Error()
	var nulls, missing []string
	for i := range x.inputs {
		switch name := x.inputs[i].name; s.value(x.inputs[i].column).State {
		case change.Null:
			nulls = append(nulls, display(name))
		case change.Unchanged:
			missing = append(missing, display(name))
		}
	}
	switch {
	case errors.Is(err, errUnchanged):
		return fmt.Sprintf("the change does not carry %s: it is large, and the UPDATE did not touch it, or a snapshot of some columns (--columns) leaves it out", strings.Join(missing, " and "))
	case strings.Contains(text, "cost limit"):
		return fmt.Sprintf("it takes more than %d steps for this row", costLimit)
	case strings.Contains(text, "no such overload"), strings.Contains(text, "no such key") && len(nulls) > 0:
		if len(nulls) > 0 {
			return fmt.Sprintf("%s is null, and there is no result for that; write %s == null ? … : …, %s != null && …, or coalesce(%s, …)",
				strings.Join(nulls, " and "), nulls[0], nulls[0], nulls[0])
		}
		return "a value, perhaps in JSON, is not of the type that is wanted; look at it with type(x) == int, or convert it"
	case strings.Contains(text, "no such key"):
		return "JSON has not the key that is asked for; write has(x.key) && …"
	case strings.Contains(text, "division by zero"), strings.Contains(text, "modulus by zero"):
		return "division by zero"
	case strings.Contains(text, "index out of bounds"), strings.Contains(text, "index") && strings.Contains(text, "range"):
		return "a list or text is shorter than the index that is asked for; look at size(x) before"
	case strings.Contains(text, "overflow"):
		return "a number or time is out of range"
	}
	for _, known := range ours {
		if strings.Contains(text, known) {
			return text
		}
	}
	return "a value is not one that the function takes"
}

// ours are the beginnings of messages that this package makes, which hold no values.
var ours = []string{
	"a whole number is", "a number is out", "bytes are not", "a time is infinite", "JSON cannot", "JSON holds", "an array has",
	"numeric is out", "numeric has more", "NaN and Infinity cannot", "text is no",
}

// display gives the name of an input as the user wrote it.
func display(name string) string {
	if column, ok := strings.CutPrefix(name, columnPrefix); ok {
		return fmt.Sprintf("col(%q)", column)
	}
	return strings.TrimPrefix(name, textPrefix)
}
