// Package registry turns Avro schemas into ids and ids into schemas, by the HTTP protocol of the Confluent schema
// registry, which others speak too (Apicurio, Redpanda, Karapace). It owns the caches; what the schemas say is
// the business of package schema/record.
//
// The protocol: https://docs.confluent.io/platform/current/schema-registry/develop/api.html
package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// requestTimeout is how long one request to one URL may take; the caller's context may allow less.
const requestTimeout = 10 * time.Second

// Errors that callers tell apart. All others mean that the registry could not be asked: trying again may help.
var (
	// ErrUnknownSchema says that the registry has no schema of the id asked for.
	ErrUnknownSchema = errors.New("schema is not in the registry")
	// ErrIncompatible says that the registry's compatibility rule for the subject forbids the schema.
	ErrIncompatible = errors.New("schema is not compatible with those before it")
	// ErrLost says that the registry has not what it had: it was emptied, or restored from an older copy, or it is another one. Numbers
	// that it gives then may be those of other schemas.
	ErrLost = errors.New("the registry has lost schemas that it had")
	// ErrInvalidSchema says that the registry, or this client, cannot make sense of the schema.
	ErrInvalidSchema = errors.New("schema is not valid")
	// ErrTooLarge says that the schema is larger than the registry, or a proxy before it, takes.
	ErrTooLarge = errors.New("schema is larger than the registry takes")
	// errRefused says that the registry does not take the login, or does not allow the user what was asked.
	errRefused = errors.New("the registry refuses the login")
)

// Client asks a registry and remembers what it said: neither the id of a registered schema nor the schema of an
// id ever changes, as long as the registry keeps what it has; see Check and Forget. It is safe for concurrent use.
type Client struct {
	http *http.Client
	sr   *sr.Client

	mu      sync.RWMutex
	ids     map[registration]int
	schemas map[int]string
	newest  registration // that with the greatest id in ids
	proof   registration // what newest was at the last Check; zero before
}

type registration struct{ subject, schema string }

// New makes a client. It does no I/O but to read the files of TLS: Ping does.
func New(c config.Registry) (*Client, error) {
	transport, err := c.TLS.Transport()
	if err != nil {
		return nil, &trouble.Error{Code: trouble.Config, Op: "read", Subject: "registry.tls", Cause: err}
	}
	httpClient := &http.Client{Timeout: requestTimeout, Transport: transport}
	opts := []sr.ClientOpt{sr.HTTPClient(httpClient), sr.URLs(c.URL), sr.UserAgent("tributary")}
	if c.Username != "" {
		opts = append(opts, sr.PreReq(func(req *http.Request) error {
			password, err := c.Password.Reveal() // at each request, so that it can be changed while running
			if err != nil {
				return fmt.Errorf("read registry password: %w", err)
			}
			req.SetBasicAuth(c.Username, password)
			return nil
		}))
	}
	client, err := sr.NewClient(opts...)
	if err != nil {
		return nil, &trouble.Error{Code: trouble.Config, Op: "read", Subject: "registry", Cause: err}
	}
	return &Client{http: httpClient, sr: client, ids: map[registration]int{}, schemas: map[int]string{}}, nil
}

// Close lets go of idle connections. The client can be used on.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Ping asks the registry for something small, to see that it is there and lets us in: the subjects that begin with
// a name that none has. Every implementation answers that, to anyone who may read.
func (c *Client) Ping(ctx context.Context) error {
	if _, err := c.sr.Subjects(sr.WithParams(ctx, sr.SubjectPrefix("tributary-ping"))); err != nil {
		return classify(err)
	}
	return nil
}

