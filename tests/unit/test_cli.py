"""The command line at its edges: a wrong argument is one line and exit code 2, and scripts get JSON."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import orjson
import pytest
from planted_run import PlantedRun

from tokenmill.cli import main
from tokenmill.manifest import Manifest
from tokenmill.store import ArtifactStore, open_store
from tokenmill.tracking import RunRef


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    monkeypatch.setenv("TOKENMILL_STORE", f"file://{tmp_path}/store")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return open_store()


@pytest.fixture
def weights(store: ArtifactStore, tmp_path: Path) -> Manifest:
    """A store with a run `one`: a corpus with the document `poem`, and weights of it."""
    life = PlantedRun(store, tmp_path, RunRef(key="one", name="smoke", preset="pico"))
    files = {"part-00000.jsonl.zst": [{"id": "poem", "text": "a"}]}
    corpus = life.step("curation.filter", {"output": life.draft("corpus", files)})["output"]
    return life.step("sft.train", {"weights": life.draft("weights")}, corpus=corpus)["weights"]


@pytest.fixture
def tokenmill(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def run(*arguments: str) -> Said:
        monkeypatch.setattr("sys.argv", ["tokenmill", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return Said(int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("lineage", "Missing argument 'reference'; see `tokenmill lineage --help`"),
        ("lineage 0 --bogus", "No such option: --bogus"),
        ("lineage nosuch", "'nosuch' is no artifact"),
        ("lineage nosuch --down", "none holds a document of that id"),
        ("curation explain nosuch", "no document 'nosuch': searched"),
        ("curation explain poem --run one --corpus 0000", "give --run or --corpus, not both"),
        ("curation funnel one", "run one has no funnel"),
        ("lineage 0000 --store nonsense", "neither file:///folder nor s3://bucket/prefix"),
        ("lineage 0000 --store file:///nowhere/at/all", "there is nothing in file:///nowhere/at/all"),
        ("lineage models:/nobody", "expected models:/name@alias or models:/name/3"),
        ("diff run:one", "Missing argument 'after'"),
        ("diff run:one run:other", "no run 'other'"),
        ("diff run:one 0000", "compare two artifacts, or two runs"),
        ("store nosuch", "No such command 'nosuch'"),
        ("store du --store file:///nowhere/at/all", "there is nothing in"),
        ("store gc --min-age-h -1", "greater than or equal to 0"),
        ("store gc --min-age-h soon", "valid number"),
        ("store takedown poem", "Missing option '--reason'"),
        ("store takedown nosuch --reason asked", "holds a document 'nosuch'"),
        ("curation diff-rules en_web en_wob --corpus 0", "unknown rule set 'en_wob'"),
        ("curation diff-rules en_web gopher --corpus nosuch", "'nosuch' is no artifact"),
        ("curation diff-rules en_web gopher --corpus 0 --sample 0", "greater than or equal to 1"),
        ("model import nowhere --licence MIT", "there is no folder nowhere"),
        ("model import .", "Missing option '--licence'"),
        ("model import . --licence=", ". has no licence: state it, or `unknown`"),
        ("model import . --licence MIT", "no model in .: expected config.json"),
        ("model inspect nowhere/at-all", "'nowhere/at-all' is neither a folder nor an artifact's digest"),
        ("model inspect 0000", "0000 fits 0 manifests"),
        ("model export 0000 out --layout gpt2", "'gpt2' is not one of 'internlm2', 'llama'"),
        ("model export 0000 out --max-shard-size 5XB", "'5XB' is no size: write it as 5GB, 300MB or 20KB"),
        ("model export . out", "there is no tokenizer in .: give --tokenizer"),
        ("model reshard . out --tp two", "should be a valid integer"),
        ("model reshard . tests --tp 2", "tests is there and not an empty folder"),
        ("tokenizer fertility nosuch pyproject.toml", "'nosuch' is no artifact"),
        ("tokenizer fertility docs pyproject.toml", "no tokenizer in docs: expected tokenizer.json or tokenizer.model"),
        ("tokenizer fertility . pyproject.toml --sample-mb 0", "greater than or equal to 0.001"),
        ("doctor extra", "unexpected extra argument"),
        ("run smoke --preset nanoo", "Did you mean 'nano'?"),
        ("run smoke --preset pico --set curation.filter.ruls=1", "Did you mean 'curation.filter.rules'?"),
        ("run smoke --preset pico --set a.b=[1", "--set a.b: '[1' is no YAML value"),
        ("run smoke --preset pico --arg sources", "--arg 'sources': expected name=value"),
        ("report other", "no run 'other'"),
        ("track other", "no run 'other'"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    arguments: str, told: str, weights: Manifest, tokenmill: Callable[..., Said]
) -> None:
    said = tokenmill(*arguments.split())
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("tokenmill: ") and said.err.count("\n") == 1
    assert told in said.err


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["nosuch"], "no pipeline named 'nosuch'"), (["smoke", "--arg", "x=1"], "smoke has no parameter 'x'")],
)
def test_what_only_the_pipeline_knows_is_also_one_line(
    arguments: list[str], told: str, store: ArtifactStore, tokenmill: Callable[..., Said], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = tokenmill("run", *arguments, "--preset", "pico")
    assert (said.code, said.err.count("\n")) == (2, 1) and told in said.err


def test_a_plan_tells_what_does_not_fit(tokenmill: Callable[..., Said]) -> None:
    told = orjson.loads(tokenmill("plan", "--gpus", "64", "--price", "2", "--json").out)["stages"]
    assert all(stage["fits"] for stage in told.values())  # as the preset lays them out
    assert told["pretraining.pretrain.long"]["layout"]["recompute"] == "full"
    assert told["pretraining.pretrain.short"]["cost"] > told["enhancement.enhance"]["cost"] > 0
    said = tokenmill("plan", "--gpus", "64", "--recompute", "none").out
    assert "pretraining.pretrain.long does not fit h100" in said
    wrong = tokenmill("plan", "--gpu", "h10")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    assert "known are a100" in wrong.err


def test_scripts_get_json_and_pipes_whole_lines(weights: Manifest, tokenmill: Callable[..., Said]) -> None:
    found = orjson.loads(tokenmill("lineage", "poem", "--down", "--json").out)
    assert [model["digest"] for model in found["models"]] == [weights.digest]
    stone = orjson.loads(tokenmill("store", "takedown", "poem", "--reason", "asked to", "--json").out)
    assert [model["digest"] for model in stone["models"]] == [weights.digest] and stone["reason"] == "asked to"
    assert orjson.loads(tokenmill("diff", "run:one", "run:one", "--json").out)["causes"] == []
    assert orjson.loads(tokenmill("store", "du", "--json").out)["kinds"]["weights"]["objects"] == 1
    would_go = orjson.loads(tokenmill("store", "gc", "--dry-run", "--min-age-h", "0", "--json").out)
    assert would_go["dry_run"] and would_go["deleted"]["manifests"]["objects"] == 2
    findings = orjson.loads(tokenmill("doctor", "--json").out)
    assert findings[0]["name"] == "python" and "sandbox" in {finding["name"] for finding in findings}
    tree = tokenmill("lineage", "poem", "--down").out
    assert all(part in tree for part in ("part-00000.jsonl.zst record 0", "reached 1 models"))


def test_datasets_are_listed_shown_and_added(
    tmp_path: Path, store: ArtifactStore, tokenmill: Callable[..., Said]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, rows in (("test", 2), ("train", 4)):
        lines = (f'{{"question": "{i} + {i}?", "answer": "#### {2 * i}"}}\n' for i in range(rows))
        (folder / f"{name}.jsonl").write_text("".join(lines))
    assert "gsm8k" in tokenmill("eval", "list").out
    wrong = tokenmill("eval", "add", str(folder))
    assert (wrong.code, wrong.err.count("\n")) == (2, 1) and "there is no dataset.yaml in" in wrong.err
    made = orjson.loads(tokenmill("eval", "add", str(folder), "--as", "gsm8k", "--json").out)
    assert (made["suite"], made["group"], made["licence"]) == ("generate/gsm8k", "reasoning", "MIT")
    listed = orjson.loads(tokenmill("eval", "list", "--json").out)
    assert [one["questions"] for one in listed["added"]] == [made["questions"]] and len(listed["known"]) >= 8
    assert "generate/gsm8k" in tokenmill("eval", "list").out.split("\n")[0]
    (folder / "dataset.yaml").write_text(
        "{name: sums, description: d, language: en, licence: MIT, group: qa, inferencer: generate, template: 'Q: {question}'}"
    )
    shown = tokenmill("eval", "show", str(folder)).out
    assert "sums" in shown and "Q: 0 + 0?" in shown
    assert "4-shot" not in shown and "n': 4" in tokenmill("eval", "show", "gsm8k").out


def test_a_dataset_that_fails_does_not_take_the_others_with_it(
    store: ArtifactStore, tmp_path: Path, tokenmill: Callable[..., Said]
) -> None:
    from pico import Lab

    lab = Lab(tmp_path)
    model = (
        "--weights",
        lab.weights().digest,
        "--tokenizer",
        lab.tokenizer.digest,
        "--set",
        "evaluation.evaluate.answer_tokens=4",
    )
    for name in ("good", "torn"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "test.jsonl").write_text("".join(f'{{"q": "{name} {i}", "answer": "{i}"}}\n' for i in range(3)))
        (folder / "dataset.yaml").write_text(
            f"{{name: {name}, description: d, language: en, licence: MIT, group: qa, inferencer: generate, template: '{{q}}'}}"
        )
        made = orjson.loads(tokenmill("eval", "add", str(folder), "--json").out)
    torn = store.get_manifest(made["questions"])
    store.blob_path(torn.shards[0].blob).unlink()
    ran = tokenmill("eval", "run", *model)
    assert ran.code == 2 and "1 of 2 datasets failed: torn" in ran.err
    good, bad = ran.out.splitlines()
    assert (
        good.split()[:2] == ["good", "accuracy"]
        and "3 questions" in good
        and bad.startswith("torn")
        and "failed: " in bad
    )
    (row,) = orjson.loads(tokenmill("eval", "run", "good", *model, "--json").out)
    assert (row["suite"], row["n"]) == ("generate/good", 3) and store.get_manifest(
        row["evaluation"]
    ).kind == "evaluation"
    assert "no dataset nosuch in the store, which has good, torn" in tokenmill("eval", "run", "nosuch", *model).err


def test_fertility_of_two_tokenizers_side_by_side(
    store: ArtifactStore, tmp_path: Path, tokenmill: Callable[..., Said]
) -> None:
    """Bytes alone, and one that learned the words: four words in 19 bytes, four tokens."""
    from pico import Lab

    from tokenmill.model.tokenizer import Tokenizer

    Tokenizer.train([], vocab_size=384).save(tmp_path / "bytes")
    lab = Lab(tmp_path)
    Tokenizer.train(["hills and ships, corn"] * 9, vocab_size=384).save(tmp_path / "words")
    words = lab.issue_folder("tokenizer", tmp_path / "words")
    rows = [{"id": "a", "type": "web", "lang": "en", "text": "hills and ships corn"}]
    corpus = lab.issue("corpus", {"type=web/lang=en/part-00000.jsonl.zst": rows})
    arguments = ("tokenizer", "fertility", str(tmp_path / "bytes"), corpus.digest[:12], "--beside", words.digest[:12])
    said = tokenmill(*arguments, "--json")
    told = {row["tokenizer"]: (row["tokens"], row["tokens_per_word"]) for row in orjson.loads(said.out)}
    assert told == {str(tmp_path / "bytes"): (20, 5.0), words.digest[:12]: (4, 1.0)}
    table = [line.split() for line in tokenmill(*arguments).out.splitlines()]
    assert [line[2:] for line in table[1:]] == [
        ["1.000", "1.000", "5.000", "0.00%"],
        ["5.000", "5.000", "1.000", "0.00%"],
    ]
    (tmp_path / "text.txt").write_text("语言")
    (one,) = orjson.loads(
        tokenmill("tokenizer", "fertility", str(tmp_path / "bytes"), str(tmp_path / "text.txt"), "--json").out
    )
    assert (one["type"], one["fallback_share"], one["tokens"]) == ("text.txt", 1.0, 6)
    assert (
        "give a corpus, or a text file" in tokenmill("tokenizer", "fertility", words.digest[:12], words.digest[:12]).err
    )


def test_models_are_compared_and_put_on_a_board(
    store: ArtifactStore, tmp_path: Path, tokenmill: Callable[..., Said]
) -> None:
    """Of two models of random weights: every pair of evaluations of the same questions, and one row a model."""
    from pico import Lab

    lab = Lab(tmp_path)
    folder = tmp_path / "which"
    folder.mkdir()
    rows = (f'{{"q": "the king saw {i}", "options": [" ships", " hills"], "answer": {i % 2}}}\n' for i in range(12))
    (folder / "test.jsonl").write_text("".join(rows))
    (folder / "dataset.yaml").write_text(
        "{name: which, description: d, language: en, licence: MIT, group: qa, inferencer: ppl, choices: options, "
        "template: '{q}', option: '{choice}'}"
    )
    tokenmill("eval", "add", str(folder))
    models = [lab.weights(seed).digest for seed in (0, 1)]
    alone = tokenmill("eval", "compare", *models)
    assert alone.code == 2 and "were not evaluated on the same questions" in alone.err
    for number, digest in enumerate(models):
        named = f"evaluation.evaluate.label=model-{number}"
        assert (
            tokenmill("eval", "run", "which", "--weights", digest, "--set", named).code == 0
        )  # its tokenizer is known
    (found,) = orjson.loads(tokenmill("eval", "compare", *models, "--json").out)
    assert found["before"]["label"] == "model-0" and found["suites"][0]["name"] == "choice/which"
    assert "12 questions" in tokenmill("eval", "compare", *models, "--flips").out
    page = tmp_path / "board.html"
    shown = tokenmill("eval", "board", "--html", str(page)).out
    assert shown.splitlines()[0] == "| suite | metric | model-0 (chat) | model-1 (chat) |"
    assert "model-1" in page.read_text() and "choice/which" in page.read_text()
    references = tokenmill("eval", "board", "chat").out
    assert "InternLM2-20B-SFT (report)" in references and "model-0" not in references
    (folder / "test.jsonl").write_text(
        '{"before": "The ", "after": " came home", "option1": "king", "option2": "river", "answer": 0}'
    )
    tokenmill("eval", "add", str(folder), "--as", "winogrande")
    ran = tokenmill("eval", "run", "base", "--weights", models[0])
    assert ran.code == 0 and "suite base: not in the store, see `eval add`: mmlu, " in ran.err
    assert f"model {store.get_manifest(models[0]).content[:8]} (plain) |" in tokenmill("eval", "board", "base").out
    nobody = tokenmill("eval", "run", "which", "--tokenizer", lab.tokenizer.digest)
    assert nobody.code == 2 and "give --weights; or --endpoint and --model" in nobody.err


@pytest.mark.skipif(find_spec("reasoning_gym") is None, reason="pip install --no-deps reasoning-gym")
def test_a_generated_benchmark_gets_its_twins_and_is_added_with_them(
    store: ArtifactStore, tmp_path: Path, tokenmill: Callable[..., Said]
) -> None:
    from tokenmill.problems import problems

    folder = tmp_path / "sums"
    folder.mkdir()
    for name, seed in (("test", 1), ("train", 99)):
        rows = problems("basic_arithmetic", 12, seed)
        (folder / f"{name}.jsonl").write_text("".join(orjson.dumps(row).decode() + "\n" for row in rows))
    told = "{name: sums, description: d, language: en, licence: MIT, group: reasoning, inferencer: deltas, "
    told += "template: '{question}', splits: {train: train.jsonl%s}}"
    (folder / "dataset.yaml").write_text(told % "")
    assert "say where twins go" in tokenmill("eval", "twins", str(folder)).err
    (folder / "dataset.yaml").write_text(told % ", reference: twins.jsonl")
    assert "12 twins of 12 tests, 0 rejected" in tokenmill("eval", "twins", str(folder)).out
    assert "is there already" in tokenmill("eval", "twins", str(folder)).err
    added = tokenmill("eval", "add", str(folder))
    assert added.code == 0 and "36 questions" in added.out
