#!/usr/bin/env bash
# Builds images: images/build.sh [NAME…] makes tokenmill/NAME at the package's version, the name that compiled pipelines and
# charts hold, and first what that is made of; without a name, all of them.
#
#   BASE         base image of `tools`, `base` and `serving-cpu` (python:3.11-slim-bookworm)
#   ACCELERATOR  cpu (default) or cuda: which torch must be found
#   REGISTRY     registry and path before the names
#   TAG          instead of the package's version
#   TOKENMILL_BUILD_CA, TOKENMILL_BUILD_PIP_CONF   a CA bundle (the host's by default) and a pip configuration, as build secrets
#   TOKENMILL_BUILD_WHEELS   a folder of wheels that go before any index (where the host's pip has find-links to a folder, that one)
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
tag=${TAG:-$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/pyproject.toml")}
prefix=${REGISTRY:+${REGISTRY%/}/}tokenmill
docker=/usr/bin/docker # Debian's own: another client earlier on PATH may not fit its engine
[ -x "$docker" ] || docker=docker

known=()
for dockerfile in "$root"/images/*/Dockerfile; do known+=("$(basename "$(dirname "$dockerfile")")"); done
names=("$@")
[ ${#names[@]} -gt 0 ] || names=("${known[@]}")
for name in "${names[@]}"; do
    if [[ " ${known[*]} " != *" $name "* ]]; then
        echo "build: no image '$name'; there are ${known[*]}" >&2
        exit 2
    fi
done

arguments=(--build-arg "VERSION=$tag" --build-arg "ACCELERATOR=${ACCELERATOR:-cpu}")
arguments+=(--build-arg "REVISION=$(git -C "$root" rev-parse HEAD 2>/dev/null || echo unknown)")
[ -z "${BASE:-}" ] || arguments+=(--build-arg "BASE=$BASE")
ca=${TOKENMILL_BUILD_CA:-/etc/ssl/certs/ca-certificates.crt}
[ ! -r "$ca" ] || arguments+=(--secret "id=ca,src=$ca")
[ -z "${TOKENMILL_BUILD_PIP_CONF:-}" ] || arguments+=(--secret "id=pip_conf,src=$TOKENMILL_BUILD_PIP_CONF")
wheels=${TOKENMILL_BUILD_WHEELS:-${PIP_FIND_LINKS:-$(python3 -m pip config get global.find-links 2>/dev/null || true)}}
if compgen -G "$wheels/*.whl" >/dev/null; then
    cp --update --preserve=timestamps "$wheels"/*.whl "$root/images/wheels/"
fi

declare -A built=()
build() { # build NAME: what it stands on, then itself, once
    local name=$1 dockerfile=$root/images/$1/Dockerfile argument other own=()
    [ -z "${built[$name]:-}" ] || return 0
    while read -r argument other; do
        build "$other"
        own+=(--build-arg "$argument=$prefix/$other:$tag")
    done < <(sed -n 's#^ARG \([A-Z]*\)=tokenmill/\(base\|torch\|tools\):.*#\1 \2#p' "$dockerfile")
    DOCKER_BUILDKIT=1 "$docker" build --progress "${PROGRESS:-auto}" "${arguments[@]}" "${own[@]}" \
        --build-arg "NAME=$prefix/$name:$tag" --file "$dockerfile" --tag "$prefix/$name:$tag" "$root"
    echo "build: $prefix/$name:$tag, $("$docker" image inspect --format '{{.Size}}' "$prefix/$name:$tag" | awk '{printf "%.0f MB", $1 / 1e6}')"
    built[$name]=yes
}

for name in "${names[@]}"; do build "$name"; done
