package main

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
)

// picturesFile says what the pictures of the status pages were taken of.
const picturesFile = "docs/pictures/pages.sum"

// pictured is what is seen in them.
var pictured = []string{
	"pkg/service/page/templates/*", "pkg/service/page/static/page.*", "capture/testdata/pages/catching_up.html", "sink/testdata/pages/quarantined.html",
}

// picturesSum gives the sum of what a picture taken now would be of.
func picturesSum(top string) (string, error) {
	h := sha256.New()
	for _, pattern := range pictured {
		files, err := filepath.Glob(filepath.Join(top, pattern))
		if err != nil {
			return "", err
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return "", err
			}
			h.Write(text)
		}
	}
	return hex.EncodeToString(h.Sum(nil)) + "\n", nil
}
