"""Dialogues between people, as conversations: the files of the Chit-Chat Challenge (`chitchat-dataset`, MIT).

One JSON object: conversation id → {"messages": [[{"text", …}, …], …]}; an inner list is one speaker's bubbles in a row.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tokenmill.records import Record

_PRIVATE = re.compile(r"https?:|www\.|@|\d{5,}")
"""Addresses, links and long numbers: what could lead to a person."""
_ENDLESS = re.compile(r"(\S{1,4}?)\1{3,}")
"""`hahahaha`, `!!!!!`: a small model that learns it goes on for ever."""


def is_dialogue_file(content: Any) -> bool:
    """Whether a JSON document has that shape."""
    first = next(iter(content.values()), None) if isinstance(content, dict) else None
    return isinstance(first, dict) and isinstance(first.get("messages"), list)


def conversations(content: Mapping[str, Any], max_turns: int, max_characters: int) -> Iterator[Record]:
    """The opening of every dialogue: an even number of turns, the first speaker as user, the second as assistant.

    A dialogue ends before a turn that is empty, too long, holds an address or says one thing over and over; without a
    first exchange it yields nothing.
    """
    for key in sorted(content):
        turns, room = [], max_characters
        for bubbles in content[key]["messages"][: max_turns // 2 * 2]:
            text = " ".join(" ".join(bubble.get("text", "").split()) for bubble in bubbles).strip()
            room -= len(text)
            if len(text) < 2 or room < 0 or _PRIVATE.search(text) or _ENDLESS.search(text):
                break
            turns.append(text)
        turns = turns[: len(turns) // 2 * 2]
        if turns:
            yield {"id": key, "messages": [_message(index, text) for index, text in enumerate(turns)]}


def _message(index: int, text: str) -> dict[str, str]:
    return {"role": "assistant" if index % 2 else "user", "content": text}
