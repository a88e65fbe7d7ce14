// Package schemaregistry is a small schema registry that speaks Confluent's protocol
// (https://docs.confluent.io/platform/current/schema-registry/develop/api.html), for Avro schemas, kept in one file.
//
// It is for the demo, for installations on one machine and for tests. It has no deletion, no references between
// schemas, no other formats, one process. What a schema means for our records is the business of schema/record; package registry
// is the client of this and of any other registry.
package schemaregistry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/tributary-cdc/tributary/pkg/internal/process"
)

// Registry is a registry and its HTTP handler. It is safe for concurrent use.
//
// What it answers is durable: an entry is written to the log and synced before anybody learns of it. So an id, once
// given, names the same schema for ever.
type Registry struct {
	handler http.Handler
	unlock  func()

	mu       sync.RWMutex
	log      *os.File
	size     int64 // of the log up to its last whole entry
	broken   error // why nothing can be written any more
	schemas  []registered
	ids      map[string]int   // compact text -> id
	subjects map[string][]int // id of version n at n-1
	levels   map[string]level // of a subject; "" is the registry's
}

// registered is the schema with id n at n-1.
type registered struct {
	text   string
	parsed *schema
}

// entry is one line of the log: a version of a subject, or a compatibility level.
type entry struct {
	Subject string `json:"subject"`
	Version int    `json:"version,omitempty"`
	ID      int    `json:"id,omitempty"`
	Schema  string `json:"schema,omitempty"` // compact JSON; given again where the id is not new
	Level   level  `json:"level,omitempty"`  // of the subject, or of the registry if it is ""
}

// errClosed says that the registry was closed.
var errClosed = errors.New("schema registry is closed")

// Open opens the registry whose log is the file path; it is made if it does not exist. A last entry that was not
// wholly written, by a process that was killed, is dropped: nobody was told of it.
func Open(path string) (_ *Registry, err error) {
	r := &Registry{ids: map[string]int{}, subjects: map[string][]int{}, levels: map[string]level{"": none}}
	r.handler = r.routes()
	if r.unlock, err = process.TryLock(path + ".lock"); err != nil {
		return nil, fmt.Errorf("open schema registry %q: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open schema registry %q: %w", path, err), r.Close())
		}
	}()
	if r.log, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644); err != nil {
		return nil, err
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if err := r.replay(); err != nil {
		return nil, err
	}
	return r, nil
}

// Close closes the log. Requests get errClosed's text from then on.
func (r *Registry) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if errors.Is(r.broken, errClosed) {
		return nil
	}
	r.broken = errClosed
	var err error
	if r.log != nil {
		err = r.log.Close()
	}
	r.unlock()
	return err
}

// ServeHTTP answers a request of Confluent's protocol.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) { r.handler.ServeHTTP(w, req) }

// replay reads the log. A crash while the last entry was written may have left any part of it, so one that cannot be
// read is dropped there, and is damage anywhere else.
func (r *Registry) replay() error {
	b, err := io.ReadAll(r.log)
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	for n := 1; len(b) > 0; n++ {
		line, rest, whole := bytes.Cut(b, []byte{'\n'})
		e, err := decodeEntry(line)
		if !whole || err != nil {
			if len(bytes.Trim(rest, "\x00")) > 0 {
				return fmt.Errorf("log line %d is damaged: %w", n, err)
			}
			break
		}
		if err := r.apply(e); err != nil {
			return fmt.Errorf("log line %d: %w", n, err)
		}
		r.size += int64(len(line)) + 1
		b = rest
	}
	return r.truncate()
}

func decodeEntry(line []byte) (e entry, err error) {
	err = json.Unmarshal(line, &e)
	return e, err
}

// truncate cuts the log to its whole entries and goes to its end.
func (r *Registry) truncate() error {
	if err := r.log.Truncate(r.size); err != nil {
		return fmt.Errorf("truncate log: %w", err)
	}
	if _, err := r.log.Seek(r.size, io.SeekStart); err != nil {
		return fmt.Errorf("truncate log: %w", err)
	}
	return nil
}

// write makes an entry durable, then visible. r.mu is held.
func (r *Registry) write(e entry) error {
	if r.broken != nil {
		return r.broken
	}
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode log entry: %w", err)
	}
	line = append(line, '\n')
	_, err = r.log.Write(line)
	if err == nil {
		err = r.log.Sync()
	}
	if err != nil {
		// What of it reached the disk is unknown, and after a failed sync so is what later ones say. Nobody was told
		// of the entry; taking it back and refusing the next ones keeps it so.
		r.broken = fmt.Errorf("write log: %w", err)
		return errors.Join(r.broken, r.truncate())
	}
	r.size += int64(len(line))
	return r.apply(e)
}

// apply changes the state as an entry says. It fails only where entries contradict each other.
func (r *Registry) apply(e entry) error {
	if e.Level != "" {
		if !e.Level.valid() {
			return fmt.Errorf("unknown compatibility level %q", e.Level)
		}
		r.levels[e.Subject] = e.Level
		return nil
	}
	if e.ID == len(r.schemas)+1 {
		parsed, err := parse(e.Schema)
		if err != nil {
			return err
		}
		r.schemas = append(r.schemas, registered{text: e.Schema, parsed: parsed})
		r.ids[e.Schema] = e.ID
	}
	if r.ids[e.Schema] != e.ID || e.Version != len(r.subjects[e.Subject])+1 {
		return fmt.Errorf("version %d of subject %q with id %d does not follow from what is before it",
			e.Version, e.Subject, e.ID)
	}
	r.subjects[e.Subject] = append(r.subjects[e.Subject], e.ID)
	return nil
}

// register gives the id of a schema under a subject, adding a version if the subject does not have it.
func (r *Registry) register(subject, text string) (id int, err error) {
	text, parsed, err := compact(text)
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	id = r.ids[text]
	if r.versionOf(subject, id) != 0 {
		return id, nil
	}
	if faults := r.incompatible(subject, r.level(subject), parsed); len(faults) > 0 {
		return 0, failf(409, "Schema being registered is incompatible with an earlier schema for subject %q: %s",
			subject, faults[0])
	}
	if id == 0 {
		id = len(r.schemas) + 1
	}
	e := entry{Subject: subject, Version: len(r.subjects[subject]) + 1, ID: id, Schema: text}
	if err := r.write(e); err != nil {
		return 0, err
	}
	return id, nil
}

// versionOf gives the version of subject that has the schema id, 0 if none has.
func (r *Registry) versionOf(subject string, id int) int {
	return slices.Index(r.subjects[subject], id) + 1
}

func (r *Registry) level(subject string) level {
	if l, ok := r.levels[subject]; ok {
		return l
	}
	return r.levels[""]
}

// incompatible says why next cannot become subject's next version at a level; nothing if it can.
func (r *Registry) incompatible(subject string, l level, next *schema) []string {
	versions := r.subjects[subject]
	if !l.transitive() && len(versions) > 1 {
		versions = versions[len(versions)-1:]
	}
	var faults []string
	for _, id := range versions {
		faults = append(faults, l.check(next, r.schemas[id-1].parsed)...)
	}
	return faults
}

// compact brings a schema to the form by which it is known: its JSON without white space.
func compact(text string) (string, *schema, error) {
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(text)); err != nil {
		return "", nil, failf(42201, "Invalid schema: %v", err)
	}
	parsed, err := parse(b.String())
	if err != nil {
		return "", nil, failf(42201, "Invalid schema: %v", err)
	}
	return b.String(), parsed, nil
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
