package page

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html/template"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
)

// Config says what a page shows.
type Config struct {
	View  func() View                         // safe to call at any time by many goroutines
	Table func(name string) (v View, ok bool) // of one table alone; so is this
	// Tail gives the changes of a table, by its name, as they come, until ctx ends or each returns an error. What comes once it has
	// called ready is not missed.
	Tail    func(ctx context.Context, name string, ready func(), each func(Change) error) error
	History *History
	Log     *slog.Logger
}

// Handle adds the pages to a server: /, /table/NAME, what they are made of, /explain/CODE and the streams that renew it.
func Handle(server *service.Server, cfg Config) {
	p := &pages{cfg: cfg, boot: hex.EncodeToString(fmt.Append(nil, time.Now().UnixNano())), done: map[string]rendered{}}
	for pattern, handler := range map[string]http.HandlerFunc{
		"GET /{$}": p.whole, "GET /table/{name...}": p.table, "GET /stream": server.Stream(p.stream), "GET /changes": server.Stream(p.changes), "GET /series": p.series, "GET /explain/{code}": p.explain, "GET /icon.svg": icon, "GET /favicon.ico": icon,
		"GET /static/{name}": static,
	} {
		server.Handle(pattern, secured(handler))
	}
}

// Main gives what changes of a page, as HTML: its <main>, for the query of its address.
func (cfg Config) Main(query string) ([]byte, error) {
	r := (&pages{cfg: cfg, boot: "boot", done: map[string]rendered{}}).render(query)
	return r.main, r.err
}

// policy lets a page load what the service itself gives, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

func secured(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", policy)
		next(w, r)
	})
}

type pages struct {
	cfg   Config
	boot  string
	tails atomic.Int32

	mu   sync.Mutex
	done map[string]rendered // by query
}

// rendered is a page of one moment: whoever asks the same within a second gets the same.
type rendered struct {
	at          time.Time
	whole, main []byte
	missing     bool // there is no such table
	err         error
}

const (
	renewEvery = time.Second
	// maxRendered bounds the pages that are kept for others.
	maxRendered = 64
)

func (p *pages) render(raw string) rendered {
	q := parseQuery(raw)
	key := q.values.Encode()
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if r, ok := p.done[key]; ok && now.Sub(r.at) < renewEvery*9/10 {
		return r
	}
	if len(p.done) >= maxRendered {
		clear(p.done)
	}
	s := p.shown(q, now)
	r := rendered{at: now, missing: s.missing}
	if r.main, r.err = render("main.html", s); r.err == nil {
		s.Main = template.HTML(r.main) //nolint:gosec // a template has made it
		r.whole, r.err = render("layout.html", s)
	}
	if r.err != nil {
		p.cfg.Log.Error("show status", service.Err(r.err))
	}
	p.done[key] = r
	return r
}

func (p *pages) shown(q query, now time.Time) *shown {
	s := &shown{Now: now, Boot: p.boot, Day: q.get("window") == "24h", query: q, tails: p.cfg.Tail != nil}
	if name := q.get("table"); name != "" {
		s.View, s.missing = p.tableView(name)
		s.Hour, s.Marks = s.View.Hour.shown(now, s.Events)
	} else {
		s.View = p.cfg.View()
		s.Since, s.Charts, s.Marks = p.cfg.History.shown(s.Day)
	}
	s.Whole, s.More = cards(s.Needs)
	for _, t := range s.View.Tables {
		s.Tables = append(s.Tables, q.apply(t))
	}
	for i := range s.Needs {
		if s.Needs[i].Urgent {
			s.Urgent++
		}
	}
	return s
}

// tableView is what the page of a table shows, also of one that is not there.
func (p *pages) tableView(name string) (v View, missing bool) {
	if p.cfg.Table != nil {
		if v, ok := p.cfg.Table(name); ok {
			v.Table = name
			return v, false
		}
	}
	all := p.cfg.View()
	v = View{Program: all.Program, Name: all.Name, About: all.About, Build: all.Build, Table: name, State: service.StateLeftOut}
	v.Headline = fmt.Sprintf("There is no table %q here.", name)
	for _, t := range all.Tables {
		if !t.Pages {
			continue
		}
		if near := nearest(strings.ToLower(name), t.Rows); near != "" {
			v.Near = near
		}
		v.Headline = fmt.Sprintf("There is no table %q among %s.", name, service.Plural(len(t.Rows), "table"))
	}
	return v, true
}

func (p *pages) table(w http.ResponseWriter, r *http.Request) {
	p.answer(w, r, url.Values{"table": {r.PathValue("name")}}.Encode())
}

func (p *pages) whole(w http.ResponseWriter, r *http.Request) {
	q := parseQuery(r.URL.RawQuery)
	q.values.Del("table") // it has a page of its own
	p.answer(w, r, q.values.Encode())
}

