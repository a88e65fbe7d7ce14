-- Version 4: what each target was made to fit last, so that a column that the source renames is found again.

ALTER TABLE tributary.feed
    ADD COLUMN shape jsonb; -- position, key, and by attnum the name of each column at the source and here; see shape in evolve.go
