package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// bom is a bill of materials in the form of CycloneDX 1.6, as far as Go knows what is in a program.
type bom struct {
	Format       string      `json:"bomFormat"`
	SpecVersion  string      `json:"specVersion"`
	SerialNumber string      `json:"serialNumber"`
	Version      int         `json:"version"`
	Metadata     bomMetadata `json:"metadata"`
	Components   []component `json:"components"`
	Dependencies []depends   `json:"dependencies"`
}

type bomMetadata struct {
	Timestamp string    `json:"timestamp"`
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	PURL       string     `json:"purl,omitempty"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Alg     string `json:"alg"`
	Content string `json:"content"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type depends struct {
	Ref string   `json:"ref"`
	On  []string `json:"dependsOn"`
}

// billOfMaterials writes what is in a program: the modules that its build information names, and Go itself.
func (r *release) billOfMaterials(binary, to string) error {
	content, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return fmt.Errorf("read what %s is built of: %w", binary, err)
	}
	sum := sha256.Sum256(content)
	of := func(kind, module, version string) component {
		purl := fmt.Sprintf("pkg:golang/%s@%s", module, version)
		return component{Type: kind, Ref: purl, Name: module, Version: version, PURL: purl}
	}
	main := of("application", info.Path, r.version)
	main.Hashes = []hash{{"SHA-256", fmt.Sprintf("%x", sum)}}
	// The same program has the same number: version 8 of a UUID, of its hash.
	id := sum
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80
	b := bom{
		Format: "CycloneDX", SpecVersion: "1.6", Version: 1,
		SerialNumber: fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:16]),
		Metadata:     bomMetadata{Timestamp: r.at.Format(time.RFC3339), Component: main},
		Components:   []component{of("library", "std", strings.TrimPrefix(info.GoVersion, "go"))},
	}
	for _, m := range info.Deps {
		if m.Replace != nil && !strings.HasPrefix(m.Replace.Path, ".") { // a directory beside it is no other module
			m = m.Replace
		}
		version := m.Version
		if path.Dir(m.Path) == path.Dir(info.Main.Path) { // ours, of the same source
			version = r.version
		}
		c := of("library", m.Path, version)
		if m.Sum != "" {
			c.Properties = []property{{"go:h1", m.Sum}} // as in go.sum: of the module's files, not of one file
		}
		b.Components = append(b.Components, c)
	}
	refs := []string{}
	for _, c := range b.Components {
		refs = append(refs, c.Ref)
	}
	b.Dependencies = []depends{{main.Ref, refs}}
	text, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Clean(to), append(text, '\n'), 0o644)
}
