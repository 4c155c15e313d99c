#!/usr/bin/env bash
# The base image. Where it cannot be pulled but Debian's packages can be reached: Debian bookworm with its Python 3.11, imported
# under the name that the Dockerfiles take by default, so that they build unchanged.
#
#   images/base.sh [NAME]        NAME is python:3.11-slim-bookworm, the Dockerfiles' default ARG BASE
set -euo pipefail

name=${1:-python:3.11-slim-bookworm}
docker=/usr/bin/docker # Debian's own: another client earlier on PATH may not fit its engine
[ -x "$docker" ] || docker=docker

if "$docker" image inspect "$name" >/dev/null 2>&1; then
    echo "base: $name is there"
    exit 0
fi
if "$docker" pull --quiet "$name" >/dev/null 2>&1; then
    echo "base: pulled $name"
    exit 0
fi
if ! command -v mmdebstrap >/dev/null; then
    echo "base: $name can be neither pulled nor made: mmdebstrap is missing (apt-get install mmdebstrap)" >&2
    exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3,python3-venv \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' --dpkgopt='path-exclude=/usr/share/locale/*' \
    bookworm "$work/base.tar"
"$docker" import --change 'CMD ["python3"]' --change 'LABEL org.opencontainers.image.description="Debian bookworm with Python 3.11, made by images/base.sh"' \
    "$work/base.tar" "$name" >/dev/null
echo "base: made $name, $("$docker" image inspect --format '{{.Size}}' "$name" | awk '{printf "%.0f MB", $1 / 1e6}')"
