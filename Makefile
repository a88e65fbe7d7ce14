# The two commands that a newcomer needs are `make demo` and `make test`. Everything they need besides Go they fetch
# themselves, into the user's cache directory and below .cache/.

MODULES := schema pkg capture sink deploy
BIN     := $(CURDIR)/bin
CACHE   := $(CURDIR)/.cache
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
REVISION := $(shell git rev-parse --short=12 HEAD 2>/dev/null)
LDFLAGS := -s -w -X github.com/tributary-cdc/tributary/pkg/service.version=$(VERSION)
# The race detector needs a C compiler; without one the tests run all the same.
RACE    := $(shell command -v cc >/dev/null 2>&1 && echo -race)
GOLANGCI_VERSION := v2.15.0
# Go's compiler does a fifth less with more memory: 600 MB at most. Not what is tested, whose memory is looked at.
COMPILE := GOGC=400
# Packages that are tested at a time: most of them wait most of their time for servers of theirs.
P       := $(shell expr $$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2) + 1)
# What takes longest is begun first.
LONG    := $(addprefix ./,deploy/e2e sink capture deploy/docs deploy/e2e/nemesis)
# Nothing in these goes on at a time, and the race detector makes them ten times as slow.
CALM    := $(addprefix github.com/tributary-cdc/tributary/deploy/,cmd/audit cmd/release grafana kubernetes systemd)
# All that is compiled without the race detector is compiled alike, once: programs, what tests run of them, and for lint.
export GOFLAGS := $(strip -trimpath $(GOFLAGS))

.PHONY: demo psql databases test test-all extensions nemesis nemesis-figures nemesis-memory nemesis-mutants soak soak-figures fuzz build release images lint fmt audit bench docs pictures man vendor clean

## demo: a film-rental shop in two databases, consolidated into one warehouse (DEMO_SECONDS=20: ends by itself)
demo: $(BIN)/local
	@$(BIN)/local demo

## psql: look into the demo's databases, like make psql DB=dwh, or into any, like make psql URL=postgres://…
psql: $(BIN)/local
	@$(BIN)/local psql $(or $(URL),$(DB))

## databases: two servers of PostgreSQL to try things with, until Ctrl-C (docs/tutorial.md)
databases: $(BIN)/local
	@$(BIN)/local databases

## test: everything, on PostgreSQL 14 to 18 where versions differ, on an embedded broker and, with Java, on Apache Kafka
test: export GOWORK = $(CURDIR)/go.work
test:
	@CGO_ENABLED=0 $(COMPILE) go list -export -test $(CALM) >/dev/null
	@CGO_ENABLED=0 go test -p $(P) -timeout 20m $(CALM)
	@all=$$(go list $(MODULES:%=./%/...)) && all=$$(echo "$$all" | grep -vxF $(CALM:%=-e %)) && \
		$(COMPILE) go list $(RACE) -export -test $$all >/dev/null && go test $(RACE) -p $(P) -timeout 60m $(LONG) $$all

## test-all: the same, every test on all five major versions of PostgreSQL, on Apache Kafka 3 too and with Apicurio's registry, and the pages of docs and measures of bench that take minutes
test-all:
	@TRIBUTARY_PG=all TRIBUTARY_DOCS=all TRIBUTARY_KAFKA=all TRIBUTARY_BENCH=all $(MAKE) test

## extensions: PostGIS and pgvector for the tests of types, from Debian's packages (as root)
extensions:
	apt-get update
	v=$$(apt-cache search --names-only '^postgresql-[0-9]+-postgis-3$$' | sed 's/^postgresql-\([0-9]*\)-.*/\1/' | sort -n | tail -1); \
		apt-get install -y --no-install-recommends postgresql-$$v postgresql-$$v-postgis-3; \
		apt-get install -y --no-install-recommends postgresql-$$v-pgvector || echo "pgvector is not packaged here: see its README"

## build: the binaries, into bin/
build: $(BIN)/capture $(BIN)/sink $(BIN)/local

$(BIN)/capture: FORCE
	@cd capture && CGO_ENABLED=0 GOWORK=off $(COMPILE) go build -trimpath -ldflags "$(LDFLAGS)" -o $@ ./cmd/capture
$(BIN)/sink: FORCE
	@cd sink && CGO_ENABLED=0 GOWORK=off $(COMPILE) go build -trimpath -ldflags "$(LDFLAGS)" -o $@ ./cmd/sink
$(BIN)/local: FORCE
	@cd deploy && CGO_ENABLED=0 GOWORK=off $(COMPILE) go build -trimpath -ldflags "$(LDFLAGS)" -o $@ ./cmd/local
FORCE:

## release: for Linux and macOS an archive each, bills of materials and checksums, into .cache/release; the same source gives the same bytes
release:
	@cd deploy && GOWORK=off go run ./cmd/release -out $(CACHE)/release -version $(VERSION) -revision "$(REVISION)" \
		-at "$$(git log -1 --format=%ct 2>/dev/null || echo 0)"

## images: of both services, by Docker
images:
	@for s in capture sink; do docker build -f deploy/docker/Dockerfile --target $$s --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) \
		-t tributary/$$s:$(VERSION) -t tributary/$$s . || exit; done

## lint: house rules
lint: $(CACHE)/golangci-lint-$(GOLANGCI_VERSION)
	@CGO_ENABLED=0 GOWORK=$(CURDIR)/go.work $< run $(MODULES:%=./%/...)

