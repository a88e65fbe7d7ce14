package page

import (
	"html"
	"html/template"
	"io"
	"net/http"
	"path"
	"regexp"
	"strings"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// explain gives the runbook of a code, or of an alert: it is embedded, for where there is no internet. A browser gets a page, all else the
// Markdown.
func (p *pages) explain(w http.ResponseWriter, r *http.Request) {
	text, ok := runbookOf(r.PathValue("code"))
	status := http.StatusOK
	if !ok {
		text, status = "There is no runbook of this code.\n", http.StatusNotFound
	}
	w.Header().Set("Vary", "Accept")
	if !strings.Contains(r.Header.Get("Accept"), "text/html") {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
		return
	}
	title, _, _ := strings.Cut(strings.TrimPrefix(text, "# "), "\n")
	whole, err := render("runbook.html", struct {
		Title string
		Text  template.HTML
	}{title, template.HTML(markdown(text))}) //nolint:gosec // markdown escapes what it is given
	if err != nil {
		p.cfg.Log.Error("show runbook", service.Err(err))
		http.Error(w, "the page cannot be shown; see the log", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	give(w, r, status, whole)
}

func runbookOf(name string) (text string, ok bool) {
	book, ok := trouble.RunbookOf(trouble.Code(name))
	if !ok {
		book, ok = trouble.AlertRunbookOf(name)
	}
	return book.Text, ok
}

var (
	listItem  = regexp.MustCompile(`^(?:-|(\d+)\.) `)
	tableRule = regexp.MustCompile(`^\|[-:| ]+$`)
)

// markdown gives the HTML of what runbooks are made of: headings, paragraphs, lists, tables and blocks of code.
func markdown(text string) string {
	var out strings.Builder
	lines := strings.Split(strings.TrimSpace(text), "\n")
	// block takes lines as long as they go on, each without the marks that belong to the block.
	block := func(on func(line string) bool) (taken []string) {
		for len(lines) > 0 && on(lines[0]) {
			taken, lines = append(taken, lines[0]), lines[1:]
		}
		return taken
	}
	plain := func(line string) bool {
		return line != "" && !strings.HasPrefix(line, "```") && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "|") && !listItem.MatchString(line)
	}
	for len(lines) > 0 {
		line := lines[0]
		switch item := listItem.FindStringSubmatch(line); {
		case line == "":
			lines = lines[1:]
		case strings.HasPrefix(line, "```"):
			lines = lines[1:]
			code := block(func(line string) bool { return !strings.HasPrefix(line, "```") })
			lines = lines[min(1, len(lines)):]
			out.WriteString(`<pre tabindex="0">` + html.EscapeString(strings.Join(code, "\n")) + "</pre>\n")
		case strings.HasPrefix(line, "# "):
			lines = lines[1:]
			out.WriteString("<h1>" + inline(line[2:]) + "</h1>\n")
		case strings.HasPrefix(line, "#"):
			lines = lines[1:]
			out.WriteString("<h2>" + inline(strings.TrimLeft(line, "# ")) + "</h2>\n")
		case strings.HasPrefix(line, "|"):
			writeTable(&out, block(func(line string) bool { return strings.HasPrefix(line, "|") }))
		case item != nil:
			kind := "ul"
			if item[1] != "" {
				kind = "ol"
			}
			out.WriteString("<" + kind + ">\n")
			for len(lines) > 0 && listItem.MatchString(lines[0]) {
				first := lines[0][len(listItem.FindString(lines[0])):]
				lines = lines[1:]
				out.WriteString("<li>" + inline(strings.Join(append([]string{first}, block(plain)...), "\n")) + "</li>\n")
			}
			out.WriteString("</" + kind + ">\n")
		default:
			lines = lines[1:] // also where it is none of what is known: no line is lost, and none is come back to
			out.WriteString("<p>" + inline(strings.Join(append([]string{line}, block(plain)...), "\n")) + "</p>\n")
		}
	}
	return out.String()
}

func writeTable(out *strings.Builder, rows []string) {
	out.WriteString("<table>\n")
	for i, row := range rows {
		if tableRule.MatchString(row) {
			continue
		}
		cell := "td"
		if i == 0 {
			cell = "th"
		}
		out.WriteString("<tr>")
		for one := range strings.SplitSeq(strings.TrimSuffix(strings.TrimPrefix(row, "|"), "|"), "|") {
			out.WriteString("<" + cell + ">" + inline(strings.TrimSpace(one)) + "</" + cell + ">")
		}
		out.WriteString("</tr>\n")
	}
	out.WriteString("</table>\n")
}

// inlineMarks are what stands within a paragraph: code, bold, emphasis, a link, an address.
var inlineMarks = regexp.MustCompile("(?s)`([^`]+)`" + `|\*\*(.+?)\*\*|\*([^*\s][^*]*)\*|\[([^\]]+)\]\(([^)\s]*)\)|<(https://[^>\s]+)>`)

func inline(text string) string {
	var out strings.Builder
	for text != "" {
		m := inlineMarks.FindStringSubmatchIndex(text)
		if m == nil {
			break
		}
		part := func(i int) string {
			if m[2*i] < 0 {
				return ""
			}
			return text[m[2*i]:m[2*i+1]]
		}
		out.WriteString(html.EscapeString(text[:m[0]]))
		switch code, bold, emphasis, title, address := part(1), part(2), part(3), part(4), part(6); {
		case code != "":
			out.WriteString("<code>" + html.EscapeString(code) + "</code>")
		case bold != "":
			out.WriteString("<b>" + inline(bold) + "</b>")
		case emphasis != "":
			out.WriteString("<em>" + inline(emphasis) + "</em>")
		case title != "":
			out.WriteString(link(inline(title), part(5)))
		default:
			out.WriteString(`<a href="` + html.EscapeString(address) + `">` + html.EscapeString(address) + "</a>")
		}
		text = text[m[1]:]
	}
	return out.String() + html.EscapeString(text)
}

// link leads to another runbook. Other pages of the documentation are not in the service: of one its name is told.
func link(title, target string) string {
	file, _, _ := strings.Cut(target, "#")
	if name := strings.TrimSuffix(path.Base(file), ".md"); name+".md" == path.Base(file) {
		if _, ok := runbookOf(name); ok && !strings.Contains(file, "operations/") {
			return `<a href="/explain/` + name + `">` + title + "</a>"
		}
		return title + ` <span class="note">(docs/` + html.EscapeString(strings.TrimLeft(file, "./")) + ")</span>"
	}
	return title
}
