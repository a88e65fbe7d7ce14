package page

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/tributary-cdc/tributary/pkg/browsertest"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// tab is a page in a headless browser, with what it complained of.
type tab struct {
	context.Context
	t  *testing.T
	mu sync.Mutex
	// complaints are errors of scripts, reports of the policy, and whatever else the console says; asked are addresses.
	complaints, asked []string
}

// openTab starts Chromium; where there is none the test is skipped.
func openTab(t *testing.T, url string) *tab {
	t.Helper()
	program := browsertest.Chromium(t)
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.WSURLReadTimeout(time.Minute))
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), opts...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	b := &tab{Context: ctx, t: t}
	if err := chromedp.Listen(ctx, b.hear); err != nil { // starts the browser
		t.Fatal(err)
	}
	call(b, log.Enable, cdp.Empty{})
	call(b, runtime.Enable, cdp.Empty{})
	call(b, network.Enable, network.EnableParams{})
	b.run(chromedp.Navigate(url))
	return b
}

// hear notes what the browser tells.
func (b *tab) hear(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *log.EventEntryAdded:
		b.complaints = append(b.complaints, fmt.Sprintf("%s: %s %s", e.Entry.Level, e.Entry.Text, e.Entry.URL))
	case *runtime.EventConsoleAPICalled:
		text := fmt.Sprint("console: ", e.Type)
		for _, a := range e.Args {
			text += fmt.Sprintf(" %s%s", a.Description, a.Value)
		}
		b.complaints = append(b.complaints, text)
	case *runtime.EventExceptionThrown:
		b.complaints = append(b.complaints, "exception: "+e.ExceptionDetails.Text)
	case *page.EventJavascriptDialogOpening:
		b.complaints = append(b.complaints, "dialog: "+e.Message)
	case *network.EventRequestWillBeSent:
		b.asked = append(b.asked, e.Request.URL)
	}
}

func (b *tab) run(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b, time.Minute)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.t.Fatal(err)
	}
}

// call sends a command of the protocol.
func call[P, R any](b *tab, command cdp.Command[P, R], params P) {
	b.t.Helper()
	b.run(func(ctx context.Context, t *chromedp.Target) (v chromedp.Void, err error) {
		_, err = cdp.Call(ctx, t, command, params)
		return v, err
	})
}

// eval gives the value of an expression; a promise is waited for.
func eval[T any](b *tab, expression string) T {
	b.t.Helper()
	out, err := tryEval[T](b, expression)
	if err != nil {
		b.t.Fatalf("%s: %v", expression[:min(len(expression), 200)], err)
	}
	return out
}

func tryEval[T any](b *tab, expression string) (T, error) {
	ctx, cancel := context.WithTimeout(b, time.Minute)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[T](expression, func(p *runtime.EvaluateParams) { p.AwaitPromise = &yes }))
}

var yes = true

