package capture

import "encoding/json"

// What is not known is null in JSON, never 0. Within the program it is the zero value, beside what says whether anybody has looked.

// known is v, nil where nobody knows it.
func known[T any](v T, is bool) *T {
	if !is {
		return nil
	}
	return &v
}

// looked says whether it is known how far behind the capture is. Who asks the source and Kafka instead of the service has just done so.
func (st *Status) looked() bool { return !st.SeenAt.IsZero() || st.Since.IsZero() }

// counted says whether it is known how much WAL is to be published: without a slot nobody counts it.
func (st *Status) counted() bool {
	return st.looked() && (st.WAL.SlotStatus != slotMissing || st.PublishedLSN == "")
}

// plain is a Status without its own way to JSON.
type plain Status

// statusJSON is a Status as JSON has it: what stands beside plain is what counts.
type statusJSON struct {
	*plain
	LagSeconds *float64 `json:"lag_seconds"`
	ToPublish  *int64   `json:"to_publish_bytes"`
}

func (st *Status) json() statusJSON {
	looked := st.looked()
	return statusJSON{(*plain)(st), known(st.LagSeconds, looked), known(st.ToPublish, st.counted())}
}

// MarshalJSON is for who embeds no Status.
func (st Status) MarshalJSON() ([]byte, error) { return json.Marshal(st.json()) } //nolint:gocritic // of a value, too

// MarshalJSON has what the Status in it would else hide.
func (r Report) MarshalJSON() ([]byte, error) { //nolint:gocritic // of a value, too
	return json.Marshal(struct {
		statusJSON
		Asked string `json:"asked"`
	}{r.json(), r.Asked})
}

// MarshalJSON has null for what the source has not said.
func (w WAL) MarshalJSON() ([]byte, error) { //nolint:gocritic // of a value, too
	type plain WAL
	said := !w.AsOf.IsZero()
	return json.Marshal(struct {
		*plain
		RetainedBytes        *int64   `json:"retained_bytes"`
		GrowthBytesPerSecond *float64 `json:"growth_bytes_per_second"`
	}{(*plain)(&w), known(w.RetainedBytes, said), known(w.GrowthBytesPerSecond, said)})
}
