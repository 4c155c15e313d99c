#!/usr/bin/env bash
# Builds an image: images/build.sh NAME [TAG], for instance `images/build.sh curation` makes tokenmill/curation at the
# package's version, the name that the compiled pipelines hold.
#
# The host's CA bundle goes along as a build secret, for networks that have an authority of their own; TOKENMILL_BUILD_CA names
# another bundle, TOKENMILL_BUILD_PIP_CONF a pip configuration. BASE overrides the base image.
set -euo pipefail

image=${1:?usage: images/build.sh NAME [TAG]}
root=$(cd "$(dirname "$0")/.." && pwd)
tag=${2:-$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/pyproject.toml")}
docker=/usr/bin/docker # Debian's own: another client earlier on PATH may not fit its engine
[ -x "$docker" ] || docker=docker

dockerfile=$root/images/$image/Dockerfile
if [ ! -f "$dockerfile" ]; then
    echo "build: no image '$image': $(cd "$root/images" && echo */Dockerfile) are there" >&2
    exit 2
fi
arguments=(--build-arg "VERSION=$tag" --build-arg "REVISION=$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown)")
[ -z "${BASE:-}" ] || arguments+=(--build-arg "BASE=$BASE")
ca=${TOKENMILL_BUILD_CA:-/etc/ssl/certs/ca-certificates.crt}
[ ! -r "$ca" ] || arguments+=(--secret "id=ca,src=$ca")
[ -z "${TOKENMILL_BUILD_PIP_CONF:-}" ] || arguments+=(--secret "id=pip_conf,src=$TOKENMILL_BUILD_PIP_CONF")

DOCKER_BUILDKIT=1 "$docker" build --progress "${PROGRESS:-auto}" "${arguments[@]}" --file "$dockerfile" --tag "tokenmill/$image:$tag" "$root"
echo "build: tokenmill/$image:$tag, $("$docker" image inspect --format '{{.Size}}' "tokenmill/$image:$tag" | awk '{printf "%.0f MB", $1 / 1e6}')"
