"""Aliases move by command, leave records that cannot be edited unseen, and never to what no gate passed. A real MLflow."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest
from pico import Lab, Released, released
from servers import MLflowServer
from typer.testing import CliRunner

from tokenmill.cli.main import app
from tokenmill.deployment.alias import move, roll_back, way_back
from tokenmill.deployment.audit import AUDIT_TAG, AuditLog
from tokenmill.deployment.config import RegisterConfig
from tokenmill.errors import CorruptError, InputError, UserError
from tokenmill.manifest import canonical, sha256
from tokenmill.tracking import Registry, TrackingError

pytestmark = pytest.mark.integration
NAME = "internlm2-chat-pico"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    server = MLflowServer(tmp_path_factory.mktemp("mlflow"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", server.start())
        patch.setenv("TOKENMILL_COMMIT", "c0ffee")
        patch.setenv("TOKENMILL_IMAGE", "tokenmill/deployer:test")
        yield Lab(tmp_path_factory.mktemp("lab"))
    server.stop()


@pytest.fixture(scope="module")
def versions(lab: Lab) -> list[Released]:
    """Registered as versions 1, 2 and 3."""
    made = [released(lab, seed=seed) for seed in (0, 5, 9)]
    for one in made:
        lab.step("deployment.register", RegisterConfig(), model=one.release, verdict=one.verdict)
    return made


@pytest.fixture
def registry(lab: Lab, versions: list[Released]) -> Registry:
    return Registry(lab.store)


def cli(lab: Lab, *arguments: str, code: int = 0) -> str:
    """What a command prints; with code 2, the one line that refuses it."""
    import tokenmill.cli.promoting  # noqa: F401 - registers the commands

    done = CliRunner().invoke(app, [*arguments, "--store", lab.store.uri])
    if code:
        assert isinstance(done.exception, UserError)  # which the command line tells in one line: exit code 2
        return str(done.exception)
    assert done.exception is None, done.exception
    return done.output


def test_promotion_rollback_and_their_records(lab: Lab, registry: Registry, versions: list[Released]) -> None:
    for number in ("1", "2", "3"):
        cli(lab, "promote", f"{NAME}@{number}", "--to", "champion", "--reason", f"trial {number}")
    assert registry.alias_version(NAME, "champion") == "3"
    assert "3 → 2" in cli(lab, "rollback", NAME, "--alias", "champion", "--reason", "it rambles")
    assert "2 → 1" in cli(lab, "rollback", NAME, "--alias", "champion")  # not back to 3, which 2 did not come from
    assert "nothing stood there before it" in cli(lab, "rollback", NAME, "--alias", "champion", code=2)
    assert "already" in cli(lab, "promote", f"{NAME}@1", "--to", "champion")

    told = orjson.loads(cli(lab, "audit", NAME, "--alias", "champion", "--json"))
    assert told["aliases"] == {"champion": "1"}
    moves = [(r["action"], r["before"], r["after"], r["why"]) for r in told["records"]]
    assert moves == [
        ("promoted", None, "1", "trial 1"),
        ("promoted", "1", "2", "trial 2"),
        ("promoted", "2", "3", "trial 3"),
        ("rolled back", "3", "2", "it rambles"),
        ("rolled back", "2", "1", "rolled back by hand"),
    ]
    assert [r["verdict"] for r in told["records"]] == [versions[i].verdict.digest for i in (0, 1, 2, 1, 0)]
    assert [r["release"] for r in told["records"]] == [versions[i].release.digest for i in (0, 1, 2, 1, 0)]
    assert {r["state"] for r in told["records"]} == {"moved"}
    assert all(r["who"].partition("@")[2] and r["time"].endswith("+00:00") for r in told["records"])

    tags = registry.client.get_registered_model(NAME).tags
    for record in told["records"]:
        assert orjson.loads(tags[f"{AUDIT_TAG}.{record['move']:06d}"]) == record


def test_the_records_are_the_models_by_whatever_address_its_registry_is_reached(lab: Lab, registry: Registry) -> None:
    move(registry, NAME, "near", "1", action="promoted", why="from here")
    far = Registry(lab.store, registry.uri.replace("127.0.0.1", "localhost"))
    assert far.uri != registry.uri
    record = move(far, NAME, "near", "2", action="promoted", why="through another address")
    assert record and AuditLog(registry, NAME).moves()[-1] == record and way_back(far, NAME, "near", "2") == "1"


def test_registration_moves_its_alias_through_the_same_door(lab: Lab, registry: Registry) -> None:
    candidates = [r for r in AuditLog(registry, NAME).moves() if r.alias == "candidate"]
    assert [(r.action, r.after) for r in candidates] == [("registered", "1"), ("registered", "2"), ("registered", "3")]
    assert "run " in candidates[0].who


def test_a_version_says_where_it_comes_from(registry: Registry, versions: list[Released]) -> None:
    tags = registry.version_tags(NAME, "1")
    assert tags["tokenmill.manifest"] == versions[0].release.digest
    assert tags["gate.verdict"] == versions[0].verdict.digest
    assert (tags["tokenmill.commit"], tags["tokenmill.image"]) == ("c0ffee", "tokenmill/deployer:test")
    assert len(tags["data.digest"]) == 64
    assert tags["data.digest"] == registry.version_tags(NAME, "2")["data.digest"]  # other weights of the same data


def test_what_no_gate_passed_is_promoted_only_by_force_and_with_a_reason(lab: Lab, versions: list[Released]) -> None:
    lab.step("deployment.register", RegisterConfig(role="base"), model=versions[0].weights)
    name = "internlm2-base-pico"
    assert "no gate judged it" in cli(lab, "promote", f"{name}@1", code=2)
    assert "say why with --reason" in cli(lab, "promote", f"{name}@1", "--force", code=2)
    assert Registry(lab.store).alias_version(name, "production") is None
    assert "FORCED, no verdict" in cli(lab, "promote", f"{name}@1", "--force", "--reason", "a trial without a gate")
    assert Registry(lab.store).alias_version(name, "production") == "1"


def test_a_verdict_tag_alone_promotes_nothing(lab: Lab, registry: Registry, versions: list[Released]) -> None:
    """Whoever may write tags in MLflow cannot lend a version the verdict of another, or one that did not pass."""
    failed = lab.issue_json(
        "verdict", {"verdict.json": {"passed": False}, "verdict.md": "# no"}, step="evaluation.gate"
    )
    unsound = lab.issue_json("release", {"release.json": {"verdict": {"content": failed.content}}})
    homemade = lab.issue_json("verdict", {"verdict.json": {"passed": True}, "verdict.md": "# yes"}, step="made.by_hand")
    easy = lab.issue_json("release", {"release.json": {"verdict": {"content": homemade.content}}})
    for release, verdict, said in (
        (versions[0].release, versions[1].verdict, "about another release"),
        (versions[0].release, failed, "about another release"),
        (unsound, failed, "the gate did not pass it"),
        (easy, homemade, "no verdict of evaluation.gate"),
    ):
        tags = {"tokenmill.manifest": release.digest, "gate.verdict": verdict.digest}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(registry, "version_tags", lambda *_, tags=tags: tags)
            with pytest.raises(InputError, match=said):
                move(registry, NAME, "forged", "1", action="promoted", why="trust me")
    assert registry.alias_version(NAME, "forged") is None


@pytest.mark.parametrize("damage", ["edited", "removed"])
def test_a_record_that_was_changed_afterwards_shows(lab: Lab, registry: Registry, damage: str) -> None:
    for number in ("1", "2", "1"):
        move(registry, NAME, damage, number, action="promoted", why="as it was")
    log = AuditLog(registry, NAME)
    moves = log.moves()
    second = next(r for r in moves if r.alias == damage and r.after == "2")
    path = files(lab, log)[second.number - 1]
    whole = path.read_bytes()
    path.unlink()
    if damage == "edited":
        path.write_bytes(whole.replace(b"as it was", b"as I like"))
    with pytest.raises(CorruptError, match="does not follow the record before it"):
        log.moves()
    path.unlink(missing_ok=True)
    path.write_bytes(whole)
    assert log.moves() == moves


@pytest.mark.parametrize(
    ("taken", "edit", "said"),
    [
        (1, None, "not what MLflow has a copy of"),  # how the newest move ended
        (2, None, "MLflow has a copy of move"),  # all of the newest move
        (0, {"why": "as I like"}, "not what MLflow has a copy of"),
        (0, {"state": "not moved"}, "not what MLflow has a copy of"),
    ],
)
def test_the_newest_record_is_held_to_the_copy_in_mlflow(lab: Lab, registry: Registry, taken: int, edit, said) -> None:
    """No record after it vouches for the newest one."""
    alias = f"newest-{taken}-{len(edit or ())}"
    move(registry, NAME, alias, "1", action="promoted", why="first")
    move(registry, NAME, alias, "2", action="promoted", why="as it was")
    log = AuditLog(registry, NAME)
    whole = {path: path.read_bytes() for path in files(lab, log)}
    for path in list(whole)[len(whole) - taken :]:
        path.unlink()
    if edit:
        path = list(whole)[-1]
        path.write_bytes(canonical(orjson.loads(whole[path]) | edit))
    assert said in cli(lab, "audit", NAME, code=2)
    with pytest.raises(CorruptError, match=said):  # and nothing is written over what is left to see
        move(registry, NAME, alias, "3", action="promoted", why="on top of it")
    with pytest.raises(CorruptError, match=said):
        AuditLog(registry, NAME).accept()
    assert registry.alias_version(NAME, alias) == "2"
    for path, data in whole.items():
        path.write_bytes(data)
    assert log.moves()[-1].why == "as it was"


def test_a_record_that_only_the_store_has_is_refused(lab: Lab, registry: Registry) -> None:
    """Planted by whoever can write to the store alone: a move that follows all others as it should."""
    move(registry, NAME, "planted", "1", action="promoted", why="properly")
    log = AuditLog(registry, NAME)
    newest, path = log.moves()[-1], files(lab, log)[-1]
    number = newest.number + 1
    forged = newest.model_copy(update={"number": number, "move": number, "previous": sha256(path.read_bytes())})
    for state in ("begun", "moved"):
        text = forged.model_copy(update={"state": state}).text.encode()
        path.with_name(f"{forged.number:06d}.json").write_bytes(text)
        forged = forged.model_copy(update={"number": number + 1, "previous": sha256(text)})
    assert "MLflow has no copy of" in cli(lab, "audit", NAME, code=2)
    for later in (number, number + 1):
        path.with_name(f"{later:06d}.json").unlink()
    assert log.moves()[-1] == newest


def test_a_move_that_is_made_while_somebody_reads_is_no_damage(registry: Registry, monkeypatch) -> None:
    log = AuditLog(registry, NAME)
    read, moves = log._records, iter(["1"])

    def moved_meanwhile() -> Any:
        found = read()
        for number in moves:
            move(registry, NAME, "meanwhile", number, action="promoted", why="while somebody reads")
        return found

    monkeypatch.setattr(log, "_records", moved_meanwhile)
    assert log.moves()[-1].why == "while somebody reads"


def test_after_a_restore_of_an_older_mlflow_the_copies_that_it_lacks_are_given_to_it(
    lab: Lab, registry: Registry
) -> None:
    for number in ("1", "2"):
        move(registry, NAME, "restored", number, action="promoted", why="after the backup")
    log = AuditLog(registry, NAME)
    moves = log.moves()
    for one in moves[-2:]:
        registry.client.delete_registered_model_tag(NAME, f"{AUDIT_TAG}.{one.move:06d}")
    assert f"`tokenmill audit {NAME} --accept`" in cli(lab, "audit", NAME, code=2)
    assert "2 copies given to MLflow" in cli(lab, "audit", NAME, "--accept")
    assert "0 copies given to MLflow" in cli(lab, "audit", NAME, "--accept")
    assert log.moves() == moves


def test_a_move_that_mlflow_refuses_is_recorded_as_none(
    lab: Lab, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    move(registry, NAME, "refused", "1", action="promoted", why="properly")
    with monkeypatch.context() as patch:
        patch.setattr(registry, "set_alias", away())
        with pytest.raises(TrackingError, match="planted"):
            move(registry, NAME, "refused", "2", action="promoted", why="in vain")
    ended = AuditLog(registry, NAME).moves()[-1]
    assert (ended.why, ended.state) == ("in vain", "not moved") and registry.alias_version(NAME, "refused") == "1"
    told = cli(lab, "audit", NAME, "--alias", "refused")
    assert "NOT MOVED" in told and "past TokenMill" not in told
    assert way_back(registry, NAME, "refused", "2") is None  # it never came there


@pytest.mark.parametrize(("made", "state"), [(False, "not moved"), (True, "moved")])
def test_a_move_that_was_cut_off_is_settled_by_the_next_one(
    lab: Lab, registry: Registry, monkeypatch: pytest.MonkeyPatch, made: bool, state: str
) -> None:
    """Killed before MLflow moved the alias, or after it did and before anybody wrote that down."""
    alias = f"cut-off-{made}"
    set_alias = registry.set_alias

    def killed(*given: Any) -> None:
        if made:
            set_alias(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry, "set_alias", killed)
        with pytest.raises(KeyboardInterrupt):
            move(registry, NAME, alias, "2", action="promoted", why="cut off")
    assert AuditLog(registry, NAME).moves()[-1].state == "begun"
    told = cli(lab, "audit", NAME, "--alias", alias)
    assert "UNFINISHED" in told and "past TokenMill" not in told
    move(registry, NAME, alias, "3", action="promoted", why="whole")
    records = [(r.why, r.state, r.before) for r in AuditLog(registry, NAME).moves() if r.alias == alias]
    assert records == [("cut off", state, None), ("whole", "moved", "2" if made else None)]


@pytest.mark.parametrize("lost", ["set_alias", "tag_model"])
def test_where_mlflow_goes_away_in_the_middle_the_move_is_settled_when_it_is_back(
    lab: Lab, registry: Registry, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    def gone(*_: Any) -> None:
        for call in ("set_alias", "tag_model", "alias_version"):
            monkeypatch.setattr(registry, call, away())
        away()()

    monkeypatch.setattr(registry, lost, gone)
    with pytest.raises(TrackingError, match="planted"):
        move(registry, NAME, f"gone-{lost}", "2", action="promoted", why="in the middle")
    monkeypatch.undo()
    back = Registry(lab.store, registry.uri)
    assert AuditLog(back, NAME).moves()[-1].state == "begun"
    move(back, NAME, f"gone-{lost}", "1", action="promoted", why="it is back")
    states = [(r.why, r.state) for r in AuditLog(back, NAME).moves() if r.alias == f"gone-{lost}"]
    assert states == [("in the middle", "not moved"), ("it is back", "moved")]


def files(lab: Lab, log: AuditLog) -> list[Path]:
    return sorted((lab.folder / "store" / "audit" / log.identity / NAME).iterdir())


def away() -> Callable[..., Any]:
    def call(*_: Any) -> None:
        raise TrackingError("planted: MLflow went away")

    return call


def test_moves_at_the_same_time_are_records_one_after_the_other(registry: Registry) -> None:
    def promote(number: int) -> Any:
        return move(registry, NAME, "contested", str(number % 3 + 1), action="promoted", why=f"{number}")

    with ThreadPoolExecutor(6) as pool:
        done = [record for record in pool.map(promote, range(6)) if record]
    records = [r for r in AuditLog(registry, NAME).moves() if r.alias == "contested"]
    assert {r.number for r in done} == {r.number for r in records}
    assert [r.before for r in records] == [None, *(r.after for r in records[:-1])]  # each starts where the last ended
    assert registry.alias_version(NAME, "contested") == records[-1].after


def test_a_way_back_does_not_undo_a_promotion_that_came_meanwhile(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: version 3 is promoted between the look at the alias and its move."""
    for number in ("1", "2", "3"):
        move(registry, NAME, "hurried", number, action="promoted", why="in a hurry")
    stands, looked = registry.alias_version, iter(["2"])
    monkeypatch.setattr(registry, "alias_version", lambda *alias: next(looked, "") or stands(*alias))
    with pytest.raises(InputError, match="went from version 2 to 3 meanwhile"):
        roll_back(registry, NAME, "hurried", why="2 rambles")
    assert stands(NAME, "hurried") == "3"


