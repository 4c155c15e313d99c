"""The report in a real browser: it opens, shows what was planted, runs and loads nothing, and is not wider than the page."""

import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from planted_run import ANSWER, plant

from tokenmill.report import collect, render
from tokenmill.store import open_store

pytestmark = pytest.mark.integration
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Written into the page by the test, not by us: reports how wide the content is, in the title that --dump-dom shows.
MEASURE = (
    "<script>addEventListener('load', () => { document.title = ["
    "document.documentElement.scrollWidth, innerWidth, performance.getEntriesByType('resource').length,"
    "getComputedStyle(document.body).backgroundColor, document.querySelectorAll('svg').length].join('|') })</script>"
)
Browse = Callable[..., str]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("planted")
    store = open_store((folder / "store").as_uri())
    return render(collect(store, plant(store, folder).key))


@pytest.fixture
def browse(tmp_path: Path) -> Browse:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine (apt-get install chromium)")

    def open_page(html: str, *options: str, width: int = 1200, height: int = 5000) -> str:
        file = tmp_path / "report.html"
        file.write_text(html, "utf-8")
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
        command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},{height}", *options]
        done = subprocess.run([*command, file.as_uri()], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return open_page


def measured(browse: Browse, page: str, *options: str, width: int = 1200) -> list[str]:
    """[content width, window width, resources loaded, background, pictures] as the browser computed them."""
    dom = browse(page.replace("</body>", f"{MEASURE}</body>"), "--dump-dom", *options, width=width)
    title = re.search(r"<title>([^<]*)</title>", dom)
    assert title
    return title[1].split("|")


def test_the_page_opens_and_says_what_was_planted(page: str, browse: Browse) -> None:
    dom = browse(page, "--dump-dom")
    assert "<title>lifecycle · TokenMill run 20260314T091500-0a1b2c3d</title>" in dom  # the answer's script did not run
    answer = re.search(r'<blockquote id="answer">(.*?)</blockquote>', dom, re.DOTALL)
    assert answer and answer[1] == ANSWER.replace("<", "&lt;").replace(">", "&gt;")
    assert 'id="verdict"><strong>Passed the gate</strong>' in dom


def test_nothing_is_loaded_and_every_picture_is_there(page: str, browse: Browse) -> None:
    _, _, loaded, _, pictures = measured(browse, page)
    assert loaded == "0"
    assert int(pictures) == 6 + 2 + 4 + 1  # losses, reward and KL, a bar a suite, the lineage


@pytest.mark.parametrize("width", [1200, 800, 500])
def test_the_page_fits_its_window(page: str, browse: Browse, width: int) -> None:
    content, window, *_ = measured(browse, page, width=width)
    assert int(content) <= int(window)


def test_dark_and_light_follow_the_reader(page: str, browse: Browse) -> None:
    light = measured(browse, page, "--blink-settings=preferredColorScheme=1")[3]
    dark = measured(browse, page, "--blink-settings=preferredColorScheme=0")[3]
    assert (light, dark) == ("rgb(255, 255, 255)", "rgb(22, 23, 27)")


def test_the_page_can_be_photographed(page: str, browse: Browse, tmp_path: Path) -> None:
    picture = tmp_path / "report.png"
    browse(page, f"--screenshot={picture}")
    data = picture.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", data[16:24]) == (1200, 5000)
    assert len(data) > 100_000  # an empty page is a few kilobytes
