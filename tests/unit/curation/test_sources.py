"""Sources: what is found, and what is refused with one clear line."""

from pathlib import Path

import pytest

from tokenmill.curation.source_config import RegisterSourcesConfig, SourceSpec
from tokenmill.curation.sources import find_files, load_specs, source_lists
from tokenmill.errors import ConfigError, InputError

GOOD = {"name": "notes", "uri": "x", "type": "web", "licence": "CC0-1.0", "origin": "me"}


def files(uri, base: Path, **more) -> list[str]:
    spec = SourceSpec.model_validate(GOOD | {"uri": uri} | more)
    return [name for name, _ in sorted(find_files(spec, base, base / "work"))]


def test_a_folder_is_walked_without_symlinks_hidden_files_and_caches(tmp_path):
    for name in ("a.txt", "sub/b.txt", ".git/config", ".env", "__pycache__/x.pyc"):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("x")
    (tmp_path / "root" / "file_link").symlink_to(tmp_path / "secret" / "key")
    (tmp_path / "root" / "folder_link").symlink_to(tmp_path / "secret")
    assert files("root", tmp_path) == ["a.txt", "sub/b.txt"]
    assert files((tmp_path / "root").as_uri(), Path()) == ["a.txt", "sub/b.txt"]
    assert files(["root/a.txt", "root/sub"], tmp_path) == ["a.txt", "b.txt"]


def test_files_of_an_installed_distribution_by_glob():
    found = files("package:zstandard/zstandard/*.py", Path())
    assert "zstandard/__init__.py" in found
    assert all(name.endswith(".py") and ".." not in name for name in found)
    (metadata,) = files("package:zstandard/*METADATA", Path())
    assert metadata.endswith("dist-info/METADATA")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("nowhere", "does not exist"),
        ("package:no-such-distribution==1.0/*", "pip install --no-deps no-such-distribution==1.0"),
        ("package:zstandard==0.0.1/*", "the source is of 0.0.1"),
        ("https://example.org/data.txt", "cannot read https: URIs"),
        ("generator:dice/six", "unknown generator 'dice'"),
        ("generator:reasoning-gym/gcd?size=many", "whole numbers"),
    ],
)
def test_a_source_that_cannot_be_read_says_why(tmp_path, uri, message):
    with pytest.raises(InputError, match="source 'notes'") as refused:
        files(uri, tmp_path)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"licence": ""}, "source 'notes' has no licence"),
        ({"licence": "  "}, "source 'notes' has no licence"),
        ({"origin": ""}, "source 'notes' has no origin"),
        ({"name": "../up"}, "letters, digits"),
        ({"name": "a/b"}, "letters, digits"),
    ],
)
def test_incomplete_specs_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        load_specs((SourceSpec.model_validate(GOOD | change),))


def test_a_wrong_spec_is_one_line_that_names_its_place_and_american_spelling_is_understood():
    with pytest.raises(ConfigError) as refused:
        RegisterSourcesConfig.at("register_sources", {"sources": [GOOD, "./docs"]})
    assert "sources.list.1: input should be" in str(refused.value) and "\n" not in str(refused.value)
    american = {**GOOD, "license": GOOD["licence"]}
    del american["licence"]
    assert RegisterSourcesConfig.at("x", {"sources": [american]}).sources == (SourceSpec.model_validate(GOOD),)


def test_two_sources_of_one_name_and_no_source_at_all_are_refused():
    with pytest.raises(InputError, match="two sources are named 'notes'"):
        load_specs((SourceSpec.model_validate(GOOD),) * 2)
    with pytest.raises(InputError, match="no sources"):
        load_specs(())


def test_the_lists_that_come_with_us_are_complete_and_unknown_ones_name_them():
    assert source_lists() == ["nano", "nano-reference", "pico", "pico-reference"]
    for name in source_lists():
        specs, base = load_specs(name)
        assert specs and base.name == "sources"
    with pytest.raises(InputError, match="one of nano, nano-reference, pico, pico-reference"):
        load_specs("mega")


def test_a_source_list_of_ones_own(tmp_path):
    (tmp_path / "mine.yaml").write_text("- {name: a, uri: data, type: book, licence: MIT, origin: me}\n")
    specs, base = load_specs(str(tmp_path / "mine.yaml"))
    assert [s.name for s in specs] == ["a"] and base == tmp_path
    (tmp_path / "bad.yaml").write_text("- {name: a, uri: data, type: novel, licence: MIT, origin: me}\n")
    with pytest.raises(ConfigError, match=r"sources\.0\.type"):
        load_specs(str(tmp_path / "bad.yaml"))


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (b"sources:\n  - {name: a, uri: data, type: book, licence: MIT, origin: me}\n", "a list of sources is wanted"),
        (b"- {name: a, uri: [data\n", "no YAML: .*line 2"),
        (b"- {name: \xff}\n", "no YAML: 'utf-8' codec"),
    ],
)
def test_a_file_that_is_no_list_of_sources_is_named_in_one_line(tmp_path, written, why):
    (tmp_path / "mine.yaml").write_bytes(written)
    with pytest.raises(InputError, match=rf"mine\.yaml: {why}") as refused:
        load_specs(str(tmp_path / "mine.yaml"))
    assert "\n" not in str(refused.value)
