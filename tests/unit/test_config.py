"""Presets, overrides, and errors that say what to write instead."""

import pytest
from pydantic import Field

from tokenmill.config import Execution, Section, StepConfig, load_preset, merge, nest, parse_assignments, resolve
from tokenmill.errors import ConfigError
from tokenmill.lifecycle_config import LifecycleConfig


class Loud(Execution):
    lanes: int = 1


class ToyConfig(StepConfig):
    threshold: float = Field(0.7, ge=0, le=1)
    mirror: str = ""
    execution: Loud = Loud()


def test_execution_is_no_part_of_identity():
    assert ToyConfig(execution=Loud(lanes=8)).identity() == ToyConfig().identity()


def test_defaults_are_no_part_of_identity_so_that_a_new_option_keeps_every_key():
    assert ToyConfig().identity() == {}
    assert ToyConfig(threshold=0.5).identity() == {"threshold": 0.5}


def test_an_unknown_option_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"unknown option 'toy.treshold'. Did you mean 'toy.threshold'\?"):
        ToyConfig.at("toy", {"treshold": 0.5})


def test_a_value_out_of_range_says_which_and_what_it_got():
    with pytest.raises(ConfigError, match=r"toy.threshold: .*less than or equal to 1.*\(got 7\)"):
        ToyConfig.at("toy", {"threshold": 7})


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'nano'"):
        load_preset("nanoo")


def test_a_uri_with_keys_is_refused_and_not_repeated():
    with pytest.raises(ConfigError) as refused:
        ToyConfig.at("toy", {"mirror": "s3://AKIA123:topsecret@host/bucket"})
    assert "toy.mirror" in str(refused.value) and "topsecret" not in str(refused.value)


def test_assignments_are_typed_and_nested():
    assert nest(parse_assignments(["a.b=0.02", "a.c=[1, x]"])) == {"a": {"b": 0.02, "c": [1, "x"]}}
    with pytest.raises(ConfigError, match="expected section.field=value"):
        parse_assignments(["a.b"])


def test_merge_lays_mappings_over_mappings_and_replaces_lists():
    assert merge({"a": {"x": 1, "l": [1, 2]}}, {"a": {"l": [3]}}) == {"a": {"x": 1, "l": [3]}}


def test_a_step_looks_only_at_its_own_section():
    config = resolve(ToyConfig, "toy", "pico", {"toy.threshold": 0.2, "elsewhere.entirely": 1})
    assert config.threshold == 0.2


@pytest.mark.parametrize("preset", ["pico", "nano", "internlm2-1.8b", "internlm2-7b", "internlm2-20b"])
def test_every_preset_is_a_valid_tree(preset):
    LifecycleConfig.at("", load_preset(preset))


def _fields(section: type[Section], path: str = ""):
    for name, field in section.model_fields.items():
        yield f"{path}{name}", field
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _fields(field.annotation, f"{path}{name}.")


def test_no_config_has_a_secret_field():
    words = ("password", "secret", "access_key", "api_key", "credential")
    assert [name for name, _ in _fields(LifecycleConfig) if any(word in name.lower() for word in words)] == []


@pytest.mark.parametrize("overrides", [{"a": 1, "a.b": 2}, {"a.b": 2, "a": 1}, {"x.a": [1], "x.a.b.c": 2}])
def test_a_value_for_a_section_and_for_a_field_of_it_are_refused_together(overrides):
    with pytest.raises(ConfigError, match="give one of them"):
        nest(overrides)


def test_a_section_given_as_a_mapping_takes_fields_on_top():
    assert nest({"a": {"c": 1}, "a.b": 2, "d": 3}) == {"a": {"c": 1, "b": 2}, "d": 3}
    assert nest({"a.b": 2, "a": {"c": 1}}) == {"a": {"b": 2, "c": 1}}
