SHELL       := bash
.SHELLFLAGS := -euo pipefail -c

FUZZTIME ?= 10s
# Built from tools/go.mod, so that it stays out of the module graph of our users.
LINTER   ?= go tool -modfile=tools/go.mod golangci-lint

# What makes and runs WebAssembly components. jco is pinned: 1.35.0 cannot read WIT
# folders with the preview2-shim that npm gives it.
CLANG    ?= clang
JCO      ?= npx --yes @bytecodealliance/jco@1.34.0

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/manykv
	CGO_ENABLED=0 go build -trimpath -o bin/manykv ./cmd/manykv

# Tests that start processes, compile guests and serve files through FUSE: the race
# detector makes them ten times slower, and sees little of ours there.
CALM := ./cmd/... ./jepsen/... ./wasi/...

.PHONY: test
test: ## run all tests, those of stores and clusters with the race detector (needs gcc)
	CGO_ENABLED=1 go test -race -vet=off -parallel 4 ./cluster # which mostly waits
	CGO_ENABLED=1 go test -race -vet=off $$(go list ./... | grep -vxF -e "$$(go list ./cluster $(CALM))")
	go test -vet=off $(CALM)

.PHONY: test-race
test-race: ## run every test with the race detector (a quarter of an hour, and a quiet machine)
	CGO_ENABLED=1 go test -race -p 1 -timeout 30m ./...

.PHONY: lint
lint: ## run golangci-lint
	$(LINTER) run

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (10s)
	@listed=$$(go test -list '^Fuzz' ./...); \
	awk '/^Fuzz/ { target[n++] = $$1 } /^ok/ { for (i = 0; i < n; i++) print $$2, target[i]; n = 0 }' <<<"$$listed" \
		| while read -r package target; do \
			echo "== $$target of $$package"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x "$$package"; \
		done

.PHONY: image
image: build ## build the container image manykv:latest (needs Docker)
	@context=$$(mktemp -d); trap 'rm -rf "$$context"' EXIT; mkdir $$context/data; cp bin/manykv $$context/; \
	docker build -t manykv:latest -f deploy/Dockerfile $$context

.PHONY: test-docker
test-docker: build ## three containers: data, one killed, one replaced (root or a Docker engine, 2 minutes)
	scripts/docker.sh bin/manykv

.PHONY: demo
demo: build ## tour of a local cluster, checked at every step
	scripts/demo.sh bin/manykv

.PHONY: check-linearizable
check-linearizable: ## kill and pause nodes under load and check what clients saw (2 minutes)
	go test ./jepsen -run '^TestLinearizable$$' -count=1 -v -args -ops 20000

.PHONY: test-crash
test-crash: ## kill a process at every named step of log, votes, snapshots and installs (2 minutes)
	go test -tags crashpoints -run 'CrashPoints' -count=1 -v ./raftlog ./fsm ./cluster

.PHONY: jepsen
jepsen: ## break a cluster for 10 minutes in all ways there are, and judge what clients saw (root, TUN, FUSE)
	go run -tags crashpoints ./cmd/jepsen run

.PHONY: jepsen-smoke
jepsen-smoke: ## the same for a minute and a half, with fewer kinds of faults
	@if [[ -n "$${MANYKV_CI_NO_JEPSEN:-}" ]]; then echo "left out: MANYKV_CI_NO_JEPSEN is set"; exit; fi; \
	go run -tags crashpoints ./cmd/jepsen run --time 90s --seed $(SEED) --no-clock --at-once 2 --tasks registers,adds,counters \
		--first 'power cut: all nodes' --dir "$$(mktemp -d)/smoke" \
		--faults 'partition: halves,partition: a leader alone,kill a leader,kill all nodes,pause two leaders,power cut: all nodes,power cut: a node'

.PHONY: jepsen-nightly
HOURS ?= 8
SEED  ?= 1
jepsen-nightly: ## runs of all sorts for HOURS (8), the first with SEED (1)
	go run -tags crashpoints ./cmd/jepsen nightly --hours $(HOURS) --seed $(SEED)

.PHONY: jepsen-mutants
jepsen-mutants: ## put defects in on purpose and see that the runs notice them (half an hour)
	go run -tags crashpoints ./cmd/jepsen mutants

