"""The compiled shape of the pipelines: their boxes and parameters, resources by profile, KFP's cache off everywhere."""

import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

import pytest
import yaml
from google.protobuf import json_format
from kfp import components
from shape import GOLDEN, described

from tokenmill.config import step_budgets
from tokenmill.errors import ConfigError
from tokenmill.pipelines.handed_on import HANDED_ON
from tokenmill.pipelines.package import (
    NAMES,
    Where,
    build,
    check_parameters,
    compile_package,
    submit_package,
    upload_package,
)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    path = tmp_path_factory.mktemp("compiled") / "lifecycle.yaml"
    compile_package("lifecycle", "pico", "gpu", path, "registry.example/mill")
    return list(yaml.safe_load_all(path.read_text()))


def dags(spec):
    return [c["dag"] for c in (spec["root"], *spec["components"].values()) if "dag" in c]


def test_the_lifecycle_has_the_shape_that_is_written_down():
    """Whoever moves an edge, a parameter or a resource sees it in the diff of the golden file (`make golden`)."""
    written = GOLDEN.read_text()
    assert described() == written, (
        f"the compiled lifecycle differs from {GOLDEN.name}: `make golden`, and read its diff"
    )


@pytest.mark.parametrize("name", NAMES)
def test_kfps_own_loader_takes_every_package(name, tmp_path):
    compile_package(name, "pico", "cpu", tmp_path / "package.yaml")
    loaded = components.load_component_from_text((tmp_path / "package.yaml").read_text())
    assert loaded.name == f"tokenmill-{name}-pico-cpu"
    assert set(loaded.component_spec.inputs) == set(build(name, "pico").component_spec.inputs)
    assert "secretName: tokenmill-store" in yaml.safe_dump(json_format.MessageToDict(loaded.platform_spec))


def test_parameters_and_phases_are_what_a_person_sees(package):
    spec = package[0]
    assert set(spec["root"]["inputDefinitions"]["parameters"]) == {
        "sources",
        "scorers",
        "overrides",
        "rounds",
        "release_alias",
        "deploy",
    }
    tasks = {task for dag in dags(spec) for task in dag["tasks"]}
    assert {"curation", "pretraining", "enhancement", "sft", "alignment", "evaluation", "deployment"} <= tasks


def test_kfp_caching_is_off_on_every_task(package):
    cached = [n for dag in dags(package[0]) for n, t in dag["tasks"].items() if t.get("cachingOptions")]
    assert cached == []


