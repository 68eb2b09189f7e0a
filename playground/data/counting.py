"""How many tokens each of many texts is, in a fraction of the time that the tokenizer takes for one after the other.

A byte-level BPE tokenizer never joins two words: it cuts its text before every single space that stands between two characters
which are not space, and what comes before and after is encoded by itself. So a text's tokens are the sum of its words' tokens, and a
word that was seen before need not be encoded again. That holds for the tokenizers told by ``separable`` only, and is tried on real
texts first; every other tokenizer encodes whole texts in batches.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from playground.data.render import encode

_BETWEEN_WORDS = re.compile(r"(?<=\S)(?= \S)")
_SPLITS = tuple(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    + digits
    + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in ("", "{1,3}")
)
"""Qwen's and Llama 3's way to cut text into words. ByteLevel's own is GPT-2's."""
_LONGEST_WORD = 40  # characters of a word that is remembered
_MOST_WORDS = 200_000  # about 25 MB
_BATCH = 2_000_000  # characters encoded at once: about 100 MB while it lasts


def separable(backend: Any) -> bool:
    """Whether a ``tokenizers.Tokenizer`` encodes each word by itself, whatever stands around it.

    1. BPE without dropout, on text as it is or in NFC; 2. cut into words in a way known to end before a single space; 3. no added
    token that holds a space or takes one from its surroundings.
    """
    rules = json.loads(backend.to_str())
    model, normalizer = rules["model"], rules["normalizer"]
    if model["type"] != "BPE" or model.get("dropout") or (normalizer and normalizer["type"] != "NFC"):  # 1
        return False
    steps = _steps(rules["pre_tokenizer"])
    if not all(_known(step) for step in steps) or not any(_cuts_words(step) for step in steps):  # 2
        return False
    taken = ("lstrip", "rstrip", "single_word")
    return not any(re.search(r"\s", token["content"]) or any(token[key] for key in taken) for token in rules["added_tokens"])  # 3


class TokenCounter:
    """Counts by words where ``sample`` shows that they add up, else by whole texts. One thread at a time."""

    def __init__(self, tokenizer: Any, sample: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._words: dict[str, int] = {}
        self.batched = bool(getattr(tokenizer, "is_fast", False)) and hasattr(tokenizer, "backend_tokenizer")
        self.by_words = self.batched and separable(tokenizer.backend_tokenizer)
        if self.batched:
            right = [len(encode(tokenizer, text)) for text in sample]
            self.by_words = self.by_words and self.count(sample) == right
            self.batched = self.by_words or self.count(sample) == right

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, as ``len(encode(tokenizer, text))``."""
        if not self.batched:
            return [len(encode(self._tokenizer, text)) for text in texts]
        if not self.by_words:
            return self._whole(texts)
        lines = [_BETWEEN_WORDS.split(text) for text in texts]
        known = self._words
        new = list({word for line in lines for word in line if word not in known})
        known.update(zip(new, self._whole(new), strict=True))
        counts = [sum(map(known.__getitem__, line)) for line in lines]
        full = len(known) > _MOST_WORDS
        for word in new:
            if full or len(word) > _LONGEST_WORD:
                del known[word]
        return counts

    def _whole(self, texts: Sequence[str]) -> list[int]:
        backend = self._tokenizer.backend_tokenizer
        plain = backend.truncation is None and backend.padding is None
        found: list[int] = []
        for batch in _batches(texts):
            if plain:
                found += map(len, backend.encode_batch_fast(batch, add_special_tokens=False))
            else:
                found += map(len, self._tokenizer(batch, add_special_tokens=False, return_attention_mask=False)["input_ids"])
        return found


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _steps(cutter: Any) -> list[Any]:
    if not cutter:
        return []
    return list(cutter["pretokenizers"]) if cutter["type"] == "Sequence" else [cutter]


def _known(step: Any) -> bool:
    if step["type"] == "ByteLevel":
        return not step["add_prefix_space"]
    return step["type"] == "Digits" or _cuts_words(step)


def _cuts_words(step: Any) -> bool:
    if step["type"] == "Split":
        return step["pattern"].get("Regex") in _SPLITS and step["behavior"] == "Isolated" and not step["invert"]
    return step["type"] == "ByteLevel" and bool(step.get("use_regex", True))
