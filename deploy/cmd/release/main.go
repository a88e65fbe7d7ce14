// Command release builds what a release consists of: for each platform an archive with both programs, their manual
// pages, completions, units, examples and licences, a bill of materials for each program, and checksums. The same source gives the same bytes.
package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/pkg/terminal"
)

// release is what is to be built.
type release struct {
	top      string // of the repository
	out      string // directory, made anew
	version  string
	revision string
	at       time.Time // of the commit: the time of every file
}

var programs = []string{"capture", "sink"}

// supported is what is built for: 64 bits, as the code assumes.
const supported = "linux/amd64,linux/arm64,darwin/amd64,darwin/arm64"

func main() {
	var r release
	platforms := flag.String("platforms", supported, "what to build for")
	flag.StringVar(&r.top, "top", "..", "top of the repository")
	flag.StringVar(&r.out, "out", "../.cache/release", "directory to write to; it is emptied")
	flag.StringVar(&r.version, "version", "devel", "version to stamp")
	flag.StringVar(&r.revision, "revision", "", "revision of the source to stamp")
	seconds := flag.Int64("at", 0, "time of the source's commit, seconds since 1970: that of every file")
	flag.Parse()
	r.at = time.Unix(*seconds, 0).UTC()
	os.Exit(terminal.Run("release", func(ctx context.Context) error { return r.build(ctx, strings.Split(*platforms, ",")) }))
}

func (r *release) build(ctx context.Context, platforms []string) (err error) {
	if r.out, err = filepath.Abs(r.out); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(r.out), os.MkdirAll(r.out, 0o755)); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "tributary-release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	// What the programs write of themselves they write here, whatever platform they are for.
	host := filepath.Join(work, runtime.GOOS+"-"+runtime.GOARCH)
	if err := r.compile(ctx, runtime.GOOS, runtime.GOARCH, host); err != nil {
		return err
	}
	written, err := r.describe(ctx, host, filepath.Join(work, "described"))
	if err != nil {
		return err
	}
	for _, platform := range platforms {
		system, arch, ok := strings.Cut(platform, "/")
		if !ok {
			return terminal.Usage(fmt.Errorf("platform %q is not like linux/amd64", platform))
		}
		binaries := filepath.Join(work, system+"-"+arch)
		if binaries != host {
			if err := r.compile(ctx, system, arch, binaries); err != nil {
				return err
			}
		}
		if err := r.archive(system, arch, binaries, written); err != nil {
			return fmt.Errorf("%s: %w", platform, err)
		}
	}
	return r.sums()
}

// ldflags are also those of deploy/docker/Dockerfile.
func (r *release) ldflags() string {
	const build = "github.com/tributary-cdc/tributary/pkg/service"
	return fmt.Sprintf("-s -w -X %s.version=%s -X %[1]s.revision=%[3]s", build, r.version, r.revision)
}

// compile builds the programs into a directory: static, and without anything of this machine in them.
func (r *release) compile(ctx context.Context, system, arch, to string) error {
	for _, program := range programs {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", r.ldflags(), "-o", filepath.Join(to, program), "./cmd/"+program)
		cmd.Dir = filepath.Join(r.top, program)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=", "GOOS="+system, "GOARCH="+arch)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s for %s/%s: %w\n%s", program, system, arch, err, out)
		}
	}
	return nil
}

// describe lets the programs write their manual pages and completions into dir, and gives their names there.
func (r *release) describe(ctx context.Context, host, dir string) (written []string, err error) {
	man := filepath.Join(dir, "share", "man", "man1")
	if err := os.MkdirAll(man, 0o755); err != nil {
		return nil, err
	}
	for _, program := range programs {
		if out, err := exec.CommandContext(ctx, filepath.Join(host, program), "manpage", "--output", man).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("write manual pages of %s: %w\n%s", program, err, out)
		}
		for shell, name := range map[string]string{"bash": program, "zsh": "_" + program, "fish": program + ".fish"} {
			text, err := exec.CommandContext(ctx, filepath.Join(host, program), "completion", shell).Output()
			if err != nil {
				return nil, fmt.Errorf("write completions of %s for %s: %w", program, shell, err)
			}
			file := filepath.Join(dir, "completions", shell, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, text, 0o644)); err != nil {
				return nil, err
			}
		}
	}
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			written = append(written, path)
		}
		return err
	})
	return written, err
}

// archive packs what is for one platform.
func (r *release) archive(system, arch, binaries string, written []string) (err error) {
	name := fmt.Sprintf("tributary-%s-%s-%s", r.version, system, arch)
	files := map[string]string{} // in the archive: on disk
	for _, program := range programs {
		binary := filepath.Join(binaries, program)
		bom := fmt.Sprintf("%s-%s-%s-%s.cdx.json", program, r.version, system, arch)
		if err := r.billOfMaterials(binary, filepath.Join(r.out, bom)); err != nil {
			return err
		}
		files["bin/"+program] = binary
	}
	for _, path := range written {
		_, rest, _ := strings.Cut(path, string(filepath.Separator)+"described"+string(filepath.Separator))
		files[filepath.ToSlash(rest)] = path
	}
	for pattern, to := range map[string]string{"*.md": "", "*LICENSE*": "", "deploy/systemd/*.service": "systemd", "deploy/config/*/*.yaml": "examples/"} {
		found, err := filepath.Glob(filepath.Join(r.top, pattern))
		if err != nil {
			return err
		}
		for _, path := range found {
			file := filepath.Base(path)
			if to == "examples/" {
				file = filepath.Base(filepath.Dir(path)) + "/" + file
			}
			files[strings.TrimPrefix(strings.TrimSuffix(to, "/")+"/"+file, "/")] = path
		}
	}
	out, err := os.Create(filepath.Join(r.out, name+".tar.gz"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	zipped := gzip.NewWriter(out)
	packed := tar.NewWriter(zipped)
	var names []string
	for file := range files {
		names = append(names, file)
	}
	slices.Sort(names)
	for _, file := range names {
		text, err := os.ReadFile(files[file])
		if err != nil {
			return err
		}
		header := &tar.Header{Name: name + "/" + file, Mode: 0o644, Size: int64(len(text)), ModTime: r.at, Format: tar.FormatUSTAR}
		if strings.HasPrefix(file, "bin/") {
			header.Mode = 0o755
		}
		if err := packed.WriteHeader(header); err != nil {
			return err
		}
		if _, err := packed.Write(text); err != nil {
			return err
		}
	}
	return errors.Join(packed.Close(), zipped.Close())
}

// sums writes SHA256SUMS, for sha256sum -c.
func (r *release) sums() error {
	entries, err := os.ReadDir(r.out) // sorted
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(r.out, e.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "%x  %s\n", sha256.Sum256(content), e.Name())
	}
	return os.WriteFile(filepath.Join(r.out, "SHA256SUMS"), []byte(text.String()), 0o644)
}
