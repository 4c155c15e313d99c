"""The real engine on a checkpoint whose answers are known: what a step or a person gets from `VLLMServer`."""

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import known_metrics
import psutil
import pytest
from checkpoints import CONTEXT, reciting_llama
from prometheus_client.parser import text_string_to_metric_families
from tokenizers import Tokenizer

from tokenmill.deployment.server import VLLMServer
from tokenmill.errors import InputError
from tokenmill.serving import EngineError, serving_available

AVAILABLE, REASON = serving_available()
pytestmark = [pytest.mark.integration, pytest.mark.skipif(not AVAILABLE, reason=REASON)]

HELLO = [{"role": "user", "content": "hi"}]
SECRET = "planted-secret-5f1c"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reciting_llama(tmp_path_factory.mktemp("serving") / "reciter", "Token")


@pytest.fixture(scope="module")
def server(checkpoint: Path) -> Iterator[VLLMServer]:
    os.environ["AWS_SECRET_ACCESS_KEY"] = SECRET
    try:
        with VLLMServer(checkpoint, log=checkpoint.parent / "vllm.log") as running:
            yield running
    finally:
        del os.environ["AWS_SECRET_ACCESS_KEY"]


def engine_processes(of: int | None = None) -> list[psutil.Process]:
    return psutil.Process(of).children(recursive=True)


def wait_until_gone(processes: list[psutil.Process], seconds: float = 10) -> list[psutil.Process]:
    return psutil.wait_procs(processes, timeout=seconds)[1]


def test_a_started_server_is_healthy_and_names_its_model(server):
    assert server.health()
    assert server.models() == ["reciter"]
    assert server.url.startswith("http://127.0.0.1:")


def test_chat_streams_the_answer_in_pieces_up_to_its_end(server):
    pieces = list(server.stream_chat(HELLO, temperature=0, max_tokens=20))
    assert "".join(pieces) == "Token"
    assert len([piece for piece in pieces if piece]) > 1


def test_chat_is_the_same_with_and_without_streaming(server):
    assert server.chat(HELLO, temperature=0, max_tokens=20) == "Token"
    assert server.chat(HELLO, stream=False, temperature=0, max_tokens=20) == "Token"


def test_chat_stops_at_max_tokens(server):
    assert server.chat(HELLO, temperature=0, max_tokens=3) == "Tok"


def test_complete_takes_text_and_token_ids(server, checkpoint):
    ids = Tokenizer.from_file(str(checkpoint / "tokenizer.json")).encode("To").ids
    assert server.complete("To", temperature=0, max_tokens=9) == "ken"
    assert server.complete(ids, temperature=0, max_tokens=9) == "ken"


def test_tokenize_renders_the_chat_template(server, checkpoint):
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    rendered = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert server.tokenize(HELLO) == tokenizer.encode(rendered, add_special_tokens=False).ids


def test_metrics_count_the_generated_tokens(server):
    before = server.metrics()["vllm:generation_tokens_total"]
    server.complete("To", temperature=0, max_tokens=7, ignore_eos=True)
    assert server.metrics()["vllm:generation_tokens_total"] - before == 7


def test_what_alerts_and_dashboards_look_at_is_there(server):
    server.chat(HELLO, max_tokens=4)
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        found = {sample.name for family in families for sample in family.samples}
    assert found >= known_metrics.VLLM | known_metrics.VLLM_SERVER


def test_a_refused_request_says_why_in_one_line(server):
    with pytest.raises(EngineError, match=f"(?s)refused.*{CONTEXT}") as refused:
        server.complete("x" * (CONTEXT + 1), max_tokens=1)
    assert "Traceback" not in str(refused.value)
    assert server.health()


def test_the_engine_gets_none_of_our_keys(server):
    for process in engine_processes():
        assert SECRET not in str(process.environ())


def test_the_engine_listens_on_loopback_only(server):
    listening = [c for p in engine_processes() for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert listening
    assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}


def test_no_process_outlives_a_parent_killed_with_9(checkpoint, tmp_path):
    holder = (
        "import sys, time\n"
        "from tokenmill.deployment.server import VLLMServer\n"
        "with VLLMServer(sys.argv[1], log=sys.argv[2]):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", holder, checkpoint, tmp_path / "vllm.log"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as parent:
        assert parent.stdout.readline() == "ready\n"
        started = engine_processes(parent.pid)
        assert "VLLM::EngineCore" in [process.cmdline()[0] for process in started if process.cmdline()]
        parent.send_signal(signal.SIGKILL)
        assert wait_until_gone(started) == []


def test_a_truncated_checkpoint_is_refused_with_the_reason_and_the_log(tmp_path):
    folder = reciting_llama(tmp_path / "broken", "Token")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    others = set(engine_processes())
    server = VLLMServer(folder, log=tmp_path / "vllm.log")
    with pytest.raises(EngineError) as refused:
        server.start()
    first, second = str(refused.value).splitlines()
    assert "SafetensorError" in first and str(folder) in first
    assert str(tmp_path / "vllm.log") in second
    assert wait_until_gone(list(set(engine_processes()) - others)) == []


@pytest.mark.parametrize(("missing", "said"), [("config.json", "config.json"), ("model.safetensors", "weights")])
def test_what_is_no_checkpoint_is_refused_before_anything_starts(tmp_path, missing, said):
    folder = reciting_llama(tmp_path / "half", "Token")
    (folder / missing).unlink()
    with pytest.raises(InputError, match=said):
        VLLMServer(folder, log=tmp_path / "vllm.log").start()
    assert not (tmp_path / "vllm.log").exists()


def test_stop_lets_a_running_answer_finish_and_leaves_no_process(checkpoint, tmp_path):
    server = VLLMServer(checkpoint, log=tmp_path / "vllm.log").start()
    started = engine_processes(server._process.pid)
    answer = server.stream_chat(HELLO, max_tokens=80, ignore_eos=True)
    next(answer)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    list(answer)  # raises where the stream breaks off
    stopping.join()
    assert wait_until_gone(started) == []
    server.stop()
    assert not server.health()
    with pytest.raises(EngineError, match="not running"):
        server.models()


def test_an_engine_that_dies_is_told_from_one_that_refuses(server):  # the last one: it kills the module's engine
    started = engine_processes(server._process.pid)
    next(process for process in started if "VLLM::EngineCore" in process.cmdline()).kill()
    with pytest.raises(EngineError) as died:
        for _ in range(20):
            server.complete("To", max_tokens=4)
            time.sleep(0.5)
    assert "refused" not in str(died.value)
    assert str(server.log) in str(died.value)
    server.stop()
    assert wait_until_gone(started) == []
