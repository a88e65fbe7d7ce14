// Package docs takes the pages of the documentation apart, for the tests that hold them against the program: those of
// deploy/cmd/docs look at what a page says, those here run what it shows.
package docs

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/text"
)

// Page is one Markdown file.
type Page struct {
	File   string
	Text   string
	Needs  []string // what "needs:" of the front matter names
	Blocks []Block  // in the order of the page
	// Anchors are those of the headings, as GitHub makes them; Links what links, pictures and HTML attributes point to.
	Anchors []string
	Links   []string
}

// Block is a fenced block, or what a comment gives in its place:
//
//	<!-- test: console
//	$ this is run, and the reader does not see it
//	-->
//
//	<!-- test: skip: why the next block is not run -->
type Block struct {
	Info   string // behind the fence: "console", "yaml title=sink.yaml"
	Text   string
	Hidden bool
	Skip   string // the reason of a skip in front of it
	Line   int    // of its first line, from 1

	start, end int    // of Text in the page, as bytes
	indent     string // of each line there
}

// Kind is the first word of Info.
func (b *Block) Kind() string { return b.Word(0) }

// Word gives a word of Info that is no attribute, "" where there are not so many.
func (b *Block) Word(i int) string {
	for word := range strings.FieldsSeq(b.Info) {
		if strings.Contains(word, "=") {
			continue
		}
		if i--; i < 0 {
			return word
		}
	}
	return ""
}

// Attribute gives the value of name=value in Info.
func (b *Block) Attribute(name string) string {
	for _, word := range strings.Fields(b.Info) {
		if value, ok := strings.CutPrefix(word, name+"="); ok {
			return value
		}
	}
	return ""
}

var (
	frontMatter = regexp.MustCompile(`\A---\nneeds: (.*)\n---\n`)
	comment     = regexp.MustCompile(`(?s)<!-- test: (.*?)\s*-->`)
	attribute   = regexp.MustCompile(`(?:src|srcset|href)="([^"]+)"`)
	notInAnchor = regexp.MustCompile(`[^\p{L}\p{N}\-_ ]`)
)

// Read takes a file apart.
func Read(file string) (*Page, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	p := &Page{File: file, Text: string(content)}
	source := content
	if m := frontMatter.FindSubmatchIndex(content); m != nil {
		for need := range strings.SplitSeq(p.Text[m[2]:m[3]], ",") {
			p.Needs = append(p.Needs, strings.TrimSpace(need))
		}
		source = []byte(strings.Repeat("\n", m[1]) + p.Text[m[1]:]) // the same length: places stay
	}
	skip := ""
	block := func(b Block) {
		b.Skip, skip = skip, ""
		b.Line = 1 + strings.Count(p.Text[:b.start], "\n")
		p.Blocks = append(p.Blocks, b)
	}
	anchors := map[string]int{}
	root := goldmark.New(goldmark.WithExtensions(extension.Table)).Parser().Parse(text.NewReader(source))
	err = ast.Walk(root, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Heading:
			anchor := anchorOf(plain(n, source))
			if seen := anchors[anchor]; seen > 0 {
				p.Anchors = append(p.Anchors, anchor+"-"+strconv.Itoa(seen))
			} else {
				p.Anchors = append(p.Anchors, anchor)
			}
			anchors[anchor]++
		case *ast.Link:
			p.Links = append(p.Links, string(n.Destination))
		case *ast.Image:
			p.Links = append(p.Links, string(n.Destination))
		case *ast.RawHTML:
			p.html(string(n.Segments.Value(source)))
		case *ast.HTMLBlock:
			raw := string(n.Lines().Value(source))
			if n.HasClosure() {
				raw += string(n.ClosureLine.Value(source))
			}
			p.html(raw)
			if n.Lines().Len() == 0 {
				break
			}
			for _, m := range comment.FindAllStringSubmatchIndex(raw, -1) {
				info, rest, _ := strings.Cut(raw[m[2]:m[3]], "\n")
				if reason, ok := strings.CutPrefix(info, "skip: "); ok {
					skip = reason
					continue
				}
				if strings.TrimSpace(info) == "" || strings.HasPrefix(info, "skip") {
					return ast.WalkStop, fmt.Errorf("%s: a comment %q is neither a block nor a skip with its reason", file, info)
				}
				at := n.Lines().At(0).Start
				block(Block{Info: info, Text: rest + "\n", Hidden: true, start: at, end: at})
			}
		case *ast.CodeBlock:
			at := n.Lines().At(0).Start
			block(Block{Text: string(n.Lines().Value(source)), start: at, end: at})
		case *ast.FencedCodeBlock:
			b := Block{}
			if n.Info != nil {
				b.Info = string(n.Info.Value(source))
				b.start = strings.IndexByte(p.Text[n.Info.Segment.Start:], '\n') + n.Info.Segment.Start + 1
			}
			if lines := n.Lines(); lines.Len() > 0 {
				first, last := lines.At(0), lines.At(lines.Len()-1)
				b.start = strings.LastIndexByte(p.Text[:first.Start], '\n') + 1
				b.end, b.indent = last.Stop, p.Text[b.start:first.Start]
				b.Text = string(lines.Value(source))
			} else {
				b.end = b.start
			}
			block(b)
		}
		return ast.WalkContinue, nil
	})
	return p, err
}

func (p *Page) html(raw string) {
	for _, m := range attribute.FindAllStringSubmatch(raw, -1) {
		p.Links = append(p.Links, m[1])
	}
}

// plain gives the words of a node.
func plain(n ast.Node, source []byte) string {
	var b strings.Builder
	_ = ast.Walk(n, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if t, ok := n.(*ast.Text); ok && entering {
			b.Write(t.Segment.Value(source))
			if t.SoftLineBreak() {
				b.WriteByte(' ')
			}
		}
		return ast.WalkContinue, nil
	})
	return b.String()
}

func anchorOf(title string) string {
	return strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), ""), " ", "-")
}

// Replace gives the page's text with other texts in place of those of these blocks, by their number.
func (p *Page) Replace(texts map[int]string) string {
	var b strings.Builder
	from := 0
	for i := range p.Blocks {
		text, ok := texts[i]
		if !ok || p.Blocks[i].Hidden {
			continue
		}
		b.WriteString(p.Text[from:p.Blocks[i].start])
		for line := range strings.Lines(text) {
			if strings.TrimSpace(line) != "" {
				b.WriteString(p.Blocks[i].indent)
			}
			b.WriteString(line)
		}
		from = p.Blocks[i].end
	}
	return b.String() + p.Text[from:]
}