// Register gives the id of the Avro schema under subject, registering it if it is not yet there. Readers of ours use the
// schema that a record was written with, so that no level of compatibility is needed; but a registry's default (Confluent's is
// BACKWARD) refuses what happens to tables every day. A subject without a level of its own then gets NONE. After a first
// Check nothing is registered with a registry that does not pass it. Errors:
// ErrIncompatible where somebody has given the subject another level, or the registry does not let us set it;
// ErrInvalidSchema; ErrTooLarge; ErrLost.
func (c *Client) Register(ctx context.Context, subject, schema string) (int, error) {
	key := registration{subject, schema}
	c.mu.RLock()
	id, ok := c.ids[key]
	c.mu.RUnlock()
	if ok {
		return id, nil
	}
	if err := c.prove(ctx); err != nil {
		return 0, fmt.Errorf("register schema of subject %q: %w", subject, err)
	}
	id, err := c.register(ctx, subject, schema)
	if errors.Is(err, ErrIncompatible) {
		if refused := c.open(ctx, subject); refused != nil {
			return 0, fmt.Errorf("register schema of subject %q: %w (%w)", subject, err, refused)
		}
		if id, err = c.register(ctx, subject, schema); errors.Is(err, ErrIncompatible) { // a global rule of Apicurio's
			err = fmt.Errorf("%w (although the level of the subject is NONE now: the registry's own must be NONE as well)", err)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("register schema of subject %q: %w", subject, err)
	}
	c.mu.Lock()
	if c.ids[key] = id; id > c.ids[c.newest] {
		c.newest = key
	}
	c.mu.Unlock()
	return id, nil
}

// Check asks whether the registry still has the newest of the schemas that it has registered for this client, under the same id: what
// was emptied lacks it, and so does what was restored from a copy that is older than it. One request; none where nothing was registered.
// Errors: ErrLost.
func (c *Client) Check(ctx context.Context) error {
	c.mu.Lock()
	c.proof = c.newest
	c.mu.Unlock()
	return c.prove(ctx)
}

func (c *Client) prove(ctx context.Context) error {
	c.mu.RLock()
	proof, id := c.proof, c.ids[c.proof]
	c.mu.RUnlock()
	if id == 0 {
		return nil
	}
	// A subject that somebody has deleted for a while keeps the ids of its schemas.
	found, err := c.sr.LookupSchema(sr.WithParams(ctx, sr.ShowDeleted), proof.subject, sr.Schema{Schema: proof.schema, Type: sr.TypeAvro})
	switch err = classify(err); {
	case errors.Is(err, ErrUnknownSchema):
		return fmt.Errorf("%w: schema %d, of subject %q, is not there any more", ErrLost, id, proof.subject)
	case errors.Is(err, ErrInvalidSchema), errors.Is(err, ErrTooLarge): // which says nothing of the schema that is to be registered
		return fmt.Errorf("look up schema %d of subject %q: %s", id, proof.subject, err.Error())
	case err != nil:
		return fmt.Errorf("look up schema %d of subject %q: %w", id, proof.subject, err)
	case found.ID != id:
		return fmt.Errorf("%w: schema %d, of subject %q, has the id %d now", ErrLost, id, proof.subject, found.ID)
	}
	return nil
}

// Forget makes c know nothing: what it was told was told by a registry that had lost its schemas.
func (c *Client) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.ids)
	clear(c.schemas)
	c.newest, c.proof = registration{}, registration{}
}

func (c *Client) register(ctx context.Context, subject, schema string) (int, error) {
	id, err := c.sr.RegisterSchema(ctx, subject, sr.Schema{Schema: schema, Type: sr.TypeAvro}, -1, -1)
	return id, classify(err)
}

// open gives subject the level NONE, unless somebody has given it another one: the error says which.
func (c *Client) open(ctx context.Context, subject string) error {
	own := c.sr.Compatibility(ctx, subject)[0]
	var answer *sr.ResponseError
	switch {
	case own.Err == nil && own.Level == sr.CompatNone: // Apicurio says so where the subject has no level and the default refuses
	case own.Err == nil:
		return fmt.Errorf("the subject has the level %s of its own", own.Level)
	case !errors.As(own.Err, &answer) || answer.StatusCode != http.StatusNotFound:
		return fmt.Errorf("ask for the subject's level: %w", own.Err)
	}
	if err := c.sr.SetCompatibility(ctx, sr.SetCompatibility{Level: sr.CompatNone}, subject)[0].Err; err != nil {
		return fmt.Errorf("set the subject's level to NONE: %w", err)
	}
	return nil
}

