#!/usr/bin/env bash
# A Docker engine to build and test images with: the one that answers, or else a private dockerd with its own folders.
#
#   eval "$(images/engine.sh)"     sets DOCKER_HOST; starts the private engine if nothing answers (root only)
#   images/engine.sh stop          stops the private engine; its images stay on disk
#
# TOKENMILL_ENGINE is the private engine's folder (default /var/lib/tokenmill-engine).
set -euo pipefail

folder=${TOKENMILL_ENGINE:-/var/lib/tokenmill-engine}
socket=unix://$folder/docker.sock
docker=/usr/bin/docker
[ -x "$docker" ] || docker=docker

answers() { DOCKER_HOST=$1 "$docker" version --format '{{.Server.Version}}' >/dev/null 2>&1; }

if [ "${1:-}" = stop ]; then
    if [ -e "$folder/dockerd.pid" ]; then
        kill "$(cat "$folder/dockerd.pid")"
        for _ in $(seq 50); do
            [ -e "$folder/dockerd.pid" ] || exit 0
            sleep 0.2
        done
        echo "engine: dockerd did not stop within 10 s, see $folder/dockerd.log" >&2
        exit 1
    fi
    exit 0
fi

for host in "${DOCKER_HOST:-unix:///var/run/docker.sock}" "$socket"; do
    if answers "$host"; then
        echo "export DOCKER_HOST=$host"
        exit 0
    fi
done

if ! command -v dockerd >/dev/null || [ "$(id -u)" -ne 0 ]; then
    echo "engine: no Docker engine answers, and a private one needs dockerd and root: start Docker, or set DOCKER_HOST" >&2
    exit 1
fi
mkdir -p "$folder"
exec 9>"$folder/lock"
flock 9
if ! answers "$socket"; then
    rm -f "$folder/dockerd.pid" # a stale one, after a power cut, would stop dockerd from starting
    setsid nohup dockerd --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/dockerd.pid" --host "$socket" \
        >"$folder/dockerd.log" 2>&1 </dev/null 9>&- &
    for _ in $(seq 100); do
        if answers "$socket"; then break; fi
        sleep 0.2
    done
    if ! answers "$socket"; then
        echo "engine: dockerd did not come up within 20 s: $(tail -n 1 "$folder/dockerd.log")" >&2
        exit 1
    fi
fi
echo "export DOCKER_HOST=$socket"
