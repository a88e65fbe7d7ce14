package schemaregistry

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
)

const (
	contentType     = "application/vnd.schemaregistry.v1+json"
	maxRequestBytes = 16 << 20 // a table of Postgres's 1600 columns has a schema below 1 MiB
)

// failure is an answer other than success. Its code is Confluent's: the HTTP status, then two digits of its own.
type failure struct {
	code    int
	message string
}

func (f failure) Error() string { return f.message }

func (f failure) status() int {
	status := f.code
	for status > 999 {
		status /= 10
	}
	return status
}

func failf(code int, format string, args ...any) error {
	return failure{code: code, message: fmt.Sprintf(format, args...)}
}

func subjectNotFound(subject string) error { return failf(40401, "Subject '%s' not found.", subject) }

func versionNotFound(v string) error { return failf(40402, "Version %s not found.", v) }

var errSchemaNotFound = failure{40403, "Schema not found"}

func (r *Registry) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(*http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, req *http.Request) {
			req.Body = http.MaxBytesReader(w, req.Body, maxRequestBytes)
			body, err := f(req)
			answer(w, body, err)
		})
	}
	handle("GET /{$}", func(*http.Request) (any, error) { return struct{}{}, nil })
	handle("GET /schemas/types", func(*http.Request) (any, error) { return []string{"AVRO"}, nil })
	handle("GET /schemas/ids/{id}", r.getSchema)
	handle("GET /schemas/ids/{id}/versions", r.getUsages)
	handle("GET /subjects", r.getSubjects)
	handle("POST /subjects/{subject}", r.postLookup)
	handle("GET /subjects/{subject}/versions", r.getVersions)
	handle("POST /subjects/{subject}/versions", r.postVersion)
	handle("GET /subjects/{subject}/versions/{version}", r.getVersion)
	handle("POST /compatibility/subjects/{subject}/versions/{version}", r.postCompatibility)
	handle("GET /config", r.getConfig)
	handle("PUT /config", r.putConfig)
	handle("GET /config/{subject}", r.getConfig)
	handle("PUT /config/{subject}", r.putConfig)
	handle("/", func(*http.Request) (any, error) { return nil, failf(404, "HTTP 404 Not Found") })
	return mux
}

