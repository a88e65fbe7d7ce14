-- Run once, when the source's volume is empty: a small shop, its owner, and the role of capture (docs/security.md). The
-- passwords are those of docker-compose.yml.

CREATE ROLE shop_owner LOGIN PASSWORD 'shop';
CREATE ROLE tributary_capture LOGIN REPLICATION PASSWORD 'capture';
GRANT CONNECT, CREATE ON DATABASE shop TO tributary_capture;
GRANT shop_owner TO tributary_capture;
GRANT ALL ON SCHEMA public TO shop_owner;

SET ROLE shop_owner;

CREATE TYPE public.order_state AS ENUM ('placed', 'paid', 'sent', 'returned');
CREATE TABLE public.customer (
    customer_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text        NOT NULL,
    mail        text        UNIQUE,
    tags        text[]      NOT NULL DEFAULT '{}',
    joined      timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE public.orders (
    order_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id bigint             NOT NULL REFERENCES public.customer,
    state       public.order_state NOT NULL DEFAULT 'placed',
    placed      timestamptz        NOT NULL DEFAULT now(),
    note        jsonb
);
CREATE TABLE public.order_line (
    order_id bigint         NOT NULL REFERENCES public.orders ON DELETE CASCADE,
    line     integer        NOT NULL,
    article  text           NOT NULL,
    amount   numeric(10, 2) NOT NULL,
    PRIMARY KEY (order_id, line)
);

INSERT INTO public.customer (name, mail) SELECT 'Customer ' || i, 'customer' || i || '@mail.example' FROM generate_series(1, 1000) i;
INSERT INTO public.orders (customer_id, state) SELECT 1 + i % 1000, (enum_range(NULL::public.order_state))[1 + i % 4] FROM generate_series(1, 5000) i;
INSERT INTO public.order_line SELECT 1 + i % 5000, 1 + i / 5000, 'article ' || i % 97, (i % 9973) / 100.0 FROM generate_series(0, 14999) i;
