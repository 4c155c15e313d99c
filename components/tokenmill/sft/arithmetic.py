"""Questions whose answers a program knows: small arithmetic, asked plainly and as stories."""

import random
from collections.abc import Iterator

from tokenmill.records import Record

_FORMS = (
    ("+", "What is {a} + {b}?"),
    ("-", "What is {a} - {b}?"),
    ("*", "What is {a} * {b}?"),
    ("+", "Tom has {a} apples and gets {b} more. How many apples has he now?"),
    ("-", "Ann had {a} coins and gave {b} away. How many coins are left?"),
    ("*", "There are {a} boxes with {b} books each. How many books are there?"),
)


def questions(seed: int) -> Iterator[Record]:
    """An endless stream of question, worked answer, and the bare answer to compare with."""
    draw = random.Random(seed)
    while True:
        sign, form = draw.choice(_FORMS)
        top = 10 if sign == "*" else 50
        a, b = draw.randint(2, top), draw.randint(2, top)
        a, b = (max(a, b), min(a, b)) if sign == "-" else (a, b)
        answer = {"+": a + b, "-": a - b, "*": a * b}[sign]
        yield {
            "messages": [
                {"role": "user", "content": form.format(a=a, b=b)},
                {"role": "assistant", "content": f"{a} {sign} {b} = {answer}."},
            ],
            "answer": str(answer),
        }
