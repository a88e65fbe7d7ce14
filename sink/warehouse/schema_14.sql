-- Version 14: by which leader the last record that is applied was written, so that a topic which has lost its end meanwhile is noticed.

ALTER TABLE tributary.checkpoint
    ADD term        integer NOT NULL DEFAULT 0, -- one more than Kafka's leader epoch; 0 where that is not known
    ADD term_offset bigint  NOT NULL DEFAULT 0; -- next_offset when term was written; where it is another one now, it was moved from outside
