#!/usr/bin/env bash
# Builds the image, runs deploy/compose.yaml, and checks what an operator would: data
# written through the containers is read through each of them, one is killed and comes
# back, one loses its volume and its address and is replaced.
#
# Uses the Docker engine that is there. If none answers and this is root, it starts one
# of its own, in a network namespace of its own and with everything in a temporary
# folder, and ends it afterwards; on Debian it installs docker.io and docker-compose if
# they are missing. Otherwise it says that it cannot, and ends with status 1.
#
# usage: scripts/docker.sh [path of the manykv binary]
set -euo pipefail

manykv=$(realpath "${1:-bin/manykv}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

heading() { printf '\n== %s\n' "$*"; }
fail() {
	echo "$*" >&2
	exit 1
}

install_missing() {
	local missing=()
	command -v docker >/dev/null && command -v dockerd >/dev/null || missing+=(docker.io)
	command -v docker-compose >/dev/null || missing+=(docker-compose)
	((${#missing[@]})) || return 0
	((EUID == 0)) && command -v apt-get >/dev/null || fail "missing: ${missing[*]}; only root on Debian can install them here"
	apt-get -qq update
	DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
}

engine=there
if [[ -n ${MANYKV_DOCKER_OWN:-} ]]; then
	engine=own # in the namespace that was made below
elif ! docker info >/dev/null 2>&1; then
	((EUID == 0)) || fail "no Docker engine answers, and only root can start one"
	install_missing
	MANYKV_DOCKER_OWN=1 exec unshare --net scripts/docker.sh "$manykv"
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/manykv-docker.XXXXXX")
project=manykvtest$$
dockerd_pid=
n4=

# The plugin of newer engines, or the program of older ones.
compose() {
	if command -v docker-compose >/dev/null; then
		docker-compose -p "$project" -f "$work/compose.yaml" "$@"
	else
		docker compose -p "$project" -f "$work/compose.yaml" "$@"
	fi
}

cleanup() {
	local code=$?
	trap - EXIT
	if ((code != 0)) && [[ -f $work/compose.yaml ]]; then
		compose logs --tail 15 >&2 || true
		[[ -z $n4 ]] || docker logs --tail 15 "$n4" >&2 || true
	fi
	[[ -z $n4 ]] || docker rm -f -v "$n4" >/dev/null 2>&1 || true
	[[ ! -f $work/compose.yaml ]] || compose down -v >/dev/null 2>&1 || true
	docker rmi "$project" >/dev/null 2>&1 || true
	if [[ -n $dockerd_pid ]]; then
		kill -TERM "$dockerd_pid" 2>/dev/null || true
		wait "$dockerd_pid" 2>/dev/null || true
	fi
	rm -rf "$work"
	((code == 0)) || echo "docker test FAILED" >&2
	exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# An engine of our own: its own network, socket, data and process file.
start_engine() {
	ip link set lo up
	export DOCKER_HOST=unix://$work/docker.sock
	dockerd --host "$DOCKER_HOST" --data-root "$work/engine" --exec-root "$work/exec" --pidfile "$work/dockerd.pid" >"$work/dockerd.log" 2>&1 &
	dockerd_pid=$!
	for _ in $(seq 300); do
		docker info >/dev/null 2>&1 && return
		kill -0 "$dockerd_pid" 2>/dev/null || break
		sleep 0.1
	done
	tail -n 20 "$work/dockerd.log" >&2
	fail "the Docker engine does not start"
}

# Waits until a container's own health check says so.
await_healthy() { # container
	for _ in $(seq 600); do
		[[ $(docker inspect -f '{{.State.Health.Status}}' "$1" 2>/dev/null) == healthy ]] && return
		sleep 0.1
	done
	fail "container $1 is not healthy after a minute"
}

container() { compose ps -aq "$1"; }
address() { docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$1"; }
data() { "$manykv" "$@" --through --config "$work/certs/client.toml"; }

heading "Docker"
if [[ $engine == there ]]; then
	compose version >/dev/null 2>&1 || fail "neither docker-compose nor docker compose is there"
	docker version --format 'the engine that is there: {{.Server.Version}}'
else
	start_engine
	docker version --format 'an engine of our own: {{.Server.Version}}'
fi

heading "Build the image"
mkdir -p "$work/context/data"
cp "$manykv" "$work/context/manykv"
docker build -q -t "$project" -f deploy/Dockerfile "$work/context"
docker image inspect -f 'user {{.Config.User}}, {{.Size}} bytes' "$project"

heading "Certificates, and what each container may see of them"
"$manykv" cert ca --dir "$work/certs" --cluster compose
for node in n1 n2 n3; do "$manykv" cert node --dir "$work/certs" "$node"; done
"$manykv" cert client --dir "$work/certs" client --addr 127.0.0.1:7401 --addr 127.0.0.1:7402 --addr 127.0.0.1:7403
deploy/secrets.sh "$work/certs" n1 n2 n3

heading "Three containers"
sed "s/image: manykv:latest/image: $project/" deploy/compose.yaml >"$work/compose.yaml"
compose up -d
for node in n1 n2 n3; do await_healthy "$(container "$node")"; done
for port in 9401 9402 9403; do
	for _ in $(seq 300); do "$manykv" health --ready --http "127.0.0.1:$port" >/dev/null 2>&1 && break || sleep 0.1; done
	"$manykv" health --ready --http "127.0.0.1:$port" | sed "s/^/127.0.0.1:$port is ready: /"
done

heading "Write 1000 keys, read them through each container"
seq 1 1000 | sed 's/.*/{"key":"k&","value":"&"}/' >"$work/pairs"
"$manykv" bucket create files --through --config "$work/certs/client.toml"
data set-many files <"$work/pairs"
check() { # address file
	sed 's/.*"key":"\([^"]*\)".*/\1/' "$2" | data get-many files - --addr "$1" | cmp - "$2" || fail "$1 reads something else"
	echo "$1 reads all $(wc -l <"$2") keys"
}
for port in 7401 7402 7403; do check "127.0.0.1:$port" "$work/pairs"; done

heading "Kill n3, write on, start it again"
docker kill "$(container n3)" >/dev/null
seq 1001 2000 | sed 's/.*/{"key":"k&","value":"&"}/' >"$work/more"
data set-many files --addr 127.0.0.1:7401 --addr 127.0.0.1:7402 <"$work/more"
docker start "$(container n3)" >/dev/null
await_healthy "$(container n3)"
check 127.0.0.1:7403 "$work/more"

heading "n2 loses its volume and its address, and is replaced by n4"
"$manykv" cert node --dir "$work/certs" n4
deploy/secrets.sh "$work/certs" n4
old=$(address "$(container n2)")
# n4 comes first, so that it cannot get the address that n2 leaves.
n4=$(docker run -d --name "$project-n4" --hostname n4 --network "${project}_manykv" --network-alias n4 \
	-e MANYKV_JOIN=n1:7400,n3:7400 -e MANYKV_ADVERTISE=n4:7400 -v "$work/certs/n4:/certs:ro" \
	-p 127.0.0.1:7404:7400/udp -p 127.0.0.1:9404:9400/tcp "$project")
docker rm -f -v "$(container n2)" >/dev/null
docker volume rm "${project}_n2" >/dev/null
await_healthy "$n4"
[[ $old != "$(address "$n4")" ]] || fail "n4 has the address of n2"
echo "n2 was at $old, n4 is at $(address "$n4")"
# Inside the network, where names resolve: with what a client may see.
mkdir -p "$work/certs/app"
cp "$work/certs/ca.crt" "$work/certs/client.crt" "$work/certs/client.key" "$work/certs/app/"
printf 'addrs = ["n1:7400", "n3:7400"]\nca_file = "ca.crt"\ncert_file = "client.crt"\nkey_file = "client.key"\n' >"$work/certs/app/client.toml"
if ((EUID == 0)); then chown -R 65532:65532 "$work/certs/app"; else chmod -R a+rX "$work/certs/app"; fi
inside() { docker run --rm --network "${project}_manykv" -v "$work/certs/app:/app:ro" "$project" "$@" --config /app/client.toml; }
inside node replace n2 n4:7400
for _ in $(seq 600); do
	inside status --wait 1s >"$work/status" 2>&1 && ! grep -q 'n2' "$work/status" && break
	sleep 0.2
done
cat "$work/status"
grep -q n2 "$work/status" && fail "n2 is still there"
for port in 7401 7403 7404; do
	check "127.0.0.1:$port" "$work/pairs"
	check "127.0.0.1:$port" "$work/more"
done
inside debug hash --online

heading "Stop"
docker stop -t 30 "$n4" >/dev/null
[[ $(docker inspect -f '{{.State.ExitCode}}' "$n4") == 0 ]] || fail "n4 ended with an error"
docker rm -v "$n4" >/dev/null
n4=
compose stop -t 30 2>/dev/null
for node in n1 n3; do
	[[ $(docker inspect -f '{{.State.ExitCode}}' "$(container "$node")") == 0 ]] || fail "$node ended with an error"
done
printf '\nAll of it was as it should be, in %d s.\n' "$SECONDS"