// await waits until an expression is true. While the page is loaded anew it has no value.
func (b *tab) await(expression string) {
	b.t.Helper()
	for begun := time.Now(); ; {
		so, err := tryEval[bool](b, "!!("+expression+")")
		if so {
			return
		}
		if time.Since(begun) > time.Minute {
			b.t.Fatalf("not so within a minute (%v): %s", err, expression)
		}
		select {
		case <-b.Done():
			b.t.Fatal(b.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// quiet fails the test if the page complained, or asked another host for anything.
func (b *tab) quiet(host string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.complaints {
		b.t.Errorf("the browser says: %s", c)
	}
	for _, url := range b.asked {
		if !strings.HasPrefix(url, host+"/") && !strings.HasPrefix(url, "data:") {
			b.t.Errorf("the page asks for %s", url)
		}
	}
}

// What the reader does stays while the page is renewed under it.
func TestBrowserKeepsWhatTheReaderDoes(t *testing.T) {
	var n atomic.Int64
	url := serve(t, func() View {
		v := full("shop")
		v.Headline = fmt.Sprintf("update %d", n.Add(1))
		return v
	}, testHistory())
	b := openTab(t, url+"/")
	b.await(`document.querySelectorAll(".plot .uplot").length === 2`) // charts are drawn
	eval[bool](b, `document.querySelector("#events").open = true; document.querySelector("#tables tbody tr").mine = true; document.querySelector("#q").focus(); true`)
	b.run(chromedp.KeyEvent("sho"))
	first := n.Load()
	b.await(fmt.Sprintf(`+document.querySelector("h1").textContent.match(/update (\d+)/)?.[1] > %d`, first+10))
	for what, expression := range map[string]string{
		"focus":            `document.activeElement.id === "q"`,
		"what is typed":    `document.querySelector("#q").value === "sho"`,
		"what is open":     `document.querySelector("#events").open`,
		"the row itself":   `document.querySelector("#tables tbody tr").mine === true`,
		"the charts":       `document.querySelectorAll(".plot .uplot").length === 2`,
		"the copy buttons": `document.querySelector(".copy").checkVisibility()`,
		"the address":      `location.search === "?q=sho"`,
		"the title":        `document.title === "‼ 1 · shop"`,
	} {
		if !eval[bool](b, expression) {
			t.Errorf("ten updates took away: %s", what)
		}
	}
	if said := eval[string](b, `document.querySelector("#said").textContent`); said != "" {
		t.Errorf("it reads out %q though no state has changed", said)
	}
	b.quiet(url)
}

// Nothing that a name can hold runs, and the policy has nothing to report.
func TestBrowserRunsNoName(t *testing.T) {
	url := serve(t, func() View { return full(hostile) }, testHistory())
	b := openTab(t, url+"/?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E")
	b.await(`document.querySelector("#live")?.textContent.startsWith("live ")`)
	b.run(chromedp.Navigate(url + "/"))
	b.await(`document.querySelectorAll(".plot .uplot").length === 2`)
	// Nor does it on the page of the table, to which its name leads, and which is renewed by it.
	eval[bool](b, `document.querySelector("#tables tbody a").click(); true`)
	b.await(`location.pathname.startsWith("/table/") && document.querySelector("#live")?.textContent.startsWith("live ")`)
	// Its changes are shown when somebody asks for them, and stay over a renewal.
	eval[bool](b, `document.querySelector("#changes summary").click(); true`)
	b.await(`document.querySelectorAll("#changes li").length >= 5 && document.querySelector("#changes p").textContent.startsWith("ended: that was")`)
	shown := eval[string](b, `document.querySelector("#live").textContent`)
	b.await(fmt.Sprintf(`document.querySelector("#live").textContent !== %q && document.querySelectorAll("#changes li").length >= 5`, shown))
	b.quiet(url)
}

// The page fits, and can be read, on a small screen as on a large one, in light and in dark.
func TestBrowserFits(t *testing.T) {
	axe := axeScript(t)
	const name = "public.a_name_of_a_table_that_is_as_long_as_postgres_takes_63_bytes"
	url := serve(t, func() View {
		v := full(name)
		folded := grouped(60, 1).Rows
		for i := range folded {
			folded[i].Groups[0], folded[i].Cells = name+"_", []Cell{{Text: name}, {}, {}, {}, {}}
		}
		v.Tables[1].Rows = append(v.Tables[1].Rows, folded...)
		v.Tables[1].Sum = func([]string) []string {
			return []string{"history", "worst 42 min 55 s behind", "184,220,871 changes/s"}
		}
		for i := range v.Tables {
			for j := range v.Tables[i].Columns {
				v.Tables[i].Columns[j].Title = "last change"
			}
			for j := range v.Tables[i].Rows {
				r := &v.Tables[i].Rows[j] // the two tables share them
				if r.Groups[0] != name {
					continue
				}
				r.State, r.Cells[1].State, r.Cells[2].Text = service.StateQuarantined, service.StateQuarantined, "184,220,871"
			}
		}
		return v
	}, testHistory())
	b := openTab(t, url+"/")
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{320, 360, 768, 1280} {
			call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
			call(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: 800, DeviceScaleFactor: 1})
			for path, there := range map[string]string{"/": `document.querySelectorAll(".plot .uplot").length === 2`, "/table/" + name: `document.querySelector("#chart-0")`} {
				b.run(chromedp.Navigate(url + path))
				b.await(there + ` && document.querySelector("#live")?.textContent.startsWith("live ")`)
				if got := eval[int64](b, `document.documentElement.scrollWidth`); got > width {
					t.Errorf("%s, %d px: %s is %d px wide: %s", scheme, width, path, got, eval[string](b, `[...document.querySelectorAll("main *")]
						.filter(e => e.getBoundingClientRect().right > innerWidth).slice(0, 5).map(e => e.tagName + "." + e.className).join(" ")`))
				}
				if width != 360 && width != 1280 {
					continue
				}
				for _, f := range b.faults(axe) {
					t.Errorf("%s, %d px, %s: %s", scheme, width, path, f)
				}
			}
			for _, name := range []string{"gap", "TributaryCaptureWaiting", "constraint-violation"} {
				b.run(chromedp.Navigate(url + "/explain/" + name))
				b.await(`document.querySelector("h1")?.textContent === "` + name + `"`)
				if got := eval[int64](b, `document.documentElement.scrollWidth`); got > width {
					t.Errorf("%s, %d px: the runbook %s is %d px wide", scheme, width, name, got)
				}
				if width == 360 {
					for _, f := range b.faults(axe) {
						t.Errorf("%s, %d px, runbook %s: %s", scheme, width, name, f)
					}
				}
			}
		}
	}
	b.quiet(url)
}

// What happened is a line in each chart. Its text is told where the reader points, and stands once below, for who does not point and
// for who hears the page.
func TestBrowserMarks(t *testing.T) {
	history := testHistory()
	url := serve(t, func() View { return full("shop") }, history)
	b := openTab(t, url+"/")
	b.await(`document.querySelectorAll(".plot .uplot").length === 2`)
	// inked is how much of the picture's height is inked at a second of its 590, which begin 5 s before at.
	const inked = `(at => { const from = document.querySelector("#plot-0 canvas"), of = from.getBoundingClientRect(), over = document.querySelector("#plot-0 .u-over").getBoundingClientRect();
		const scale = from.width / of.width, {width, height} = from, pen = Object.assign(document.createElement("canvas"), {width, height}).getContext("2d", {willReadFrequently: true});
		pen.drawImage(from, 0, 0);
		const three = pen.getImageData(Math.round((over.x - of.x + over.width * at / 590) * scale) - 1, (over.y - of.y) * scale, 3, over.height * scale).data;
		return three.filter((v, i) => i % 4 === 3 && v > 100).length / (three.length / 12); })`
	// point moves the pointer to it, over the second chart, and gives what is told over the first.
	const point = `(at => { const over = document.querySelector("#plot-1 .u-over"), r = over.getBoundingClientRect();
		over.dispatchEvent(new MouseEvent("mousemove", {clientX: r.x + r.width * at / 590, clientY: r.y + 20, bubbles: true})); })`
	const told = `getComputedStyle(document.querySelector("#plot-0"), "::after").content`
	for _, at := range []string{"128", "425"} {
		if n := eval[float64](b, inked+"("+at+")"); n < 0.25 {
			t.Errorf("no line at %s s: %v", at, n)
		}
	}
	if n := eval[float64](b, inked+"(200)"); n > 0.2 {
		t.Errorf("a line at 200 s: %v", n)
	}
	for at, want := range map[string]string{
		"128": `06:08 session ended, trying again, wait 1s\\a \d\d:\d\d:11 streaming, slot tributary_shop"$`,
		"425": `table has a new version, table .*<script>`,
		"200": `^"\d\d:07: behind 20 s, freshness 60 s"$`,
	} {
		eval[bool](b, point+"("+at+"), true")
		b.await(told + ".match(/" + want + "/)")
	}
	const list = `document.querySelector("#marks").textContent`
	for what, expression := range map[string]string{
		"the list":     list + `.includes("streaming, slot tributary_shop")`,
		"told once":    `document.querySelector("#main").textContent.split("streaming, slot").length === 2`,
		"where it is":  `[...document.querySelectorAll("figure")].every(f => document.getElementById(f.getAttribute("aria-details")).id === "marks")`,
		"a known line": `!document.querySelector("#chart-1").textContent.includes("unlimited")`,
	} {
		if !eval[bool](b, "!!("+expression+")") {
			t.Errorf("not so: %s: %s", what, eval[string](b, `document.querySelector("#h-hour").parentNode.parentNode.outerHTML`))
		}
	}
	history.Mark([]service.Event{{At: at.Add(9*time.Minute + 30*time.Second), Text: "stopped"}})
	history.Sample(at.Add(10*time.Minute), 60, 60, 1<<30, math.NaN())
	b.await(list + `.includes("stopped")`) // and in the next points, of 600 s
	b.await(inked + `(565) > 0.25`)
	b.quiet(url)
}

// A page whose service has gone says so. One that has come back as another process, of another version maybe, is loaded anew.
func TestBrowserSaysWhenNobodyAnswers(t *testing.T) {
	begin := func(listen, says string) (addr string, end func()) {
		server := service.NewServer("capture", config.HTTP{Listen: listen}, slog.New(slog.DiscardHandler), func(service.Asked) any { return nil })
		Handle(server, Config{View: func() View { v := full("shop"); v.Headline = says; return v }, History: testHistory(), Log: slog.New(slog.DiscardHandler)})
		if err := server.Listen(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- server.Run(ctx) }()
		return server.Addr(), func() {
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	addr, end := begin("127.0.0.1:0", "the one before")
	b := openTab(t, "http://"+addr+"/")
	b.await(`document.querySelector("#live")?.textContent.startsWith("live ")`)
	eval[bool](b, `document.before = true`)
	end()
	b.await(`document.body.classList.contains("stale") && document.querySelector("#live").textContent.startsWith("no answer for ") && document.title.startsWith("? ‼")`)
	_, end = begin(addr, "the next one")
	defer end()
	b.await(`!document.before && document.querySelector("h1")?.textContent.includes("the next one")`)
}

// Folds of groups stay as the reader has them while the page is renewed; a large group's rows come when it is opened; what gets into
// trouble is opened; and all of it is in the address.
func TestBrowserFoldsGroups(t *testing.T) {
	var n, paused atomic.Int64
	url := serve(t, func() View {
		v := full("shop")
		v.Headline, v.Tables = fmt.Sprintf("update %d", n.Add(1)), []Table{grouped(60, 4)}
		for i := range paused.Load() {
			v.Tables[0].Rows[i].State = service.StatePaused // of to.t0
		}
		return v
	}, testHistory())
	b := openTab(t, url+"/")
	group := func(i int) string { return fmt.Sprintf(`document.querySelector('.group[data-name="to.t%d"]')`, i) }
	renewed := func() {
		first := n.Load()
		b.await(fmt.Sprintf(`+document.querySelector("h1").textContent.match(/update (\d+)/)?.[1] > %d`, first+2))
	}
	b.await(`document.querySelector("#live")?.textContent.startsWith("live ")`)
	if !eval[bool](b, `document.querySelectorAll(".group").length === 4 && !document.querySelector(".group[open], .group tbody")`) {
		t.Error("a healthy group is open, or has its rows in the page")
	}
	eval[bool](b, group(1)+`.querySelector("summary").focus(); true`)
	b.run(chromedp.KeyEvent("\r"))
	b.await(`location.search === "?open=to.t1" && ` + group(1) + `.querySelectorAll("tbody tr").length === 50 && ` + group(1) + `.querySelector(".more").textContent === "10 more, all up to date"`)
	eval[bool](b, group(2)+`.querySelector("summary").click(); true`)
	b.await(`location.search === "?open=to.t1&open=to.t2" && ` + group(2) + `.querySelectorAll("tbody tr").length === 25`)
	eval[bool](b, group(1)+`.querySelector("summary").click(); true`)
	b.await(`location.search === "?open=to.t2" && ` + group(2) + `.querySelectorAll("tbody tr").length === 50`)
	renewed()
	if !eval[bool](b, group(2)+`.open && !`+group(1)+`.open && document.activeElement === `+group(1)+`.querySelector("summary")`) {
		t.Error("a renewal has folded or opened a group, or taken the focus")
	}
	paused.Store(1)
	b.await(group(0) + `.open && ` + group(0) + `.querySelectorAll("tbody tr").length === 1`)
	eval[bool](b, group(0)+`.querySelector("summary").click(); true`) // the reader has seen it
	renewed()
	if !eval[bool](b, `!`+group(0)+`.open && location.search === "?open=to.t2"`) {
		t.Error("a renewal has opened what the reader has closed")
	}
	paused.Store(0)
	renewed()
	eval[bool](b, `document.querySelector("#q").focus(); true`)
	b.run(chromedp.KeyEvent("s00"))
	b.await(`location.search === "?q=s00" && document.querySelectorAll(".group[open]").length === 4`)
	b.run(chromedp.KeyEvent("\x1b"))
	b.await(`location.search === "" && document.querySelectorAll(".group").length === 4 && document.querySelectorAll(".group[open]").length === 0`)
	b.run(chromedp.Navigate(url + "/?open=to.t3"))
	b.await(group(3) + `.open && ` + group(3) + `.querySelectorAll("tbody tr").length === 50`)
	b.quiet(url)
}

// Keys lead where the list says.
func TestBrowserKeys(t *testing.T) {
	url := serve(t, func() View { return full("shop") }, testHistory())
	b := openTab(t, url+"/")
	b.await(`document.querySelector("#live")?.textContent.startsWith("live ")`)
	b.run(chromedp.KeyEvent("n"))
	b.await(`document.activeElement === document.querySelector(".need")`)
	b.run(chromedp.KeyEvent("/"))
	b.await(`document.activeElement.id === "q"`)
	b.run(chromedp.KeyEvent("zzz"))
	b.await(`document.querySelector("#main").textContent.includes("None of 3 ")`)
	b.run(chromedp.KeyEvent("\x1b"))
	b.await(`document.querySelector("#q").value === "" && document.querySelectorAll("#tables tbody tr").length > 0`)
	b.run(chromedp.KeyEvent("\x1b"))
	b.await(`document.activeElement === document.body`)
	b.run(chromedp.KeyEvent("?"))
	b.await(`document.querySelector("#keys").matches(":popover-open") && document.activeElement.id === "keys"`)
	b.run(chromedp.KeyEvent("\t"))
	b.await(`document.activeElement.id === "keys-on"`)
	b.run(chromedp.KeyEvent("\x1b"))
	b.await(`!document.querySelector("#keys").matches(":popover-open") && document.activeElement === document.body`)
	b.run(chromedp.Navigate(url + "/explain/gap"))
	b.await(`document.querySelector("h1").textContent === "gap"`)
	eval[bool](b, `document.querySelector("header a").click(), true`)
	b.await(`document.querySelector("#live")?.textContent.startsWith("live ")`)
	b.quiet(url)
}

// TestBrowserForcedColours: who has the browser paint everything in a few colours of theirs tells the lines of a chart apart still, and
// what is named by its place alone to others is named to who does not see it.
func TestBrowserForcedColours(t *testing.T) {
	url := serve(t, func() View { return full("shop") }, testHistory())
	b := openTab(t, url+"/")
	call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "forced-colors", Value: "active"}}})
	b.await(`matchMedia("(forced-colors: active)").matches`)
	const keys = `[...document.querySelectorAll("figure")].map(f => [...f.querySelectorAll(".key")].map(k => getComputedStyle(k).color))`
	if !eval[bool](b, keys+`.some(f => f.length > 1) && `+keys+`.every(f => new Set(f).size === f.length)`) {
		t.Errorf("lines of charts have the colours %s", eval[string](b, `JSON.stringify(`+keys+`)`))
	}
	if nameless := eval[string](b, `[...document.querySelectorAll("table.rows:not([aria-label]), .copy:not([aria-label]), article:not([aria-labelledby])")].map(e => e.outerHTML.slice(0, 80)).join("\n")`); nameless != "" {
		t.Errorf("without a name:\n%s", nameless)
	}
	b.quiet(url)
}

