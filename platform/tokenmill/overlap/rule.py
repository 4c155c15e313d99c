"""What counts as a copy."""

from pydantic import Field

from tokenmill.config import Section, StepConfig


class OverlapRule(Section):
    """What counts as a copy. Nothing shorter than three words, which a shard's sketch is made of (`sketch`), can be one."""

    ngram_words: int = Field(
        13, ge=3, description="consecutive words that count as a copy (13-grams, as GPT-3's and Llama's)"
    )
    ngram_characters: int = Field(30, ge=5, description="consecutive characters that count as a copy, in Chinese")
    min_words: int = Field(5, ge=3, description="shorter questions are common speech and cannot be called copied")
    max_sharing: int = Field(
        2, ge=1, description="an n-gram that more questions share is their template, and nobody's copy"
    )

    def weaknesses(self, other: "OverlapRule") -> list[str]:
        """The fields in which `other` calls fewer things a copy than this rule does."""
        larger_is_weaker = ("ngram_words", "ngram_characters", "min_words")
        found = [name for name in larger_is_weaker if getattr(other, name) > getattr(self, name)]
        return found + (["max_sharing"] if other.max_sharing < self.max_sharing else [])


class OverlapConfig(OverlapRule, StepConfig):
    """The rule as a step's options."""
