package page

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// A browser that asks for a runbook gets a page that leads back, of every code and alert without a mark of Markdown that is left. What
// leads to another runbook leads there.
func TestRunbookPages(t *testing.T) {
	url := serve(t, func() View { return full("a") }, testHistory())
	names := trouble.Alerts()
	for _, code := range trouble.Codes() {
		names = append(names, string(code))
	}
	code := regexp.MustCompile(`(?s)<pre.*?</pre>|<code>.*?</code>`)
	for _, name := range append(names, "none") {
		resp, body := getAs(t, url+"/explain/"+name, "text/html,*/*")
		if (resp.status == http.StatusOK) == (name == "none") || resp.header.Get("Content-Type") != "text/html; charset=utf-8" || resp.header.Get("Content-Security-Policy") != policy || !strings.Contains(body, `<a href="/">`) {
			t.Fatalf("%s: %d, %v\n%s", name, resp.status, resp.header, body)
		}
		if name == "none" {
			continue
		}
		if !strings.Contains(body, "<h1>"+name+"</h1>") || strings.Contains(body, "<script") {
			t.Errorf("%s:\n%s", name, body)
		}
		if left := regexp.MustCompile("`|\\*\\*|\\]\\(|(?m)^(#|\\||[0-9]+\\. |- )").FindString(code.ReplaceAllString(body, "")); left != "" {
			t.Errorf("%s has %q left:\n%s", name, left, body)
		}
		for _, m := range regexp.MustCompile(`href="/explain/([^"]+)"`).FindAllStringSubmatch(body, -1) {
			if !slices.Contains(names, m[1]) {
				t.Errorf("%s leads to %q", name, m[1])
			}
		}
	}
	for text, want := range map[string]string{
		"a <script>` & `<b>`": "<p>a &lt;script&gt;<code> &amp; </code>&lt;b&gt;`</p>\n",
		"**Do** as [**it** `says`](../gap.md#x), *or* [not](../rules.md#null), [x](javascript:alert(1\"))": `<p><b>Do</b> as <a href="/explain/gap"><b>it</b> <code>says</code></a>, <em>or</em> not <span class="note">(docs/rules.md)</span>, x)</p>` + "\n",
		"[let it](../../operations/slot-lost.md) and [the runbook](../)":                                   `<p>let it <span class="note">(docs/operations/slot-lost.md)</span> and the runbook</p>` + "\n",
		"at <https://a.b/c>.\n```sh\n<x> `y` **z**\n\n# no\n```\nthen":                                     "<p>at <a href=\"https://a.b/c\">https://a.b/c</a>.</p>\n<pre tabindex=\"0\">&lt;x&gt; `y` **z**\n\n# no</pre>\n<p>then</p>\n",
		"**Do**\n1. `a`: b\n   c\n2. d\n\n- e":                                                             "<p><b>Do</b></p>\n<ol>\n<li><code>a</code>: b\n   c</li>\n<li>d</li>\n</ol>\n<ul>\n<li>e</li>\n</ul>\n",
		"| a | `b` |\n|---|---|\n| c, d | |":                                                               "<table>\n<tr><th>a</th><th><code>b</code></th></tr>\n<tr><td>c, d</td><td></td></tr>\n</table>\n",
		"#x\n```never ended\n1":                                                                            "<h2>x</h2>\n<pre tabindex=\"0\">1</pre>\n",
	} {
		if got := markdown(text); got != want {
			t.Errorf("%q:\n%s\nwant\n%s", text, got, want)
		}
	}
}
