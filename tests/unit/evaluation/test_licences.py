"""The licence policy, held to a table of how people write licences."""

from itertools import product

import pytest

from tokenmill.evaluation.config import LicencePolicy
from tokenmill.evaluation.licences import allowed, normal

DEFAULT = LicencePolicy()


@pytest.mark.parametrize(
    ("written", "spdx"),
    [
        ("cc-by-nc-4.0", "CC-BY-NC-4.0"),
        ("CC BY-NC-SA", "CC-BY-NC-SA"),
        ("cc_by_nc_nd 3.0", "CC-BY-NC-ND-3.0"),
        ("CC BYNC 4.0", "CC-BY-NC-4.0"),
        ("CC-BY-NC4.0", "CC-BY-NC-4.0"),
        ("Creative Commons Attribution-NonCommercial-ShareAlike 4.0", "CC-BY-NC-SA-4.0"),
        ("Creative Commons Attribution-NoDerivs 3.0", "CC-BY-ND-3.0"),
        ("  Apache 2.0 ", "APACHE-2.0"),
        ("BSD (3-Clause)", "BSD-3-CLAUSE"),
        ("GPL-2.0+", "GPL-2.0+"),
        ("NCSA", "NCSA"),
        ("AND-1.0", "AND-1.0"),
        ("木兰宽松许可证", "木兰宽松许可证"),
    ],
)
def test_a_licence_is_read_in_spdxs_spelling(written: str, spdx: str) -> None:
    assert normal(written) == spdx


@pytest.mark.parametrize("what", ["NonCommercial", "NC", "NoDerivatives", "ND"])
def test_what_forbids_commercial_use_or_changes_is_refused_however_it_is_written(what: str) -> None:
    """Every mix of case, separator, long and short names, with and without share-alike and a version."""
    for creator, by, rest, version, between in product(
        ("CC", "Creative Commons"),
        ("BY", "Attribution"),
        ("", "ShareAlike", "SA"),
        ("", "4.0", "v3.0"),
        ("-", " ", "_"),
    ):
        name = between.join(filter(None, (creator, by, what, rest, version)))
        for written in (name, name.lower(), name.upper(), f"  {name} "):
            assert not allowed(DEFAULT, written), written
            assert allowed(DEFAULT, written.lower().replace(what.lower(), "")), written  # and the same without is not


@pytest.mark.parametrize(
    ("licence", "may"),
    [
        *(
            (name, True)
            for name in ("MIT", "CC-BY-SA-4.0", "public domain", "NCSA", "sync-1.0", "SANDIA-1.0", "<script>")
        ),
        *((name, False) for name in ("", "  ", "?", "unknown", "Not stated", "NOASSERTION", "none", "other", "n/a")),
        *((name, False) for name in ("no license", "Not available", "TBD", "unclear")),
        *((name, False) for name in ("proprietary", "Proprietary (ours)", "All rights reserved", "UNLICENSED")),
        ("Unlicense", True),
        *(
            (name, False)
            for name in (
                "non-commercial",
                "Not for commercial use",
                "research use only",
                "PolyForm-Noncommercial-1.0.0",
                "Academic use only",
                "ＣＣ－ＢＹ－ＮＣ－４．０",
                "Apache-2.0 + Commons Clause",
            )
        ),
        ("MIT OR CC-BY-NC-4.0", True),
        ("MIT AND CC-BY-NC-4.0", False),
        ("MIT OR CC0-1.0 AND cc-by-nc-4.0", True),  # AND binds closer
        ("(MIT OR CC0-1.0) AND cc-by-nc-4.0", False),
        ("cc-by-nc-4.0 AND (MIT OR CC0-1.0)", False),
        ("CC-BY-NC-4.0 OR unknown", False),
        ("GPL-3.0-only WITH Classpath-exception-2.0", True),
        ("Apache-2.0 WITH Commons-Clause", False),
        ("MIT WITH non-commercial-use", False),
        ("MIT or CC-BY-NC-4.0", False),  # no operator of SPDX: one name, and NC is in it
        ("CC BY-NC-SA 4.0 or later", False),
        ("MIT OR (", True),  # no expression: one name
        ("CC-BY-NC-4.0 OR (", False),
    ],
)
def test_what_the_default_policy_lets_stand_behind_a_model(licence: str, may: bool) -> None:
    assert allowed(DEFAULT, licence) == may


def test_an_allow_list_and_a_deny_list_are_read_in_the_same_spelling() -> None:
    policy = LicencePolicy(allow=("Apache 2.0", "cc by *"), deny=("cc by-sa*", ""))
    for licence, may in {
        "apache-2.0": True,
        "CC-BY-4.0": True,
        "CC-BY-SA-4.0": False,
        "MIT": False,
        "": False,
        "MIT OR Apache-2.0": True,
        "MIT AND Apache-2.0": False,
        "Apache-2.0 WITH LLVM-exception": True,  # an exception need not be in the list
    }.items():
        assert allowed(policy, licence) == may, licence