func answer(w http.ResponseWriter, body any, err error) {
	status := http.StatusOK
	if err != nil {
		var f failure
		if !errors.As(err, &f) {
			f = failure{50001, err.Error()} // "Error in the backend data store"
		}
		status = f.status()
		body = map[string]any{"error_code": f.code, "message": f.message}
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	// A client that is gone is the only one who could be told of an error here.
	_ = json.NewEncoder(w).Encode(body)
}

func decode(req *http.Request, into any) error {
	if err := json.NewDecoder(req.Body).Decode(into); err != nil {
		return failf(422, "Invalid request: %v", err)
	}
	return nil
}

type schemaRequest struct {
	Schema     string            `json:"schema"`
	SchemaType string            `json:"schemaType"`
	References []json.RawMessage `json:"references"`
	ID         int               `json:"id"`
}

func decodeSchema(req *http.Request) (text string, err error) {
	var s schemaRequest
	if err := decode(req, &s); err != nil {
		return "", err
	}
	switch {
	case s.SchemaType != "" && s.SchemaType != "AVRO":
		return "", failf(42201, "Invalid schema type %s: this registry keeps AVRO only", s.SchemaType)
	case len(s.References) > 0:
		return "", failf(42201, "Invalid schema: this registry keeps no references")
	case s.ID > 0:
		return "", failf(42205, "This registry gives the ids itself: it has no import mode")
	}
	return s.Schema, nil
}

type subjectVersion struct {
	Subject string `json:"subject"`
	Version int    `json:"version"`
	ID      int    `json:"id,omitempty"`
	Schema  string `json:"schema,omitempty"`
}

func (r *Registry) getSchema(req *http.Request) (any, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	id, err := r.knownID(req)
	if err != nil {
		return nil, err
	}
	return map[string]string{"schema": r.schemas[id-1].text}, nil
}

func (r *Registry) getUsages(req *http.Request) (any, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	id, err := r.knownID(req)
	if err != nil {
		return nil, err
	}
	usages := []subjectVersion{}
	for _, subject := range slices.Sorted(maps.Keys(r.subjects)) {
		if v := r.versionOf(subject, id); v != 0 {
			usages = append(usages, subjectVersion{Subject: subject, Version: v})
		}
	}
	return usages, nil
}

func (r *Registry) knownID(req *http.Request) (int, error) {
	id, err := strconv.Atoi(req.PathValue("id"))
	if err != nil || id < 1 || id > len(r.schemas) {
		return 0, errSchemaNotFound
	}
	return id, nil
}

func (r *Registry) getSubjects(*http.Request) (any, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.AppendSeq([]string{}, slices.Values(slices.Sorted(maps.Keys(r.subjects)))), nil
}

func (r *Registry) getVersions(req *http.Request) (any, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	subject := req.PathValue("subject")
	versions := []int{}
	for i := range r.subjects[subject] {
		versions = append(versions, i+1)
	}
	if len(versions) == 0 {
		return nil, subjectNotFound(subject)
	}
	return versions, nil
}

func (r *Registry) getVersion(req *http.Request) (any, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	subject := req.PathValue("subject")
	v, err := r.knownVersion(subject, req.PathValue("version"))
	if err != nil {
		return nil, err
	}
	return r.subjectVersion(subject, v), nil
}

func (r *Registry) subjectVersion(subject string, v int) subjectVersion {
	id := r.subjects[subject][v-1]
	return subjectVersion{Subject: subject, Version: v, ID: id, Schema: r.schemas[id-1].text}
}

// knownVersion reads a version as the protocol writes it: a number, "latest" or -1.
func (r *Registry) knownVersion(subject, word string) (int, error) {
	versions := r.subjects[subject]
	if len(versions) == 0 {
		return 0, subjectNotFound(subject)
	}
	if word == "latest" || word == "-1" {
		return len(versions), nil
	}
	v, err := strconv.Atoi(word)
	if err != nil || v < 1 {
		return 0, failf(42202, "The specified version '%s' is not a valid version id.", word)
	}
	if v > len(versions) {
		return 0, versionNotFound(word)
	}
	return v, nil
}

func (r *Registry) postVersion(req *http.Request) (any, error) {
	text, err := decodeSchema(req)
	if err != nil {
		return nil, err
	}
	id, err := r.register(req.PathValue("subject"), text)
	if err != nil {
		return nil, err
	}
	return map[string]int{"id": id}, nil
}

func (r *Registry) postLookup(req *http.Request) (any, error) {
	text, err := decodeSchema(req)
	if err != nil {
		return nil, err
	}
	if text, _, err = compact(text); err != nil {
		return nil, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	subject := req.PathValue("subject")
	if len(r.subjects[subject]) == 0 {
		return nil, subjectNotFound(subject)
	}
	v := r.versionOf(subject, r.ids[text])
	if v == 0 {
		return nil, errSchemaNotFound
	}
	return r.subjectVersion(subject, v), nil
}

// postCompatibility tests against one version; the subject's level says in which direction.
func (r *Registry) postCompatibility(req *http.Request) (any, error) {
	text, err := decodeSchema(req)
	if err != nil {
		return nil, err
	}
	_, next, err := compact(text)
	if err != nil {
		return nil, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	subject := req.PathValue("subject")
	v, err := r.knownVersion(subject, req.PathValue("version"))
	if err != nil {
		return nil, err
	}
	faults := r.level(subject).check(next, r.schemas[r.subjects[subject][v-1]-1].parsed)
	result := map[string]any{"is_compatible": len(faults) == 0}
	if req.URL.Query().Get("verbose") == "true" {
		result["messages"] = append([]string{}, faults...)
	}
	return result, nil
}

func (r *Registry) getConfig(req *http.Request) (any, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	subject := req.PathValue("subject")
	if _, ok := r.levels[subject]; !ok && req.URL.Query().Get("defaultToGlobal") != "true" {
		return nil, failf(40408, "Subject '%s' does not have subject-level compatibility configured", subject)
	}
	return map[string]level{"compatibilityLevel": r.level(subject)}, nil
}

func (r *Registry) putConfig(req *http.Request) (any, error) {
	var config struct {
		Compatibility level `json:"compatibility"`
	}
	if err := decode(req, &config); err != nil {
		return nil, err
	}
	if !config.Compatibility.valid() {
		return nil, failf(42203, "Invalid compatibility level %q", config.Compatibility)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.write(entry{Subject: req.PathValue("subject"), Level: config.Compatibility}); err != nil {
		return nil, err
	}
	return config, nil
}