def test_trainers_get_accelerators_shared_memory_and_secrets_and_images_a_registry(package):
    executors = package[0]["deploymentSpec"]["executors"]
    assert all(e["container"]["image"].startswith("registry.example/mill/tokenmill/") for e in executors.values())
    accelerator = executors["exec-pretrain-short"]["container"]["resources"]["accelerator"]
    assert accelerator == {"resourceType": "nvidia.com/gpu", "resourceCount": "8"}
    kubernetes = package[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert kubernetes["exec-pretrain-short"]["emptyDirMounts"][0]["mountPath"] == "/dev/shm"
    assert kubernetes["exec-pretrain-short"]["tolerations"]
    assert all(e["secretAsEnv"][0]["secretName"] == "tokenmill-store" for e in kubernetes.values())


def test_prometheus_finds_every_pod_and_every_step_is_told_where_to_leave_its_numbers(package):
    for executor in package[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        assert executor["podMetadata"]["labels"]["tokenmill.io/metrics"] == "true"
        (told,) = [
            entry
            for entry in executor["configMapAsEnv"]
            if entry.get("optional") and entry["configMapName"] == "tokenmill"
        ]
        variables = {one["configMapKey"]: one["envVar"] for one in told["keyToEnv"]}
        assert variables["pushgateway"] == "TOKENMILL_PUSHGATEWAY"
        assert variables["metrics-port"] == "TOKENMILL_METRICS_PORT"


def test_every_task_learns_its_team_and_the_last_one_alone_the_channel(package):
    executors = package[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for executor in executors.values():
        told = [
            entry
            for entry in executor["configMapAsEnv"]
            if entry["configMapName"] == "tokenmill" and "optional" in entry
        ]
        assert {"team", "execution"} <= {one["configMapKey"] for one in told[0]["keyToEnv"]}
    knows = {name for name, e in executors.items() if "tokenmill-notify" in [s["secretName"] for s in e["secretAsEnv"]]}
    assert knows == {"exec-close-run"}


def test_every_step_of_the_lifecycle_has_a_budget_and_every_budget_a_step(package):
    executors = package[0]["deploymentSpec"]["executors"].values()
    bodies = "\n".join(part for e in executors for part in e["container"]["command"])
    called = set(re.findall(r'run_component\(\s*"([\w.]+)"', bodies))
    assert len(called) > 20
    assert set(step_budgets("nano")) == called
    assert all(seconds > 0 for seconds in step_budgets("nano").values())


OPTIONAL = {"overrides", "rounds", "release_alias", "deploy"}
PARTS = {
    "curation": {"sources", "scorers"},
    "pretraining": {"corpus"},
    "enhancement": {"sources", "corpus", "tokens", "tokenizer", "base"},
    "sft": {"sources", "corpus", "tokens", "tokenizer", "base"},
    "alignment": {"sources", "corpus", "tokens", "tokenizer", "sft", "rounds"},
    "evaluation": {"sources", "corpus", "tokens", "tokenizer", "base", "enhanced", "sft", "chat"},
    "deployment": {
        *("tokenizer", "base", "reward_model", "chat", "evaluation", "training_sets", "verdict"),
        *("release_alias", "deploy"),
    },
}
"""What each phase takes when it is run alone: manifests by name, all needed, and the lifecycle's own options."""


@pytest.fixture(scope="module", params=PARTS)
def part(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("parts") / "part.yaml"
    compile_package(request.param, "pico", "gpu", path)
    return request.param, next(yaml.safe_load_all(path.read_text()))


def test_a_phase_alone_takes_what_it_does_not_make(part):
    name, spec = part
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert set(parameters) == {*PARTS[name], "overrides"}
    if name == "curation":
        optional = {"parameterType": "LIST", "defaultValue": [], "isOptional": True}
        assert parameters["sources"] == parameters["scorers"] == optional
    else:
        assert {n for n, p in parameters.items() if p.get("isOptional")} == {*PARTS[name], "overrides"} & OPTIONAL
        assert all(parameters[n]["parameterType"] == "STRING" for n in {*PARTS[name]} - OPTIONAL)
    assert spec["pipelineInfo"]["name"] == f"tokenmill-{name}-pico-gpu"


def unnumbered(component):
    """As it is but for the numbers that KFP gives to a component's second use in a package."""
    return re.sub(r'("comp-[a-z-]+?)(-\d+)?"', r'\1"', json.dumps(component, sort_keys=True))


def test_a_phase_alone_is_the_lifecycles_box_in_the_lifecycles_frame(part, package):
    """The very tasks of the lifecycle's nested pipeline, between an opening, imports, a report and a closing task."""
    name, spec = part
    inner = spec["components"]
    assert unnumbered(inner[f"comp-{name}"]) == unnumbered(package[0]["components"][f"comp-{name}"])
    root = spec["root"]["dag"]["tasks"]
    assert [root[task]["taskInfo"]["name"] for task in sorted(root)] == ["close-run", "life", "open-run"]
    assert root["close-run"]["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    life = inner["comp-exit-handler-1"]["dag"]["tasks"]
    assert name in life["report"]["dependentTasks"]
    imports = [task for key, task in life.items() if key.startswith("import-manifest")]
    assert {task["inputs"]["parameters"]["uri"]["componentInputParameter"] for task in imports} == {
        f"pipelinechannel--{given}"
        for given in {*PARTS[name]} - OPTIONAL - ({"sources", "scorers"} if name == "curation" else set())
    }
    assert {task["taskInfo"]["name"] for task in imports} == {
        "import " + t["inputs"]["parameters"]["uri"]["componentInputParameter"].removeprefix("pipelinechannel--")
        for t in imports
    }
    assert all(not task.get("cachingOptions") for dag in dags(spec) for task in dag["tasks"].values())


def test_every_input_of_a_part_is_made_by_a_part_before_it():
    """So that a person who lacks one is told whom to ask, and finds its digest in that run's last lines."""
    order = list(PARTS)
    for name, parameters in PARTS.items():
        for given in {*parameters} - OPTIONAL - ({"sources", "scorers"} if name == "curation" else set()):
            assert order.index(HANDED_ON[given].pipeline) < order.index(name), given


def test_missing_and_unknown_parameters_are_one_line_that_says_where_to_find_them():
    sft = build("sft", "pico")
    given = {"sources": "a", "corpus": "k", "tokens": "t", "tokenizer": "b", "base": "c"}
    with pytest.raises(
        ConfigError,
        match=r"sft lacks corpus \(made by curation\), tokens \(made by pretraining\), tokenizer \(made by pretraining\), base",
    ):
        check_parameters("sft", sft, {"sources": "abcd"})
    with pytest.raises(
        ConfigError, match="sft has no parameter 'bass'. It has sources, corpus, tokens, tokenizer, base, overrides"
    ):
        check_parameters("sft", sft, {**given, "bass": "d"})
    check_parameters("sft", sft, given)
    check_parameters("lifecycle", build("lifecycle", "pico"), {})


@pytest.fixture
def kubeflow():
    """A server that answers what kfp's client asks when it starts a run, and keeps what it was sent."""
    sent: list[tuple[str, str, dict | bytes]] = []
    answers = {
        ("GET", "/apis/v2beta1/healthz"): {"multi_user": False},
        ("GET", "/apis/v2beta1/experiments"): {"experiments": []},
        ("POST", "/apis/v2beta1/experiments"): {"experiment_id": "e-1", "display_name": "tokenmill"},
        ("POST", "/apis/v2beta1/runs"): {"run_id": "r-1", "experiment_id": "e-1", "display_name": "run"},
    }

    class Api(BaseHTTPRequestHandler):
        def answer(self):
            place = (self.command, urlsplit(self.path).path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            sent.append((*place, json.loads(body or "{}") if "json" in self.headers.get_content_type() else body))
            self.send_response(200 if place in answers else 404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answers.get(place, {"error": "there is no such thing"})).encode())

        do_GET = do_POST = answer

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        server.sent, server.answers = sent, answers
        server.uri = f"http://127.0.0.1:{server.server_port}"
        yield server
        server.shutdown()


def submit(server, parameters):
    where = Where(server.uri, "mill", "first try", "tokenmill-pipeline")
    return submit_package("lifecycle", "pico", "gpu", parameters, where, "registry.example/mill")


def test_submit_sends_the_package_its_parameters_and_the_experiment(kubeflow, package):
    where = submit(kubeflow, {"overrides": {"sft.train.epochs": 2}, "rounds": 1})
    assert where == f"{kubeflow.uri}/#/runs/details/r-1"
    posted = {path.rpartition("/")[2]: body for method, path, body in kubeflow.sent if method == "POST"}
    assert posted["experiments"]["display_name"] == "first try"
    run = posted["runs"]
    assert run["experiment_id"] == "e-1" and run["service_account"] == "tokenmill-pipeline"
    assert run["runtime_config"]["parameters"] == {"overrides": {"sft.train.epochs": 2}, "rounds": 1}
    assert run["pipeline_spec"]["platform_spec"]["platforms"] == package[1]["platforms"]
    assert run["pipeline_spec"]["pipeline_spec"] == package[0]


def test_nothing_is_sent_where_a_parameter_is_wrong(kubeflow):
    with pytest.raises(ConfigError, match="lifecycle has no parameter 'round'"):
        submit(kubeflow, {"round": 1})
    with pytest.raises(ConfigError, match="identity fields only, not 'sft.train.execution.ranks'"):
        submit(kubeflow, {"overrides": {"sft.train.execution.ranks": 1}})
    assert kubeflow.sent == []


def test_a_server_that_refuses_is_one_line(kubeflow):
    del kubeflow.answers["POST", "/apis/v2beta1/runs"]
    with pytest.raises(ConfigError, match=rf"Kubeflow Pipelines at {kubeflow.uri} did not take it: \(404\)"):
        submit(kubeflow, {})


def versions(server, *names):
    server.answers["GET", "/apis/v2beta1/pipelines"] = {"pipelines": [{"pipeline_id": "p-1"}]}
    server.answers["GET", "/apis/v2beta1/pipelines/p-1/versions"] = {
        "pipeline_versions": [{"pipeline_version_id": name, "display_name": name} for name in names]
    }
    server.answers["POST", "/apis/v2beta1/pipelines/upload_version"] = {
        "pipeline_id": "p-1",
        "pipeline_version_id": "v",
    }


def test_upload_makes_a_version_of_what_the_package_says_and_no_second_one(kubeflow):
    versions(kubeflow)
    name, fresh = upload_package("smoke", "pico", "cpu", kubeflow.uri, None)
    pipeline, _, version = name.partition(" @ ")
    assert pipeline == "tokenmill-smoke-pico-cpu" and re.fullmatch("[0-9a-f]{12}", version) and fresh
    (body,) = [body for method, path, body in kubeflow.sent if path.endswith("/upload_version")]
    assert b"tokenmill-smoke-pico-cpu" in body
    versions(kubeflow, "another", version)
    assert upload_package("smoke", "pico", "cpu", kubeflow.uri, None) == (name, False)
    assert upload_package("smoke", "pico", "cpu", kubeflow.uri, "registry.example")[1]  # other images, another version


def test_upload_makes_a_pipeline_that_is_not_there(kubeflow):
    versions(kubeflow)
    kubeflow.answers["GET", "/apis/v2beta1/pipelines"] = {}
    with pytest.raises(ConfigError, match="did not take tokenmill-smoke-pico-cpu"):
        upload_package("smoke", "pico", "cpu", kubeflow.uri, None)
    assert ("POST", "/apis/v2beta1/pipelines/upload") in [(method, path) for method, path, _ in kubeflow.sent]


def test_who_asks_a_served_model_needs_no_accelerator_and_alone_holds_its_key(tmp_path):
    for profile in ("cpu", "gpu"):
        compile_package("benchmark", "pico", profile, tmp_path / "package.yaml")
        spec, platform = yaml.safe_load_all((tmp_path / "package.yaml").read_text())
        tasks = spec["deploymentSpec"]["executors"]
        evaluators = {name for name, task in tasks.items() if "/evaluator:" in task["container"]["image"]}
        assert evaluators == {"exec-choose-datasets", "exec-evaluate-endpoint"}
        assert not [name for name, task in tasks.items() if "accelerator" in task["container"]["resources"]]
        executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        assert not [name for name, executor in executors.items() if "nodeSelector" in executor]
        for secret in ("tokenmill-endpoint", "tokenmill-judge"):
            wanted = {"secretName": secret, "optional": True}.items()
            given = {name for name, it in executors.items() for one in it["secretAsEnv"] if wanted <= one.items()}
            assert given == {"exec-evaluate-endpoint"}


def test_who_signs_releases_and_who_asks_a_judge_alone_hold_the_key(tmp_path):
    for profile in ("cpu", "gpu"):
        compile_package("lifecycle", "pico", profile, tmp_path / "package.yaml")
        _, platform = yaml.safe_load_all((tmp_path / "package.yaml").read_text())
        executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        holds = {name: [s["secretName"] for s in e["secretAsEnv"]] for name, e in executors.items()}
        assert [name for name, secrets in holds.items() if "tokenmill-signing" in secrets] == ["exec-attest"]
        assert holds["exec-attest"] == ["tokenmill-store", "tokenmill-signing"]
        judges = {"exec-probe", "exec-probe-2", "exec-probe-3"}  # of every round
        assert {name for name, secrets in holds.items() if "tokenmill-judge" in secrets} == judges
        assert all(holds.values())
        keys = [m for m in executors["exec-deploy"]["configMapAsEnv"] if m["configMapName"] == "tokenmill-release-keys"]
        assert keys and keys[0]["optional"]
