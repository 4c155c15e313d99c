"""The classifiers of the pipeline: what they find goes with score and threshold, and another threshold runs no model again.
And a site's repeated lines, which go where that is asked for."""

import json

import orjson
import pytest
from life import Life, Lived

from tokenmill.records import read_jsonl

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PROSE = (
    "The harbour froze in January, and the boats stayed at the quay until the ice broke three weeks later. People crossed "
    "on foot, and the baker on the far side sold out before noon. In spring the ferry began again, and the old timetable "
    "was put up at the pier. Nobody could say who had taken it down, or why the clock above it had stopped at ten."
)
INSULT = (
    "You are a stupid idiot and a worthless piece of trash. Shut your mouth and get lost, you filthy moron. Nobody wants "
    "you here, you pathetic loser, and everybody hates you. I will smash your face in, you miserable coward."
)
QUIET = (
    "Bread needs four things: flour, water, salt and time. Mix the flour with the water and let it rest for half an hour. "
    "Then add the salt, fold the dough a few times, and leave it in a bowl until it has doubled. A cool kitchen asks for a "
    "longer rest than a warm one. Bake the loaf in a hot oven until the crust is dark, and let it cool before you cut it."
)
MENU = "Home, kitchen, harbour news, letters to the editor, and how to reach us"
PLAIN, PLANTED = "plain", "planted"


@pytest.fixture(scope="module")
def life(tmp_path_factory) -> Life:
    life = Life(tmp_path_factory.mktemp("scored"), "pico", {})
    texts = {PLAIN: f"{MENU}\n\n{QUIET}", PLANTED: f"{MENU}\n\n{PROSE}\n\n{INSULT}"}
    rows = [json.dumps({"text": text, "title": name, "lang": "en"}) for name, text in texts.items()]
    (life.folder / "pages.jsonl").write_text("\n".join(rows))
    return life


def curated(life: Life, *settings: str, arguments: tuple[str, ...] = ()) -> Lived:
    source = f"{{name: mine, uri: {life.folder}/pages.jsonl, type: web, licence: CC0-1.0, origin: test}}"
    settings = (f"curation.register_sources.sources=[{source}]", *settings)
    options = [*(("--set", one) for one in settings), *(("--arg", one) for one in arguments)]
    return life.run("curation", *(word for option in options for word in option))


@pytest.fixture(scope="module")
def first(life) -> Lived:
    return curated(life)


def records(lived: Lived, task: str) -> dict[str, dict]:
    """Title → record, kept or dropped."""
    manifest = lived.manifest(task)
    return {
        r["title"]: r
        for s in (*manifest.shards, *manifest.aside)
        for r in read_jsonl(lived.life.store.blob_path(s.blob))
    }


def test_an_insulting_page_goes_with_its_score_and_the_threshold_and_prose_stays(first):
    found = records(first, "curation.screen")
    score = found[PLANTED]["scores"]["toxic"]
    assert found[PLANTED]["dropped"] == {"reason": "toxic", "value": score, "threshold": 0.4}
    assert score > 0.4 > found[PLAIN]["scores"]["toxic"] and "dropped" not in found[PLAIN]
    assert records(first, "curation.order_code").keys() == {PLAIN}
    assert {"toxic", "porn", "fluency", "not_ad"} == records(first, "curation.order_code")[PLAIN]["scores"].keys()


def test_funnel_and_history_tell_the_score_and_whose_it_is(life, first):
    told = first.document("curation.funnel", "funnel.json")
    scorer = first.manifest("curation.score").facts["scorers"]["toxic"]["digest"]
    assert told["scores"]["toxic"]["scorers"] == [scorer] and sum(told["scores"]["toxic"]["before"]) == 2
    stages = {s["step"]: s["dropped"] for s in told["stages"]}
    assert stages["curation.screen"] == {"toxic": 1} and "curation.strip_boilerplate" not in stages  # it was off
    planted = records(first, "curation.screen")[PLANTED]
    history = orjson.loads(life.tokenmill("curation", "explain", planted["id"], "--json").stdout)
    stages = {stage["step"]: stage for stage in history["stages"]}
    assert stages["curation.score"]["scores"]["toxic"] == planted["scores"]["toxic"]
    assert stages["curation.screen"]["fate"] == "dropped" and stages["curation.screen"]["threshold"] == 0.4


def test_another_threshold_runs_no_scorer_again_and_decides_anew(life, first):
    again = curated(life, "curation.screen.max_toxic=0.99")
    rerun = {task for task in again.pure if again.finished[task]["cache"] != "hit"}
    assert "curation.screen" in rerun and not [task for task in rerun if "scor" in task]
    assert records(again, "curation.order_code").keys() == {PLAIN, PLANTED}


@pytest.fixture(scope="module")
def mine(life, first) -> Lived:
    """With a scorer of one's own, and without what both pages of the site have."""
    given = first.manifest("curation.train_scorer.porn").digest
    settings = ("curation.score.scores=[porn]", "curation.strip_boilerplate.max_documents=1")
    return curated(life, *settings, arguments=(f'scorers=["{given[:12]}"]',))


def test_a_scorer_that_is_given_takes_the_place_of_a_trained_one_and_no_other_is_made(first, mine):
    given = first.manifest("curation.train_scorer.porn").digest
    assert not [task for task in mine.finished if "train_scorer" in task]
    assert mine.manifest("curation.collect_scorers").parents == {"scorers": (given,)}
    assert records(mine, "curation.order_code").keys() == {PLAIN, PLANTED}
    assert mine.manifest("curation.score").facts["scorers"].keys() == {"porn"}


def test_lines_that_a_site_repeats_go_where_that_is_asked_for(first, mine):
    assert records(first, "curation.order_code")[PLAIN]["text"] == f"{MENU}\n\n{QUIET}"
    kept = records(mine, "curation.order_code")
    assert kept[PLAIN]["text"] == QUIET and kept[PLANTED]["text"] == f"{PROSE}\n\n{INSULT}"
    stages = {s["step"]: s for s in mine.document("curation.funnel", "funnel.json")["stages"]}
    changed = stages["curation.strip_boilerplate"]
    assert changed["bytes"]["in"] - changed["bytes"]["kept"] == 2 * len(f"{MENU}\n\n")
