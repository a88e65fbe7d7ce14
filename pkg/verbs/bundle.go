package verbs

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
)

// bundle is what is put together for those who help.
type bundle struct {
	began   time.Time
	files   []bundled
	missing []string // what could not be got, and why
	secrets []string
}

type bundled struct {
	name    string
	content []byte
}

// standardOutput is the name of a file that is none.
const standardOutput = "-"

// bundlePatience bounds each part of a bundle.
const bundlePatience = 20 * time.Second

// SupportBundle makes the verb that puts into one file what somebody needs to know who helps.
func (p Program[C]) SupportBundle() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "support-bundle", Short: "Put status, metrics, events, goroutines, configuration, version and check into one file, without secrets", Args: terminal.NoArgs,
		Long: "Writes one .tar.gz, also while the service is down: what could not be got is told in it. Secrets are left out. Names of\n" +
			"tables and columns are in it, and the keys of rows that cannot be written; no other values of rows are.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := terminal.Of(cmd)
			b := &bundle{began: time.Now().UTC()}
			if file == "" {
				file = fmt.Sprintf("%s-support-%s.tar.gz", p.Name, b.began.Format("20060102-150405"))
			}
			p.fill(cmd, b)
			if err := cmd.Context().Err(); err != nil {
				return err
			}
			packed, err := b.pack(p.Name + "-support")
			if err != nil {
				return err
			}
			if file == standardOutput {
				_, err = out.Out.Write(packed)
			} else {
				err = writeNew(file, packed)
			}
			if err != nil {
				return err
			}
			for _, m := range b.missing {
				out.Note("not in it: %s\n", m)
			}
			out.Note("Look at it before you give it away: it holds the names of hosts, tables and columns.\n")
			if file != standardOutput {
				out.Printf("%s\n", file)
			}
			return nil
		},
	}
	p.examples(cmd, "support-bundle", "support-bundle -o bundle.tar.gz")
	cmd.Flags().StringVarP(&file, "output", "o", "", "file to write; it must not be there yet; - for standard output, as where nothing can be written (default a name with the time)")
	return cmd
}

func (p Program[C]) fill(cmd *cobra.Command, b *bundle) {
	build := service.ThisBuild()
	b.add("version.txt", []byte(fmt.Sprintf("%s %s %s %s %s/%s\nwritten %s\n", p.Name, build.Version, build.Revision, build.GoVersion,
		runtime.GOOS, runtime.GOARCH, b.began.Format(time.RFC3339))))
	var cfg C
	shown, err := terminal.Origins(cmd, &cfg)
	if err != nil { // what it says quotes no secret; the file itself may hold one
		b.add("configuration-faults.txt", []byte(err.Error()+"\n"))
		b.lacks("all else", errors.New("the configuration has faults"))
		return
	}
	b.add("configuration.yaml", []byte(shown))
	b.secrets = secrets(&cfg)
	part := func(name string, get func(ctx context.Context) ([]byte, error)) []byte {
		ctx, cancel := context.WithTimeout(cmd.Context(), bundlePatience)
		defer cancel()
		content, err := get(ctx)
		if len(content) > 0 {
			b.add(name, content)
		}
		if err != nil {
			b.lacks(name, err)
		}
		return content
	}
	where := p.HTTP(&cfg)
	fetch := func(path string) func(context.Context) ([]byte, error) {
		return func(ctx context.Context) ([]byte, error) { return service.Fetch(ctx, where, path) }
	}
	status := part("status.json", fetch("/status?format=json"))
	part("metrics.txt", fetch("/metrics"))
	part("goroutines.txt", fetch("/debug/goroutines"))
	part("ready.txt", fetch("/readyz"))
	var events struct {
		Events json.RawMessage `json:"events"`
	}
	if json.Unmarshal(status, &events) == nil && len(events.Events) > 0 {
		b.add("events.json", events.Events)
	}
	part("status-without-service.json", func(ctx context.Context) ([]byte, error) {
		status, err := p.Status(ctx, cfg)
		if err != nil {
			return nil, err
		}
		return json.MarshalIndent(status, "", "  ")
	})
	part("check.txt", func(ctx context.Context) ([]byte, error) {
		var text bytes.Buffer
		c := terminal.NewCheck(p.Name, &text)
		c.SQL = true
		err := p.Check(ctx, cfg, c)
		if err != nil {
			fmt.Fprintf(&text, "\nerror: %v\n", err)
		}
		return text.Bytes(), nil
	})
}

func (b *bundle) add(name string, content []byte) { b.files = append(b.files, bundled{name, content}) }

func (b *bundle) lacks(name string, err error) {
	b.missing = append(b.missing, fmt.Sprintf("%s: %v", name, err))
}

// pack gives the bundle as a .tar.gz, with everything below dir. Nothing in it should hold a secret; that none does is
// made sure here once more.
func (b *bundle) pack(dir string) ([]byte, error) {
	files := b.files
	if len(b.missing) > 0 {
		files = append(files, bundled{"missing.txt", []byte(strings.Join(b.missing, "\n") + "\n")})
	}
	var packed bytes.Buffer
	zipped := gzip.NewWriter(&packed)
	archive := tar.NewWriter(zipped)
	for _, f := range files {
		content := f.content
		for _, secret := range b.secrets {
			content = bytes.ReplaceAll(content, []byte(secret), []byte("***"))
		}
		header := &tar.Header{Name: dir + "/" + f.name, Mode: 0o600, Size: int64(len(content)), ModTime: b.began, Typeflag: tar.TypeReg}
		if err := archive.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := archive.Write(content); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(archive.Close(), zipped.Close()); err != nil {
		return nil, err
	}
	return packed.Bytes(), nil
}

// shortest is how long a secret has to be to be looked for: shorter ones stand everywhere.
const shortest = 4

// secrets gives everything in a configuration that nobody may see, in the forms in which it could be written.
func secrets(cfg any) []string {
	var out []string
	for _, secret := range config.Secrets(cfg) {
		text, err := secret.Reveal()
		if err != nil || text == "" {
			continue
		}
		out = append(out, text)
		if parsed, err := postgres.ParseConfig(text, ""); err == nil {
			out = append(out, parsed.Password)
		}
		if u, err := url.Parse(text); err == nil && u.User != nil {
			if password, set := u.User.Password(); set {
				_, encoded, _ := strings.Cut(u.User.String(), ":")
				out = append(out, password, encoded)
			}
		}
	}
	for _, text := range slices.Clone(out) {
		if quoted, err := json.Marshal(text); err == nil {
			out = append(out, string(quoted[1:len(quoted)-1]))
		}
		out = append(out, url.QueryEscape(text), url.PathEscape(text))
	}
	out = slices.DeleteFunc(out, func(s string) bool { return len(s) < shortest })
	slices.SortFunc(out, func(a, b string) int { return cmp.Compare(len(b), len(a)) }) // one may be part of another
	return slices.Compact(out)
}
