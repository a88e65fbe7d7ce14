package capture

// The defects that a build with the tag "mutant" can be given through TRIBUTARY_MUTANT.
const (
	mutantNoChunkRule      = "no-chunk-rule"      // a chunk is published whatever its snapshot does not see
	mutantConfirmOnReceipt = "confirm-on-receipt" // what was read is confirmed before it is published
)
