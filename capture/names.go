package capture

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/capture/replication"
)

func validSlot(name string) bool { return replication.ValidSlotName(name) }

// slot gives the name of the source's replication slot.
func (s Source) slot() string {
	if s.Slot != "" {
		return s.Slot
	}
	return objectName(s.Name)
}

// publications gives the names of the source's publications.
func (s Source) publications() catalog.Publications {
	return catalog.Publications{Full: s.slot(), Insert: s.slot() + "_insert"}
}

// objectName makes a name that Postgres takes for a slot out of any source name. A name that had to be changed gets
// a few digits of its hash, so that two sources never share a slot.
func objectName(source string) string {
	const longest = 32
	var b strings.Builder
	for _, r := range strings.ToLower(source) {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' {
			b.WriteRune(r)
		} else {
			b.WriteByte('_')
		}
	}
	name := b.String()
	if name == source && len(name) <= longest {
		return "tributary_" + name
	}
	sum := sha256.Sum256([]byte(source))
	return "tributary_" + name[:min(len(name), longest)] + "_" + hex.EncodeToString(sum[:4])
}
