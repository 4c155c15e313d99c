"""One step, two stages: each is found, configured and cached by itself."""

import pytest

from tokenmill.errors import ConfigError, InputError
from tokenmill.manifest import Draft, Manifest
from tokenmill.pretraining.pretrain import check
from tokenmill.steps import action_key, configured, find

SHORT, LONG = "pretraining.pretrain.short", "pretraining.pretrain.long"


def made(kind, **counts):
    return Manifest.issue(Draft(kind=kind, shards=(), counts=counts), parents={}, step="t", version=1, config={})


def key(address, overrides=None, **inputs):
    definition = find(address)
    held = {role.name: [inputs[role.name]] if role.name in inputs else [] for role in definition.roles}
    return action_key(definition, configured(definition, "pico", overrides or {}), held)


def test_a_change_of_the_long_stage_keeps_what_the_short_one_made():
    given = {"tokens": made("tokens"), "tokenizer": made("tokenizer")}
    assert key(SHORT, {f"{LONG}.tokens": 8192}, **given) == key(SHORT, **given)
    given = {"tokens": made("tokens"), "base": made("weights")}
    assert key(LONG, {f"{LONG}.tokens": 8192}, **given) != key(LONG, **given)


def test_two_stages_of_the_same_options_from_the_same_inputs_are_two_results():
    """Options that are a stage's defaults are not hashed, and the stages' defaults differ."""
    given = {"tokens": made("tokens"), "base": made("weights")}
    options = {f"{SHORT}.{n}": v for n, v in configured(find(LONG), "pico", {}).identity().items()}
    assert configured(find(LONG), "pico", {}).rope_theta != configured(find(SHORT), "pico", options).rope_theta
    assert key(SHORT, options, **given) != key(LONG, **given)


def test_the_step_is_asked_for_by_stage():
    assert find(SHORT).name == find(LONG).name == "pretraining.pretrain"
    with pytest.raises(ConfigError, match=r"pretraining\.pretrain\.long, pretraining\.pretrain\.short"):
        find("pretraining.pretrain")


def test_a_stage_starts_from_random_weights_or_from_those_before():
    config = configured(find(LONG), "pico", {})
    tokens, tokenizer, base = made("tokens"), made("tokenizer"), made("weights", steps=32)
    check(config, tokens, tokenizer, None, None, None, None)
    check(config, tokens, None, None, base, None, None)
    for both_or_none in ((None, None), (tokenizer, base)):
        with pytest.raises(InputError, match="give `tokenizer`"):
            check(config, tokens, both_or_none[0], None, both_or_none[1], None, None)
    later = configured(find(LONG), "pico", {f"{LONG}.optim.steps_before": 7})
    with pytest.raises(ConfigError, match=r"steps_before is 7, but the base was trained for 32"):
        check(later, tokens, None, None, base, None, None)
