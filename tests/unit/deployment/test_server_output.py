"""What `VLLMServer` makes of an engine's output: its log, and its streamed answers."""

import pytest

from tokenmill.deployment.client import sse_events
from tokenmill.deployment.server import last_step
from tokenmill.serving import EngineError, decisive_line

ERROR = "(EngineCore pid=7) ERROR 11-24 04:00:50 [core.py:1510] "

WEIGHTS_BROKEN = f"""\
(APIServer pid=3) INFO 11-24 04:00:43 [api_utils.py:286] non-default args: {{'model': 'm'}}
{ERROR}EngineCore failed to start.
{ERROR}Traceback (most recent call last):
{ERROR}  File "weights.py", line 9, in load
{ERROR}safetensors._safetensors_rust.SafetensorError: header: incomplete metadata, file not fully covered
Traceback (most recent call last):
  File "launcher.py", line 104, in <module>
    raise RuntimeError(
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{'EngineCore': 1}}
"""
CONFIG_INVALID = """\
Traceback (most recent call last):
    s.__pydantic_validator__.validate_python(ArgsKwargs(args, kwargs), self_instance=s)
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, Model architectures ['Foo'] are not supported for now. Supported architectures: keys(['Bar']) [type=x]
    For further information visit https://errors.pydantic.dev/2.14/v/value_error
"""
RERAISED = """\
json.decoder.JSONDecodeError: Expecting property name: line 2 column 1 (char 2)

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
OSError: It looks like the config file at 'm/config.json' is not a valid JSON file.
"""
WRONG_FLAG = """\
usage: api_server.py [-h]
                     [model_tag]
api_server.py: error: unrecognized arguments: --no-such-flag
"""


@pytest.mark.parametrize(
    ("printed", "line"),
    [
        (
            WEIGHTS_BROKEN,
            "safetensors._safetensors_rust.SafetensorError: header: incomplete metadata, file not fully covered",
        ),
        (CONFIG_INVALID, "Model architectures ['Foo'] are not supported for now."),
        (RERAISED, "OSError: It looks like the config file at 'm/config.json' is not a valid JSON file."),
        (WRONG_FLAG, "api_server.py: error: unrecognized arguments: --no-such-flag"),
        ("all is well\nTypeErrors are rare\n", ""),
        ("", ""),
    ],
)
def test_decisive_line_is_the_cause_and_not_its_aftermath(printed, line):
    assert decisive_line(printed) == line


def test_decisive_line_is_short():
    assert len(decisive_line("ValueError: " + "x" * 5000)) <= 301


def test_last_step_is_the_engines_own_word():
    printed = "(EngineCore pid=7) INFO 11-24 04:00:43 [model.py:68] Starting to load model m...\n  warnings.warn(\n\n"
    assert last_step(printed) == "Starting to load model m..."
    assert last_step("  warnings.warn(\n") == ""


def test_sse_events_end_with_done():
    lines = [
        b": comment",
        b"event: message",
        b'data: {"n": 1}',
        b"",
        b'data:{"n": 2}',
        b"",
        b"data: [DONE]",
        b"data: {",
    ]
    assert list(sse_events(lines)) == [{"n": 1}, {"n": 2}]


def test_sse_events_that_break_off_are_no_answer():
    events = sse_events([b'data: {"n": 1}'])
    assert next(events) == {"n": 1}
    with pytest.raises(EngineError, match="DONE"):
        next(events)


def test_sse_events_raise_the_error_that_the_stream_carries():
    lines = [b'data: {"n": 1}', b'data: {"error": {"message": "out of blocks", "code": 500}}', b"data: [DONE]"]
    with pytest.raises(EngineError, match="out of blocks"):
        list(sse_events(lines))
