package rule

import (
	"fmt"
	"regexp"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"

	"github.com/tributary-cdc/tributary/schema"
)

// rewriter changes a parsed expression where CEL's types are not those of rows:
//   - Every column may be null. x == null asks for that, whatever the type of x; any other null has the type that is
//     wanted in its place, so that x == null ? null : x + 1 is a number.
//   - What is compared or computed with a numeric becomes one: price > 0.1 is exact.
//   - text(column) is what Postgres writes for the value; col("a name") is a column whose name is no word of CEL.
type rewriter struct {
	rel     *schema.Relation
	factory ast.ExprFactory
	info    *ast.SourceInfo
	next    int64          // id of the next node
	locals  map[string]int // variables of loops
	loops   bool
	fault   *fault
}

func (rw *rewriter) refuse(e ast.Expr, format string, args ...any) {
	if rw.fault == nil {
		rw.fault = &fault{1, 1, fmt.Sprintf(format, args...)}
		rw.fault.at(rw.info, e.ID())
	}
}

// visit rewrites what is below e, then e.
func (rw *rewriter) visit(e ast.Expr) {
	switch e.Kind() {
	case ast.CallKind:
		call := e.AsCall()
		if call.IsMemberFunction() {
			rw.visit(call.Target())
		}
		for _, arg := range call.Args() {
			rw.visit(arg)
		}
		rw.call(e, call)
	case ast.IdentKind:
		if name := e.AsIdent(); reserved[name] && rw.locals[name] == 0 && rw.rel.Column(name) >= 0 {
			e.SetKindCase(rw.factory.NewIdent(e.ID(), variable(name)))
		}
	case ast.SelectKind:
		rw.visit(e.AsSelect().Operand())
	case ast.ListKind:
		for _, element := range e.AsList().Elements() {
			rw.visit(element)
		}
	case ast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			rw.visit(entry.AsMapEntry().Key())
			rw.visit(entry.AsMapEntry().Value())
		}
	case ast.StructKind:
		rw.refuse(e, "messages cannot be made here")
	case ast.ComprehensionKind:
		rw.loops = true
		loop := e.AsComprehension()
		rw.visit(loop.IterRange())
		rw.visit(loop.AccuInit())
		for _, name := range []string{loop.IterVar(), loop.IterVar2(), loop.AccuVar()} {
			rw.locals[name]++
			defer func() { rw.locals[name]-- }()
		}
		rw.visit(loop.LoopCondition())
		rw.visit(loop.LoopStep())
		rw.visit(loop.Result())
	case ast.LiteralKind:
		if e.AsLiteral() == types.NullValue {
			e.SetKindCase(rw.factory.NewCall(e.ID(), nullFunction))
		}
	}
}

func (rw *rewriter) call(e ast.Expr, call ast.CallExpr) {
	args := call.Args()
	switch name := call.FunctionName(); name {
	case operators.Equals, operators.NotEquals:
		for i := range args {
			if !isCall(args[i], nullFunction) {
				continue
			}
			test := rw.factory.NewCall(e.ID(), isNullFunction, args[1-i])
			if name == operators.NotEquals {
				test = rw.factory.NewCall(e.ID(), operators.LogicalNot, rw.node(e, test))
			}
			e.SetKindCase(test)
			return
		}
		rw.numerics(args)
	case operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals, operators.Add, operators.Subtract, operators.Multiply:
		rw.numerics(args)
	case operators.Conditional:
		rw.numerics(args[1:])
	case "coalesce":
		rw.numerics(args)
	case operators.In:
		if args[1].Kind() == ast.ListKind && rw.isNumeric(args[0]) {
			for _, element := range args[1].AsList().Elements() {
				rw.toNumeric(element)
			}
		}
	case "text":
		if len(args) != 1 || args[0].Kind() != ast.IdentKind || rw.column(args[0].AsIdent()) < 0 {
			rw.refuse(e, "text takes a column, by its name alone; there are %s", names(rw.rel))
			return
		}
		e.SetKindCase(rw.factory.NewIdent(e.ID(), textPrefix+rw.rel.Columns[rw.column(args[0].AsIdent())].Name))
	case "col":
		if len(args) != 1 || args[0].Kind() != ast.LiteralKind || args[0].AsLiteral().Type() != types.StringType {
			rw.refuse(e, `col takes the name of a column in quotes: col("order id")`)
			return
		}
		column := string(args[0].AsLiteral().(types.String))
		if rw.rel.Column(column) < 0 {
			rw.refuse(e, "the table has no column %q; there are %s", column, names(rw.rel))
			return
		}
		e.SetKindCase(rw.factory.NewIdent(e.ID(), variable(column)))
	}
}

// node gives content a place in the tree of its own, where e is.
func (rw *rewriter) node(e, content ast.Expr) ast.Expr {
	n := rw.factory.NewUnspecifiedExpr(rw.next)
	if at, ok := rw.info.GetOffsetRange(e.ID()); ok {
		rw.info.SetOffsetRange(rw.next, at)
	}
	rw.next++
	n.SetKindCase(content)
	return n
}

