"""Known failures, as their libraries word them, are told with cause and advice."""

import signal

import pytest

from tokenmill.errors import Interrupted, StepFailed
from tokenmill.launch.training import Ended, _explained
from tokenmill.training.diagnosis import PATTERNS, diagnose, diagnose_signal, last_lines
from tokenmill.training.messages import Failure

SEEN = {
    "cuda_oom": [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.10 GiB. GPU 0 has a total capacity of 79.11 GiB",
    ],
    "ecc": [
        "RuntimeError: CUDA error: uncorrectable ECC error encountered",
        "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, GPU has fallen off the bus.",
    ],
    "data_corruption": [
        "tokenmill.errors.CorruptError: part-00000: document d7 reaches beyond its token file",
        "zstandard.ZstdError: zstd decompress error: Data corruption detected",
    ],
    "disk_full": [
        "OSError: [Errno 28] No space left on device: '/tmp/x'",
        "tokenmill.errors.StoreError: /store/x: the disk is full: free space there, or run `tokenmill store gc`",
    ],
    "rendezvous": [
        "torch.distributed.DistNetworkError: The client socket has timed out after 60000ms while trying to connect to (a, 1)",
        "ConnectionRefusedError: [Errno 111] Connection refused",
    ],
    "collective_timeout": [
        "[Rank 3] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=41, OpType=ALLREDUCE, Timeout(ms)=600000)",
        "RuntimeError: [gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 1800000ms for recv operation to complete",
    ],
    "peer_lost": ["RuntimeError: [gloo/transport/tcp/pair.cc:544] Connection closed by peer [127.0.0.1]:41234"],
    "not_finite": ["tokenmill.errors.StepFailed: loss is nan at step 10"],
}


@pytest.mark.parametrize(("name", "told"), [(name, told) for name, lines in SEEN.items() for told in lines])
def test_it_is_known_for_what_it_is(name, told):
    expected = next(pattern for pattern in PATTERNS if pattern.name == name)
    assert diagnose(f"Traceback (most recent call last):\n  File \"x.py\", line 1\n{told}\n") == (
        expected.cause, expected.advice,
    )  # fmt: skip


def test_every_pattern_has_an_example_and_what_is_not_known_is_not_guessed():
    assert SEEN.keys() == {pattern.name for pattern in PATTERNS}
    assert diagnose("ZeroDivisionError: division by zero") is None


def explained(failure=None, said="", stopped=False):
    return _explained("sft.train", 2, failure, Ended("FAILED", said, stopped))


def failed(trace, message="boom", expected=False):
    return Failure(rank=1, message=message, expected=expected, retry=False, rollback=False, traceback=trace)


def test_the_first_failing_ranks_traceback_is_part_of_the_error_with_what_to_do():
    trace = "Traceback (most recent call last):\n" + "  deep\n" * 30 + '  File "loss.py", line 7, in loss\n    x / y\n'
    trace += "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.10 GiB."
    error = explained(failed(trace, "CUDA out of memory. Tried to allocate 2.10 GiB."))
    assert isinstance(error, StepFailed)
    first, *rest = str(error).splitlines()
    assert first.startswith(
        "sft.train: rank 1 of 2 failed first: CUDA out of memory. Tried to allocate 2.10 GiB (the GPU's memory was full: lower"
    )
    assert 'File "loss.py", line 7, in loss' in str(error) and len(rest) <= 8


def test_what_says_it_all_stands_alone():
    assert str(explained(failed("Traceback …", "no held-out documents", expected=True))) == (
        "sft.train: rank 1 of 2 failed first: no held-out documents"
    )


@pytest.mark.parametrize(
    ("number", "kind", "told"),
    [
        (signal.SIGKILL, Interrupted, "out of memory on the host?"),
        (signal.SIGSEGV, StepFailed, "native code crashed"),
        (signal.SIGUSR2, StepFailed, "something outside stopped it"),
    ],
)
def test_a_signal_is_told_with_what_it_means(number, kind, told):
    said = f"  rank      : 0 (local_rank: 0)\n  exitcode  : -{int(number)} (pid: 12)\n"
    error = explained(said=said)
    assert (
        type(error) is kind and f"rank 0 of 2 was killed by signal {int(number)}" in str(error) and told in str(error)
    )
    assert str(diagnose_signal(number)) in str(error)


def test_last_lines_are_the_last():
    assert last_lines("a\nb\n\nc\n", 3) == "b\nc"
