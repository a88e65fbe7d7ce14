package demo

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/service"
)

const (
	clerksPerShop   = 2   // transactions of one shop that run side by side
	changesPerClerk = 225 // a second
	mostRemoved     = 40  // rentals removed by one transaction
	actionTimeout   = 30 * time.Second
)

// load is life in the shops: clerks who rent out, take back, take money, correct and clear out.
type load struct {
	changes      atomic.Int64 // rows inserted, updated and deleted by committed transactions
	transactions atomic.Int64 // committed
	undone       atomic.Int64 // rolled back, by choice or after a deadlock

	mu      sync.Mutex
	waiting map[string]error // by database: why its clerks cannot work
}

// run works until ctx ends, then finishes what has begun and returns nil. A database that is away is waited for.
func (l *load) run(ctx context.Context, shops []shop) error {
	group := service.NewGroup(ctx)
	for _, s := range shops {
		books := &books{}
		for i := range clerksPerShop {
			c := &clerk{load: l, shop: s, books: books, random: rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), uint64(i)))}
			group.Go("load of "+s.name, c.work)
		}
	}
	return group.Wait()
}

// wait notes why a shop's clerks cannot work, nil that they can.
func (l *load) wait(shop string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting == nil {
		l.waiting = map[string]error{}
	}
	if err == nil {
		delete(l.waiting, shop)
	} else {
		l.waiting[shop] = err
	}
}

