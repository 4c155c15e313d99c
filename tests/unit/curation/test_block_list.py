"""Mapped block lists. Oracle: a set of strings."""

import gzip
import pickle
import random

import numpy as np
import pytest
import zstandard

from tokenmill.curation.block_list import HashSet, MappedDomains, domain_hash, entries, listed_domain, suffixes
from tokenmill.curation.config import ScreenConfig
from tokenmill.curation.screen import Safe
from tokenmill.errors import InputError
from tokenmill.steps import Drop, Keep


def mapped(folder, domains) -> MappedDomains:
    hashes = HashSet()
    for domain in domains:
        hashes.add(domain)
    hashes.sorted().tofile(folder / "domains.u64")
    return MappedDomains(folder / "domains.u64")


def test_a_host_and_all_above_it_are_looked_up():
    assert suffixes("a.b.bad.com") == ["a.b.bad.com", "b.bad.com", "bad.com", "com"]


def test_the_map_decides_as_a_set_does(tmp_path):
    rng = random.Random(1)

    def host() -> str:
        return ".".join("".join(rng.choices("abcdef", k=2)) for _ in range(rng.randint(2, 4))) + ".com"

    listed = {host() for _ in range(5000)}
    domains = pickle.loads(pickle.dumps(mapped(tmp_path, sorted(listed) * 2)))
    for asked in (*(host() for _ in range(3000)), *sorted(listed)[:200]):
        assert domains.first(suffixes(asked)) == next((d for d in suffixes(asked) if d in listed), None)


def test_the_file_holds_each_hash_once_ascending_in_eight_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(HashSet, "chunk", 7)
    names = [f"d{i}.example" for i in range(100)]
    domains = mapped(tmp_path, [*names, *names[::-1]])
    array = np.fromfile(domains.path, "<u8")
    assert array.tolist() == sorted(map(domain_hash, names))


def test_an_empty_list_blocks_nothing(tmp_path):
    assert mapped(tmp_path, []).first(["bad.com", "com"]) is None


def test_screen_finds_subdomains_in_the_map_and_nothing_that_only_looks_like_it(tmp_path):
    safe = Safe.from_config(ScreenConfig(built_in_lists=False), mapped(tmp_path, ["bad.com", "xn--bcher-kva.example"]))

    def decide(url):
        return safe({"url": url, "text": "t", "type": "web", "lang": "en", "scores": {}})

    for url in (
        "http://bad.com/x",
        "https://a.b.BAD.com.:8080/",
        "http://bücher.example/",
        "http://www.bücher.example",
    ):
        outcome = decide(url)
        assert isinstance(outcome, Drop) and outcome.reason == "blocked_domain" and outcome.value
    for url in (
        "http://notbad.com",
        "http://bad.com.org",
        "http://com/",
        "bad.com",
        "",
        None,
        "http://[::1",
        "http://é..x/",
    ):
        assert isinstance(decide(url), Keep), url


@pytest.mark.parametrize(
    ("line", "domain"),
    [
        ("Bad.COM.", "bad.com"), ("*.bad.com", "bad.com"), ("0.0.0.0 bad.com", "bad.com"), ("||bad.com^", "bad.com"),
        ("https://user@bad.com:8080/x?y", "bad.com"), ("bücher.example", "xn--bcher-kva.example"), ("com", None),
        ("localhost", None), ("||bad.com^$third-party", "bad.com"), ("bad..com", None), ("a/b.c", None), ("<html>", None),
    ],
)  # fmt: skip
def test_plain_hosts_adblock_and_url_lines_name_a_domain(line, domain):
    assert listed_domain(line) == domain


@pytest.mark.parametrize("suffix", [".txt", ".gz", ".zst"])
def test_lists_are_read_compressed_or_not_without_comments(tmp_path, suffix):
    data = "\ufeff# comment\n! Adblock comment\n[Adblock Plus]\na.com # why\n\n  b.com\r\n".encode()
    packed = {".txt": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix](data)
    (tmp_path / "list").write_bytes(packed)
    assert list(entries(tmp_path / "list", suffix)) == [(4, "a.com"), (6, "b.com")]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_truncated_list_is_one_clear_line(tmp_path, suffix):
    pack = {".gz": gzip.compress, ".zst": zstandard.compress}[suffix]
    (tmp_path / "list").write_bytes(pack(random.Random(1).randbytes(5000))[:-900])
    with pytest.raises(InputError, match="not a readable"):
        list(entries(tmp_path / "list", suffix))
