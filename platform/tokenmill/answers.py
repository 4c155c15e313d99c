"""What a model said: the answer in it, and whether it was well formed."""

import re
from collections.abc import Callable, Collection, Sequence
from decimal import Decimal, InvalidOperation
from typing import Literal

Extraction = Literal["none", "final", "hash", "boxed", "number", "option", "line", "refusal"]
"""What of a text is the answer. none: all of it; final: as `extract` says; line: its first; refusal: whether it is one."""

_NUMBER = re.compile(r"[-−]?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
_STATED = re.compile(r"(?:answer is|answer:|=)\s*(.+?)\s*(?:\n|$)", re.IGNORECASE)


def extract(text: str) -> str | None:
    """The final answer: after `####` (GSM8K), in `\\boxed{}` (MATH), after "answer is", else the last number."""
    if "####" in text:
        return _hashed(text)
    if boxed := _boxed(text):
        return boxed
    if stated := _STATED.findall(text):
        return str(stated[-1])
    return _last_number(text)


def _last_number(text: str) -> str | None:
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else None


def _hashed(text: str) -> str | None:
    """The rest of the line after the last `####`."""
    last = text.rpartition("####")[2].strip() if "####" in text else ""
    return last.splitlines()[0].strip() if last else None


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


def option(text: str, letters: str = "ABCD") -> str | None:
    """The letter that was chosen: the last one that is stated (`the answer is (B)`, `答案是B`), else the one that the answer
    begins with (`B. Paris`), else the only one that stands alone; None where several do."""
    one = rf"[(（\[]?\s*([{letters}])(?![A-Za-z])"
    stated = (
        rf"(?:answer|choice|option|答案|选择|选项?|故选|应选)(?:\s*(?:is|was|:|：|为|是|应为|应该是))*\s*\**\s*{one}"
    )
    if found := re.findall(stated, text, re.IGNORECASE):
        return str(found[-1]).upper()
    if begins := re.match(rf"\s*\**{one}\s*(?:[.):：、，。）\]*]|$|\n)", text):
        return begins[1]
    alone = set(re.findall(rf"(?<![A-Za-z])([{letters}])(?![A-Za-z'’])", text))
    return alone.pop() if len(alone) == 1 else None


_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am)(?: really| very| so)? sorry|i (?:can(?:no|')t|can not|won't|will not|must decline)"
    r"|i(?:'m| am) (?:not able|unable) to|as an ai\b|not appropriate"
    r"|(?:this|that|it) (?:is|would be) (?:illegal|against the law|dangerous))"
    r"|抱歉|对不起|(?:不能|无法|不会)(?:帮|提供|协助|回答|告诉|满足)|违法",
    re.IGNORECASE,
)
_REFUSES_WITHIN = 200


def refusal(text: str) -> str | None:
    """`refuses` where the beginning of an answer declines, else `answers`; None of no answer. By phrases, without a judge."""
    if not text.strip():
        return None
    return "refuses" if _REFUSAL.search(text.replace("’", "'")[:_REFUSES_WITHIN]) else "answers"


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


EXTRACTIONS: dict[str, Callable[[str], str | None]] = {
    "none": lambda text: text.strip(),
    "final": extract,
    "hash": _hashed,
    "boxed": _boxed,
    "number": _last_number,
    "option": option,
    "refusal": refusal,
    "line": lambda text: (text.strip().splitlines() or [""])[0].strip() or None,
}


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