// numerics makes all of args numeric where one of them is.
func (rw *rewriter) numerics(args []ast.Expr) {
	for _, arg := range args {
		if !rw.isNumeric(arg) {
			continue
		}
		for _, other := range args {
			rw.toNumeric(other)
		}
		return
	}
}

func (rw *rewriter) toNumeric(e ast.Expr) {
	if !rw.isNumeric(e) && !isCall(e, nullFunction) {
		e.SetKindCase(rw.factory.NewCall(e.ID(), numericFunction, rw.node(e, e)))
	}
}

func (rw *rewriter) isNumeric(e ast.Expr) bool {
	switch e.Kind() {
	case ast.IdentKind:
		i := rw.column(e.AsIdent())
		return i >= 0 && celType(&rw.rel.Columns[i].Type) == numericType
	case ast.CallKind:
		switch e.AsCall().FunctionName() {
		case "numeric", numericFunction:
			return true
		case operators.Add, operators.Subtract, operators.Multiply, operators.Negate, operators.Conditional, "coalesce":
			for _, arg := range e.AsCall().Args() {
				if rw.isNumeric(arg) {
					return true
				}
			}
		}
	}
	return false
}

// column gives the index of the column that a name in the expression stands for, -1 for none.
func (rw *rewriter) column(name string) int {
	if rw.locals[name] > 0 {
		return -1
	}
	for i := range rw.rel.Columns {
		if variable(rw.rel.Columns[i].Name) == name {
			return i
		}
	}
	return -1
}

func isCall(e ast.Expr, function string) bool {
	return e.Kind() == ast.CallKind && e.AsCall().FunctionName() == function
}

var (
	undeclared = regexp.MustCompile(`^undeclared reference to '([^']*)'`)
	noOverload = regexp.MustCompile(`^found no matching overload for '([^']*)' applied to '(.*)'$`)
)

// firstIssue says what is wrong with an expression in words that say what to write. rel is nil before it is known.
func firstIssue(issues *cel.Issues, rel *schema.Relation) *fault {
	first := issues.Errors()[0]
	f := &fault{max(1, first.Location.Line()), max(1, first.Location.Column()+1), strings.TrimSpace(first.Message)}
	if parts := undeclared.FindStringSubmatch(f.message); parts != nil && rel != nil {
		f.message = fmt.Sprintf("there is no column or function %q; columns are %s", parts[1], names(rel))
	} else if parts := noOverload.FindStringSubmatch(f.message); parts != nil {
		f.message = mismatch(parts[1], strings.Trim(parts[2], "()"))
	} else if strings.HasPrefix(f.message, "Syntax error: ") {
		message, _, _ := strings.Cut(strings.TrimPrefix(f.message, "Syntax error: "), " expecting ")
		f.message = "not an expression: " + message
		switch {
		case strings.Contains(f.message, "'="):
			f.message += "; write == to compare"
		case strings.Contains(f.message, "AND") || strings.Contains(f.message, "'and'"):
			f.message += "; write &&"
		case strings.Contains(f.message, "'or'") || strings.Contains(f.message, "'OR'"):
			f.message += "; write ||"
		case strings.Contains(f.message, "'<>'") || strings.Contains(f.message, "'>'"):
			f.message += "; write != for not equal"
		case strings.Contains(f.message, "<EOF>"):
			f.message += "; it ends too early"
		}
	}
	return f
}

// mismatch says that a function does not take arguments of some types.
func mismatch(function, args string) string {
	name, isOperator := operators.FindReverse(function)
	if function == operators.Conditional {
		_, sides, _ := strings.Cut(args, ", ")
		return fmt.Sprintf("the two sides of ? : have different types: %s", strings.ReplaceAll(sides, ", ", " and "))
	}
	if !isOperator {
		name = function
	}
	for _, internal := range []string{isNullFunction, numericFunction} {
		if function == internal {
			return fmt.Sprintf("%s cannot be compared or computed with a numeric; write numeric(x), or text(column)", args)
		}
	}
	text := fmt.Sprintf("%s does not take %s", name, strings.ReplaceAll(args, ", ", " and "))
	switch {
	case strings.Contains(args, "numeric") && (function == operators.Divide || function == operators.Modulo):
		text += "; numeric is exact and does not divide: write double(a) / double(b)"
	case strings.Contains(args, "string") && strings.Contains(args, "timestamp"):
		text += `; write date("2024-03-10") or timestamp("2024-03-10T12:00:00Z")`
	case strings.Contains(args, "string") && (strings.Contains(args, "int") || strings.Contains(args, "double")):
		text += "; write int(x), double(x) or string(x) to convert one"
	case strings.Contains(args, "int") && strings.Contains(args, "double"):
		text += "; write double(x) to convert one"
	}
	return text
}
