package config

import (
	"encoding"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// Show gives the effective configuration v (a struct or a pointer to one) as YAML in the order of its fields, secrets
// as "***". Apart from these it can be loaded again.
func Show(v any) string { return show(v, func(string, *key) string { return "" }) }

// ShowOrigins loads file into out as LoadSaid does and shows it, behind each value where it is from: its place in the file,
// the variable of the environment, what was said, or the default.
func ShowOrigins(file string, said map[string]string, out any) (string, error) {
	content, err := read(file)
	if err != nil {
		return "", err
	}
	doc, err := decode(file, content, over(said), out)
	if err != nil {
		return "", err
	}
	return show(out, func(path string, k *key) string {
		if _, ok := said[path]; ok {
			return "flag"
		}
		if k.env != "" && os.Getenv(k.env) != "" {
			return k.env
		}
		if at, ok := doc.places[path]; ok {
			return fmt.Sprintf("%s:%d:%d", filepath.Base(file), at[0], at[1])
		}
		return "default"
	}), nil
}

// show writes v, behind each value what comment says of it.
func show(v any, comment func(path string, k *key) string) string {
	value := reflect.Indirect(reflect.ValueOf(v))
	out, err := yaml.Marshal((&shown{comment}).block(value, mustKeys(value.Type()), ""))
	if err != nil {
		panic("config: marshal YAML nodes: " + err.Error()) // built here, of texts only
	}
	return string(out)
}

// shown makes nodes of YAML.
type shown struct {
	comment func(path string, k *key) string
}

func (s *shown) block(v reflect.Value, keys []*key, path string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, k := range keys {
		name := &yaml.Node{Kind: yaml.ScalarNode, Value: k.name}
		n.Content = append(n.Content, name, s.node(k, v.Field(k.index), join(path, k.name)))
	}
	return n
}

func (s *shown) node(k *key, v reflect.Value, path string) *yaml.Node {
	switch k.shape {
	case section:
		return s.block(v, k.children, path)
	case scalarList, sectionList:
		list := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range v.Len() {
			at := path + "[" + strconv.Itoa(i) + "]"
			if k.shape == sectionList {
				list.Content = append(list.Content, s.block(v.Index(i), k.children, at))
				continue
			}
			list.Content = append(list.Content, k.element(v.Index(i)))
			list.Style = yaml.FlowStyle
		}
		if v.Len() == 0 {
			list.Style = yaml.FlowStyle
		}
		if list.Style == yaml.FlowStyle {
			list.LineComment = s.comment(path, k)
		}
		return list
	}
	n := k.scalarNode(v)
	n.LineComment = s.comment(path, k)
	return n
}

// element gives a list's element as a value, or as a block where it has no such form.
func (k *key) element(v reflect.Value) *yaml.Node {
	if m, ok := v.Interface().(encoding.TextMarshaler); ok && k.block != nil {
		if _, err := m.MarshalText(); err != nil {
			return (&shown{func(string, *key) string { return "" }}).block(v, k.block, "")
		}
	}
	return k.scalarNode(v)
}

func (k *key) scalarNode(v reflect.Value) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode}
	switch value := v.Interface().(type) {
	case time.Duration:
		n.SetString(formatDuration(value))
	case encoding.TextMarshaler:
		text, err := value.MarshalText()
		if err != nil {
			text = []byte(err.Error())
		}
		n.SetString(string(text))
	default:
		if v.Kind() == reflect.String {
			n.SetString(v.String())
			break
		}
		n.Value = fmt.Sprint(value)
	}
	if strings.ContainsFunc(n.Value, unprintable) {
		n.Style = yaml.DoubleQuotedStyle // where a terminal's writing out of it means the same
	}
	return n
}

func unprintable(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }

// Secrets gives the secrets in a configuration v (a struct or a pointer to one) that are set.
func Secrets(v any) []Secret {
	value := reflect.Indirect(reflect.ValueOf(v))
	return secretsIn(value, mustKeys(value.Type()))
}

