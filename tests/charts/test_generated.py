"""README and schema follow from values.yaml, and every value that is documented is used."""

import json
import re
import subprocess
import sys

import jsonschema
import pytest
import yaml
from rendered import CHARTS, MODES, ROOT

NAMES = sorted({chart for chart, _ in MODES})


def leaves(schema, path=()):
    for key, child in schema["properties"].items():
        if "description" in child:
            yield (*path, key)
        else:
            yield from leaves(child, (*path, key))


def test_readme_and_schema_are_what_values_yaml_says():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/charts.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.stdout == "" and done.returncode == 0, f"run scripts/charts.py: {done.stdout}"


@pytest.mark.parametrize("chart", NAMES)
def test_the_defaults_are_known_documented_and_listed(chart):
    schema = json.loads((CHARTS / chart / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load((CHARTS / chart / "values.yaml").read_text()), schema)
    readme = (CHARTS / chart / "README.md").read_text()
    for path in leaves(schema):
        if path != ("global",):
            assert f"| `{'.'.join(path)}` |" in readme


@pytest.mark.parametrize("chart", NAMES)
def test_every_value_is_used_by_a_template(chart):
    text = "\n".join(path.read_text() for path in (CHARTS / chart / "templates").rglob("*") if path.is_file())
    schema = json.loads((CHARTS / chart / "values.schema.json").read_text())
    unused = [
        ".".join(path) for path in leaves(schema) if path != ("global",) and not re.search(rf"[.\"]{path[-1]}\b", text)
    ]
    # groups that a template writes as they are
    assert [name for name in unused if not name.startswith(("probes.readiness.", "probes.liveness."))] == []


@pytest.mark.parametrize("chart", NAMES)
def test_a_chart_has_what_people_look_for(chart):
    folder = CHARTS / chart
    about = yaml.safe_load((folder / "Chart.yaml").read_text())
    assert about["apiVersion"] == "v2" and about["kubeVersion"] and about["appVersion"] and about["description"]
    assert (folder / "templates/NOTES.txt").exists() and list((folder / "templates/tests").glob("*.yaml"))
