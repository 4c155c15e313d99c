"""The language of a text, offline."""

import re
from functools import cache
from typing import Any

LANGUAGES = ("en", "zh")
_HAN = re.compile(r"[㐀-鿿\uf900-\ufaff]")


def language(text: str, stated: object = None) -> str:
    """`en` or `zh`: as the source states it, else by a model, offline (the report uses pycld2)."""
    if stated in LANGUAGES:
        return str(stated)
    sample = text[:4000]
    if len(_HAN.findall(sample)) > 0.3 * len(sample):
        return "zh"
    return str(_identifier().classify(sample)[0])


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.set_languages(list(LANGUAGES))
    return identifier
