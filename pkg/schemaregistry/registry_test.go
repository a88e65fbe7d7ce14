package schemaregistry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/tributary-cdc/tributary/pkg/internal/process"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, path string) *Registry {
	t.Helper()
	r, err := Open(path)
	must(t, err)
	t.Cleanup(func() { must(t, r.Close()) })
	return r
}

// serve gives a client of r.
func serve(t *testing.T, r *Registry) (client *sr.Client, url string) {
	t.Helper()
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	client, err := sr.NewClient(sr.URLs(server.URL))
	must(t, err)
	return client, server.URL
}

func record(fields ...string) sr.Schema {
	return sr.Schema{Schema: `{"type":"record","name":"r","fields":[` + strings.Join(fields, ",") + `]}`}
}

const a, b, c = `{"name":"a","type":"int"}`, `{"name":"b","type":"string","default":""}`, `{"name":"c","type":"string"}`

func TestProtocol(t *testing.T) {
	client, _ := serve(t, open(t, filepath.Join(t.TempDir(), "log")))
	ctx := t.Context()
	const subject = "shop.public.a_x002F_b/c%-value"

	first, err := client.CreateSchema(ctx, subject, record(a))
	must(t, err)
	second, err := client.CreateSchema(ctx, subject, record(a, c))
	must(t, err)
	if first.ID != 1 || first.Version != 1 || second.ID != 2 || second.Version != 2 {
		t.Fatalf("created %+v and %+v", first, second)
	}

	// The same schema, written otherwise, is neither a new version nor, elsewhere, a new id.
	spaced := sr.Schema{Schema: strings.ReplaceAll(record(a).Schema, ":", " :\n\t")}
	again, err := client.CreateSchema(ctx, subject, spaced)
	must(t, err)
	elsewhere, err := client.CreateSchema(ctx, "other", spaced)
	must(t, err)
	if again.ID != 1 || again.Version != 1 || elsewhere.ID != 1 || elsewhere.Version != 1 {
		t.Errorf("created again %+v and elsewhere %+v", again, elsewhere)
	}

	found, err := client.LookupSchema(ctx, subject, record(a, c))
	must(t, err)
	if found.ID != 2 || found.Version != 2 || found.Subject != subject || found.Schema.Schema != record(a, c).Schema {
		t.Errorf("look-up found %+v", found)
	}
	byID, err := client.SchemaByID(ctx, 2)
	must(t, err)
	if byID.Schema != record(a, c).Schema {
		t.Errorf("id 2 is %s", byID.Schema)
	}
	latest, err := client.SchemaByVersion(ctx, subject, -1)
	must(t, err)
	if latest.ID != 2 || latest.Version != 2 {
		t.Errorf("latest is %+v", latest)
	}
	versions, err := client.SubjectVersions(ctx, subject)
	must(t, err)
	if fmt.Sprint(versions) != "[1 2]" {
		t.Errorf("versions %v", versions)
	}
	subjects, err := client.Subjects(ctx)
	must(t, err)
	if fmt.Sprint(subjects) != "[other "+subject+"]" {
		t.Errorf("subjects %q", subjects)
	}
	types, err := client.SupportedTypes(ctx)
	must(t, err)
	if len(types) != 1 || types[0] != sr.TypeAvro {
		t.Errorf("types %v", types)
	}
}

