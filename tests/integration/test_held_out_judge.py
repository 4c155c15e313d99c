"""The held-out judge behind a real HTTP server: what a gain is, what is no verdict, and when it is given up."""

import pytest
from judges import judges

from tokenmill.errors import ConfigError, InputError, UserError
from tokenmill.judge import JudgeExecution
from tokenmill.rlhf.answering import Answers
from tokenmill.rlhf.conditional import Query, conditional_prompts
from tokenmill.rlhf.config import ProbeConfig, ProbeExecution, RLHFConfig
from tokenmill.rlhf.judge_config import JudgeConfig
from tokenmill.rlhf.judging import EndpointJudge

pytestmark = pytest.mark.integration


@pytest.fixture
def server():
    with judges() as made:
        yield made


def judge(server, model, together=2, **told):
    execution = ProbeExecution(judge=JudgeExecution(url=server.url, concurrency=together, tries=2))
    return EndpointJudge.of(ProbeConfig(judge=JudgeConfig(model=model, **told), execution=execution))


def said(*texts):
    nothing = [[0]] * len(texts)
    return Answers(nothing, nothing, [[0.0]] * len(texts), list(texts), [0.0] * len(texts))


def asked(count, domain="helpful"):
    return [Query(f"q{i}", domain, ({"role": "user", "content": f"Why {i}?"},)) for i in range(count)]


def prompts(server):
    return [body["messages"][0]["content"] for _, body, _ in server.asked]


def test_a_gain_is_who_is_preferred_in_both_orders_and_equal_answers_are_not_asked_about(server):
    before, after = said("short", "much longer", "ab", "equal"), said("longer", "long", "cd", "equal")
    assert judge(server, "longer").gains(asked(4), before, after) == [1.0, -1.0, 0.0, 0.0]
    assert len(server.asked) == 6 and not [prompt for prompt in prompts(server) if "Why 3?" in prompt]
    assert judge(server, "first").gains(asked(1), said("one"), said("two")) == [0.0]  # it prefers a place, no answer


def test_it_is_told_the_wish_that_the_reward_model_judges_by_and_who_said_what(server):
    turns = (
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "How?"},
    )
    own = Query("q", "verse", turns, own_condition="You judge the {verse}.")
    judge(server, "longer", together=1).gains([own, *asked(1, "harmless")], said("a", "b"), said("c{x}", "d"))
    verse, harmless = prompts(server)[0], prompts(server)[-1]
    assert "You judge the {verse}." in verse and "user: Why?\n\nassistant: So.\n\nuser: How?" in verse
    assert conditional_prompts()["harmless"] in harmless


def test_what_fails_is_counted_and_left_out_until_it_is_too_much(server):
    server.failures = [500, 500]  # of the first pair's first order, both tries
    few = judge(server, "longer", together=1, max_ungraded=0.5)
    gains = few.gains(asked(2), said("a", "b"), said("long", "long"))
    assert gains == [None, 1.0]
    with pytest.raises(UserError, match=r"no verdict on 2 of 2 pairs.* may on 5% of 30 .*max_ungraded.*HTTP 404"):
        judge(server, "unknown").gains(asked(30), said(*"a" * 30), said(*"b" * 30))
    assert len(server.asked) < 30  # the rest was not asked
    with pytest.raises(UserError, match=r"did not end in \[\[A\]\]"):
        judge(server, "silent").gains(asked(1), said("a"), said("b"))


def test_a_prompt_of_ones_own_shows_both_answers_and_names_nothing_that_is_unknown(server):
    form = "{question}\n[Answer of A]\n{first}\n[End of A]\n[Answer of B]\n{second}\n[End of B] {{so}}"
    judge(server, "longer", prompt=form).gains(asked(1), said("a"), said("long"))
    assert prompts(server)[0] == "Why 0?\n[Answer of A]\na\n[End of A]\n[Answer of B]\nlong\n[End of B] {so}"
    for wrong, why in (("{question} {first}", "{second}"), (form + "{else}", "{else}"), (form + "{", "written twice")):
        with pytest.raises(ConfigError, match=why):
            ProbeConfig.at("rlhf.probe", {"judge": {"model": "m", "prompt": wrong}})


def test_there_is_one_judge_and_somebody_says_where_it_is():
    named = {"judge": {"model": "m"}}
    with pytest.raises(ConfigError, match=r"judge_share must be 0"):
        RLHFConfig.at("rlhf", {"probe": named})
    assert RLHFConfig.at("rlhf", {"probe": named, "collect_preferences": {"judge_share": 0}}).probe.judge.model == "m"
    with pytest.raises(InputError, match=r"set rlhf\.probe\.execution\.judge\.url"):
        EndpointJudge.of(ProbeConfig(judge=JudgeConfig(model="m")))
