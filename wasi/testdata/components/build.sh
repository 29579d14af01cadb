#!/usr/bin/env bash
# Builds the components beside it, from their C and WIT or their text. It needs clang
# and lld with wasm32, and jco 1.34.0: npm install @bytecodealliance/jco@1.34.0
set -euo pipefail
cd "$(dirname "$0")"
jco=${JCO:-jco}
tmp=$(mktemp -d)
trap 'rm -r "$tmp"' EXIT

core() { # name, flags
	clang --target=wasm32 -std=gnu11 -Os -ffreestanding -nostdlib -Wl,--no-entry -Wl,--strip-all "${@:2}" "$1.c" -o "$tmp/$1.core.wasm"
	"$jco" embed --wit "$1.wit" "$tmp/$1.core.wasm" -o "$tmp/$1.embedded.wasm"
}

core greeter
"$jco" new "$tmp/greeter.embedded.wasm" -o greeter.wasm
core shop
"$jco" new "$tmp/shop.embedded.wasm" -o shop.wasm
core adapted
core adapter -Wl,--import-memory
"$jco" new "$tmp/adapted.embedded.wasm" -o adapted.wasm --adapt "wasi_snapshot_preview1=$tmp/adapter.embedded.wasm"

"$jco" parse grammar.wat -o grammar.wasm
