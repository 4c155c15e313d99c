"""How MLflow loads a model of ours: `mlflow.pyfunc.load_model("models:/internlm2-chat-nano@candidate").predict(…)`.

MLflow holds a pointer. The weights come from the store, verified, and what answers is `tokenmill.model.generation`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tokenmill.errors import InputError
from tokenmill.manifest import Manifest
from tokenmill.model.chat import Message, answer_ids, encode_judged, encode_prompt
from tokenmill.model.folder import load_model, read_config
from tokenmill.model.generation import generate
from tokenmill.model.modeling import InternLM2ForCausalLM, InternLM2ForRewardModel
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.steps.files import materialise, scratch
from tokenmill.store import NotFoundError, open_store
from tokenmill.tracking.logged_model import POINTER

Columns = Mapping[str, Sequence[Any]]
"""What is read of the DataFrame that MLflow makes of every input the signature allows."""


def _load_pyfunc(path: str, model_config: Mapping[str, str]) -> "TextModel | RewardModel":
    """What MLflow calls with the folder of the model's artifacts.

    Args:
        path: holds the pointer and the tokenizer.
        model_config: `store`, where the weights lie, and `form`.
    """
    tokenizer = Tokenizer.load(path)
    with scratch() as workdir:
        weights = _fetch(Path(path) / POINTER, model_config["store"], workdir)
        if (size := read_config(weights).vocab_size) != tokenizer.vocab_size:
            raise InputError(
                f"the model has {size} token ids, its tokenizer {tokenizer.vocab_size}: they do not belong"
            )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if model_config["form"] == "reward":
            return RewardModel(load_model(weights, InternLM2ForRewardModel).to(device).eval(), tokenizer)
        model = load_model(weights).to(device).eval()
        return TextModel(model, tokenizer, chat=model_config["form"] == "chat")


def _fetch(pointer: Path, store_uri: str, workdir: Path) -> Path:
    """The model that a pointer names, verified as stored: weights, or a release."""
    digest = Manifest.from_json(pointer.read_bytes()).digest
    store = open_store(store_uri)
    try:
        return materialise(store, store.get_manifest(digest), workdir)
    except NotFoundError as missing:
        raise InputError(
            f"{missing}. MLflow holds only a pointer to the weights: load it with the store that has them, "
            'model_config={"store": "s3://bucket/prefix"}'
        ) from None


class TextModel:
    """Answers chats, or continues texts."""

    def __init__(self, model: InternLM2ForCausalLM, tokenizer: Tokenizer, *, chat: bool):
        self.model, self.tokenizer, self.chat = model, tokenizer, chat

    def predict(self, data: Columns, params: Mapping[str, Any]) -> list[str]:
        """One answer a row, without the token that ended it.

        Args:
            data: a column `messages` (chats) or `prompt` (texts; to a chat model, what the user says).
            params: the keyword arguments of `generate` that the signature names.
        """
        if self.chat:
            prompts = [encode_prompt(messages, self.tokenizer) for messages in _chats(data)]
        else:
            prompts = [[self.tokenizer.bos_id, *self.tokenizer.encode(text)] for text in data["prompt"]]
        answers = generate(self.model, prompts, stop_ids=self.tokenizer.stop_ids, **params)
        return [self.tokenizer.decode(a.tokens[:-1] if a.finish == "stop" else a.tokens) for a in answers]


class RewardModel:
    """Scores the last answer of conversations."""

    def __init__(self, model: InternLM2ForRewardModel, tokenizer: Tokenizer):
        self.model, self.tokenizer = model, tokenizer

    @torch.no_grad()
    def predict(self, data: Columns, params: Mapping[str, Any] | None = None) -> list[float]:
        """One score a row of `messages`, read at the reward token. A first system message says whose wishes count."""
        return [self._score(messages) for messages in _chats(data)]

    def _score(self, messages: Sequence[Message]) -> float:
        *asked, answer = messages
        if answer["role"] != "assistant":
            raise InputError(f"the last message is the {answer['role']}'s: only an assistant's answer has a score")
        ids = encode_judged(asked, answer_ids(answer["content"], self.tokenizer), self.tokenizer)
        context = self.model.config.max_position_embeddings
        if len(ids) > context:
            raise InputError(f"a conversation has {len(ids)} tokens: the reward model reads {context}")
        read = torch.tensor(ids, device=self.model.v_head.weight.device)
        return float(self.model(read, at=torch.tensor([len(ids) - 1], device=read.device)))


def _chats(data: Columns) -> list[list[Message]]:
    given = [column for column in ("messages", "prompt") if column in data]
    if len(given) != 1:
        raise InputError("give either a column `messages`, lists of role and content, or a column `prompt`, strings")
    for row, value in enumerate(data[given[0]]):
        if not isinstance(value, str) and (value is None or not len(value)):
            raise InputError(f"row {row} has no {given[0]}")
    if given == ["prompt"]:
        return [[{"role": "user", "content": text}] for text in data["prompt"]]
    return [list(messages) for messages in data["messages"]]
