"""What a failure was and what to do about it: known patterns in a rank's traceback, and how a process ended.

A table, read from the top: the first pattern that is found tells. What is not in it is told as it was.
"""

import re
import signal
from typing import NamedTuple


class Diagnosis(NamedTuple):
    """A cause in a person's words, and advice."""

    cause: str
    advice: str

    def __str__(self) -> str:
        return f"{self.cause}: {self.advice}"


class Pattern(NamedTuple):
    """What gives a failure away."""

    name: str
    regex: str
    cause: str
    advice: str


PATTERNS = (
    Pattern(
        "cuda_oom",
        r"OutOfMemoryError|CUDA out of memory",
        "the GPU's memory was full",
        "lower execution.micro_batch_tokens, set execution.recompute=full, or spread states over more ranks or a higher "
        "execution.zero_stage; `tokenmill plan` shows the estimate",
    ),
    Pattern(
        "ecc",
        r"uncorrectable ECC|Xid[^\n]{0,80}\b(48|63|64|74|79|94|95)\b|fallen off the bus",
        "the GPU is broken",
        "cordon the node and rerun elsewhere; training goes on from the newest checkpoint",
    ),
    Pattern(
        "data_corruption",
        r"CorruptError|does not match its digest|reaches beyond its token file|zstd[^\n]*(corrupt|checksum)",
        "stored data is damaged",
        "the object that is named was changed or cut where it is stored: delete it, and rerun the step that made it",
    ),
    Pattern(
        "disk_full",
        r"No space left on device|ENOSPC|the disk is full|Errno 28\b|disk quota",
        "a disk was full",
        "free space where TMPDIR and the store are (two checkpoints of a rank lie in TMPDIR), or run `tokenmill store gc`",
    ),
    Pattern(
        "rendezvous",
        r"RendezvousConnectionError|client socket has (timed out|failed to connect)|"
        r"(DistNetworkError|TCPStore)[^\n]*(refused|timed out|failed)|ConnectionRefusedError[^\n]*",
        "the ranks did not find each other",
        "look whether the host and port of the rendezvous can be reached from every node, and whether all nodes started",
    ),
    Pattern(
        "collective_timeout",
        r"Watchdog caught collective operation timeout|NCCL[^\n]*[Tt]ime?d? ?out|Timed out waiting \d+ms|ncclRemoteError|"
        r"NCCL error|ncclSystemError",
        "a collective between ranks did not end",
        "the first rank that failed or stood still is the cause, not this one: look at its node's network and GPU, and rerun",
    ),
    Pattern(
        "peer_lost",
        r"Connection (closed|reset) by peer|Broken pipe|Connection reset",
        "another rank was gone",
        "the rank that ended first is the cause: look for it above, and rerun",
    ),
    Pattern(
        "not_finite",
        r"loss is (nan|inf|-inf)|gradient norm is (nan|inf)|values? (that are )?not finite",
        "numbers were not finite",
        "lower optim.lr, or look at the data of the step that is named",
    ),
)


def diagnose(told: str) -> Diagnosis | None:
    """What a message or traceback is known to mean."""
    for pattern in PATTERNS:
        if re.search(pattern.regex, told):
            return Diagnosis(pattern.cause, pattern.advice)
    return None


def diagnose_signal(number: int) -> Diagnosis:
    """What it means that a rank died of a signal."""
    if number == signal.SIGKILL:
        return Diagnosis(
            "out of memory on the host?",
            "rerun to go on from the newest checkpoint, with fewer ranks a node or more memory",
        )
    if number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT):
        return Diagnosis("native code crashed", "rerun; if it comes back on this node alone, cordon it")
    return Diagnosis("something outside stopped it", "rerun to go on from the newest checkpoint")


def last_lines(trace: str, lines: int = 8) -> str:
    """The end of a traceback, where it says what happened."""
    return "\n".join(line for line in trace.rstrip().splitlines()[-lines:] if line.strip())
