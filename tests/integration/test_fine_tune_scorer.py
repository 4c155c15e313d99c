"""Fine-tuning a BERT to labels. Oracle: labels whose rule is known here; control: the same labels shuffled."""

import json
import random
from itertools import chain

import numpy as np
import pytest
from curation_steps import Steps

from tokenmill.curation.fine_tune_scorer import batches, parameter_groups, schedule
from tokenmill.curation.scorer_config import FineTuneScorerConfig
from tokenmill.errors import InputError

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
WORDS = [
    "boat",
    "bread",
    "clock",
    "cloud",
    "field",
    "harbour",
    "letter",
    "lamp",
    "meadow",
    "river",
    "road",
    "stone",
    "table",
    "tower",
    "winter",
    "wood",
]
LEARNING = {"score": "toxic", "built_in_labels": False, "epochs": 12, "learning_rate": 3e-3, "max_tokens": 32}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A BERT of one layer that has learned nothing, saved as `transformers` saves one, with what a scorer does not need."""
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "wolf"]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(vocab={w: i for i, w in enumerate(words)}).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=32, num_labels=5,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(folder, safe_serialization=True)
    (folder / "training_args.bin").write_bytes(b"\x80\x02.")
    return folder


@pytest.fixture
def steps(tmp_path):
    return Steps(tmp_path / "store")


def labels(steps: Steps, folder, *, shuffled: bool = False):
    """160 texts of ten words: those with a wolf among them are toxic."""
    draw = random.Random(4)
    texts = [draw.choices(WORDS, k=10) for _ in range(160)]
    for words in texts[::2]:
        words[draw.randrange(10)] = "wolf"
    values = ["wolf" in words for words in texts]
    if shuffled:
        draw.shuffle(values)
    rows = [{"text": " ".join(t), "score": "toxic", "label": v} for t, v in zip(texts, values, strict=True)]
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return steps("import_labels", files=steps.sources(folder / "labels.jsonl"))


def test_what_the_labels_say_is_learned_and_shuffled_labels_teach_nothing(steps, bert, tmp_path):
    checkpoint = steps.sources(bert)
    scorer = steps("fine_tune_scorer", LEARNING, checkpoint=checkpoint, labels=labels(steps, tmp_path))
    assert scorer.facts["heldout"]["all"] == {"labels": 32, "accuracy": 1.0, "auc": 1.0}
    assert scorer.facts["trained_on"] == 128 and scorer.counts["labels"] == 160
    control = steps("fine_tune_scorer", LEARNING, checkpoint=checkpoint, labels=labels(steps, tmp_path, shuffled=True))
    assert control.facts["heldout"]["all"]["auc"] < 0.75

    names = {shard.name for shard in scorer.shards}
    assert {"scorer.json", "config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not [name for name in names if name.endswith(".bin")]
    corpus = steps.corpus(tmp_path, [{"text": text} for text in ("the wolf crossed the road", "a boat on the river")])
    scores = [r["scores"]["toxic"] for r in steps.records(steps("score", corpus=corpus, scorers=[scorer]))]
    assert scores[0] > 0.9 and scores[1] < 0.1
    assert steps("screen", corpus=steps("score", corpus=corpus, scorers=[scorer])).dropped == {"toxic": 1}


def test_the_same_labels_give_the_same_weights_and_another_seed_others(tmp_path, bert):
    found = []
    for number, seed in enumerate((1, 1, 2)):
        steps = Steps(tmp_path / f"store{number}")
        config = LEARNING | {"epochs": 1, "seed": seed}
        made = steps("fine_tune_scorer", config, checkpoint=steps.sources(bert), labels=labels(steps, tmp_path))
        found.append(made.shard("model.safetensors").content)
    assert found[0] == found[1] != found[2]


def test_another_micro_batch_draws_another_dropout_so_it_is_another_action(steps, bert, tmp_path):
    made = []
    for micro_batch in (16, 4):
        config = LEARNING | {"epochs": 1, "micro_batch": micro_batch}
        scorer = steps("fine_tune_scorer", config, checkpoint=steps.sources(bert), labels=labels(steps, tmp_path))
        made.append(scorer.shard("model.safetensors").content)
    assert made[0] != made[1]


def test_biases_and_layer_norms_do_not_decay(bert):
    """Without a gradient AdamW does nothing but decay: what stays where it was does not decay."""
    model = transformers.BertForSequenceClassification.from_pretrained(bert)
    names = [name for name, _ in model.named_parameters()]
    for parameter in model.parameters():
        torch.nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    torch.optim.AdamW(parameter_groups(model, 0.5), lr=0.1).step()
    stayed = {name for name, p in model.named_parameters() if (p == 1).all()}
    assert stayed == {name for name in names if name.endswith(".bias") or "LayerNorm" in name} and len(stayed) > 10
    decayed = torch.cat([p.flatten() for name, p in model.named_parameters() if name not in stayed])
    assert torch.allclose(decayed, torch.full_like(decayed, 1 - 0.1 * 0.5))


def test_labels_of_one_kind_and_a_folder_without_a_model_are_one_clear_line(steps, bert, tmp_path):
    (tmp_path / "labels.jsonl").write_text(json.dumps({"text": "a boat", "score": "toxic", "label": True}))
    one = steps("import_labels", files=steps.sources(tmp_path / "labels.jsonl"))
    with pytest.raises(InputError, match=r"curation\.fine_tune_scorer: .* labels of 'toxic' are not of both kinds"):
        steps("fine_tune_scorer", LEARNING, checkpoint=steps.sources(bert), labels=one)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"needs config\.json and \*\.safetensors"):
        steps(
            "fine_tune_scorer", LEARNING, checkpoint=steps.sources(tmp_path / "folder"), labels=labels(steps, tmp_path)
        )


def test_the_rate_rises_then_falls_to_nothing_and_every_epoch_has_every_label_once():
    rates = [schedule(n, 100, 0.1) for n in range(100)]
    assert np.argmax(rates) in (9, 10) and max(rates) == pytest.approx(1, abs=0.02) and 0 < rates[-1] < 0.02
    assert np.all(np.diff(rates[:10]) > 0) and np.all(np.diff(rates[10:]) < 0)
    assert schedule(0, 1, 0.0) == 1
    drawn = list(batches(FineTuneScorerConfig(epochs=2, batch=4), 10))
    assert [len(batch) for batch in drawn] == [4, 4, 2] * 2
    first, second = (list(chain(*epoch)) for epoch in (drawn[:3], drawn[3:]))
    assert sorted(first) == sorted(second) == list(range(10)) and first != second
