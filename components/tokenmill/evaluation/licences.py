"""May data under this licence stand behind a model? As people write licences, which is not always as SPDX does.

An SPDX expression is taken apart: of `A OR B` one must be allowed, of `A AND B` both, of `A WITH B` A, and B not denied.
Each name is brought to SPDX's spelling as far as a policy must be able to trust it: no case, hyphens between words, CC, BY,
NC, SA and ND for what they abbreviate, and one `UNKNOWN` for all ways to say that nobody stated it.
"""

import re
import unicodedata
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from license_expression import ExpressionError, LicenseSymbol, LicenseWithExceptionSymbol, Licensing

from tokenmill.evaluation.config import LicencePolicy

UNKNOWN = "UNKNOWN"
_UNSTATED = re.compile(
    r"|NOT-(STATED|SPECIFIED|KNOWN|GIVEN|AVAILABLE)|UN(SPECIFIED|CLEAR|DEFINED)|NO-LICEN[CS]E|NOASSERTION|NONE|NULL|N-A|TBD|OTHER"
)
_SPELLINGS = [
    (re.compile(rf"(?<![A-Z])(?:{written})(?![A-Z])"), meant)
    for written, meant in (
        ("CREATIVE-?COMMONS", "CC"),
        ("(NON|NOT-FOR|NO)-?COMMERCIAL|COMMONS-CLAUSE", "NC"),
        ("(RESEARCH|ACADEMIC|EDUCATIONAL|PERSONAL)(-USE|-PURPOSES)?-ONLY", "NC"),
        ("NO-?DERIV(ATIVE|ATIVES|ATIVE-WORKS|S)?", "ND"),
        ("SHARE-?ALIKE", "SA"),
        ("ATTRIBUTION", "BY"),
        ("ALL-RIGHTS-RESERVED|UNLICEN[CS]ED", "PROPRIETARY"),  # not the Unlicense
        ("BY-?NC-?SA", "BY-NC-SA"),  # not without BY: NCSA is a licence of its own
        ("BY-?NC-?ND", "BY-NC-ND"),
        ("BY-?NC", "BY-NC"),
        ("BY-?ND", "BY-ND"),
    )
]
_OPERATOR = re.compile(r"(\s(?:AND|OR|WITH)\s|[()])")
_EXPRESSIONS = Licensing()


def allowed(policy: LicencePolicy, licence: str) -> bool:
    """Whether a source under this licence may be used; a deny counts before an allow."""

    def denied(name: str) -> bool:
        return _fits(name, policy.deny)

    def may(name: str) -> bool:
        return not denied(name) and (policy.allow is None or _fits(name, policy.allow))

    return _holds(_expression(licence), may, denied)


def normal(name: str) -> str:
    """A licence's name in SPDX's spelling, upper case: `CC BY-NC 4.0` and `cc-by-nc-4.0` are CC-BY-NC-4.0."""
    spelled = re.sub(r"[*?\[\]-]+", "-", _spelled(name)).strip("-")
    return UNKNOWN if _UNSTATED.fullmatch(spelled) else spelled


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a pattern names it. Words have hyphens around them, the first and the last too: `*-NC-*` finds NC anywhere."""
    spelled = (_spelled(pattern) or UNKNOWN for pattern in patterns)
    return any(fnmatchcase(name, pattern) or fnmatchcase(f"-{name}-", pattern) for pattern in spelled)


def _spelled(name: str) -> str:
    text = re.sub(r"[^\w.+*?\[\]]+|_", "-", unicodedata.normalize("NFKC", name).upper())
    for written, meant in _SPELLINGS:
        text = written.sub(meant, text)
    return re.sub(r"(?<![A-Z])(BY|NC|SA|ND)(?=[V\d])", r"\1-", text)


def _expression(licence: str) -> Any:
    """A tree of `license_expression`; of what it cannot read, such as a sentence with stray brackets, one name."""
    parts = _OPERATOR.split(licence)
    spelled = "".join(part if _OPERATOR.fullmatch(part) else normal(part) if part.strip() else "" for part in parts)
    try:
        return _EXPRESSIONS.parse(spelled or UNKNOWN)
    except ExpressionError:
        return normal(licence)


def _holds(tree: Any, may: Callable[[str], bool], denied: Callable[[str], bool]) -> bool:
    """Whether the licences of an expression that must hold together may."""
    if isinstance(tree, str):
        return may(tree)
    if isinstance(tree, LicenseSymbol):
        return may(str(tree.key))
    if isinstance(tree, LicenseWithExceptionSymbol):  # SPDX's exceptions add rights, but people write restrictions too
        return may(str(tree.license_symbol.key)) and not denied(str(tree.exception_symbol.key))
    either = isinstance(tree, _EXPRESSIONS.OR)
    return (any if either else all)(_holds(part, may, denied) for part in tree.args)