func (p *pages) answer(w http.ResponseWriter, r *http.Request, query string) {
	done := p.render(query)
	if done.err != nil {
		http.Error(w, "the page cannot be shown; see the log, and /status", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	status := http.StatusOK
	if done.missing {
		status = http.StatusNotFound
	}
	give(w, r, status, done.whole)
}

// give answers with data, packed for whoever takes that.
func give(w http.ResponseWriter, r *http.Request, status int, data []byte) {
	if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.WriteHeader(status)
		_, _ = w.Write(data)
		return
	}
	w.Header().Set("Content-Encoding", "gzip")
	w.WriteHeader(status)
	z := gzip.NewWriter(w)
	_, _ = z.Write(data)
	_ = z.Close() // the reader has gone
}

// stream renews a page that is looked at: <main> whenever it has changed, and the newest points of the charts.
func (p *pages) stream(r *http.Request, send func(event string, data []byte) error) {
	q := parseQuery(r.URL.RawQuery)
	day, charts := q.get("window") == "24h", q.get("table") == ""
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	var last []byte
	var points time.Time
	for err := error(nil); err == nil; {
		done := p.render(r.URL.RawQuery)
		if done.err == nil && !bytes.Equal(done.main, last) {
			last = done.main
			err = send("main", done.main)
		}
		if err == nil && charts && time.Since(points) >= hourStep {
			points = time.Now()
			err = send("series", p.columns(day))
		}
		if err == nil {
			err = send("now", []byte(time.Now().UTC().Format(time.RFC3339)))
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

func (p *pages) series(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(append(p.columns(parseQuery(r.URL.RawQuery).get("window") == "24h"), '\n'))
}

// chartColumns is a chart as uPlot wants it.
type chartColumns struct {
	Title string       `json:"title"`
	Kind  Kind         `json:"kind"`
	Top   float64      `json:"top"`  // the greatest value that is to be seen
	Unit  string       `json:"unit"` // in which its values are told
	Per   float64      `json:"per"`  // how many of kind one of unit is
	Lines []string     `json:"lines"`
	Limit []bool       `json:"limit"`
	Data  [][]*float64 `json:"data"` // of each line; null where it is not known
}

func (p *pages) columns(day bool) []byte {
	since, times, columns, marks := p.cfg.History.read(day)
	answer := struct {
		Since  time.Time      `json:"since,omitzero"`
		Times  []int64        `json:"times"`
		Charts []chartColumns `json:"charts"`
		Marks  []Mark         `json:"marks"`
	}{Since: since.UTC(), Times: append([]int64{}, times...), Charts: []chartColumns{}, Marks: append([]Mark{}, marks...)}
	at := 0
	for _, c := range p.cfg.History.charts {
		one := chartColumns{Title: c.Title, Kind: c.Kind, Top: c.top(columns[at : at+len(c.Lines)])}
		in := c.Kind.scale(one.Top)
		one.Unit, one.Per = in.unit, in.per
		for _, line := range c.Lines {
			data := make([]*float64, len(times))
			for i, v := range columns[at] {
				if !math.IsNaN(v) && !math.IsInf(v, 0) {
					data[i] = &v
				}
			}
			one.Lines, one.Limit, one.Data = append(one.Lines, line.Name), append(one.Limit, line.Limit), append(one.Data, data)
			at++
		}
		answer.Charts = append(answer.Charts, one)
	}
	b, err := json.Marshal(answer)
	if err != nil {
		p.cfg.Log.Error("marshal series", service.Err(err))
		return []byte("{}")
	}
	return b
}

// icon is a disc in the colour of the state.
func icon(w http.ResponseWriter, r *http.Request) {
	colour, ok := map[string]string{"red": "#b3261e", "amber": "#b87800", "blue": "#0a5fc2", "green": "#1a7f37"}[r.URL.Query().Get("s")]
	if !ok {
		colour = "#57606a"
	}
	w.Header().Set("Content-Type", "image/svg+xml")
	w.Header().Set("Cache-Control", "max-age=86400")
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="7" fill="%s"/></svg>`, colour)
}

//go:embed static/*.js static/*.css
var staticFiles embed.FS

// assets are the static files by their address: a part of their hash is in it, so that browsers may keep them for ever.
var assets, assetNames = func() (byName map[string][]byte, names map[string]string) {
	byName, names = map[string][]byte{}, map[string]string{}
	list, err := staticFiles.ReadDir("static")
	for _, entry := range list {
		var data []byte
		if data, err = staticFiles.ReadFile("static/" + entry.Name()); err != nil {
			break
		}
		sum := sha256.Sum256(data)
		ext := path.Ext(entry.Name())
		name := strings.TrimSuffix(entry.Name(), ext) + "." + hex.EncodeToString(sum[:6]) + ext
		byName[name], names[entry.Name()] = data, "/static/"+name
	}
	if err != nil {
		panic(err) // what is embedded can be read
	}
	return byName, names
}()

func asset(name string) string { return assetNames[name] }

func static(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	data, ok := assets[name]
	if !ok {
		http.NotFound(w, r)
		return
	}
	kind := "text/javascript; charset=utf-8"
	if path.Ext(name) == ".css" {
		kind = "text/css; charset=utf-8"
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	give(w, r, http.StatusOK, data)
}
