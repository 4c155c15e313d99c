#!/bin/sh
# Runs inside of a build, out of the image `tools`: pip, which no image holds, puts packages into the environment $1.
#
#   install.sh ENVIRONMENT PIP-ARGUMENT…
#
# Two optional secrets, mounted for one command only, so that nothing of them is left in a layer: `ca` (a CA bundle) and `pip_conf`
# (a pip configuration), for networks with an authority or an index of their own. Wheels in `images/wheels` go before any index.
set -eu

environment=$1
shift
if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi
if [ -s /run/secrets/pip_conf ]; then export PIP_CONFIG_FILE=/run/secrets/pip_conf; fi
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PIP_USE_PEP517=1 PIP_FIND_LINKS=/tools/wheels
began=$(mktemp)
/tools/pip/bin/pip --python "$environment/bin/python" install --quiet "$@"

# A sixth of an image that nothing uses: libraries' own tests, what others compile against Arrow, Arrow's wire protocol, and symbols of
# what was compiled. Not of libraries in *.libs: auditwheel has moved their sections, which strip does not survive. Only of
# what is new: to touch a file of the image below would be to store it again.
packages=$(echo "$environment"/lib/python3*/site-packages)
find "$packages" -type d \( -name tests -o -name test \) -prune -exec rm -rf {} +
rm -rf "$packages"/pyarrow/include "$packages"/pyarrow/src "$packages"/pyarrow/*flight*
find "$packages" -name '*.libs' -prune -o -name '*.so*' -cnewer "$began" -type f \
    -exec env LD_LIBRARY_PATH=/tools/strip /tools/strip/strip --strip-unneeded {} +
rm "$began"