def test_what_another_policy_let_pass_is_promoted_only_where_that_is_meant(lab: Lab, registry: Registry) -> None:
    easy = released(lab, seed=13, limits={"format/chat": {"min": 0.0}})
    value = lab.step("deployment.register", RegisterConfig(alias="candidate"), model=easy.release, verdict=easy.verdict)
    number = value["output"].counts["version"]
    strict, lax = (sha256(canonical({"limits": limits})) for limits in ({}, {"format/chat": {"min": 0.0}}))
    assert registry.version_tags(NAME, str(number))["gate.policy"] == lax
    assert registry.version_tags(NAME, str(number))["gate.checks"] == "1"
    cli(lab, "promote", f"{NAME}@1", "--to", "strict")
    said = cli(lab, "promote", f"{NAME}@{number}", "--to", "strict", code=2)
    assert lax in said and strict in said and f"--gate-policy {lax[:12]}" in said
    assert registry.alias_version(NAME, "strict") == "1"
    assert "by policy" in cli(lab, "promote", f"{NAME}@{number}", "--to", "new", "--gate-policy", strict, code=2)
    cli(lab, "promote", f"{NAME}@{number}", "--to", "strict", "--gate-policy", lax[:12])
    assert [r.policy for r in AuditLog(registry, NAME).moves() if r.alias == "strict"] == [strict, lax]


def test_an_alias_that_was_moved_past_tokenmill_is_said(lab: Lab, registry: Registry) -> None:
    move(registry, NAME, "bypassed", "1", action="promoted", why="properly")
    registry.set_alias(NAME, "bypassed", "2")
    assert "somebody moved it past TokenMill" in cli(lab, "audit", NAME, "--alias", "bypassed", code=2)
    assert "somebody moved it past TokenMill" in cli(lab, "audit", NAME, "--alias", "bypassed", "--json", code=2)
    move(registry, NAME, "bypassed", "1", action="promoted", why="back, properly")
    assert "bypassed is version 1" in cli(lab, "audit", NAME, "--alias", "bypassed")


def test_what_is_not_there_is_said_in_one_line(lab: Lab, registry: Registry) -> None:
    assert "has no version 99" in cli(lab, "promote", f"{NAME}@99", code=2)
    assert "has no alias 'nobody'" in cli(lab, "promote", f"{NAME}@nobody", code=2)
    assert "expected MODEL@VERSION" in cli(lab, "promote", NAME, code=2)
    with pytest.raises(InputError, match="no alias 'nobody' to roll back"):
        roll_back(registry, NAME, "nobody", why="")
