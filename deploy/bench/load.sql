-- gen_changes(shard, n) commits n changes of rows of a table: 50 % insert, 30 % update, 20 % delete, by statements of one
-- row in transactions of 1 to 100 rows. The same numbers give the same changes. What is in braces is the table's.
create procedure gen_changes(shard int, n int) language plpgsql as $$
declare
  c int := 0; i int := 0; k int; base bigint := shard::bigint * 10000000;
  inserted bigint := 0; deleted bigint := 0;
begin
  while c < n loop
    i := i + 1;
    k := least(1 + (i * 37) % 100, n - c);
    for j in 1..k loop
      case c % 10
      when 5, 6, 7 then
        update {table} set {set}
         where id = base + deleted + (c::bigint * 2654435761) % (inserted - deleted);
      when 8, 9 then
        delete from {table} where id = base + deleted;
        deleted := deleted + 1;
      else
        insert into {table} values (base + inserted, {values});
        inserted := inserted + 1;
      end case;
      c := c + 1;
    end loop;
    commit;
  end loop;
end $$;
