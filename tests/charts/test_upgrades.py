"""A changed value restarts the pods that it concerns, and no others."""

import json

import pytest
from rendered import MODES, render


def templates(chart, mode, changes):
    return {name: json.dumps(pod, sort_keys=True) for name, pod in render(chart, mode, changes).pods()}


def restarted(chart, mode, changes):
    before, after = templates(chart, mode, {}), templates(chart, mode, changes)
    return {
        name
        for name in before.keys() & after.keys()
        if before[name] != after[name] and name.startswith(("Deployment", "Stateful"))
    }


STABLE, CANDIDATE = "Deployment/rel-inference", "Deployment/rel-inference-candidate"


@pytest.mark.parametrize(
    ("changes", "restarts"),
    [
        ({"model": {"digest": "7" * 64}}, {STABLE}),
        ({"canary": {"model": {"digest": "7" * 64}}}, {CANDIDATE}),
        ({"engine": {"chatTemplate": "{{ m }}"}}, {STABLE, CANDIDATE}),
        ({"canary": {"engine": {"maxNumSeqs": 8}}}, {CANDIDATE}),
        ({"image": {"tag": "v0.40.0"}}, {STABLE}),  # the candidate has its own tag here
        ({"engine": {"seed": 1}}, {STABLE, CANDIDATE}),
        ({"resources": {"requests": {"cpu": "2"}}}, {STABLE, CANDIDATE}),
        ({"drain": {"longestRequestSeconds": 60}}, {STABLE, CANDIDATE}),
        ({"replicas": 3}, set()),
        ({"podDisruptionBudget": {"enabled": False}}, set()),
        ({"networkPolicy": {"enabled": False}}, set()),
        ({"canary": {"steps": [1, 2], "stepSeconds": 9, "analysis": {"rounds": 9}}}, set()),
        (
            {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}, "dashboard": {"enabled": True}},
            set(),
        ),
        ({"service": {"port": 8080}}, set()),
        ({"commonLabels": {"team": "llm"}}, set()),
        ({"tests": {"prompt": "Hi"}}, set()),
        ({"httpRoute": {"enabled": True, "parentRefs": [{"name": "gate"}]}}, set()),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else "",
)
def test_inference(changes, restarts):
    assert restarted("inference", "service-canary", changes) == restarts


def test_turning_the_canary_on_and_off_leaves_stable_alone():
    assert restarted("inference", "service-canary", {"canary": {"enabled": False}}) == set()


@pytest.mark.parametrize(("chart", "mode"), MODES, ids=[f"{chart}/{mode}" for chart, mode in MODES])
def test_a_new_version_of_the_chart_alone_restarts_nothing(chart, mode):
    """What a pod carries of the chart itself (version, revision, a random key) would restart it at every upgrade."""
    for name, pod in render(chart, mode).pods():
        if name.startswith(("Deployment", "Stateful")):
            assert "helm.sh/chart" not in json.dumps(pod) and "app.kubernetes.io/version" not in json.dumps(pod), name
    assert templates(chart, mode, {}) == templates(chart, mode, {"commonLabels": {}})
