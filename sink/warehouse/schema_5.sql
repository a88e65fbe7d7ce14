-- Version 5: tenants that are removed, and checkpoints that are moved from outside.

ALTER TABLE tributary.control
    ADD COLUMN removed boolean NOT NULL DEFAULT false; -- of a whole source: its rows are not wanted, nothing of it is read
CREATE INDEX checkpoint_unowned ON tributary.checkpoint (grp) WHERE owner IS NULL;
COMMENT ON COLUMN tributary.checkpoint.owner IS 'Instance that claimed the partition; null: the checkpoint was moved, it is to be claimed again.';
