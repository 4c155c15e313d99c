"""Safety and quality. Oracles: the orientation that the spec demands (check 8), and planted pages."""

import pytest

from tokenmill.curation.config import GradeConfig, ScreenConfig
from tokenmill.curation.grade import Graded, scores
from tokenmill.curation.screen import Safe
from tokenmill.curation.thresholds import Limits
from tokenmill.steps import Drop, Keep

PROSE = (
    "Bread needs four things: flour, water, salt and time. Mix the flour with the water and let it rest for half an "
    "hour. Then add the salt, fold the dough a few times, and leave it in a bowl until it has doubled. A cool kitchen "
    "asks for a longer rest than a warm one. Bake the loaf in a hot oven until the crust is dark."
)
AD = "Order now and get 50% off! Free shipping, limited time offer. Hurry, the sale ends today: add to cart, buy now."


def record(text: str = PROSE, **more) -> dict:
    return {"id": "0", "text": text, "type": "web", "lang": "en", "source": "s", "path": "p", "scores": {}} | more


def screened(**more):
    config = {"blocked_domains": ["bad.com"], "blocked_words": ["ass", "buy viagra", "在线赌博"]}
    return Safe.from_config(ScreenConfig.model_validate(config))(record(**more))


@pytest.mark.parametrize("host", ["bad.com", "a.bad.com", "x.y.bad.com", "BAD.com", "bad.com.", "bad.com:8080"])
def test_a_blocked_domain_blocks_its_subdomains(host):
    outcome = screened(url=f"https://{host}/page")
    assert isinstance(outcome, Drop) and outcome.reason == "blocked_domain" and outcome.value == "bad.com"


@pytest.mark.parametrize(
    "url", ["https://notbad.com", "https://bad.com.org", "https://good.org/bad.com", "not a url", None]
)
def test_a_domain_that_only_looks_like_it_is_not_blocked(url):
    assert isinstance(screened(url=url), Keep)


@pytest.mark.parametrize(
    "text", ["the ass said", "What an ASS!", "buy  viagra", "Buy\nViagra now", "这里有在线赌博网站"]
)
def test_blocked_words_match_whole_in_any_case(text):
    outcome = screened(text=text)
    assert isinstance(outcome, Drop) and outcome.reason == "blocked_word"


@pytest.mark.parametrize("text", ["a class of bass players", "assessment", "ass2", "buy some, viagra", "在线看书"])
def test_blocked_words_are_not_found_inside_other_words(text):
    assert isinstance(screened(text=text), Keep)


def test_a_document_goes_from_the_configured_number_of_hits_on():
    config = ScreenConfig(blocked_words=("ass",), min_word_hits=2)
    assert isinstance(Safe.from_config(config)(record("an ass")), Keep)
    assert isinstance(Safe.from_config(config)(record("an ass is an ass")), Drop)


@pytest.mark.parametrize("score", ["toxic", "porn"])
def test_raising_an_unsafe_score_can_only_drop(score):
    kept = [isinstance(screened(scores={score: s / 20}), Keep) for s in range(21)]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] and not kept[-1]


CALLS = [
    "buy now",
    "ORDER TODAY",
    "Shop now",
    "act now",
    "call us today",
    "ſubſcribe now",
    "sign up today",
    "add to cart",
    "free ſhipping",
    "limited-time",
    "Limited time",
    "special offer",
    "best price",
    "lowest price",
    "lowest prices",
    "discount",
    "discounts",
    "coupon",
    "coupons",
    "promo code",
    "clicK here",
    "money-back",
    "money back",
    "50% off",
    "sale ends",
    "hurry",
    "立即购买",
    "马上抢购",
    "限时优惠",
    "免费咨询",
    "包邮",
    "厂家直销",
    "优惠价",
    "点击这里",
    "点击购买",
    "点击咨询",
    "加微信",
    "咨询热线",
    "全国热线",
    "特价",
    "促销",
    "抢购",
]


@pytest.mark.parametrize("call", CALLS)
def test_every_call_to_buy_is_seen_in_a_page_that_has_nothing_else_of_an_ad(call):
    assert scores(f"{PROSE}\n\n{' '.join([call] * 5)}", "en")["not_ad"] < 0.5


@pytest.mark.parametrize("score", ["fluency", "not_ad"])
def test_raising_a_quality_score_can_only_keep(score):
    graded = Graded(("web",), Limits({"fluency": 0.5, "not_ad": 0.5}))
    kept = [isinstance(graded(record(scores={score: s / 20})), Keep) for s in range(21)]
    assert kept == sorted(kept)
    assert kept[-1] and not kept[0]


def test_a_partial_ad_is_low_quality():
    assert scores(PROSE, "en")["not_ad"] == 1
    assert scores(AD, "en")["not_ad"] < 0.2
    assert scores(f"{PROSE}\n\n{AD}\n\n{PROSE}", "en")["not_ad"] < 0.2
    assert (
        scores("这把椅子有四条腿。\n\n限时优惠！厂家直销，全国包邮，立即购买，加微信咨询热线。", "zh")["not_ad"] < 0.2
    )


def test_prose_is_more_fluent_than_a_word_list_noise_or_repetition():
    prose = scores(PROSE, "en")["fluency"]
    assert prose > 0.9
    noise = " ".join("|#~ 12$ =%" for _ in range(60))
    for worse in ("\n".join(PROSE.replace(".", "").split()), noise, "\n".join(["Read more about it."] * 40)):
        assert scores(worse, "en")["fluency"] < prose - 0.15


def test_only_the_configured_types_are_graded_and_annotated_scores_stay():
    config = GradeConfig()
    graded = Graded(config.types, Limits({"fluency": config.min_fluency, "not_ad": config.min_not_ad}))
    book = record(AD, type="book")
    assert graded(book) == Keep(book)
    page = graded(record(scores={"fluency": 0.77}))
    assert isinstance(page, Keep)
    assert page.record["scores"] == {"fluency": 0.77, "not_ad": 1.0}
