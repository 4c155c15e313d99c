#!/usr/bin/env bash
# Both charts on a real Kubernetes: a kind cluster with Pod Security `restricted`, no registry, no GPU; from `helm install` to a chat
# answer, upgrade, a canary that is promoted and one that is rolled back, `helm rollback`, and an uninstall that leaves nothing.
#
#   scripts/e2e_kind.sh             needs docker, kind, kubectl, helm, curl, and the images of `make images`; about 20 minutes
#   scripts/e2e_kind.sh --dry-run   says every command, and runs those that need no cluster: helm renders what it would install
#
#   CLUSTER  name (tokenmill-e2e)     KEEP=1  leave the cluster     NODE_IMAGE  another Kubernetes than kind's own
#   WORK     folder for runs and releases; one that is kept (WORK=…) is found done the next time
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
cluster=${CLUSTER:-tokenmill-e2e}
namespace=llm
dry=no
if [ "${1:-}" = --dry-run ]; then dry=yes; elif [ $# -gt 0 ]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0"
    exit 2
fi
made=
[ -n "${WORK:-}" ] || made=$(mktemp -d)
work=${WORK:-$made}
tokenmill=${TOKENMILL:-$root/.venv/bin/tokenmill}
python=${PYTHON:-$root/.venv/bin/python}
tag=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/pyproject.toml")
forwards=()

say() { printf '\n== %s\n' "$*"; }
fail() {
    echo "e2e-kind: $*" >&2
    exit 1
}
run() { # run COMMAND…: said, and done unless dry
    printf '+ %s\n' "$*"
    [ "$dry" = yes ] || "$@"
}
ask() { kubectl --context "kind-$cluster" --namespace "$namespace" "$@"; }
chart() { # chart VERB RELEASE CHART ARGUMENT…: helm install or upgrade; dry, helm renders with the very same values
    local verb=$1 release=$2 folder=$3
    shift 3
    printf '+ helm %s %s %s --namespace %s %s\n' "$verb" "$release" "$folder" "$namespace" "$*"
    if [ "$dry" = no ]; then
        helm "$verb" "$release" "$root/$folder" --kube-context "kind-$cluster" --namespace "$namespace" "$@"
        return
    fi
    local values=()
    while [ $# -gt 0 ]; do
        case $1 in
        --wait | --atomic | --rollback-on-failure | --reset-then-reuse-values) shift ;;
        --timeout) shift 2 ;;
        *)
            values+=("$1")
            shift
            ;;
        esac
    done
    # an upgrade reuses what was installed, which is the trial's file
    [ "$verb" = install ] || values=(-f "$root/$folder/ci/cpu-values.yaml" "${values[@]}")
    helm template "$release" "$root/$folder" --namespace "$namespace" "${values[@]}" >/dev/null
}
helm_test() { run helm test "$1" --kube-context "kind-$cluster" --namespace "$namespace" --timeout 10m; }

cleanup() {
    local pid
    for pid in "${forwards[@]}"; do kill "$pid" 2>/dev/null || true; done
    if [ "$dry" = no ] && [ "${KEEP:-0}" = 0 ]; then kind delete cluster --name "$cluster" || true; fi
    [ -z "$made" ] || rm -rf "$made"
}
trap cleanup EXIT

forward() { # forward SERVICE LOCAL REMOTE: until it answers
    printf '+ kubectl port-forward service/%s %s:%s &\n' "$1" "$2" "$3"
    [ "$dry" = no ] || return 0
    ask port-forward "service/$1" "$2:$3" >/dev/null &
    forwards+=($!)
    for _ in $(seq 60); do
        if curl --silent --output /dev/null "http://127.0.0.1:$2/"; then return 0; fi
        sleep 0.5
    done
    fail "nothing answers at service/$1"
}

release() { # release NAME OPTION…: a pico model of its own as a folder, from a run on this machine; its digest after publish
    local name=$1
    shift
    export TOKENMILL_STORE="file://$work/store" MLFLOW_TRACKING_URI= # the registry lies beside the store
    run "$tokenmill" run lifecycle --preset pico "$@"
    printf '+ fetch models:/internlm2-chat-pico@candidate, publish s3://tokenmill/releases/%s\n' "$name"
    [ "$dry" = no ] || return 0
    local folder
    folder=$("$python" -m tokenmill.deployment.fetch models:/internlm2-chat-pico@candidate --into "$work/releases")
    TOKENMILL_S3_ENDPOINT=http://127.0.0.1:8333 \
        AWS_ACCESS_KEY_ID=$(ask get secret tokenmill-store -o jsonpath='{.data.access-key}' | base64 -d) \
        AWS_SECRET_ACCESS_KEY=$(ask get secret tokenmill-store -o jsonpath='{.data.secret-key}' | base64 -d) \
        "$python" -m tokenmill.deployment.publish "$folder" "s3://tokenmill/releases/$name" | tee "$work/$name.digest"
}
digest() { # digest NAME: the last word that publish printed
    if [ "$dry" = yes ]; then printf '%064d' 0; else grep -oE '[0-9a-f]{64}' "$work/$1.digest" | tail -n 1; fi
}

