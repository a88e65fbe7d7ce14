package snapshot

import "github.com/tributary-cdc/tributary/schema/change"

// Rows are rows in the order in which they were read. They are kept without a pointer for each value: many of them wait at
// the same time, and the garbage collector would look at every one.
type Rows struct {
	width  int
	n      int
	cells  []cell // width a row
	blocks [][]byte
	text   int // bytes in blocks
}

// cell is a value: its place in a block, or a size that says that there is none.
type cell struct {
	block, off uint32
	size       int32
}

const (
	sizeNull      = -1
	sizeUnchanged = -2
	sizeDropped   = -3 // in the first cell of a row

	cellBytes  = 12
	firstBlock = 4 << 10
	mostBlock  = 256 << 10
)

func newRows(width int) *Rows { return &Rows{width: width} }

// Len gives how many rows there are, those that were dropped among them.
func (r *Rows) Len() int { return r.n }

func (r *Rows) bytes() int { return r.text + cellBytes*len(r.cells) }

// Row gives row i in the memory of dst, nil where it was dropped. The texts are those of r.
func (r *Rows) Row(i int, dst change.Tuple) change.Tuple {
	cells := r.cells[i*r.width : (i+1)*r.width]
	if r.width > 0 && cells[0].size == sizeDropped {
		return nil
	}
	dst = dst[:0]
	if dst == nil {
		dst = make(change.Tuple, 0, r.width) // a row of a table without columns is one, too
	}
	for _, c := range cells {
		switch c.size {
		case sizeNull:
			dst = append(dst, change.Value{})
		case sizeUnchanged:
			dst = append(dst, change.Value{State: change.Unchanged})
		default:
			end := c.off + uint32(c.size)
			dst = append(dst, change.Value{State: change.Present, Text: r.blocks[c.block][c.off:end:end]})
		}
	}
	return dst
}

// add copies one row; nil is null.
func (r *Rows) add(row [][]byte) {
	r.n++
	for _, v := range row {
		r.cells = append(r.cells, r.keep(v))
	}
}

func (r *Rows) set(i, column int, v change.Value) {
	c := &r.cells[i*r.width+column]
	switch v.State {
	case change.Present:
		*c = r.keep(v.Text)
	case change.Unchanged:
		c.size = sizeUnchanged
	default:
		c.size = sizeNull
	}
}

func (r *Rows) drop(i int) { r.cells[i*r.width].size = sizeDropped }

// keep copies a text; nil is null.
func (r *Rows) keep(v []byte) cell {
	if v == nil {
		return cell{size: sizeNull}
	}
	last := len(r.blocks) - 1
	if last < 0 || len(r.blocks[last])+len(v) > cap(r.blocks[last]) {
		r.blocks = append(r.blocks, make([]byte, 0, max(len(v), min(firstBlock<<min(len(r.blocks), 6), mostBlock))))
		last++
	}
	off := len(r.blocks[last])
	r.blocks[last] = append(r.blocks[last], v...)
	r.text += len(v)
	return cell{uint32(last), uint32(off), int32(len(v))}
}
