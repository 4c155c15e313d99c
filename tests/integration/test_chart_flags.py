"""vLLM's own parser takes every flag that the inference chart writes, in every mode, and understands it. No engine is started."""

import json
import subprocess

import pytest
from rendered import MODES, needs_helm, render

from tokenmill.deployment.server import serve_python, serving_available

AVAILABLE, REASON = serving_available()
pytestmark = [pytest.mark.integration, needs_helm, pytest.mark.skipif(not AVAILABLE, reason=REASON)]
PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.utils.argparse_utils import FlexibleArgumentParser
told = []
command = FlexibleArgumentParser()
ServeSubcommand().subparser_init(command.add_subparsers(dest="subparser"))
for arguments in json.load(sys.stdin):
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(arguments)
    validate_parsed_serve_args(parsed)
    served = command.parse_args(["serve", *arguments])  # what `vllm serve` understands of the same
    both = {"model": served.model_tag, "model_tag": None, "subparser": None, "config": None}
    differing = {k for k, v in (vars(served) | both).items() if k in vars(parsed) and repr(v) != repr(getattr(parsed, k))}
    assert not differing, differing
    told.append({key: value for key, value in vars(parsed).items() if isinstance(value, (str, int, float, bool, list))})
json.dump(told, sys.stdout, default=str)
"""
TYPED = {
    "engine": {
        "tensorParallelSize": 2, "pipelineParallelSize": 2, "dtype": "bfloat16", "maxModelLen": 200000, "maxNumSeqs": 7,
        "maxNumBatchedTokens": 4096, "gpuMemoryUtilization": 0.8, "kvCacheDtype": "fp8", "quantization": "awq",
        "prefixCaching": False, "chunkedPrefill": True, "enforceEager": True, "trustRemoteCode": True, "seed": 5,
        "runner": "generate", "toolCallParser": "internlm", "reasoningParser": "deepseek_r1", "accessLog": True,
        "extraArgs": ["--max-log-len=100"],
    }
}  # fmt: skip


@pytest.fixture(scope="module")
def parsed(tmp_path_factory):
    """Mode → what vLLM understood; `typed` has every typed flag."""
    renderings = {mode: render("inference", mode) for chart, mode in MODES if chart == "inference"}
    renderings["typed"] = render("inference", "keda", TYPED)
    template = tmp_path_factory.mktemp("etc") / "chat_template.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    wanted = {
        f"{mode}/{d['metadata']['name']}": [
            argument.replace("/etc/tokenmill/chat_template.jinja", str(template))  # vLLM looks whether it is there
            for argument in d["spec"]["template"]["spec"]["containers"][0]["args"]
        ]
        for mode, rendering in renderings.items()
        for d in rendering.of("Deployment")
    }
    done = subprocess.run(
        [serve_python(), "-c", PARSE],
        input=json.dumps(list(wanted.values())),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(wanted, json.loads(done.stdout.splitlines()[-1]), strict=True))


def test_every_typed_value_arrives(parsed):
    told = parsed["typed/rel-inference"]
    expected = {
        "tensor_parallel_size": 2, "pipeline_parallel_size": 2, "dtype": "bfloat16", "max_model_len": 200000, "max_num_seqs": 7,
        "max_num_batched_tokens": 4096, "gpu_memory_utilization": 0.8, "kv_cache_dtype": "fp8", "quantization": "awq",
        "enable_prefix_caching": False, "enable_chunked_prefill": True, "enforce_eager": True, "trust_remote_code": True,
        "seed": 5, "runner": "generate", "tool_call_parser": "internlm", "enable_auto_tool_choice": True,
        "reasoning_parser": "deepseek_r1", "max_log_len": 100, "disable_uvicorn_access_log": False,
    }  # fmt: skip
    assert {key: told.get(key) for key in expected} == expected


def test_every_mode_is_understood(parsed):
    assert parsed["cpu/rel-inference"]["kv_cache_memory_bytes"] == 2**28
    assert parsed["gpu/rel-inference"]["served_model_name"] == ["internlm2-chat-7b", "chat"]
    assert parsed["gpu/rel-inference"]["chat_template"].endswith("/chat_template.jinja")
    assert parsed["hub/rel-inference"]["revision"] == "6" * 40
    assert parsed["pvc/rel-inference"]["enable_lora"] is True and parsed["pvc/rel-inference"]["max_lora_rank"] == 16
    assert all(
        told["middleware"] == ["model_digest.ModelDigest"]
        for mode, told in parsed.items()
        if not mode.startswith("hub")
    )