.PHONY: sim
sim: ## thousands of seeds in simulated time, networks and disks: batches, sessions, reads, the log (a minute)
	go test ./cluster -run '^TestSimReads$$' -count=1 -args -sim.seeds 3000
	go test ./raftlog -run '^TestSimCrash$$' -count=1 -args -sim.seeds 3000
	go test ./coordinator -run 'AreRightOrFail|AreWhole|AreHonest|AreHealed|AreExact' -count=1 -v -rapid.checks=5000
	go test ./raftlog -run '^TestModel$$' -count=1 -v -rapid.checks=2000
	go test ./jepsen/disk -run Model -count=1 -v

.PHONY: test-exactly-once
test-exactly-once: ## 100,000 increments under kills and pauses with retries: the sum is exact (minutes)
	go test ./jepsen -run '^TestExactlyOnce$$' -count=1 -v -timeout 30m -args -increments 100000

.PHONY: test-clock
test-clock: ## a leader whose wall clock is a year ahead changes nothing (builds a Go runtime)
	go test ./jepsen -run '^TestClockAhead$$' -count=1 -v -timeout 20m -args -clock

.PHONY: soak
SOAK ?= 30m
soak: ## mixed load with restarts on small journals for SOAK (30m); what nodes hold stays flat
	go test ./jepsen -run '^TestSoak$$' -count=1 -v -timeout 0 -args -soak $(SOAK)

.PHONY: load
load: ## 2 GB of values with every node under 512 MiB of memory (minutes)
	go test ./jepsen -run '^TestLoad$$' -count=1 -v -timeout 30m -args -load 2147483648

.PHONY: test-wasm
test-wasm: ## guests in C and Go against the store in memory and a cluster (without the race detector, half a minute)
	go test -count=1 -v -run 'Conformance|Go|Guestbook' ./wasi ./wasi/cgi

.PHONY: guests
guests: ## build the WebAssembly guests in examples again (needs clang, lld and node)
	@work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; \
	cd examples/conformance; \
	for draft in draft draft2; do \
		$(CLANG) --target=wasm32 -mcpu=mvp -mbulk-memory -std=gnu11 -Os -Wall -Wextra -ffreestanding -nostdlib \
			-Wl,--no-entry -Wl,--strip-all -Wl,--stack-first -D$${draft^^} -o $$work/core.wasm *.c; \
		$(JCO) embed --wit wit/$$draft $$work/core.wasm -o $$work/embedded.wasm; \
		$(JCO) new $$work/embedded.wasm -o $$draft.wasm; \
	done; \
	ls -l *.wasm; cd ../../wasi/cgi/testdata; \
	$(CLANG) --target=wasm32 -mcpu=mvp -mbulk-memory -std=gnu11 -Os -Wall -Wextra -ffreestanding -fno-builtin -nostdlib \
		-Wl,--no-entry -Wl,--strip-all -o application.wasm application.c

.PHONY: test-jco
test-jco: ## run the guests in examples in node, on hosts that are right and hosts that are not (needs node)
	@work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; \
	echo '{"type": "module"}' >$$work/package.json; \
	for draft in draft draft2; do \
		$(JCO) transpile examples/conformance/$$draft.wasm --instantiation async --quiet -o $$work/$$draft; \
	done; \
	node examples/conformance/jco/run.mjs $$work

.PHONY: bench-compare
bench-compare: build ## manykv beside etcd and Redis under the same load; the table goes into docs/performance.md (10 minutes)
	@missing=(); command -v etcd >/dev/null || missing+=(etcd-server); command -v redis-server >/dev/null || missing+=(redis-server); \
	if (($${#missing[@]})); then \
		apt-get -qq update; DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$${missing[@]}" >/dev/null; \
		systemctl disable --now "$${missing[@]/etcd-server/etcd}" 2>/dev/null || true; \
	fi
	cd bench && go build -o ../bin/bench . && cd .. && bin/bench --manykv bin/manykv --into docs/performance.md $(BENCHFLAGS)

.PHONY: bench-wasm
bench-wasm: ## what a call, an instance and a batch on a cluster cost a WebAssembly guest
	go test ./wasi -run '^$$' -bench . -benchmem