chat_from() { # chat_from DIGEST: an answer, and the header that says whose it is
    printf '+ curl http://127.0.0.1:8000/v1/chat/completions (x-model-digest: %s)\n' "$1"
    [ "$dry" = no ] || return 0
    local key said
    key=$(ask get secret chat-inference-api-key -o jsonpath='{.data.api-key}' | base64 -d)
    forward chat-inference 8000 80
    said=$(curl --silent --show-error --fail --include http://127.0.0.1:8000/v1/chat/completions \
        -H "Authorization: Bearer $key" -H 'Content-Type: application/json' \
        -d '{"model": "chat", "messages": [{"role": "user", "content": "What is 7 + 5?"}], "max_tokens": 16}')
    kill "${forwards[-1]}"
    unset 'forwards[-1]'
    printf '%s\n' "$said"
    grep -qi "^x-model-digest: $1" <<<"$said" || fail "the answer is not from $1"
}

track() { # track NAME: where the Service sends users
    printf '+ the Service selects the track %s\n' "$1"
    [ "$dry" = no ] || return 0
    ask get service chat-inference -o jsonpath='{.spec.selector}' | grep -q "\"tokenmill.io/track\":\"$1\"" ||
        fail "the Service does not select $1"
}

# Helm 4 renamed --atomic
atomic=--atomic
case $(helm version --short) in v4*) atomic=--rollback-on-failure ;; esac

say "A cluster, with Pod Security restricted"
run kind create cluster --name "$cluster" --wait 5m ${NODE_IMAGE:+--image "$NODE_IMAGE"}
for name in deployer serving-cpu services; do run kind load docker-image --name "$cluster" "tokenmill/$name:$tag"; done
run kubectl --context "kind-$cluster" create namespace "$namespace"
run kubectl --context "kind-$cluster" label namespace "$namespace" pod-security.kubernetes.io/enforce=restricted

say "The platform"
chart install tokenmill helm/tokenmill -f "$root/helm/tokenmill/ci/cpu-values.yaml" --wait --timeout 10m
helm_test tokenmill

say "Two releases into the bucket"
forward tokenmill-object-store 8333 8333
release chat
release next --set sft.train.optim.lr=0.002

say "A chat answer"
chart install chat helm/inference -f "$root/helm/inference/ci/cpu-values.yaml" --wait --timeout 15m \
    --set model.unpinned=false --set "model.digest=$(digest chat)"
helm_test chat
chat_from "$(digest chat)"

say "An upgrade"
chart upgrade chat helm/inference --reset-then-reuse-values --wait --timeout 15m --set engine.maxNumSeqs=8
chat_from "$(digest chat)"

candidate=(--set canary.enabled=true --set canary.model.uri=s3://tokenmill/releases/next --set "canary.model.digest=$(digest next)")
say "A canary that no probe likes: nobody moves, the upgrade fails and is rolled back"
if chart upgrade chat helm/inference --reset-then-reuse-values --wait --timeout 20m "$atomic" "${candidate[@]}" \
    --set-json 'canary.analysis.probes=[{"prompt":"Hello","expect":"no model says this"}]' --set canary.analysis.limits.minQuality=1; then
    [ "$dry" = yes ] || fail "a canary that fails every probe was promoted"
fi
track stable
chat_from "$(digest chat)"

say "A canary that is as good: users move"
chart upgrade chat helm/inference --reset-then-reuse-values --wait --timeout 20m "$atomic" "${candidate[@]}"
track candidate
chat_from "$(digest next)"

say "Back"
run helm rollback chat 1 --kube-context "kind-$cluster" --namespace "$namespace" --wait --timeout 15m
track stable
chat_from "$(digest chat)"

say "Nothing left"
for name in chat tokenmill; do run helm uninstall "$name" --kube-context "kind-$cluster" --namespace "$namespace" --wait --timeout 5m; done
kinds=all,configmap,secret,serviceaccount,role,rolebinding,networkpolicy,poddisruptionbudget,persistentvolumeclaim
printf '+ kubectl get %s: only what Kubernetes itself puts into a namespace\n' "$kinds"
if [ "$dry" = no ]; then
    for _ in $(seq 30); do # pods take their grace
        left=$(ask get "$kinds" -o name | grep -vxE 'configmap/kube-root-ca.crt|serviceaccount/default' || true)
        [ -n "$left" ] || break
        sleep 2
    done
    [ -z "$left" ] || fail "left behind: $left"
fi
if [ "$dry" = yes ]; then echo "e2e-kind: dry run, nothing was installed"; else echo "e2e-kind: all passed"; fi
