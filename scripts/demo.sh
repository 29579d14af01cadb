#!/usr/bin/env bash
# A tour of manykv on this machine, checked at every step: three nodes, the
# source of Go imported, compared, one node killed, brought back, compared.
# Ends with a status other than 0 if anything differed.
#
# usage: scripts/demo.sh [path of the manykv binary]
set -euo pipefail

manykv=$(realpath "${1:-bin/manykv}")
source_dir=$(go env GOROOT)/src
work=$(mktemp -d "${TMPDIR:-/tmp}/manykv-demo.XXXXXX")
cluster=$work/cluster
conf=$cluster/client.toml
bucket=go-source
up_pid=
n3_pid=

# Ends the processes it started, by pid, and removes what they wrote.
cleanup() {
	local code=$?
	trap - EXIT
	for pid in $n3_pid $up_pid; do
		kill -TERM "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	if [ "$code" -ne 0 ] && [ -d "$cluster" ]; then
		tail -n 5 "$cluster"/n?.log "$work"/*.out >&2 || true
	fi
	rm -rf "$work"
	if [ "$code" -ne 0 ]; then
		echo "demo FAILED" >&2
	fi
	exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

heading() { printf '\n== %s\n' "$*"; }
fail() {
	echo "$*" >&2
	exit 1
}
# The address a node listens on, from its configuration.
addr() { sed -n "s/^listen = ['\"]\(.*\)['\"]$/\1/p" "$cluster/$1.toml"; }
# Compares every file with what is read back, in batches, through one node.
compare() { "$manykv" import "$bucket" "$source_dir" --config "$conf" --addr "$1" --verify-only --verify-addr "$1"; }

heading "Start a cluster of three nodes"
"$manykv" up --dir "$cluster" --nodes 3 >"$work/up.out" 2>&1 &
up_pid=$!
deadline=$((SECONDS + 60))
until grep -q 'The cluster serves' "$work/up.out"; do
	kill -0 "$up_pid" 2>/dev/null || fail "the cluster did not start"
	[ "$SECONDS" -lt "$deadline" ] || fail "the cluster does not serve after 60 s"
	sleep 0.1
done
sed '/^$/,$d' "$work/up.out"

heading "Import $source_dir through n1: path -> content"
"$manykv" import "$bucket" "$source_dir" --create --config "$conf" --addr "$(addr n1)" --through

heading "Read it all back through n2 and compare SHA-256"
compare "$(addr n2)"

heading "Nodes, shards, leaders"
"$manykv" status --config "$conf" --wait 30s

heading "Kill n3 (SIGKILL), read everything through each survivor"
kill -KILL "$(cat "$cluster/n3.pid")"
compare "$(addr n1)"
compare "$(addr n2)"

heading "Write while n3 is down"
seq 1 1000 | sed 's/.*/{"key":"while-down\/&","value":"&"}/' |
	"$manykv" set-many "$bucket" --config "$conf" --addr "$(addr n1)" --addr "$(addr n2)"

heading "Restart n3 and wait until it has caught up"
"$manykv" server --config "$cluster/n3.toml" >"$work/n3.out" 2>&1 &
n3_pid=$!
"$manykv" status --config "$conf" --wait 60s

heading "Read everything through n3"
compare "$(addr n3)"
missed=$(seq 1 1000 | sed 's/^/while-down\//' |
	"$manykv" get-many "$bucket" - --config "$conf" --addr "$(addr n3)" --through | grep -c '^null$' || true)
[ "$missed" -eq 0 ] || fail "$missed of 1000 keys written while n3 was down are not read through it"
echo "the 1000 keys written while it was down are there"

heading "Write a key and read it at once through every node"
for writer in n1 n2 n3; do
	"$manykv" set "$bucket" now "written through $writer" --config "$conf" --addr "$(addr $writer)" --through
	for reader in n1 n2 n3; do
		got=$("$manykv" get "$bucket" now --config "$conf" --addr "$(addr $reader)" --through)
		[ "$got" = "written through $writer" ] || fail "$reader reads '$got' after $writer has written"
	done
	echo "$got: n1, n2 and n3 read it"
done

heading "Delete many"
(cd "$source_dir/cmd" && find . -type f | sed 's,^\./,cmd/,') >"$work/keys"
"$manykv" delete-many "$bucket" - --config "$conf" <"$work/keys"
left=$("$manykv" get-many "$bucket" - --config "$conf" <"$work/keys" | grep -vc '^null$' || true)
[ "$left" -eq 0 ] || fail "$left of $(wc -l <"$work/keys") deleted keys are still there"
echo "none of them is left"

heading "Count, and set a key only if nobody else has"
for _ in 1 2 3; do "$manykv" incr "$bucket" visits 5 --config "$conf"; done
version=$("$manykv" cas "$bucket" lock mine --absent --config "$conf")
code=0
"$manykv" cas "$bucket" lock yours --absent --config "$conf" || code=$?
[ "$code" -eq 3 ] || fail "a second owner of the lock got exit code $code, want 3"
"$manykv" cas "$bucket" lock "mine still" --version "$version" --config "$conf" >/dev/null

heading "Run a WebAssembly guest that calls wasi:keyvalue on this cluster"
guests=$(dirname "${BASH_SOURCE[0]}")/../examples/conformance
"$manykv" wasm inspect "$guests/draft2.wasm" | grep -E '^(kind|wasi:keyvalue|can run)'
"$manykv" wasm run "$guests/draft2.wasm" --bucket-map "=$bucket" --invoke hello --config "$conf"
[ "$("$manykv" get "$bucket" conformance/hello/b --config "$conf")" = two ] || fail "what the guest has set is not there"
for version in draft draft2; do
	"$manykv" wasm run "$guests/$version.wasm" --bucket-map "=$bucket" --bucket-map "readonly=$bucket" --read-only readonly \
		--deny forbidden --invoke run --config "$conf"
	"$manykv" wasm run "$guests/$version.wasm" --bucket-map "=$bucket" --invoke clean --config "$conf"
done

heading "Export all of it, import it into another bucket, export that and compare"
"$manykv" export "$bucket" "$work/first.ndjson" --config "$conf"
"$manykv" import copy "$work/first.ndjson" --create --resume "$work/import-state" --config "$conf"
"$manykv" export copy "$work/second.ndjson" --config "$conf"
cmp <(sort "$work/first.ndjson") <(sort "$work/second.ndjson") || fail "the exports differ"
[ "$("$manykv" keys copy --config "$conf" | wc -l)" -eq "$(wc -l <"$work/first.ndjson")" ] || fail "the listing has another number of keys"
"$manykv" bucket delete copy --yes --config "$conf"

heading "Do all replicas hold the same?"
"$manykv" debug hash --online --config "$conf"

heading "Stop"
kill -TERM "$n3_pid" "$up_pid"
wait "$n3_pid" || fail "n3 ended with an error"
n3_pid=
echo "n3, which this demo had started again, has stopped"
wait "$up_pid" || fail "the cluster ended with an error"
up_pid=
echo "n1 and n2: 'manykv up' $(tail -n 1 "$work/up.out")"
printf '\nAll of it was as it should be, in %d s.\n' "$SECONDS"
