"""What documents have in common is counted in units: words, in Chinese characters, in code lexemes.

Words and characters are lower-cased and know no punctuation. Lexemes know no indentation: copies indented by two spaces,
four or a tab are one file (report §3.1.2).
"""

from functools import cache

import numpy as np

WORDS, CHARACTERS, LEXEMES = "words", "characters", "lexemes"
TABLE_SIZE = 0x40000
"""Code points from here on are no letter and no digit in Unicode (private use, tags)."""
_CONTEXTUAL = "\u0130", "\u03a3"
"""The two characters whose lower case hangs on more than themselves: İ becomes two, Σ has two forms."""


def unit_kind(record_type: str, lang: str) -> str:
    """The kind of unit that a document is compared by."""
    if record_type == "code":
        return LEXEMES
    return CHARACTERS if lang == "zh" else WORDS


def encoded(text: str, kind: str) -> bytes:
    """UTF-8 for the kernels, whose table lower-cases one character at a time."""
    if kind != LEXEMES and not text.isascii() and any(map(text.__contains__, _CONTEXTUAL)):
        text = text.lower()
    return text.encode("utf-8", "surrogatepass")


@cache
def unit_table(kind: str) -> np.ndarray:
    """What a code point counts as, uint32 [TABLE_SIZE]; words and characters share one table.

    Words: the lower-cased letter or digit, 0 = separator. Lexemes: letter, digit or `_` as it is, 0 = white space,
    1 = a lexeme by itself.
    """
    table = np.zeros(TABLE_SIZE, np.uint32)
    for code in range(TABLE_SIZE):
        character = chr(code)
        if kind == LEXEMES:
            is_word = character == "_" or character.isalnum()
            table[code] = code if is_word else 0 if character.isspace() else 1
        elif character.isalnum():
            lowered = character.lower()
            table[code] = ord(lowered) if len(lowered) == 1 else code
    return table
