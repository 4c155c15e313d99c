"""Personal data in a text, and placeholders in its place: e-mail addresses, telephone, identity card and card numbers, and
public IP addresses.

Conservative: a number counts only in a form that people write such numbers in, and with its checksum where it has one,
because a wrong redaction damages a text that a missed one leaves as it was. Placeholders are plain words in angle brackets,
and none is a special token of a tokenizer; a redacted text is not changed by redacting it again.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_network
from typing import Any

from tokenmill.curation.document import codes_of

Found = re.Match[str]

# No address ends like a file (`icon@2x.png`) or starts with a hyphen (badges are named `slack-@users-CF0E5B.svg`).
_EMAIL = re.compile(
    r"(?<![\w.%+-])(?!git@)[A-Za-z0-9_](?:[A-Za-z0-9._%+-]{0,62}[A-Za-z0-9_+])?"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}"
    r"(?!(?:svg|png|jpe?g|gif|webp|ico|css|js|html?|json|xml|pdf|gz)\b)[A-Za-z]{2,24}(?![\w-])",
    re.ASCII | re.IGNORECASE,
)
# A pattern starts with the characters that it may start with, and looks behind from there: that is what `re` finds fast.
_INTERNATIONAL = re.compile(  # E.164; possessive, for a run of digits can be cut into groups in many ways
    r"\+(?<![\w.+-].)[1-9][0-9]{0,2}(?:[ .-]?\([0-9]{1,5}\))?(?:[ .-]?[0-9]{1,5}+){1,5}+(?![\w-]|\.[0-9])", re.ASCII
)
_CHINESE_MOBILE = re.compile(
    r"[18](?<![\w.+=-].)(?:(?<=8)6[ -]?1)?(?<=1)[3-9][0-9](?:[0-9]{8}|([ -])[0-9]{4}\1[0-9]{4})(?![\w-]|\.[0-9])",
    re.ASCII,
)
_CHINESE_LANDLINE = re.compile(r"0(?<![\w.+=-].)[0-9]{2,3}-[2-9][0-9]{6,7}(?![\w-]|\.[0-9])", re.ASCII)
_NORTH_AMERICAN = re.compile(
    r"[(1-9](?<![\w.+=-].)(?:(?<=1)[ .-][2-9(])?(?:(?<=\()[2-9][0-9]{2}\) ?|(?<=[2-9])[0-9]{2}[.-])"
    r"[2-9][0-9]{2}[.-][0-9]{4}(?![\w-]|\.[0-9])",
    re.ASCII,
)
_ID_CARD = re.compile(
    r"[1-9](?<![\w.-].)[0-9]{5}(?:18|19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])[0-9]{3}[0-9Xx](?![\w-])",
    re.ASCII,
)
_CARD = re.compile(
    r"[2-6](?<![\w.+=-].)"
    r"(?:[0-9]{12,18}|[0-9]{3}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{1,7}|[0-9]{3}([ -])[0-9]{6}\2[0-9]{5})"
    r"(?![\w-]|\.[0-9])",
    re.ASCII,
)
_IP_V4 = re.compile(r"[0-9](?<![\w.=~<>-].)[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?![\w-]|\.[0-9])", re.ASCII)
_IP_V6 = re.compile(r"[23](?<![\w.:].)[0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{0,4}(?![\w:])", re.ASCII)
# 1.2.3.4 after one of these is none
_VERSION = re.compile(
    r"(?:\bv|version|release|ver\.?|firmware|build|section|clause|§|版本|第)_*[ :：=\"']*$", re.IGNORECASE
)
# Issuers' first digits: Visa, Mastercard, American Express, UnionPay, Discover, JCB, Diners Club (ISO/IEC 7812).
_ISSUER = re.compile(r"4|5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)|3[47]|62|6011|65|64[4-9]|35(?:2[89]|[3-8])|3[068]")
_GLOBAL_V6 = ip_network("2000::/3")


def redact(text: str, kinds: Iterable[str]) -> tuple[str, dict[str, int]]:
    """The text with `<kind>` in the place of personal data of these kinds, and how many of each there were.

    Args:
        text: any text.
        kinds: of `email`, `phone`, `id_card`, `card`, `ip`.
    """
    wanted, counts = frozenset(kinds), Counter[str]()
    while found := _redact_once(text, wanted, counts):  # a placeholder may free what stood right behind it
        text = found
    return text, dict(sorted(counts.items()))


def _redact_once(text: str, wanted: frozenset[str], counts: Counter[str]) -> str | None:
    """The text after one round, or None where there is nothing more to do; adds to `counts`."""
    before, places = counts.total(), _Places(text)
    if not places.any:
        return None
    for kind, find, holds in _DETECTORS:
        if kind not in wanted:
            continue
        spans = [match.span() for match in find(places) if holds(match)]
        if spans:
            counts[kind] += len(spans)
            places = _Places(_with(f"<{kind}>", spans, places.text))
    return places.text if counts.total() > before else None


def _with(placeholder: str, spans: Iterable[tuple[int, int]], text: str) -> str:
    """The text with a placeholder for each span; they are in order and do not overlap."""
    pieces, done = [], 0
    for start, end in spans:
        pieces += [text[done:start], placeholder]
        done = end
    return "".join((*pieces, text[done:]))


def is_id_card(number: str) -> bool:
    """Whether the last of 18 characters is the check character of the others (GB 11643, ISO 7064 MOD 11-2)."""
    total = sum(int(digit) * (2 ** (17 - i) % 11) for i, digit in enumerate(number[:17]))
    return "10X98765432"[total % 11] == number[17].upper()


def is_card(number: str) -> bool:
    """Whether digits are a payment card's: an issuer's prefix and the check digit of Luhn (ISO/IEC 7812)."""
    digits = [int(c) for c in reversed(number) if c.isdigit()]
    doubled = (d * 2 - 9 * (d > 4) for d in digits[1::2])
    first = "".join(map(str, reversed(digits)))
    return bool(_ISSUER.match(first)) and len(set(digits)) > 1 and (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _public_v4(found: Found) -> bool:
    try:
        address = IPv4Address(found[0])
    except AddressValueError:
        return False
    before = found.string[max(0, found.start() - 24) : found.start()]
    return address.is_global and not address.is_multicast and not _VERSION.search(before)


def _public_v6(found: Found) -> bool:
    try:
        address = IPv6Address(found[0])
    except AddressValueError:
        return False
    return address in _GLOBAL_V6 and address.is_global


def _is_phone(found: Found) -> bool:
    """E.164 has at most 15 digits; fewer than 8 after a plus sign are a sum."""
    return 8 <= sum(map(str.isdigit, found[0])) <= 15


# --- where to look ---------------------------------------------------------------------------------------------------

_LOCAL_PART = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._%+-"
_LONGEST_LOCAL_PART = 64
_AHEAD = 3
"""Characters after a run of digits that a pattern looks at; an identity card's X is one."""


