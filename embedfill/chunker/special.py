"""Special tokens of a model that stand in a text as words, such as `<|endoftext|>`: finds them and takes them out.

Left as they are they do no harm: the tokenizers here, and embeddings endpoints, read them as ordinary text.
"""

import functools
import re

from embedfill.models import tokenizers


class SpecialWords:
    """The words of one tokenizer, by its name."""

    def __init__(self, tokenizer: str) -> None:
        self.words = tokenizers.special_words(tokenizer)
        self._pattern = re.compile("|".join(map(re.escape, sorted(self.words, key=len, reverse=True))) or "(?!)")

    def find(self, text: str) -> str | None:
        """A special word that the text holds, if it holds one."""
        return next((word for word in self.words if word in text), None)

    def without(self, text: str) -> str:
        """The text without any; also without those that only come about when others are taken out."""
        while self.find(text) is not None:
            text = self._pattern.sub("", text)
        return text


@functools.cache
def special_words(tokenizer: str) -> SpecialWords:
    return SpecialWords(tokenizer)