## fmt: gofumpt, as lint wants it
fmt: $(CACHE)/golangci-lint-$(GOLANGCI_VERSION)
	@set -e; for m in $(MODULES); do (cd $$m && $< fmt --config ../.golangci.yml ./...); done

$(CACHE)/golangci-lint-$(GOLANGCI_VERSION):
	@mkdir -p $(CACHE)
	CGO_ENABLED=0 GOBIN=$(CACHE) GOWORK=off $(COMPILE) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	@mv $(CACHE)/golangci-lint $@

## audit: licences of all modules, and what is known against them (govulncheck)
audit:
	@cd deploy && GOWORK=off go run ./cmd/audit

## nemesis: workload and faults at random against the real binaries, like make nemesis SEED=7 MINUTES=30 (BROKER=kfake, DELIVERY=at-least-once)
nemesis:
	@mkdir -p $(CACHE)
	@cd deploy && GOWORK=off go test ./e2e/nemesis -run '^TestLong$$' -v -timeout 24h -seed $(or $(SEED),0) \
		-minutes $(or $(MINUTES),10) -broker $(or $(BROKER),kafka) -delivery "$(DELIVERY)" \
		-commit "$$(git describe --always --dirty=+)" -reports $(CACHE)/nemesis.jsonl

## nemesis-figures: what all runs of nemesis together have found, as the tables of docs/guarantees.md
nemesis-figures:
	@cd deploy && GOWORK=off go test ./e2e/nemesis -run '^TestFigures$$' -figures $(CACHE)/nemesis.jsonl

## nemesis-memory: peak memory of both services, with the warehouse away for MINUTES=2 under RATE=20000 changes/s, and in a large transaction (Linux)
nemesis-memory:
	@cd deploy && GOWORK=off go test ./e2e/nemesis -run '^TestMemory$$' -v -timeout 2h -memory -minutes $(or $(MINUTES),0) -rate $(or $(RATE),20000) -broker $(or $(BROKER),kafka)

## soak: hours of modest load and restarts; memory, files, goroutines, slot and checkpoints stay flat, like make soak HOURS=2 (RATE=200: changes/s; Linux)
soak:
	@mkdir -p $(CACHE)
	@cd deploy && GOWORK=off go test ./e2e/nemesis -run '^TestSoak$$' -v -timeout 0 -hours $(or $(HOURS),2) -soak-rate $(or $(RATE),200) \
		-broker $(or $(BROKER),kafka) -programs '$(PROGRAMS)' -commit "$$(git describe --always --dirty=+)" -records $(CACHE)/soak.jsonl

## soak-figures: what the last soak has measured, judged anew, as the tables of docs/guarantees.md
soak-figures:
	@cd deploy && GOWORK=off go test ./e2e/nemesis -run '^TestSoakFigures$$' -records $(CACHE)/soak.jsonl

## nemesis-mutants: that it finds defects which are built in on purpose
nemesis-mutants:
	@cd deploy && GOWORK=off go test ./e2e/nemesis -run '^TestMutants$$' -v -timeout 1h -mutants

## fuzz: every parser against random input, each for FUZZTIME=1m
fuzz:
	@set -e; for m in $(MODULES); do cd $(CURDIR)/$$m; for p in $$(grep -rl --include=*_test.go '^func Fuzz' . | xargs -r -n1 dirname | sort -u); do \
		for f in $$(sed -n 's/^func \(Fuzz[A-Za-z]*\)(.*/\1/p' $$p/*_test.go); do echo "== $$m/$$p $$f"; \
		GOWORK=off go test $$p -run '^$$' -fuzz "^$$f\$$" -fuzztime $(or $(FUZZTIME),1m); done; done; done

## bench: everything beside what the machine allows, in one run; writes docs/performance.md (BENCH='-only stream -scale 0.2': a part)
bench:
	@cd deploy && GOWORK=off go run ./bench $(if $(BENCH),$(BENCH),-page ../docs/performance.md)

## docs: what is generated: docs/reference, the runbooks that the services have with them, and the licences of what is built into them
docs:
	@cd deploy && GOWORK=off go run ./cmd/docs
	@cd deploy && GOWORK=off go run ./cmd/audit -write ../THIRD-PARTY-LICENSES

## pictures: of the status pages, for README, by the machine's chromium; look at them before they are committed
pictures:
	@command -v chromium || command -v chromium-browser || command -v google-chrome || { echo "pictures: there is no chromium on this machine, none was taken" >&2; exit 1; }
	@for m in capture sink; do (cd $$m && GOWORK=off go test . -run '^TestPictures$$' -count=1 -pictures $(CURDIR)/docs/pictures) || exit; done
	@cd deploy && GOWORK=off go run ./cmd/docs -pictures

## man: manual pages of both programs, into bin/man
man: $(BIN)/capture $(BIN)/sink
	@$(BIN)/capture manpage -o $(BIN)/man && $(BIN)/sink manpage -o $(BIN)/man

## vendor: what the status pages use of others, from npm, as pkg/service/page/vendor.json names it
vendor:
	@node pkg/service/page/vendor.mjs

## clean: what was built, and the data of demo, bin/local broker, bin/local registry and make databases; .cache stays: tools, and reports of nemesis and soak
clean:
	rm -rf $(BIN) $(CACHE)/release .demo broker registry databases
