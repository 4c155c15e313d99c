"""What a model said: the answer in it, and whether it was well formed."""

import re
from collections.abc import Collection, Sequence
from decimal import Decimal, InvalidOperation

_NUMBER = re.compile(r"[-−]?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
_STATED = re.compile(r"(?:answer is|answer:|=)\s*(.+?)\s*(?:\n|$)", re.IGNORECASE)


def extract(text: str) -> str | None:
    """The final answer: after `####` (GSM8K), in `\\boxed{}` (MATH), after "answer is", else the last number."""
    if "####" in text:
        last = text.rpartition("####")[2].strip()
        return last.splitlines()[0].strip() if last else None
    if boxed := _boxed(text):
        return boxed
    if stated := _STATED.findall(text):
        return str(stated[-1])
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else None


def _boxed(text: str) -> str | None:
    """The content of the last \\boxed{…}, with the braces inside it."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 1, start + len("\\boxed{")
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[begin:place].strip()
    return None


def same(answer: str | None, expected: str) -> bool:
    """Equal as numbers where a number is expected, else as text without case, spaces, currency signs and a last full stop.

    Of an answer in words (`42 dollars`, `6 × 7 = 42, I think`) the number counts that is stated: the first after the last `=`.
    """
    if answer is None:
        return False
    left, right = _plain(answer), _plain(expected)
    wanted = _number(right)
    if wanted is None:
        return left == right
    stated = _NUMBER.search(answer.rpartition("=")[2])
    found = _number(left) if _number(left) is not None or not stated else _number(_plain(stated[0]))
    return found == wanted


def _plain(text: str) -> str:
    return re.sub(r"[\s$]", "", text).replace("−", "-").lower().rstrip(".")


def _number(text: str) -> Decimal | None:
    digits = text.replace(",", "")
    over, slash, under = digits.partition("/")
    try:
        value = Decimal(over) / Decimal(under) if slash else Decimal(digits)
    except (InvalidOperation, ZeroDivisionError):
        return None
    return value if value.is_finite() else None


def faults(ids: Sequence[int], text: str, end: int, special: Collection[int]) -> list[str]:
    """Why an answer is no well-formed chat turn; nothing if it is.

    Args:
        ids: the answer's tokens, the stop token last where one came.
        text: they as text, the stop token left out; bytes that are no UTF-8 as U+FFFD.
        end: id of `<|im_end|>`.
        special: every id that stands for no text.
    """
    found = []
    if not ids or ids[-1] != end:
        found.append("no <|im_end|> within the limit")
    if not text.strip():
        found.append("empty")
    if any(id in special for id in ids[:-1]) or (ids and ids[-1] in special and ids[-1] != end):
        found.append("special token inside")
    if "\ufffd" in text:
        found.append("not UTF-8")
    return found
