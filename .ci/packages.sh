#!/usr/bin/env bash
# System packages that the integration and container tests use. Installs what is missing; does nothing the second time.
# Never fails a build for want of them: a test whose program is absent skips and says so.
set -euo pipefail

packages=(docker.io mmdebstrap iptables chromium chromium-driver prometheus prometheus-pushgateway shellcheck)

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    echo "packages: not a Debian system, nothing installed; tests that need ${packages[*]} will skip"
    exit 0
fi

missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
    echo "packages: all present (${packages[*]})"
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "packages: not root, so not installing ${missing[*]}; tests that need them will skip"
    exit 0
fi

export DEBIAN_FRONTEND=noninteractive
# Debian starts a service as soon as it is installed; the tests start their own, on their own ports.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
if { apt-get -qq update || true; } && apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}" >/dev/null; then
    echo "packages: installed ${missing[*]}"
else
    echo "packages: apt-get could not install ${missing[*]}; tests that need them will skip" >&2
fi
