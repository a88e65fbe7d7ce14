package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Show gives the effective configuration v (a struct or a pointer to one) as YAML in the order of its fields, secrets
// as "***". Apart from these it can be loaded again.
func Show(v any) string {
	value := reflect.Indirect(reflect.ValueOf(v))
	out, err := yaml.Marshal(block(value, mustKeys(value.Type())))
	if err != nil {
		panic("config: marshal YAML nodes: " + err.Error()) // built here, of texts only
	}
	return string(out)
}

func block(v reflect.Value, keys []*key) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, k := range keys {
		name := &yaml.Node{Kind: yaml.ScalarNode, Value: k.name}
		n.Content = append(n.Content, name, k.node(v.Field(k.index)))
	}
	return n
}

func (k *key) node(v reflect.Value) *yaml.Node {
	switch k.shape {
	case section:
		return block(v, k.children)
	case scalarList, sectionList:
		list := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range v.Len() {
			if k.shape == sectionList {
				list.Content = append(list.Content, block(v.Index(i), k.children))
				continue
			}
			list.Content = append(list.Content, k.element(v.Index(i)))
			list.Style = yaml.FlowStyle
		}
		if v.Len() == 0 {
			list.Style = yaml.FlowStyle
		}
		return list
	}
	return k.scalarNode(v)
}

// element gives a list's element as a value, or as a block where it has no such form.
func (k *key) element(v reflect.Value) *yaml.Node {
	if m, ok := v.Interface().(encoding.TextMarshaler); ok && k.block != nil {
		if _, err := m.MarshalText(); err != nil {
			return block(v, k.block)
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
	return n
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
