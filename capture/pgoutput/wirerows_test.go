package pgoutput

// wire is one row of the tables of what Postgres sends: transactions (T), rows and replica identities (R), schema (S).
// Its golden file is testdata/wire/{row}.txt.
type wire struct {
	row, about string
	min        int      // first major version that has it; 0 for all
	begin      []string // before the publication; it may make the publication p itself
	options    string   // of create publication p for all tables
	// then is what is decoded. "2: " in front runs a statement on a second connection, "&2: " without waiting for its end,
	// "? " is a query whose answer goes into the golden file, "!55000 " is refused with that SQLSTATE.
	then []string
	// empty keeps empty transactions in the golden file. Version 14 sends many.
	empty bool
	// capture are the tests of what capture, and the sink, make of it.
	capture []string
}

const (
	plain   = `create table d (id int primary key, name text, big text)`
	outside = `alter table d alter big set storage external`
)

var wires = []wire{
	{
		row: "T1", about: "a transaction that is not confirmed comes again, whole, in the same order (the test reads every row of these tables twice)",
		begin: []string{plain}, then: []string{`begin; insert into d values (1, 'a'), (2, 'b'); update d set name = 'c' where id = 1; commit`, `delete from d where id = 2`},
		capture: []string{"TestRestartPublishesNothingTwice", "TestRandom", "TestLargeTransactionIsCut"},
	},
	{
		row: "T2", about: "Begin has the LSN of the commit record, that of Commit (the test checks it in every transaction), also at COMMIT PREPARED",
		begin: []string{plain}, then: []string{`insert into d values (1)`, `begin; insert into d values (2); prepare transaction 'x'`, `commit prepared 'x'`},
		capture: []string{"TestRandom"},
	},
	{
		row: "T3", empty: true, about: "a transaction that writes to what is not published: version 14 sends it empty",
		begin: []string{plain, `create table other (id int)`, `create publication p for table d`}, then: []string{`insert into other values (1)`, `insert into d values (1)`},
		capture: []string{"TestSnapshotAndStream"},
	},
	{
		row: "T4", about: "what was rolled back to a savepoint is never sent",
		begin: []string{plain}, then: []string{`begin; insert into d values (103); savepoint a; insert into d values (104); rollback to a; insert into d values (105); savepoint b; insert into d values (106); release b; commit`},
		capture: []string{"TestSnapshotAndStream", "TestRandom"},
	},
	{
		row: "T5", about: "a prepared transaction comes at COMMIT PREPARED, behind what committed before it; one rolled back never",
		begin: []string{plain}, then: []string{
			`begin; insert into d values (1, 'prepared first'); prepare transaction 'a'`, `insert into d values (2, 'committed first')`, `commit prepared 'a'`,
			`begin; insert into d values (3); prepare transaction 'b'`, `rollback prepared 'b'`,
		},
		capture: []string{"TestFindGapAfterFailover"},
	},
	{
		row: "T6", about: "protocol 1 streams no transaction that is under way: one larger than logical_decoding_work_mem comes whole, behind its commit, without what a subtransaction took back",
		begin: []string{plain, outside}, then: []string{
			`begin; insert into d select i, 'kept', repeat('x', 30000) from generate_series(1, 3) i; savepoint a; insert into d select i, 'gone', repeat('y', 30000) from generate_series(11, 13) i; rollback to a; insert into d values (4)`,
			`2: insert into d values (5, 'committed first')`, `commit`,
		},
		capture: []string{"TestRefuses", "TestLargeTransactionIsCut"},
	},
	{
		row: "T7", about: "a message that is not transactional comes at once, outside of transactions, even if the one that wrote it is rolled back",
		begin: []string{plain}, then: []string{`begin; insert into d values (1); select pg_logical_emit_message(false, 'wm', 'x'); rollback`, `begin; insert into d values (2); select pg_logical_emit_message(false, 'wm', 'y'); commit`},
		capture: []string{"TestSnapshotIsAskedForInTheWAL"},
	},
	{
		row: "T8", about: "a transactional message alone makes a transaction; one rolled back is never sent",
		begin: []string{plain}, then: []string{`select pg_logical_emit_message(true, 'tributary', '{"fence": "f"}')`, `begin; select pg_logical_emit_message(true, 'tributary', 'gone'); rollback`, `begin; insert into d values (1); select pg_logical_emit_message(true, 'tributary', 'between'); insert into d values (2); commit`},
		capture: []string{"TestSnapshotIsAskedForInTheWAL", "TestProgressAndFences"},
	},
	{
		row: "T9", about: "a transaction from elsewhere: Origin behind Begin, with the commit time of there",
		begin: []string{plain, `select pg_replication_origin_create('elsewhere_' || current_database())`},
		then: []string{
			`insert into d values (1)`,
			`select pg_replication_origin_session_setup('elsewhere_' || current_database()); begin; select pg_replication_origin_xact_setup('0/ABCDEF', '2020-01-01 00:00:00+00'); insert into d values (2); commit; select pg_replication_origin_session_reset(); select pg_replication_origin_drop('elsewhere_' || current_database())`,
		},
		capture: []string{"TestGolden", "TestEvents"},
	},
	{
		row: "T10", about: "rows of one COPY share an LSN: only their order tells them apart",
		begin: []string{`create table c (id int)`}, then: []string{`copy c from program 'printf "1\n2\n3\n"'`},
		capture: []string{"TestSnapshotAndStream"},
	},
	{
		row: "T11", about: "TRUNCATE: one message for all tables, those that CASCADE takes along included, what is not published left out, in its place between rows",
		begin: []string{
			plain, `create table inc (id serial primary key)`, `create table child (id int primary key, d int references d)`, `create table other (id int primary key, d int references d)`,
			`create publication p for table d, inc, child`,
		},
		then: []string{
			`begin; insert into d values (1); insert into child values (1, 1); truncate d cascade; insert into d values (2); commit`, `truncate inc restart identity`,
			`begin; insert into inc values (7); truncate inc; rollback`, `truncate other`,
		},
		capture: []string{"TestTruncateIsABarrier", "TestRandom"},
	},
	{
		row: "T12", about: "commit times go backwards",
		begin: []string{plain, `select pg_replication_origin_create('clock_' || current_database())`},
		then: []string{
			`insert into d values (1)`,
			`select pg_replication_origin_session_setup('clock_' || current_database()); begin; select pg_replication_origin_xact_setup('0/1', '2001-02-03 04:05:06.789+00'); insert into d values (2); commit; select pg_replication_origin_session_reset(); select pg_replication_origin_drop('clock_' || current_database())`,
			`insert into d values (3)`,
		},
		capture: []string{"TestPosition"},
	},
	{
		row: "T13", about: "a large transaction is one Begin, its rows, one Commit",
		begin: []string{plain}, then: []string{`insert into d select i from generate_series(1, 5000) i`},
		capture: []string{"TestLargeTransactionIsCut", "TestMemory"},
	},
	{
		row: "T14", about: "a commit that waits for a synchronous standby is sent before anybody at the source sees its rows",
		begin: []string{plain}, then: []string{`&2: set synchronous_commit = on; insert into d values (1, 'not visible')`, `? select count(*) from d`},
		capture: []string{"TestChunkDoesNotOvertakeInvisibleCommit", "TestKeylessEventsWaitForAReadThatCounts"},
	},

	{
		row: "R1", about: "REPLICA IDENTITY DEFAULT, the key stays: no old row",
		begin: []string{plain}, then: []string{`insert into d values (1, 'a')`, `update d set name = 'b'`, `update d set id = 1`},
		capture: []string{"TestSnapshotAndStream", "TestRandom"},
	},
	{
		row: "R2", about: "the key changes: the old key, and null in every other column",
		begin: []string{plain}, then: []string{`insert into d values (1, 'a')`, `update d set id = 2, name = 'b'`, `delete from d`},
		capture: []string{"TestRandom", "TestHalvesOfAKeyChangeApart", "TestKeyChangeAcrossPartitions"},
	},
	{
		row: "R3", about: "the key is TOASTed: it comes as old key although it stays, and as unchanged in the new row",
		begin:   []string{`create table bk (k text primary key, n int)`, `alter table bk alter k set storage external`},
		then:    []string{`insert into bk values (repeat('k', 2500), 1)`, `update bk set n = 2`, `update bk set k = repeat('l', 2500)`, `delete from bk`},
		capture: []string{"TestOddRows"},
	},
	{
		row: "R4", about: "REPLICA IDENTITY FULL: the whole old row, with its TOASTed values; the new row lacks those that stay",
		begin:   []string{plain, outside, `alter table d replica identity full`},
		then:    []string{`insert into d values (1, 'a', repeat('x', 3000))`, `update d set name = 'b'`, `update d set id = 2`, `delete from d`},
		capture: []string{"TestRandom", "TestOddRows"},
	},
	{
		row: "R5", about: "REPLICA IDENTITY USING INDEX: the key is the index's; the primary key is null in it, and may change without an old row",
		begin:   []string{`create table i (id int primary key, code text not null, x int)`, `create unique index i_code on i (code)`, `alter table i replica identity using index i_code`},
		then:    []string{`insert into i values (1, 'a', 0)`, `update i set x = 1`, `update i set id = 2`, `update i set code = 'b'`, `delete from i`},
		capture: []string{"TestOddRows", "TestAlteredTables"},
	},
	{
		row: "R6", about: "no replica identity: the server refuses the application's UPDATE and DELETE, unless the publication has only INSERT and TRUNCATE",
		begin: []string{
			`create table n (id int primary key, v text)`, `alter table n replica identity nothing`, `create table bare (id int)`,
			`create publication p for table n with (publish = 'insert, truncate')`, `create publication breaking for table bare`,
		},
		then:    []string{`insert into n values (1, 'a')`, `update n set v = 'b'`, `delete from n`, `truncate n`, `insert into bare values (1)`, `!55000 update bare set id = 2`, `!55000 delete from bare`},
		capture: []string{"TestSnapshotAndStream", "TestIdentityRaisedWhileRunning"},
	},
	{
		row: "R7", about: "the replica identity is changed: another Relation; without a primary key DEFAULT flags no column",
		begin: []string{`create table d (id int primary key, name text not null)`, `create unique index d_name on d (name)`},
		then: []string{
			`insert into d values (1, 'a'), (2, 'b')`, `alter table d replica identity full`, `update d set name = 'c' where id = 1`, `alter table d replica identity using index d_name`, `update d set name = 'd' where id = 1`,
			`alter table d replica identity nothing`, `insert into d values (3, 'c')`, `alter table d replica identity default`, `alter table d drop constraint d_pkey`, `insert into d values (4, 'e')`,
		},
		capture: []string{"TestIdentityRaisedWhileRunning", "TestAlteredTables"},
	},
	{
		row: "R8", about: "a TOASTed value that an UPDATE does not touch is not sent",
		begin: []string{plain, outside}, then: []string{`insert into d values (1, 'a', repeat('x', 3000))`, `update d set name = 'b'`, `update d set id = 2`, `update d set big = null`},
		capture: []string{"TestRandom", "TestOperations", "TestKeySwapKeepsWhatWasNotSent"},
	},
	{
		row: "R9", about: "an UPDATE that brings a row into a row filter is sent as INSERT, and lacks TOASTed values. Capture's own publications have no filter",
		min: 15, begin: []string{
			`create table d (id int, open bool, big text, primary key (id, open))`, outside, `create publication p for table d where (open)`,
		},
		then:    []string{`insert into d values (1, false, repeat('x', 3000))`, `update d set open = true`},
		capture: []string{"TestPublicationsAreOurs", "TestUnresolvedToast"},
	},
	{
		row: "R10", about: "a row filter makes INSERT and DELETE of UPDATE where a row comes in or goes",
		min: 15, begin: []string{`create table d (id int, open bool, n int, primary key (id, open))`, `create publication p for table d where (open)`},
		then:    []string{`insert into d values (1, false, 0), (2, true, 0)`, `update d set open = true where id = 1`, `update d set n = 1 where id = 1`, `update d set open = false where id = 2`, `update d set n = 1 where id = 2`, `delete from d`},
		capture: []string{"TestPublicationsAreOurs"},
	},
	{
		row: "R11", about: "a column list: neither Relation nor rows have the others; an UPDATE of them is sent all the same",
		min: 15, begin: []string{`create table d (id int primary key, name text, secret text)`, `create publication p for table d (id, name)`},
		then:    []string{`insert into d values (1, 'a', 's')`, `update d set secret = 't'`},
		capture: []string{"TestPublicationsAreOurs"},
	},
	{
		row: "R12", about: "generated columns are not sent by default",
		begin:   []string{`create table g (id int primary key, n int, doubled int generated always as (n * 2) stored, o int)`},
		then:    []string{`insert into g (id, n, o) values (1, 2, 3)`, `update g set n = 5`},
		capture: []string{"TestGeneratedColumns"},
	},
	{
		row: "R12-stored", about: "with publish_generated_columns stored ones are, virtual ones never",
		min: 18, options: " with (publish_generated_columns = stored)",
		begin:   []string{`create table g (id int primary key, n int, doubled int generated always as (n * 2) stored, o int, tripled int generated always as (n * 3) virtual)`},
		then:    []string{`insert into g (id, n, o) values (1, 2, 3)`, `update g set n = 5`},
		capture: []string{"TestGeneratedColumns"},
	},
	{
		row: "R13", about: "partitions published as themselves: each its Relation with its own order of columns; a row that moves is deleted and inserted",
		begin: []string{
			`create table r (id int, at int, v text, primary key (id, at)) partition by range (at)`, `create table r_1 partition of r for values from (0) to (10)`,
			`create table r_2 (v text, at int not null, id int not null)`, `alter table r attach partition r_2 for values from (10) to (20)`,
		},
		then:    []string{`insert into r values (1, 1, 'a')`, `update r set at = 11`, `update r set v = 'b'`},
		capture: []string{"TestPublicationsAreOurs"},
	},
	{
		row: "R14", about: "published through the root: rows are the root's; TRUNCATE of a partition, ATTACH and DETACH are not sent",
		options: " with (publish_via_partition_root = true)",
		begin: []string{
			`create table r (id int, at int, v text, primary key (id, at)) partition by range (at)`, `create table r_1 partition of r for values from (0) to (10)`,
			`create table r_2 (v text, at int not null, id int not null)`, `alter table r attach partition r_2 for values from (10) to (20)`,
		},
		then: []string{
			`insert into r values (1, 1, 'a'), (2, 2, 'b')`, `update r set at = 11 where id = 1`, `truncate r_1`, `alter table r detach partition r_1`, `create table r_3 (like r including all)`, `insert into r_3 values (3, 21, 'c')`,
			`alter table r attach partition r_3 for values from (20) to (30)`, `update r set v = 'd' where id = 3`, `truncate r`,
		},
		capture: []string{"TestSnapshotAndStream", "TestAlteredTables"},
	},
	{
		row: "R15", about: "one key, several rows in one transaction: all events, in order",
		begin:   []string{plain},
		then:    []string{`insert into d values (1, 'a')`, `begin; delete from d; insert into d values (1, 'b'); update d set id = 2; insert into d values (1, 'c'); update d set id = 3 where id = 1; update d set id = 1 where id = 2; commit`},
		capture: []string{"TestRandom", "TestFoldEqualsOneByOne"},
	},
	{
		row: "R16", about: "equal rows of a table without key: each change carries the whole old row",
		begin:   []string{`create table f (a int, b text)`, `alter table f replica identity full`},
		then:    []string{`insert into f values (1, 'x'), (1, 'x'), (1, null)`, `update f set b = 'y' where ctid = '(0,1)'`, `delete from f where ctid = '(0,2)'`, `delete from f`},
		capture: []string{"TestSnapshotAndStream", "TestKeyless", "TestKeylessEqualsOneByOne"},
	},

	{
		row: "S1", about: "Relation comes before the first row of a session, and again after whatever invalidates the server's cache, alike",
		begin: []string{plain}, then: []string{
			`insert into d values (1)`, `insert into d values (2)`, `analyze d`, `insert into d values (3)`, `create index on d (name)`, `insert into d values (4)`, `grant select on d to public`, `insert into d values (5)`, `truncate d`, `insert into d values (6)`,
		},
		capture: []string{"TestRandom"},
	},
	{
		row: "S2", about: "DDL in the middle of a transaction: Relation comes again between its rows",
		begin: []string{plain}, then: []string{`begin; insert into d values (1, 'a'); alter table d add c int; insert into d values (2, 'b', null, 1); alter table d drop big; insert into d values (3, 'c', 2); alter table d rename name to label; update d set label = 'd' where id = 1; alter table d alter c type text; insert into d values (4, 'e', 'f'); commit`},
		capture: []string{"TestAlteredTables"},
	},
	{
		row: "S3", about: "a column is added: rows that are there get its default without an event",
		begin: []string{plain, `insert into d values (1)`}, then: []string{`alter table d add c int not null default 7`, `insert into d values (2)`, `update d set name = 'a' where id = 1`},
		capture: []string{"TestAlteredTables"},
	},
	{
		row: "S4", about: "a column is dropped",
		begin: []string{plain}, then: []string{`insert into d values (1, 'a', 'b')`, `alter table d drop name`, `insert into d values (2, 'c')`},
		capture: []string{"TestAlteredTables", "TestSchemaChanges"},
	},
	{
		row: "S5", about: "column, table and schema are renamed: the same OID, other names, no attnum",
		begin: []string{`create schema one`, `create table one.d (id int primary key, name text)`, `insert into one.d values (1)`},
		then: []string{
			`update one.d set name = 'a'`, `alter table one.d rename name to label`, `update one.d set label = 'b'`, `alter table one.d rename to e`, `update one.e set label = 'c'`, `alter schema one rename to two`, `update two.e set label = 'd'`,
			`create schema three; alter table two.e set schema three`, `update three.e set label = 'e'`,
		},
		capture: []string{"TestAlteredTables", "TestAttnums", "TestTablesMovedBetweenSchemas"},
	},
	{
		row: "S6", about: "a type is changed: the values that the server computes anew are not sent",
		begin: []string{`create table d (id int primary key, n int)`, `insert into d values (1, 5)`}, then: []string{`alter table d alter n type bigint using n * 10`, `? select n from d`, `insert into d values (2, 7)`, `alter table d alter n type text`, `update d set n = 'x' where id = 2`},
		capture: []string{"TestAlteredTables"},
	},
	{
		row: "S7", about: "a default that is computed for each row: the rows are written anew and none is sent",
		begin: []string{`create table d (id int primary key)`, `insert into d values (1), (2)`}, then: []string{`alter table d add r float8 default random()`, `? select count(distinct r) from d`, `insert into d values (3, 0.5)`},
		capture: []string{"TestAlteredTables"},
	},
	{
		row: "S8", about: "only the modifier of a type is changed",
		begin: []string{`create table d (id int primary key, v varchar(10), n numeric(10,2))`}, then: []string{`insert into d values (1, 'a', 1)`, `alter table d alter v type varchar(20), alter n type numeric(12,4)`, `insert into d values (2, 'b', 2)`},
		capture: []string{"TestAlteredTables"},
	},
	{
		row: "S9", about: "an enum gets a value, a value and the type another name: at most the Type message tells",
		begin:   []string{`create type mood as enum ('sad', 'ok')`, `create table d (id int primary key, m mood)`},
		then:    []string{`insert into d values (1, 'ok')`, `alter type mood add value 'happy'`, `insert into d values (2, 'happy')`, `alter type mood rename value 'ok' to 'fine'`, `alter type mood rename to feeling`, `update d set m = 'fine' where id = 2`, `? select m from d where id = 1`},
		capture: []string{"TestAlteredTables"},
	},
	{
		row: "S10", about: "a composite type or a domain is altered: no Relation tells",
		begin:   []string{`create type pair as (a int, b int)`, `create domain small as int check (value < 10)`, `create table d (id int primary key, p pair, s small)`},
		then:    []string{`insert into d values (1, '(1,2)', 3)`, `alter type pair add attribute c text`, `alter domain small drop constraint small_check`, `insert into d values (2, '(1,2,x)', 30)`},
		capture: []string{"TestAlteredComposite"},
	},
	{
		row: "S11", about: "a table is dropped and made again: nothing but another OID under the same name",
		begin: []string{plain}, then: []string{`insert into d values (1)`, `drop table d`, `create table d (id int primary key, other int)`, `insert into d values (1, 2)`},
		capture: []string{"TestAlteredTables"},
	},
	{
		row: "S12", about: "unlogged, temporary and foreign tables, materialized views, sequences and large objects are not sent; SET LOGGED sends only what comes later",
		begin: []string{
			plain, `create unlogged table u (id int primary key)`, `create sequence seq`, `create materialized view m as select 1 as one`,
			`create foreign data wrapper nowhere`, `create server nowhere foreign data wrapper nowhere`, `create foreign table f (id int) server nowhere`,
		},
		then: []string{
			`insert into u values (1)`, `create temporary table t (id int primary key)`, `insert into t values (1)`, `refresh materialized view m`, `select nextval('seq')`, `select lo_from_bytea(0, 'large')`,
			`alter table u set logged`, `insert into u values (2)`, `update u set id = 3 where id = 1`, `alter table u set unlogged`, `insert into u values (4)`,
		},
		capture: []string{"TestTablesWithoutWAL"},
	},
	{
		row: "S13", about: "primary key, NOT NULL, defaults and constraints are not in the stream; the flags are those at the place in the WAL",
		begin: []string{`create table d (id int primary key, a int not null, b int)`},
		then: []string{
			`insert into d values (1, 1, 1)`, `alter table d alter b set not null, alter b set default 5, add check (b > 0)`, `insert into d values (2, 2, 2)`,
			`begin; alter table d drop constraint d_pkey; alter table d add primary key (b, a); commit`, `update d set a = 3 where id = 1`, `alter table d drop constraint d_pkey`, `insert into d values (3, 3, 3)`,
		},
		capture: []string{"TestAlteredTables", "TestStreamIsAheadOfTheCatalog"},
	},
	{
		row: "S14", about: "an event trigger of one's own can write a message at the very place of DDL. Capture does without: it needs no superuser",
		begin: []string{
			plain, `create function tell() returns event_trigger language plpgsql as $$ begin perform pg_logical_emit_message(true, 'cdc.ddl', tg_tag); end $$`,
			`create event trigger tell on ddl_command_end execute function tell()`,
		},
		then:    []string{`begin; insert into d values (1); alter table d add c int; insert into d values (2); commit`},
		capture: []string{"TestAlteredTables"},
	},
	{
		row: "S15", about: "identifiers of any characters",
		begin: []string{
			`create schema "a.b"`, `create table "a.b"."A" ("a b" int primary key, "Ü" text, "x""y" int, "line` + "\n" + `feed" int, "$" int, "sélect" int)`, `create table "a.b".a ("select" int primary key)`,
			`create table public."` + name63 + `" ("` + name63 + `" int primary key)`,
		},
		then:    []string{`insert into "a.b"."A" values (1, 'v', 2, 3, 4, 5)`, `insert into "a.b".a values (1)`, `insert into public."` + name63 + `" values (1)`},
		capture: []string{"TestNames", "TestTopic", "TestAvroName", "FuzzNames"},
	},
}

// name63 is as long as a name may be: 63 bytes.
const name63 = "äöüÄÖÜß€_123456789_123456789_123456789_123456789_12345"
