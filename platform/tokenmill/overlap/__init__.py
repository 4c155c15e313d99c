"""Which questions stand in a body of text: word for word, or reworded.

A text is units (`units`): words and the signs of arithmetic, in Chinese characters. `index` looks for runs of them that a
question shares with a text, `near` for passages that say most of a question in its own words, `shards` remembers what a
shard of text holds at all, so that it is read again only for questions that it may hold.
"""

from tokenmill.overlap.asked import Asked, answer_texts, count_by_suite, is_test, question_text, training_text
from tokenmill.overlap.index import OverlapIndex
from tokenmill.overlap.rule import OverlapConfig, OverlapRule

__all__ = [
    "Asked",
    "OverlapConfig",
    "OverlapIndex",
    "OverlapRule",
    "answer_texts",
    "count_by_suite",
    "is_test",
    "question_text",
    "training_text",
]
