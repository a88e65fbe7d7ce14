package record

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Headers of the records in a table's topic.
const (
	// HeaderPosition holds the change.PositionSize bytes of the event's Position. Every record has it,
	// tombstones too, so that a reader drops repeats without decoding.
	HeaderPosition = "tributary.pos"
	// HeaderNewKey stands on the delete half of a key change: the framed key of the new row.
	HeaderNewKey = "__debezium.newkey"
	// HeaderOldKey stands on the insert half of a key change: the framed key of the old row.
	HeaderOldKey = "__debezium.oldkey"
	// HeaderReload stands, empty, on a truncate that the source never did: the table is about to be read
	// again by snapshot.
	HeaderReload = "tributary.reload"
	// HeaderTrace names the trace of the Kafka transaction, as W3C Trace Context has it: on the first record of each partition
	// in a transaction that is traced.
	HeaderTrace = "traceparent"
)

// FrameSize is the length in bytes of what AppendFrame writes: zero, then the schema id, big-endian.
const FrameSize = 5

// ErrFrame is wrapped by the errors of ParseFrame.
var ErrFrame = errors.New("not in the Confluent wire format")

// AppendFrame appends the head of the Confluent wire format for the schema id.
func AppendFrame(dst []byte, id int) []byte {
	dst = append(dst, 0)
	return binary.BigEndian.AppendUint32(dst, uint32(id))
}

// ParseFrame takes a key or value apart into the id of its schema and its Avro bytes, which alias b.
func ParseFrame(b []byte) (id int, body []byte, err error) {
	if len(b) < FrameSize {
		return 0, nil, fmt.Errorf("%w: %d bytes, want at least %d", ErrFrame, len(b), FrameSize)
	}
	if b[0] != 0 {
		return 0, nil, fmt.Errorf("%w: first byte is %#02x, want 0", ErrFrame, b[0])
	}
	return int(binary.BigEndian.Uint32(b[1:])), b[FrameSize:], nil
}

// Partition gives the partition, of the given number, for a framed key: Kafka's own murmur2 over the key without
// its frame, since the frame holds the id of the key's schema, and a new schema must not move rows. nil, the key
// of a table without one, gives 0.
func Partition(framedKey []byte, partitions int32) int32 {
	if len(framedKey) < FrameSize || partitions <= 1 {
		return 0
	}
	return int32(murmur2(framedKey[FrameSize:])&0x7fffffff) % partitions
}

// murmur2 is org.apache.kafka.common.utils.Utils.murmur2.
func murmur2(b []byte) uint32 {
	const (
		seed = 0x9747b28c
		m    = 0x5bd1e995
		r    = 24
	)
	h := uint32(seed) ^ uint32(len(b))
	for ; len(b) >= 4; b = b[4:] {
		k := binary.LittleEndian.Uint32(b)
		k *= m
		k ^= k >> r
		k *= m
		h *= m
		h ^= k
	}
	switch len(b) {
	case 3:
		h ^= uint32(b[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(b[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(b[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	h ^= h >> 15
	return h
}