func TestFailures(t *testing.T) {
	client, url := serve(t, open(t, filepath.Join(t.TempDir(), "log")))
	ctx := t.Context()
	_, err := client.CreateSchema(ctx, "s", record(a))
	must(t, err)

	for name, test := range map[string]struct {
		code int
		try  func() error
	}{
		"unknown subject": {40401, func() error { _, err := client.SubjectVersions(ctx, "x"); return err }},
		"latest of it":    {40401, func() error { _, err := client.SchemaByVersion(ctx, "x", -1); return err }},
		"look-up in it":   {40401, func() error { _, err := client.LookupSchema(ctx, "x", record(a)); return err }},
		"unknown version": {40402, func() error { _, err := client.SchemaByVersion(ctx, "s", 2); return err }},
		"unknown schema":  {40403, func() error { _, err := client.LookupSchema(ctx, "s", record(c)); return err }},
		"unknown id":      {40403, func() error { _, err := client.SchemaByID(ctx, 7); return err }},
		"invalid schema":  {42201, func() error { _, err := client.CreateSchema(ctx, "s", sr.Schema{Schema: `"nix"`}); return err }},
		"invalid JSON":    {42201, func() error { _, err := client.CreateSchema(ctx, "s", sr.Schema{Schema: `{`}); return err }},
		"other type": {42201, func() error {
			_, err := client.CreateSchema(ctx, "s", sr.Schema{Schema: `{}`, Type: sr.TypeJSON})
			return err
		}},
		"own id":         {42205, func() error { _, err := client.RegisterSchema(ctx, "s", record(c), 9, 1); return err }},
		"invalid number": {42202, func() error { return client.Do(ctx, "GET", "/subjects/s/versions/zero", nil, nil) }},
		"invalid level": {42203, func() error {
			return client.Do(ctx, "PUT", "/config/s", map[string]string{"compatibility": "SOME"}, nil)
		}},
		"no level": {40408, func() error { return client.Do(ctx, "GET", "/config/s", nil, nil) }},
		"no path":  {404, func() error { return client.Do(ctx, "GET", "/nothing", nil, nil) }},
	} {
		var answer *sr.ResponseError
		if err := test.try(); !errors.As(err, &answer) || answer.ErrorCode != test.code {
			t.Errorf("%s: %v, want code %d", name, err, test.code)
		}
	}

	response, err := http.Get(url + "/subjects/x/versions/latest")
	must(t, err)
	body, err := io.ReadAll(response.Body)
	must(t, errors.Join(err, response.Body.Close()))
	if response.StatusCode != 404 || string(body) != `{"error_code":40401,"message":"Subject 'x' not found."}`+"\n" {
		t.Errorf("status %d, body %s", response.StatusCode, body)
	}
}

func TestCompatibilityLevels(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	registry := open(t, path)
	client, _ := serve(t, registry)
	ctx := t.Context()
	_, err := client.CreateSchema(ctx, "s", record(a))
	must(t, err)

	// A new registry refuses nothing; with BACKWARD a field without default is refused.
	checked, err := client.CheckCompatibility(ctx, "s", -1, record(a, c))
	must(t, err)
	if !checked.Is {
		t.Errorf("level NONE: %v", checked.Messages)
	}
	set := client.SetCompatibility(ctx, sr.SetCompatibility{Level: sr.CompatBackward}, "s")
	must(t, set[0].Err)
	checked, err = client.CheckCompatibility(sr.WithParams(ctx, sr.Verbose), "s", -1, record(a, c))
	must(t, err)
	if checked.Is || len(checked.Messages) != 1 || !strings.Contains(checked.Messages[0], "/c") {
		t.Errorf("level BACKWARD: %+v", checked)
	}
	var answer *sr.ResponseError
	if _, err := client.CreateSchema(ctx, "s", record(a, c)); !errors.As(err, &answer) || answer.StatusCode != 409 {
		t.Errorf("incompatible schema: %v", err)
	}
	_, err = client.CreateSchema(ctx, "s", record(a, b))
	must(t, err)
	_, err = client.CreateSchema(ctx, "t", record(a))
	must(t, err)
	_, err = client.CreateSchema(ctx, "t", record(c)) // not this subject's level
	must(t, err)

	// TRANSITIVE looks at all versions: s now reads b from the last one, but not from the first.
	withB := record(a, `{"name":"b","type":"string"}`)
	checked, err = client.CheckCompatibility(ctx, "s", -1, withB)
	must(t, err)
	if !checked.Is {
		t.Errorf("the last version is compatible, but: %v", checked.Messages)
	}
	must(t, client.SetCompatibility(ctx, sr.SetCompatibility{Level: sr.CompatBackwardTransitive})[0].Err)
	must(t, client.SetCompatibility(ctx, sr.SetCompatibility{Level: sr.CompatBackwardTransitive}, "s")[0].Err)
	if _, err := client.CreateSchema(ctx, "s", withB); !errors.As(err, &answer) || answer.StatusCode != 409 {
		t.Errorf("schema incompatible with the first version: %v", err)
	}

	// Levels are kept.
	must(t, registry.Close())
	client, _ = serve(t, open(t, path))
	for _, level := range client.Compatibility(ctx, "s", "") {
		if must(t, level.Err); level.Level != sr.CompatBackwardTransitive {
			t.Errorf("level of %q after restart is %v", level.Subject, level.Level)
		}
	}
	if got := client.Compatibility(sr.WithParams(ctx, sr.DefaultToGlobal), "t"); got[0].Level != sr.CompatBackwardTransitive {
		t.Errorf("level of t is %+v", got)
	}
}

