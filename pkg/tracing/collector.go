package tracing

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// collector is who takes the spans, by OTLP over HTTP. It is the transport of otlptrace; OpenTelemetry's own brings gRPC
// along, with which the programs would be a fifth larger.
type collector struct {
	client  *http.Client
	url     *url.URL
	headers http.Header
	zipped  bool
	log     *slog.Logger

	mu     sync.Mutex
	logged time.Time
}

const (
	sendTimeout = 10 * time.Second
	logEvery    = time.Minute
)

// env gives a variable of OpenTelemetry for traces.
func env(name string) string { return strings.TrimSpace(os.Getenv("OTEL_TRACES_" + name)) }

// otlp gives a variable of the exporter: what is said for traces goes before what is said for all.
func otlp(name string) string {
	return strings.TrimSpace(cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_"+name), os.Getenv("OTEL_EXPORTER_OTLP_"+name)))
}

func refused(variable string, err error) error {
	return &trouble.Error{
		Code: trouble.Config, Op: "read", Subject: variable, Cause: err,
		Means: "the service does not start; nothing was read or written", Hint: "see docs/reference/traces.md; without OTEL_EXPORTER_OTLP_ENDPOINT there are no traces",
	}
}

// newCollector gives the one that the environment names; nil for none.
func newCollector(log *slog.Logger) (*collector, error) {
	where := strings.TrimSpace(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))
	if all := strings.TrimSpace(os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT")); where == "" && all != "" {
		where = strings.TrimSuffix(all, "/") + "/v1/traces"
	}
	if disabled, _ := strconv.ParseBool(os.Getenv("OTEL_SDK_DISABLED")); where == "" || disabled || env("EXPORTER") == "none" {
		return nil, nil
	}
	c := &collector{log: log, headers: http.Header{"Content-Type": {"application/x-protobuf"}}, zipped: otlp("COMPRESSION") == "gzip"}
	var err error
	c.url, err = url.Parse(where)
	if err != nil || c.url.Host == "" || c.url.Scheme != "http" && c.url.Scheme != "https" {
		return nil, refused("OTEL_EXPORTER_OTLP_ENDPOINT", fmt.Errorf("not an http or https address; write http://localhost:4318"))
	}
	if p := otlp("PROTOCOL"); p != "" && p != "http/protobuf" {
		return nil, refused("OTEL_EXPORTER_OTLP_PROTOCOL", fmt.Errorf("%q is not spoken, http/protobuf is: its port is 4318 as a rule", p))
	}
	for pair := range strings.SplitSeq(otlp("HEADERS"), ",") {
		name, value, ok := strings.Cut(pair, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if ok && err == nil {
			c.headers.Set(strings.TrimSpace(name), value)
		} else if strings.TrimSpace(pair) != "" { // not what: it may be a secret
			return nil, refused("OTEL_EXPORTER_OTLP_HEADERS", fmt.Errorf("not like name=value,name=value"))
		}
	}
	timeout := sendTimeout
	if text := otlp("TIMEOUT"); text != "" {
		ms, err := strconv.Atoi(text)
		if err != nil || ms <= 0 {
			return nil, refused("OTEL_EXPORTER_OTLP_TIMEOUT", fmt.Errorf("%q is no number of milliseconds", text))
		}
		timeout = time.Duration(ms) * time.Millisecond
	}
	transport, err := config.TLS{Enabled: true, CA: otlp("CERTIFICATE"), Cert: otlp("CLIENT_CERTIFICATE"), Key: otlp("CLIENT_KEY")}.Transport()
	if err != nil {
		return nil, refused("OTEL_EXPORTER_OTLP_CERTIFICATE", err)
	}
	c.client = &http.Client{Transport: transport, Timeout: timeout}
	return c, nil
}

// where names the collector, without a password that may be in its address.
func (c *collector) where() string { return c.url.Redacted() }

// Start is for otlptrace.
func (c *collector) Start(context.Context) error { return nil }

// Stop is for otlptrace.
func (c *collector) Stop(context.Context) error {
	c.client.CloseIdleConnections()
	return nil
}

// UploadTraces sends spans. What cannot be sent is lost: spans are not worth the memory that keeping them takes. It is
// logged, once in a while.
func (c *collector) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	err := c.send(ctx, spans)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && time.Since(c.logged) > logEvery {
		c.logged = time.Now()
		c.log.Warn("traces could not be told, and are lost", "to", c.where(), "error", err.Error())
	}
	return nil
}

func (c *collector) send(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	// On the wire it is what a request is, whose type is of a package with gRPC in it.
	body, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	if err != nil {
		return err
	}
	if c.zipped {
		var small bytes.Buffer
		zip := gzip.NewWriter(&small)
		_, _ = zip.Write(body) // to memory
		_ = zip.Close()
		body = small.Bytes()
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header = c.headers.Clone()
	if c.zipped {
		request.Header.Set("Content-Encoding", "gzip")
	}
	response, err := c.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close() //nolint:errcheck // it was only read
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 1<<16))
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("the collector answers %s", response.Status)
	}
	return nil
}
