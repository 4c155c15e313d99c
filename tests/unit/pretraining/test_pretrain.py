"""One step, two stages: each is found, configured and cached by itself."""

from types import SimpleNamespace

import pytest
import torch

from tokenmill.errors import ConfigError, InputError
from tokenmill.manifest import Draft, Manifest
from tokenmill.model.config import InternLM2Config
from tokenmill.model.folder import read_config, save_model
from tokenmill.model.modeling import InternLM2ForCausalLM
from tokenmill.pretraining.pretrain import _start, check, pretrain
from tokenmill.steps import action_key, configured, find
from tokenmill.training.run import TrainingRun

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
    held = {"tokens": [made("tokens")], "base": [made("weights")]}
    short, long = (find(address).config() for address in (SHORT, LONG))
    assert short.identity() == long.identity() == {} and short.rope_theta != long.rope_theta
    assert action_key(find(SHORT), short, held) != action_key(find(LONG), long, held)


def test_the_step_is_asked_for_by_stage():
    assert find(SHORT).name == find(LONG).name == "pretraining.pretrain"
    with pytest.raises(ConfigError, match=r"pretraining\.pretrain\.long, pretraining\.pretrain\.short"):
        find("pretraining.pretrain")


def test_the_long_stage_goes_on_with_the_short_one_s_optimizer_unless_told_otherwise(monkeypatch, tmp_path):
    def bare_run(config, tokens, model, ctx, **more):
        return TrainingRun(model, None, None, config.optim, None)

    monkeypatch.setattr("tokenmill.training.stage.stage_run", bare_run)
    monkeypatch.setattr("tokenmill.pretraining.pretrain._start", lambda *_: None)
    ctx = SimpleNamespace(workdir=tmp_path, files=lambda manifest: manifest.kind)
    weights, state = made("weights", steps=32, tokens_seen=9), made("training_state")

    def run(address, state, **options):
        config = configured(find(address), "pico", {f"{address}.{name}": value for name, value in options.items()})
        return pretrain(config, made("tokens"), None, None, weights, state, ctx)

    assert run(SHORT, None).optimizer_out == tmp_path / "optimizer"
    assert run(LONG, state).optimizer == "training_state" and run(LONG, state).optimizer_out is None
    assert run(LONG, None).optimizer is run(LONG, state, fresh_optimizer=True).optimizer is None


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


def test_the_long_stage_changes_the_rope_base_and_the_checkpoint_says_so(tmp_path):
    """Check 4: from 50,000 to a million where the stage begins; no weight changes for it."""
    short = InternLM2ForCausalLM(InternLM2Config.preset("pico"), seed=0)
    save_model(short, tmp_path / "base")
    config = configured(find(LONG), "pico", {f"{LONG}.context": 1024})
    begun = _start(config, None, made("weights"), SimpleNamespace(files=lambda manifest: tmp_path / "base"))
    save_model(begun, tmp_path / "begun")
    before, after = (read_config(tmp_path / name) for name in ("base", "begun"))
    assert (before.rope_theta, after.rope_theta) == (50_000, 1_000_000)
    assert after.max_position_embeddings == config.context > before.max_position_embeddings
    assert all(torch.equal(a, b) for a, b in zip(short.parameters(), begun.parameters(), strict=True))
    ids = torch.arange(40)
    assert torch.allclose(short(ids)[0], begun(ids)[0], atol=1e-5)  # nothing turns at position 0
    assert not torch.allclose(short(ids)[1:], begun(ids)[1:], atol=1e-5)