class _Places:
    """A text, and where in it something may stand. Most texts have few such places."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._found = _kernels().places(codes_of(text))
        self.any = bool(self._found) or "@" in text

    def emails(self) -> Iterator[Found]:
        return self._at(self._local_parts(), _EMAIL)

    def numbers(self, flag: int, pattern: re.Pattern[str]) -> Iterator[Found]:
        """Matches in the runs of digits that may hold one."""
        for start, end, flags in self._found:
            if flags & flag:
                yield from pattern.finditer(self.text, start, end + _AHEAD)

    def v6(self) -> Iterator[Found]:
        return self._at((start for start, _, flags in self._found if flags & _kernels().COLONS), _IP_V6)

    def _at(self, starts: Iterable[int], pattern: re.Pattern[str]) -> Iterator[Found]:
        done = 0
        for start in starts:
            if start >= done and (match := pattern.match(self.text, start)):
                done = match.end()
                yield match

    def _local_parts(self) -> Iterator[int]:
        """Where the characters before each `@` begin that an address may have there."""
        at = self.text.find("@")
        while at >= 0:
            before = self.text[max(0, at - _LONGEST_LOCAL_PART - 1) : at]
            length = len(before) - len(before.rstrip(_LOCAL_PART))
            if 0 < length <= _LONGEST_LOCAL_PART:
                yield at - length
            at = self.text.find("@", at + 1)


@cache
def _kernels() -> Any:
    """The compiled pass, imported when a text is looked at: numba takes half a second."""
    from tokenmill.curation import pii_kernels

    return pii_kernels


def _in_digits(pattern: re.Pattern[str]) -> Callable[[_Places], Iterator[Found]]:
    return lambda places: places.numbers(_kernels().DIGITS, pattern)


_DETECTORS: tuple[tuple[str, Callable[[_Places], Iterator[Found]], Callable[[Found], bool]], ...] = (
    ("email", _Places.emails, lambda found: True),
    ("id_card", _in_digits(_ID_CARD), lambda found: is_id_card(found[0])),
    ("card", _in_digits(_CARD), lambda found: is_card(found[0])),
    ("ip", lambda places: places.numbers(_kernels().DOTS, _IP_V4), _public_v4),
    ("ip", _Places.v6, _public_v6),
    ("phone", lambda places: places.numbers(_kernels().PLUS, _INTERNATIONAL), _is_phone),
    ("phone", _in_digits(_CHINESE_MOBILE), _is_phone),
    ("phone", _in_digits(_CHINESE_LANDLINE), _is_phone),
    ("phone", _in_digits(_NORTH_AMERICAN), _is_phone),
)
