package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// document is a YAML file read against the keys it may hold: values as texts, places of all keys, faults found.
type document struct {
	name   string            // of the file
	values map[string]any    // nested like the file; texts, lists and maps
	places map[string][2]int // path → line, column of the key, or of the element
	faults []Fault
	unread bool // it is no YAML
}

func readDocument(content []byte, keys []*key) *document {
	d := &document{values: map[string]any{}, places: map[string][2]int{}}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var root, more yaml.Node
	switch err := decoder.Decode(&root); {
	case errors.Is(err, io.EOF):
		return d
	case err != nil:
		d.syntax(err)
		return d
	}
	switch err := decoder.Decode(&more); {
	case err == nil && !isNull(more.Content[0]):
		d.fault(&more, "", "", "a second document; a configuration is one")
	case err != nil && !errors.Is(err, io.EOF):
		d.syntax(err)
		return d
	}
	if top := resolve(root.Content[0]); !isNull(top) {
		d.values = d.section(top, keys, "", false)
	}
	return d
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:line ([0-9]+): )?`)

func (d *document) syntax(err error) {
	parts := yamlLine.FindStringSubmatch(err.Error())
	why := strings.TrimPrefix(err.Error(), parts[0])
	if strings.HasPrefix(why, "unknown anchor ") { // it may be a password that begins with *
		why = "an unknown anchor; put a text that begins with * in quotes"
	}
	fault := Fault{Message: "not YAML: " + why}
	if line, convErr := strconv.Atoi(parts[1]); convErr == nil {
		fault.Line, fault.Column = line, 1
	}
	d.faults = append(d.faults, fault)
	d.unread = true
}

func (d *document) fault(n *yaml.Node, path, value, message string) {
	d.faults = append(d.faults, Fault{Path: path, Value: value, Message: message, Line: n.Line, Column: n.Column})
}

// section reads a block of keys. In a list's element defaults are filled in here: viper's do not reach there.
func (d *document) section(n *yaml.Node, keys []*key, path string, inList bool) map[string]any {
	values := map[string]any{}
	if n.Kind != yaml.MappingNode {
		d.fault(n, path, "", "must be a block of keys")
		return values
	}
	known := map[string]*key{}
	names := make([]string, len(keys))
	for i, k := range keys {
		known[k.name], names[i] = k, k.name
	}
	lines := map[string]int{}
	for _, p := range d.pairs(n, path) {
		name, value := p.name, p.value
		at := join(path, name.Value)
		k := known[name.Value]
		if k == nil {
			d.fault(name, at, "", unknownKey(name.Value, names))
			continue
		}
		if line, twice := lines[name.Value]; twice {
			d.fault(name, at, "", fmt.Sprintf("given twice; first in line %d", line))
			continue
		}
		lines[name.Value] = name.Line
		d.places[at] = [2]int{name.Line, name.Column}
		if isNull(value) || k.required && isEmpty(value) {
			continue // a key without a value is a key not given
		}
		if read := d.value(value, k, at, inList); read != nil {
			values[k.name] = read
		}
	}
	if inList {
		d.fillIn(values, keys, path)
	}
	return values
}

func unknownKey(name string, known []string) string {
	if near := Nearest(name, known); near != "" {
		return fmt.Sprintf("unknown key; did you mean %q?", near)
	}
	return "unknown key; known here: " + strings.Join(known, ", ")
}

// value reads what stands under a key; nil if it is faulty.
func (d *document) value(n *yaml.Node, k *key, path string, inList bool) any {
	switch k.shape {
	case section:
		return d.section(n, k.children, path, inList)
	case sectionList:
		if n.Kind != yaml.SequenceNode {
			d.fault(n, path, "", "must be a list of blocks; begin each with -")
			return nil
		}
		list := make([]any, 0, len(n.Content))
		for i, element := range n.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			element = resolve(element)
			d.places[at] = [2]int{element.Line, element.Column}
			list = append(list, d.section(element, k.children, at, true))
		}
		return list
	case scalarList:
		if n.Kind != yaml.SequenceNode {
			if text, ok := d.scalar(n, nil, path); ok {
				return d.list(n, k, path, splitList(text))
			}
			return nil
		}
		list := make([]any, 0, len(n.Content))
		for i, element := range n.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			element = resolve(element)
			d.places[at] = [2]int{element.Line, element.Column}
			if k.block != nil && element.Kind == yaml.MappingNode {
				list = append(list, d.section(element, k.block, at, true))
			} else if text, ok := d.scalar(element, k, at); ok {
				list = append(list, text)
			}
		}
		return list
	}
	if text, ok := d.scalar(n, k, path); ok {
		return text
	}
	return nil
}

func (d *document) list(n *yaml.Node, k *key, path string, texts []string) any {
	for _, text := range texts {
		if err := k.check(text); err != nil {
			d.fault(n, path, text, err.Error())
			return nil
		}
	}
	return anyList(texts)
}

func anyList(texts []string) []any {
	list := make([]any, len(texts))
	for i, text := range texts {
		list[i] = text
	}
	return list
}

// scalar reads one value, as it is written, and proves that it converts (with k not nil).
func (d *document) scalar(n *yaml.Node, k *key, path string) (string, bool) {
	if n.Kind != yaml.ScalarNode {
		d.fault(n, path, "", "must be one value")
		return "", false
	}
	if k == nil {
		return n.Value, true
	}
	if err := k.check(n.Value); err != nil {
		d.fault(n, path, k.show(n.Value), err.Error())
		return "", false
	}
	return n.Value, true
}

// show gives a value as a fault may quote it.
func (k *key) show(text string) string {
	if k.typ == secretType {
		return ""
	}
	return text
}

// fillIn gives a list's element the defaults of the keys it does not hold.
func (d *document) fillIn(values map[string]any, keys []*key, path string) {
	for _, k := range keys {
		at := join(path, k.name)
		switch _, given := values[k.name]; {
		case k.shape == section && !given:
			below := map[string]any{}
			values[k.name] = below
			d.fillIn(below, k.children, at)
		case given || k.shape == sectionList:
		case k.required:
			if !d.faulty(at) {
				d.missing(k, at)
			}
		case k.shape == scalarList:
			values[k.name] = anyList(splitList(k.fallback))
		default:
			values[k.name] = k.fallback
		}
	}
}

// env proves that an environment variable's text converts.
func (d *document) env(k *key, text string) bool {
	texts := []string{text}
	if k.shape == scalarList {
		texts = splitList(text)
	}
	for _, t := range texts {
		if err := k.check(t); err != nil {
			d.faults = append(d.faults, Fault{Path: k.path, Value: k.show(t), Message: err.Error() + " (from " + k.env + ")"})
			return false
		}
	}
	return true
}

func (d *document) missing(k *key, path string) {
	message := "missing"
	if k.env != "" {
		message += "; write it, or set " + k.env
	}
	fault := Fault{Path: path, Message: message}
	fault.Line, fault.Column = d.place(path)
	d.faults = append(d.faults, fault)
}

// has says whether the file gives path a value.
func (d *document) has(path string) bool {
	var here any = d.values
	for name := range strings.SplitSeq(path, ".") {
		block, ok := here.(map[string]any)
		if !ok {
			return false
		}
		if here, ok = block[name]; !ok {
			return false
		}
	}
	return true
}

// faulty says whether there is a fault at path or below it.
func (d *document) faulty(path string) bool {
	for _, f := range d.faults {
		rest, below := strings.CutPrefix(f.Path, path)
		if below && (path == "" || rest == "" || rest[0] == '.' || rest[0] == '[') {
			return true
		}
	}
	return false
}

// place gives line and column of path, or of the nearest block around it; zeros if the file has neither.
func (d *document) place(path string) (line, column int) {
	for path != "" {
		if at, ok := d.places[path]; ok {
			return at[0], at[1]
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return 0, 0
}

// pair is a key with its value.
type pair struct{ name, value *yaml.Node }

// pairs gives the keys and values of a block, those of merged blocks (<<) after its own: of several, the first that has a key gives it.
func (d *document) pairs(n *yaml.Node, path string) (all []pair) {
	given, begun := map[string]bool{}, map[*yaml.Node]bool{}
	var add func(block *yaml.Node)
	add = func(block *yaml.Node) {
		begun[block] = true // it may be merged into itself
		from := len(all)
		for i := 0; i+1 < len(block.Content); i += 2 {
			if name := block.Content[i]; name.Tag != mergeTag && !given[name.Value] {
				all = append(all, pair{name, resolve(block.Content[i+1])})
			}
		}
		for _, p := range all[from:] {
			given[p.name.Value] = true
		}
		for i := 0; i+1 < len(block.Content); i += 2 {
			if block.Content[i].Tag != mergeTag {
				continue
			}
			merged := []*yaml.Node{resolve(block.Content[i+1])}
			if merged[0].Kind == yaml.SequenceNode {
				merged = merged[0].Content
			}
			for _, one := range merged {
				switch one = resolve(one); {
				case one.Kind == yaml.MappingNode && !begun[one]:
					add(one)
				case one.Kind != yaml.MappingNode && !isNull(one):
					d.fault(block.Content[i], path, "", "<< takes a block of keys, or a list of such blocks")
				}
			}
		}
	}
	add(n)
	return all
}

const mergeTag = "!!merge"

func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

func isEmpty(n *yaml.Node) bool { return n.Value == "" && len(n.Content) == 0 }

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }
