#!/usr/bin/env bash
# Puts into DIR/NODE what the node NODE may see of the certificates in DIR, under the
# names the image expects: never the CA's key. The container's user may read them.
#
# usage: deploy/secrets.sh DIR
set -euo pipefail
certs=${1:?usage: deploy/secrets.sh DIR}
for cert in "$certs"/n*.crt; do
	node=$(basename "$cert" .crt)
	mkdir -p "$certs/$node"
	cp "$certs/ca.crt" "$certs/gossip.key" "$certs/$node/"
	cp "$cert" "$certs/$node/node.crt"
	cp "$certs/$node.key" "$certs/$node/node.key"
	if ((EUID == 0)); then
		chown -R 65532:65532 "$certs/$node"
		chmod 0700 "$certs/$node"
	else
		chmod 0644 "$certs/$node"/*.key # only root can give them to the container's user
	fi
done
