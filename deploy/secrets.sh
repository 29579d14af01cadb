#!/usr/bin/env bash
# Puts into DIR/NODE what a node may see of the certificates in DIR, under the names
# the image expects: never the CA's key. The container's user may read them: as root
# they are given to it, else everybody on this machine may read them.
#
# usage: deploy/secrets.sh DIR NODE...
set -euo pipefail
certs=${1:?usage: deploy/secrets.sh DIR NODE...}
shift
(($#)) || { echo "usage: deploy/secrets.sh DIR NODE..." >&2; exit 2; }
for node in "$@"; do
	mkdir -p "$certs/$node"
	cp "$certs/ca.crt" "$certs/gossip.key" "$certs/$node/"
	cp "$certs/$node.crt" "$certs/$node/node.crt"
	cp "$certs/$node.key" "$certs/$node/node.key"
	if ((EUID == 0)); then
		chown -R 65532:65532 "$certs/$node"
		chmod 0700 "$certs/$node"
	else
		chmod 0755 "$certs" "$certs/$node"
		chmod 0644 "$certs/$node"/*
	fi
done
