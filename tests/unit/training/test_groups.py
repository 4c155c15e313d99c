"""Which parameters AdamW decays."""

from tokenmill.model.config import InternLM2Config
from tokenmill.model.modeling import InternLM2ForCausalLM
from tokenmill.training.engine import default_groups


def test_matrices_decay_and_norms_do_not():
    model = InternLM2ForCausalLM(InternLM2Config.preset("pico"), seed=None)
    matrices, norms = default_groups(model)
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert (matrices.weight_decay, norms.weight_decay) == (None, 0.0)  # None: what is configured
    assert {names[p] for p in norms.parameters} == {name for name in names.values() if "norm" in name}
    assert len(matrices.parameters) + len(norms.parameters) == len(names)


def test_what_is_frozen_is_in_no_group():
    model = InternLM2ForCausalLM(InternLM2Config.preset("pico"), seed=None)
    model.requires_grad_(False)
    assert default_groups(model) == []
    model.model.norm.requires_grad_(True)
    (only,) = default_groups(model)
    assert only.parameters == [model.model.norm.weight]