// waits gives why the clerks of some shop cannot work, nil if all can.
func (l *load) waits() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, err := range l.waiting {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// books is what the clerks of a shop know together.
type books struct {
	excess atomic.Int64 // rentals made less rentals removed: the shop is kept at its size
}

type clerk struct {
	load   *load
	shop   shop
	books  *books
	random *rand.Rand
	due    time.Time // of the next transaction
}

// work keeps a connection and does one thing after another.
func (c *clerk) work(ctx context.Context) error {
	backoff := retry.Backoff{Min: 200 * time.Millisecond, Max: 2 * time.Second}
	err := retry.Do(ctx, backoff, c.session, func(err error, _ int, _ time.Duration) { c.load.wait(c.shop.name, err) })
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// session works over one connection, until ctx ends or the connection breaks.
func (c *clerk) session(ctx context.Context) error {
	conn, err := postgres.Connect(ctx, c.shop.dsn, application)
	if err != nil {
		return err
	}
	defer closeConn(ctx, conn)
	c.load.wait(c.shop.name, nil)
	c.due = time.Now()
	for c.pause(ctx) {
		t := &till{clerk: c, conn: conn}
		// A transaction that has begun is finished, so that what is counted is what was committed.
		acting, cancel := context.WithTimeout(context.WithoutCancel(ctx), actionTimeout)
		err := pgx.BeginFunc(acting, conn, func(tx pgx.Tx) error {
			t.tx = tx
			c.pick()(acting, t)
			return t.err
		})
		cancel()
		switch {
		case err == nil:
			c.load.changes.Add(t.changes)
			c.load.transactions.Add(1)
			c.books.excess.Add(t.rented - t.removed)
		case errors.Is(err, errChangedMind), retry.Transient(err) && !conn.IsClosed(): // the latter: a deadlock
			c.load.undone.Add(1)
		default:
			return postgres.Describe(err)
		}
		c.due = c.due.Add(time.Duration(max(t.changes, 1)) * time.Second / changesPerClerk)
	}
	return nil
}

// pause waits until the next transaction is due. What could not be done in time is not made up for.
func (c *clerk) pause(ctx context.Context) bool {
	now := time.Now()
	if c.due.Before(now.Add(-time.Second)) {
		c.due = now
	}
	timer := time.NewTimer(c.due.Sub(now))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}

// errChangedMind ends an action that shall be rolled back.
var errChangedMind = errors.New("changed my mind")

// till is one transaction of a clerk: it counts, and keeps the first error, after which nothing more is done.
type till struct {
	*clerk
	conn            *pgx.Conn
	tx              pgx.Tx
	changes         int64
	rented, removed int64
	err             error
}

// do runs a statement that changes rows, and gives how many.
func (t *till) do(ctx context.Context, sql string, args ...any) int64 {
	if t.err != nil {
		return 0
	}
	tag, err := t.tx.Exec(ctx, sql, args...)
	if err != nil {
		t.err = err
		return 0
	}
	t.changes += tag.RowsAffected()
	return tag.RowsAffected()
}

// ids runs a statement that gives numbers.
func (t *till) ids(ctx context.Context, sql string, args ...any) []int64 {
	if t.err != nil {
		return nil
	}
	rows, err := t.tx.Query(ctx, sql, args...)
	if err != nil {
		t.err = err
		return nil
	}
	var ids []int64
	ids, t.err = pgx.CollectRows(rows, pgx.RowTo[int64])
	return ids
}

// roll gives a number from low to high, both included.
func (c *clerk) roll(low, high int) int { return low + c.random.IntN(high-low+1) }

// somewhere gives a share of a table's ids, from 0 to 1, for "the first row from there on".
func (c *clerk) somewhere() float64 { return c.random.Float64() }

// pick chooses what to do next.
func (c *clerk) pick() func(context.Context, *till) {
	n := c.random.IntN(totalWeight)
	for _, a := range actions {
		if n -= a.weight; n < 0 {
			return a.do
		}
	}
	panic("demo: weights do not add up")
}

var totalWeight = func() (sum int) {
	for _, a := range actions {
		sum += a.weight
	}
	return sum
}()

// actions are what clerks do, and how often. Rows are chosen with SKIP LOCKED, so that clerks seldom wait.
var actions = []struct {
	weight int
	do     func(context.Context, *till)
}{
	{30, rent},
	{22, giveBack},
	{10, comeIn},
	{10, miscount},
	{8, correctPayment},
	{5, changeCustomer},
	{4, changePrice},
	{2, rewriteSynopsis},
	{4, recast},
	{3, recategorise},
	{3, swapTickets},
	{12, clearOut},
	{1, takeStock},
	{3, changeMind},
}

// rent lets a customer have up to four films, and takes the money.
func rent(ctx context.Context, t *till) {
	rentals := t.ids(ctx, `
		INSERT INTO public.rental (inventory_id, customer_id, staff_id, period)
		SELECT inventory_id, $2, $3, tstzrange(now(), NULL) FROM public.inventory
		 WHERE inventory_id >= (1 + $1::float8 * 4400)::int AND state <> 'lost' ORDER BY inventory_id LIMIT $4 RETURNING rental_id`,
		t.somewhere(), t.roll(1, 1200), t.roll(1, 24), t.roll(1, 4))
	t.changes += int64(len(rentals))
	t.rented += int64(len(rentals))
	t.do(ctx, `
		INSERT INTO public.payment (customer_id, rental_id, staff_id, amount, paid_at)
		SELECT customer_id, rental_id, staff_id, $2::int / 100.0, lower(period) FROM public.rental WHERE rental_id = ANY ($1)`,
		rentals, t.roll(99, 1299))
}

// giveBack closes the range of some rentals.
func giveBack(ctx context.Context, t *till) {
	t.do(ctx, `
		UPDATE public.rental SET period = tstzrange(lower(period), greatest(now(), lower(period))), returned = true
		 WHERE rental_id IN (SELECT rental_id FROM public.rental WHERE NOT returned ORDER BY rental_id LIMIT $1 FOR UPDATE SKIP LOCKED)`,
		t.roll(1, 4))
}

// comeIn adds equal rows to the table without key.
func comeIn(ctx context.Context, t *till) {
	t.do(ctx, `
		INSERT INTO public.visit SELECT $1, date_trunc('minute', now()), NULL, $2 FROM generate_series(1, $3::int)`,
		t.roll(1, 6), t.roll(0, 1) == 1, t.roll(1, 8))
}

// miscount takes some of several equal rows away and changes others.
func miscount(ctx context.Context, t *till) {
	const some = ` WHERE ctid = ANY (ARRAY(SELECT ctid FROM public.visit WHERE store_id = $1 LIMIT $2 FOR UPDATE SKIP LOCKED))`
	store := t.roll(1, 6)
	t.do(ctx, `DELETE FROM public.visit`+some, store, t.roll(1, 8))
	t.do(ctx, `UPDATE public.visit SET stayed = coalesce(stayed, '0') + interval '5 minutes'`+some, store, t.roll(1, 2))
}

// correctPayment changes an amount, or the day, which is part of the key and decides the partition.
func correctPayment(ctx context.Context, t *till) {
	const some = ` WHERE (payment_id, paid_at) IN (SELECT payment_id, paid_at FROM public.payment
		 WHERE payment_id >= (SELECT min(payment_id) + $1::float8 * (max(payment_id) - min(payment_id)) FROM public.payment)::bigint
		 ORDER BY payment_id LIMIT $2 FOR UPDATE SKIP LOCKED)`
	if t.roll(1, 3) > 1 {
		t.do(ctx, `UPDATE public.payment SET amount = round(amount * 0.9, 2), note = 'discount'`+some, t.somewhere(), t.roll(1, 3))
	} else {
		t.do(ctx, `UPDATE public.payment SET paid_at = paid_at - interval '100 days'`+some, t.somewhere(), t.roll(1, 2))
	}
}

func changeCustomer(ctx context.Context, t *till) {
	customer := t.roll(1, 1200)
	switch t.roll(1, 4) {
	case 1:
		t.do(ctx, `UPDATE public.customer SET address_id = $2 WHERE customer_id = $1`, customer, t.roll(7, 750))
	case 2:
		t.do(ctx, `UPDATE public.customer SET mail = CASE WHEN mail IS NULL THEN 'new' || customer_id || '@mail.example' END WHERE customer_id = $1`, customer)
	case 3:
		t.do(ctx, `UPDATE public.customer SET tags = (ARRAY['seen {today}', NULL] || tags)[1:4] WHERE customer_id = $1`, customer)
	case 4:
		t.do(ctx, `UPDATE public.customer SET preferences = preferences || jsonb_build_object('visits', $2::int), active = NOT active WHERE customer_id = $1`,
			customer, t.roll(1, 1000))
	}
}

// changePrice updates rows whose long text is not sent again.
func changePrice(ctx context.Context, t *till) {
	t.do(ctx, `UPDATE public.film SET rental_rate = $2::int / 100.0 WHERE film_id BETWEEN $1 AND $1 + 2`, t.roll(1, 998), t.roll(99, 799))
}

func rewriteSynopsis(ctx context.Context, t *till) {
	t.do(ctx, `UPDATE public.film SET synopsis = left(repeat('Take ' || $2::int || ': ' || title || '. ', 300), $3) WHERE film_id = $1`,
		t.roll(1, 1000), t.roll(1, 99), t.roll(40, 5000))
}

// recast takes an actor off a film and puts another one in.
func recast(ctx context.Context, t *till) {
	film := t.roll(1, 1000)
	t.ids(ctx, `SELECT film_id FROM public.film WHERE film_id = $1 FOR UPDATE`, film)
	t.do(ctx, `DELETE FROM public.film_actor WHERE film_id = $1 AND actor_id = (SELECT max(actor_id) FROM public.film_actor WHERE film_id = $1)`, film)
	t.do(ctx, `INSERT INTO public.film_actor VALUES ($1, $2, 'stand-in') ON CONFLICT DO NOTHING`, film, t.roll(1, 250))
}

// recategorise changes a key.
func recategorise(ctx context.Context, t *till) {
	film := t.roll(1, 1000)
	t.ids(ctx, `SELECT film_id FROM public.film WHERE film_id = $1 FOR UPDATE`, film)
	t.do(ctx, `
		UPDATE public.film_category SET category_id = $2
		 WHERE film_id = $1 AND category_id = (SELECT min(category_id) FROM public.film_category WHERE film_id = $1)
		   AND NOT EXISTS (SELECT FROM public.film_category WHERE film_id = $1 AND category_id = $2)`, film, t.roll(1, 16))
}

// swapTickets exchanges the keys of two rows in one transaction.
func swapTickets(ctx context.Context, t *till) {
	ids := t.ids(ctx, `
		SELECT rental_id FROM public.rental
		 WHERE rental_id >= (SELECT min(rental_id) + $1::float8 * (max(rental_id) - min(rental_id)) FROM public.rental)::bigint
		 ORDER BY rental_id LIMIT 2 FOR UPDATE SKIP LOCKED`, t.somewhere())
	if len(ids) < 2 {
		return
	}
	const move = `UPDATE public.rental SET rental_id = $2 WHERE rental_id = $1`
	t.do(ctx, move, ids[0], -ids[0])
	t.do(ctx, move, ids[1], ids[0])
	t.do(ctx, move, -ids[0], ids[1])
}

// clearOut removes the oldest rentals and payments, as many as keep the shop at its size.
func clearOut(ctx context.Context, t *till) {
	n := min(max(t.books.excess.Load(), 2), mostRemoved)
	t.removed += t.do(ctx, `
		DELETE FROM public.rental WHERE rental_id IN (
			SELECT rental_id FROM public.rental WHERE returned ORDER BY rental_id LIMIT $1 FOR UPDATE SKIP LOCKED)`, n)
	t.do(ctx, `
		DELETE FROM public.payment WHERE (payment_id, paid_at) IN (
			SELECT payment_id, paid_at FROM public.payment ORDER BY payment_id LIMIT $1 FOR UPDATE SKIP LOCKED)`, n)
}

// takeStock is a transaction of many rows.
func takeStock(ctx context.Context, t *till) {
	t.do(ctx, `
		UPDATE public.inventory SET shelf = $2, state = CASE state WHEN 'lost' THEN 'good' WHEN 'worn' THEN 'lost' ELSE 'worn' END::public.copy_state
		 WHERE inventory_id BETWEEN $1 AND $1 + 149`, t.roll(1, 4350), string(rune('A'+t.roll(0, 7)))+"1")
}

// changeMind does a lot and rolls it back: nothing of it may arrive.
func changeMind(ctx context.Context, t *till) {
	rent(ctx, t)
	giveBack(ctx, t)
	changeCustomer(ctx, t)
	if t.err == nil {
		t.err = errChangedMind
	}
}