// Schema gives the text of the Avro schema with the id. Errors: ErrUnknownSchema, ErrInvalidSchema for one that is
// not Avro or refers to other subjects.
func (c *Client) Schema(ctx context.Context, id int) (string, error) {
	c.mu.RLock()
	text, ok := c.schemas[id]
	c.mu.RUnlock()
	if ok {
		return text, nil
	}
	schema, err := c.sr.SchemaByID(ctx, id)
	if err != nil {
		return "", fmt.Errorf("fetch schema %d: %w", id, classify(err))
	}
	if !plain(schema) {
		return "", fmt.Errorf("fetch schema %d: %w: it is %s with %d references, want plain Avro",
			id, ErrInvalidSchema, schema.Type, len(schema.References))
	}
	c.remember(id, schema)
	return schema.Schema, nil
}

func plain(schema sr.Schema) bool { return schema.Type == sr.TypeAvro && len(schema.References) == 0 }

func (c *Client) remember(id int, schema sr.Schema) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.schemas[id] = schema.Schema
}

// Latest gives the id of the newest schema of a subject, and remembers that schema; but not that it is the newest: there may
// be a newer one. Errors: ErrUnknownSchema where the subject has none.
func (c *Client) Latest(ctx context.Context, subject string) (int, error) {
	schema, err := c.sr.SchemaByVersion(ctx, subject, -1)
	if err != nil {
		return 0, fmt.Errorf("look up the newest schema of subject %q: %w", subject, classify(err))
	}
	if plain(schema.Schema) {
		c.remember(schema.ID, schema.Schema)
	}
	return schema.ID, nil
}

// Codes of the registry's own (error_code in the body of an answer).
const (
	codeSubjectNotFound = 40401
	codeVersionNotFound = 40402
	codeSchemaNotFound  = 40403
	codeIncompatible    = 409
	codeInvalidSchema   = 42201
)

// classify wraps err with the error of ours that it means. A 404 without the registry's own code is some other
// server's: no statement about a schema.
func classify(err error) error {
	var answer *sr.ResponseError
	if !errors.As(err, &answer) {
		if request, ok := errors.AsType[*url.Error](err); ok { // around which the client of the registry names method and address once more
			return request
		}
		return err // nil among them
	}
	switch {
	case answer.ErrorCode == codeSchemaNotFound, answer.ErrorCode == codeSubjectNotFound, answer.ErrorCode == codeVersionNotFound:
		return fmt.Errorf("%w: %w", ErrUnknownSchema, err)
	case answer.StatusCode == http.StatusConflict, answer.ErrorCode == codeIncompatible:
		return fmt.Errorf("%w: %w", ErrIncompatible, err)
	case answer.ErrorCode == codeInvalidSchema:
		return fmt.Errorf("%w: %w", ErrInvalidSchema, err)
	case answer.StatusCode == http.StatusRequestEntityTooLarge:
		return fmt.Errorf("%w (HTTP status %d to %s %s): %w", ErrTooLarge, answer.StatusCode, answer.Method, answer.URL, err)
	case answer.StatusCode == http.StatusUnauthorized, answer.StatusCode == http.StatusForbidden:
		return fmt.Errorf("%w (HTTP status %d to %s %s): %w", errRefused, answer.StatusCode, answer.Method, answer.URL, err)
	}
	return fmt.Errorf("HTTP status %d to %s %s: %w", answer.StatusCode, answer.Method, answer.URL, err)
}

// Trouble is the trouble of a registry that does not answer, or does not let us in.
func Trouble(op, subject string, err error) *trouble.Error {
	t := &trouble.Error{
		Code: trouble.RegistryUnreachable, Op: op, Subject: subject, Cause: err,
		Means: "nothing is lost: what needs the schema waits for it", Hint: "check registry.url, and that the registry runs",
	}
	if request, ok := errors.AsType[*url.Error](err); ok && strings.HasPrefix(request.URL, subject) {
		t.Cause = request.Err // the subject is the address
	}
	untrusted := retry.TLSHint(err, retry.TLSKeys{CA: "registry.tls.ca", Name: "registry.url and registry.tls.server_name", Client: "registry.tls.cert and registry.tls.key"})
	switch {
	case untrusted != "":
		t.Code, t.Hint = trouble.RegistryAuth, untrusted
	case errors.Is(err, errRefused):
		t.Code, t.Hint = trouble.RegistryAuth, "check registry.username and registry.password, and that the user may read schemas and, for capture, register them"
	}
	return t
}
