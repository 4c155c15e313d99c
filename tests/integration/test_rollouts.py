"""PPO's answers by the real vLLM: its weights are the actor's to the bit, its log-probabilities ours."""

import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from tokenmill.model.config import InternLM2Config
from tokenmill.model.generation import generate
from tokenmill.model.modeling import InternLM2ForCausalLM
from tokenmill.rlhf.config import PPOExecution, SamplingConfig
from tokenmill.rlhf.engines import Request
from tokenmill.rlhf.vllm_engine import VLLMEngine, VLLMProcess
from tokenmill.serving import EngineError, serving_available

AVAILABLE, REASON = serving_available()
pytestmark = [pytest.mark.integration, pytest.mark.skipif(not AVAILABLE, reason=REASON)]

SAMPLING = SamplingConfig(max_new_tokens=24, top_p=0.9)
STOP = (2,)
PROMPTS = [torch.randint(5, 500, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (3, 9, 17, 40)]


def actor(seed: int) -> InternLM2ForCausalLM:
    model = InternLM2ForCausalLM(InternLM2Config.preset("nano"), seed=seed)
    with torch.no_grad():
        model.output.weight *= 20  # of its own opinion: another model would say other things
    return model


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    running = VLLMProcess(tmp_path_factory.mktemp("engine"), actor(1), 8, PPOExecution(engine_kv_cache_mib=64))
    yield running
    running.close()


def greedy(process):
    asked = {"temperature": 0.0, "max_tokens": 24, "stop_token_ids": list(STOP)}
    return [a["tokens"] for a in process.ask(do="draw", prompts=PROMPTS, seeds=[0] * 4, sampling=asked)["answers"]]


def ours(model):
    return [g.tokens for g in generate(model, PROMPTS, max_new_tokens=24, temperature=0, stop_ids=STOP)]


def test_weights_handed_over_are_the_actors_and_a_round_trip_is_exact(process):
    first, second = actor(1), actor(2)
    said = greedy(process)
    assert said == ours(first)
    process.load(second)
    assert greedy(process) == ours(second) != said
    process.load(first)
    assert greedy(process) == said


def test_log_probabilities_are_the_actors_within_a_hundredth(process):
    model = actor(3)
    (answers,) = VLLMEngine(process, model, SAMPLING, STOP).draw([Request(PROMPTS, seed=7)])
    for answer in answers:
        assert 0 < len(answer.tokens) <= 24
        assert len(answer.logprobs) == len(answer.entropies) == len(answer.tokens)
        assert answer.engine_error / len(answer.tokens) < 1e-2
        assert answer.finished == (answer.tokens[-1] in STOP)
    for prompt, answer in zip(PROMPTS, answers, strict=True):  # the actor's, from its own logits
        rows = model(torch.tensor([*prompt, *answer.tokens])).detach()[len(prompt) - 1 : -1].log_softmax(-1)
        told = rows.gather(1, torch.tensor(answer.tokens)[:, None]).squeeze(1)
        torch.testing.assert_close(answer.logprobs, told, atol=1e-4, rtol=1e-4)


def test_chance_is_the_requests_own(process):
    engine = VLLMEngine(process, actor(3), SAMPLING, STOP)
    one, two, other = ([a.tokens for a in engine.draw([Request(PROMPTS, s)])[0]] for s in (7, 7, 8))
    assert one == two != other
    together = engine.draw([Request(PROMPTS[:2], 1), Request(PROMPTS[2:], 2)])
    assert [len(block) for block in together] == [2, 2]


def test_answers_keep_to_each_rows_own_nucleus_whatever_rows_come_and_go(process):
    """More answers than are drawn at once, of different lengths: what counts for a row must move with it."""
    model, share = actor(3), 0.6
    with torch.no_grad():
        model.output.weight /= 20  # of hardly any opinion: tokens outside would be said
    engine = VLLMEngine(process, model, SamplingConfig(max_new_tokens=24, top_p=share), tuple(range(400)))
    prompts = PROMPTS * 8
    (answers,) = engine.draw([Request(prompts, seed=5)])
    assert len({len(answer.tokens) for answer in answers}) > 3
    outside, said = [], set()
    for prompt, answer in zip(prompts, answers, strict=True):
        rows = model(torch.tensor([*prompt, *answer.tokens])).detach()[len(prompt) - 1 : -1].double().softmax(-1)
        mine = rows.gather(1, torch.tensor(answer.tokens)[:, None])
        outside += (rows.where(rows > mine, 0.0).sum(-1) - share).tolist()  # the mass of what is more likely
        said |= set(answer.tokens)
    assert max(outside) < 1e-3 and len(said) > 100
    assert statistics.mean(gap > -share / 2 for gap in outside) > 0.3  # and the nucleus is said up to its border


def test_weights_of_a_nano_model_cross_in_a_fifth_of_a_second(process):
    model, spent = actor(4), []
    for _ in range(5):
        start = time.perf_counter()
        process.load(model)
        spent.append(time.perf_counter() - start)
    assert statistics.median(spent) < 0.2


def test_a_refused_request_says_why_and_the_engine_lives(process):
    with pytest.raises(EngineError, match="rollout engine failed"):
        process.ask(do="load", folder="/nowhere")
    process.load(actor(1))
    assert greedy(process) == ours(actor(1))


def test_an_engine_ends_with_whoever_started_it(tmp_path):
    program = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path\n"
        "from test_rollouts import PPOExecution, VLLMProcess, actor, time\n"
        "engine = VLLMProcess(Path(sys.argv[1]), actor(1), 8, PPOExecution())\n"
        "print(engine.pid, flush=True); time.sleep(600)\n"
    )
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", program, str(tmp_path), here, *sys.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        engine = psutil.Process(int(parent.stdout.readline()))
        assert engine.is_running()
        parent.send_signal(signal.SIGKILL)
    engine.wait(10)
