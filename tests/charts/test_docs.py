"""What the operators' pages tell people to type."""

import json
import re

import pytest
from rendered import CHARTS, ROOT, helm

PAGES = sorted([*(ROOT / "docs/operations").glob("*.md"), *CHARTS.glob("*/README.md")])
COMMANDS = [
    (page.name, command)
    for page in PAGES
    for block in re.findall(r"```\n(.*?)```", page.read_text().replace("\\\n", " "), re.DOTALL)
    for command in block.splitlines()
    if re.match(r"helm (install|upgrade) ", command)
]


def known(chart, path):
    here = json.loads((CHARTS / chart / "values.schema.json").read_text())
    for part in path:
        if "properties" not in here:
            return True  # free keys
        if part not in here["properties"]:
            return False
        here = here["properties"][part]
    return True


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[command[:60] for _, command in COMMANDS])
def test_values_and_files_in_commands_exist(page, command):
    (chart,) = set(re.findall(r"helm/(\w+)(?: |$)", command))
    for path in re.findall(r"--set(?:-json)? '?([\w.]+)=", command):
        assert known(chart, path.split(".")), path
    for file in re.findall(r" -f (\S+)", command):
        assert (ROOT / file).exists()


def test_there_are_commands_to_check():
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("flag", ["--reset-then-reuse-values"])
def test_both_helms_know_the_flags(flag):
    assert all(flag in helm(name, "upgrade", "--help") for name in ("helm-3", "helm-4"))
    assert "--rollback-on-failure" in helm("helm-4", "upgrade", "--help") and "--atomic" in helm(
        "helm-3", "upgrade", "--help"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_alert_is_on_a_page():
    told = "\n".join(page.read_text() for page in PAGES)
    for template in CHARTS.glob("*/templates/prometheusrule.yaml"):
        for alert in re.findall(r'"name" "(\w+)" "for"', template.read_text()):
            assert f"`{alert}`" in told