// However much of the last entry reached the disk before a kill: what was answered is there, with its id, and the
// next id is the next number.
func TestReplayOfATornLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	registry, err := Open(path)
	must(t, err)
	for i, schema := range []sr.Schema{record(a), record(b), record(c)} {
		id, err := registry.register(fmt.Sprint("s", i), schema.Schema)
		must(t, err)
		if id != i+1 {
			t.Fatalf("id %d, want %d", id, i+1)
		}
	}
	must(t, registry.Close())
	whole, err := os.ReadFile(path)
	must(t, err)
	lastEntry := strings.LastIndexByte(string(whole[:len(whole)-1]), '\n') + 1

	for cut := lastEntry; cut <= len(whole); cut++ {
		for _, tail := range []string{"", "\x00\x00\x00", "\x00\n"} {
			must(t, os.WriteFile(path, append(whole[:cut:cut], tail...), 0o644))
			registry, err := Open(path)
			if err != nil {
				t.Fatalf("cut at %d, then %q: %v", cut, tail, err)
			}
			want := 3 // given again
			if cut == len(whole) {
				want = 4
			}
			id, err := registry.register("new", record(a, b, c).Schema)
			must(t, err)
			if id != want || registry.ids[record(b).Schema] != 2 {
				t.Errorf("cut at %d, then %q: new id %d, want %d; ids %v", cut, tail, id, want, registry.ids)
			}
			must(t, registry.Close())
			registry, err = Open(path)
			must(t, err)
			if registry.ids[record(a, b, c).Schema] != want {
				t.Errorf("cut at %d, then %q: id after restart %v, want %d", cut, tail, registry.ids, want)
			}
			must(t, registry.Close())
		}
	}
}

func TestDamageIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for _, log := range []string{
		"x\n" + `{"subject":"s","version":1,"id":1,"schema":"\"int\""}` + "\n",
		`{"subject":"s","version":1,"id":2,"schema":"\"int\""}` + "\n",
		`{"subject":"s","version":2,"id":1,"schema":"\"int\""}` + "\n",
		`{"subject":"s","version":1,"id":1,"schema":"\"nix\""}` + "\n",
		`{"subject":"s","level":"SOME"}` + "\n",
	} {
		must(t, os.WriteFile(path, []byte(log), 0o644))
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "line 1") {
			t.Errorf("opened %q: %v", log, err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != log {
			t.Errorf("a refused log was changed: %q", b)
		}
	}
}

func TestOneProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	open(t, path)
	if _, err := Open(path); !errors.Is(err, process.ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
}

// After a failed write nothing is told and nothing more is taken.
func TestWriteFails(t *testing.T) {
	registry := open(t, filepath.Join(t.TempDir(), "log"))
	_, err := registry.register("s", record(a).Schema)
	must(t, err)
	must(t, registry.log.Close())
	client, _ := serve(t, registry)
	for range 2 {
		var answer *sr.ResponseError
		_, err = client.CreateSchema(t.Context(), "s", record(b))
		if !errors.As(err, &answer) || answer.ErrorCode != 50001 {
			t.Errorf("create on a broken log: %v", err)
		}
	}
	if versions, err := client.SubjectVersions(t.Context(), "s"); err != nil || len(versions) != 1 {
		t.Errorf("versions %v, %v", versions, err)
	}
	registry.broken = errClosed // its log is closed already
	registry.unlock()
}

func TestConcurrentRegistration(t *testing.T) {
	client, _ := serve(t, open(t, filepath.Join(t.TempDir(), "log")))
	var wg sync.WaitGroup
	ids := make([]int, 16)
	for i := range ids {
		wg.Go(func() {
			id, err := client.RegisterSchema(context.Background(), fmt.Sprint("s", i%2), record(a), -1, -1)
			if err != nil {
				t.Error(err)
			}
			ids[i] = id
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != 1 {
			t.Fatalf("one schema has ids %v", ids)
		}
	}
}