// The first screen answers: what needs somebody, and the numbers, however many cards there are. A folded one says the rest on
// request, and stays as the reader left it while the page goes on.
func TestBrowserFirstScreen(t *testing.T) {
	since := time.Now().Add(-time.Hour)
	need := func(code trouble.Code, subject string, urgent bool) service.Need {
		return service.Need{
			Code: code, Urgent: urgent, Subject: subject, Since: since, See: "/explain/" + string(code), What: subject + " is as it should not be",
			Why:   "write to table \"sales.stock\", topic \"shop.public.stock\" partition 0 offset 88120: it violates check constraint \"stock_price_check\" (SQLSTATE 23514), column \"price\"",
			Means: "1,204 records wait in Kafka; all other tables go on; the source is complete only up to 21:07:51 UTC",
			Do:    []service.Step{{Note: "mend it"}, {Command: "sink resume " + subject}, {Command: "sink resume " + subject + " --park", Note: "or put the row aside"}},
		}
	}
	var beat atomic.Int64
	url := serve(t, func() View {
		v := full("shop")
		v.Headline = fmt.Sprintf("shop needs you %d", beat.Load())
		v.Needs = []service.Need{
			need("constraint-violation", "shop/public.stock", true), need("parked", "shop/public.orders", false), need("parked", "shop/public.orders", false),
			need("parked", "shop/public.payment", false), need("missing-index", "sales.orders", false),
		}
		return v
	}, testHistory())
	b := openTab(t, url+"/")
	call(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: 1280, Height: 800, DeviceScaleFactor: 1})
	b.await(`document.querySelector("#live")?.textContent.startsWith("live ")`)
	if bottom := eval[float64](b, `document.querySelector(".tiles").getBoundingClientRect().bottom`); bottom > 800 {
		t.Errorf("the numbers end %.0f px below the top of a screen of 800", bottom)
	}
	eval[bool](b, `document.querySelectorAll(".need summary")[1].click(); true`)
	const copies = `[...document.querySelectorAll(".need .copy")].filter(c => c.checkVisibility({contentVisibilityAuto: true, visibilityProperty: true})).length`
	b.await(copies + ` === 4`) // two of the urgent one, two of that
	beat.Store(1)
	b.await(`document.querySelector("h1").textContent.includes("needs you 1") && ` + copies + ` === 4`)
	for range 2 {
		b.run(chromedp.KeyEvent("n"))
	}
	b.await(`document.activeElement === document.querySelectorAll(".need")[1] && document.activeElement.querySelector("details").open`)
	b.quiet(url)
}

// faults are what axe finds on the page that is hard for somebody to use.
func (b *tab) faults(axe string) []string {
	eval[bool](b, axe)
	return eval[[]string](b, `axe.run(document, {resultTypes: ["violations"]}).then(r => r.violations.filter(v => v.impact === "serious" || v.impact === "critical")
		.map(v => v.id + ": " + v.nodes.map(n => n.html.slice(0, 120) + " " + n.failureSummary).join("\n  ")))`)
}

func axeScript(t *testing.T) string {
	t.Helper()
	file, err := os.Open("testdata/axe.min.js.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	z, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return string(text) + ";true"
}
