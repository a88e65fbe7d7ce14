// Package browsertest looks at pages with the browser of the machine, for the pictures of the documentation.
package browsertest

import (
	"context"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/tributary-cdc/tributary/pkg/service"
)

// Chromium gives the browser's program; where there is none the test is skipped.
func Chromium(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			return found
		}
	}
	t.Skip("there is no chromium on this machine: the page is not looked at in a browser")
	return ""
}

// Open opens a page, and gives what it says by then, as a reader has it, without loading it anew.
func Open(t testing.TB, url string) (says func() string) {
	t.Helper()
	tab := open(t, Chromium(t))
	if err := chromedp.Do(tab, chromedp.Navigate(url)); err != nil {
		t.Fatalf("open the page: %v", err)
	}
	return func() string {
		text, err := chromedp.Run(tab, chromedp.Evaluate[string](`document.title + "\n" + document.body.innerText`))
		if err != nil {
			return "" // it is being loaded
		}
		return text
	}
}

// open starts the browser for one test.
func open(t testing.TB, program string) context.Context {
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.WSURLReadTimeout(time.Minute))
	tab, cancel := chromedp.NewExecAllocator(t.Context(), opts...)
	t.Cleanup(cancel)
	tab, cancel = chromedp.NewContext(tab)
	t.Cleanup(cancel)
	tab, cancel = context.WithTimeout(tab, 10*time.Minute)
	t.Cleanup(cancel)
	return tab
}

// Waver gives what a number that should be 1 was so many steps of ten seconds ago, within a part of it: a line of its own for
// each name, the same in each run. Now it is 1, so that a chart made of it ends with what the tile beside it says.
func Waver(name string, part float64, ago int) float64 {
	seed := fnv.New64()
	_, _ = seed.Write([]byte(name)) // it never fails
	toss := func(n int) float64 {
		if n == 0 {
			return 0
		}
		return 2*rand.New(rand.NewPCG(seed.Sum64(), uint64(n))).Float64() - 1 //nolint:gosec // the same each time
	}
	const slow = 40 // steps
	from, of := ago/slow, float64(ago%slow)/slow
	return 1 + part*(0.7*((1-of)*toss(slow*from)+of*toss(slow*(from+1)))+0.3*toss(ago))
}

// Agree holds charts against tiles: what each says of now, by its title, is what the tile says.
func Agree(t testing.TB, html string, tiles map[string]string) {
	t.Helper()
	for chart, tile := range tiles {
		_, now, _ := strings.Cut(html, "<figcaption>"+chart+". <b>now ")
		now, _, _ = strings.Cut(now, "<")
		_, said, _ := strings.Cut(html, "<dt>"+tile+"</dt>")
		said, _, _ = strings.Cut(said, "</div>")
		if now == "" || !strings.Contains(said, now) {
			t.Errorf("the chart %s says %q of now, the tile %s:\n%s", chart, now, tile, said)
		}
	}
}

// Pictures runs a server and writes what is seen of its page, down to the end of what the selector names, in light and in dark, to
// file-light.png and file-dark.png.
func Pictures(t testing.TB, server *service.Server, selector, file string) {
	t.Helper()
	program := Chromium(t)
	if err := server.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	tab := open(t, program)
	for _, scheme := range []string{"light", "dark"} {
		err := chromedp.Do(tab, set(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}),
			size(900), chromedp.Navigate(server.URL()+"/"))
		for drawn := false; err == nil && !drawn; {
			drawn, err = chromedp.Run(tab, chromedp.Evaluate[bool](`document.querySelectorAll(".plot .uplot").length === document.querySelectorAll(".plot").length`))
		}
		var height int64
		if err == nil {
			height, err = chromedp.Run(tab, chromedp.Evaluate[int64](`Math.ceil(document.querySelector("`+selector+`").getBoundingClientRect().bottom) + 16`))
		}
		if err == nil {
			err = chromedp.Do(tab, size(height))
		}
		var picture []byte
		if err == nil {
			picture, err = chromedp.Run(tab, chromedp.CaptureScreenshot())
		}
		if err == nil {
			err = os.WriteFile(file+"-"+scheme+".png", picture, 0o644) //nolint:gosec // documentation is for everybody
		}
		if err != nil {
			t.Fatalf("take a picture of the page: %v", err)
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func size(height int64) chromedp.Action[chromedp.Void] {
	return set(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: 1280, Height: height, DeviceScaleFactor: 1})
}

func set[P, R any](command cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return func(ctx context.Context, t *chromedp.Target) (v chromedp.Void, err error) {
		_, err = cdp.Call(ctx, t, command, params)
		return v, err
	}
}