func secretsIn(v reflect.Value, keys []*key) (out []Secret) {
	for _, k := range keys {
		field := v.Field(k.index)
		switch {
		case k.shape == section:
			out = append(out, secretsIn(field, k.children)...)
		case k.shape == sectionList:
			for i := range field.Len() {
				out = append(out, secretsIn(field.Index(i), k.children)...)
			}
		case k.shape == scalar && k.typ == secretType && field.Len() > 0:
			out = append(out, Secret(field.String()))
		}
	}
	return out
}

// Defaults gives a file with every key below v, its default and its meaning, to be read and copied from. Keys that are
// required, and those of lists of blocks, are comments.
func Defaults(v any) string {
	var b strings.Builder
	defaults(&b, mustKeys(structType(v)), "", "")
	return b.String()
}

// defaults writes keys; prefix stands before each line, and begins the first one's name as bullet does.
func defaults(b *strings.Builder, keys []*key, prefix, bullet string) {
	for i, k := range keys {
		if i > 0 && bullet != "" {
			bullet = "  "
		}
		indent := prefix + strings.Repeat(" ", len(bullet))
		for _, line := range wrapped(k.doc, 100) {
			fmt.Fprintf(b, "%s# %s\n", indent, line)
		}
		name := prefix + bullet + k.name + ":"
		below := indent + "  "
		switch {
		case k.shape == section:
			fmt.Fprintf(b, "%s\n", name)
			defaults(b, k.children, below, "")
		case k.shape == sectionList:
			fmt.Fprintf(b, "%s []\n", name)
			if !strings.HasPrefix(below, "#") {
				below = "#" + below
			}
			defaults(b, k.children, below, "- ")
		case k.required:
			if !strings.HasPrefix(name, "#") {
				name = "#" + name
			}
			fmt.Fprintf(b, "%s  # required, %s\n", name, k.typeName())
		default:
			n := &yaml.Node{Kind: yaml.ScalarNode}
			switch {
			case k.shape == scalarList:
				n = &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
				for _, text := range splitList(k.fallback) {
					one := &yaml.Node{}
					one.SetString(text)
					n.Content = append(n.Content, one)
				}
			case k.typ.Kind() == reflect.String || k.fallback == "":
				n.SetString(k.fallback)
			default:
				n.Value = k.fallback
			}
			text, err := yaml.Marshal(n)
			if err != nil {
				panic("config: marshal a default: " + err.Error()) // a text of ours
			}
			fmt.Fprintf(b, "%s %s  # %s\n", name, strings.TrimSpace(string(text)), k.typeName())
		}
	}
}

// wrapped gives text in lines of at most width characters, unless a word is longer.
func wrapped(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return append(lines, line)
}

// Reference gives a Markdown chapter with every key below v: type, default, environment variable and meaning, in the
// order of the fields.
func Reference(v any, title string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n", title)
	b.WriteString("| key | type | default | environment | meaning |\n|---|---|---|---|---|\n")
	reference(&b, mustKeys(structType(v)))
	return b.String()
}

func reference(b *strings.Builder, keys []*key) {
	for _, k := range keys {
		cells := []string{code(k.path), "", "", "", k.doc}
		switch k.shape {
		case section:
			cells[1] = "block"
		case sectionList:
			cells[1] = "list of blocks"
		default:
			cells[1], cells[3] = k.typeName(), code(k.env)
			switch {
			case k.required:
				cells[2] = "required"
			case k.shape == scalarList:
				cells[2] = code("[" + strings.Join(splitList(k.fallback), ", ") + "]")
			case k.fallback == "":
				cells[2] = code(`""`)
			default:
				cells[2] = code(k.fallback)
			}
		}
		for i, cell := range cells {
			cells[i] = strings.ReplaceAll(cell, "|", `\|`)
		}
		fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
		reference(b, k.children)
	}
}

func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}
