"""One row, token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from playground.data.example import Example, Judged, Message, Passage, Preference
from playground.data.render import ALL
from playground.data.seen import CUT, LEARNED, READ, seen
from playground.data.tokenizer import load_tokenizer

ASKED = (Message("user", "Wie groß? 你好 😀"),)


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Any:
    return load_tokenizer(tiny_base)


def test_the_tokens_write_the_whole_text(tokenizer: Any) -> None:
    (one,) = seen(tokenizer, Example((*ASKED, Message("assistant", "Sehr groß 😀.")), 1), 2048)
    text = "".join(token.text for token in one.tokens)
    assert text.endswith("assistant\nSehr groß 😀.<|im_end|>")
    assert "".join(token.text for token in one.tokens if token.kind == LEARNED) == "Sehr groß 😀.<|im_end|>"
    assert "你好 😀" in text


def test_a_chat_alternates_and_a_cut_is_shown(tokenizer: Any) -> None:
    chat = Example((*ASKED, Message("assistant", "One."), Message("user", "And?"), Message("assistant", "Two.")), 1)
    (whole,) = seen(tokenizer, chat, 2048, ALL)
    kinds = [token.kind for place, token in enumerate(whole.tokens) if not place or whole.tokens[place - 1].kind != token.kind]
    assert kinds == [READ, LEARNED, READ, LEARNED]
    (cut,) = seen(tokenizer, chat, len(whole.tokens) - 5, ALL)
    assert cut.count(CUT) == 5
    assert [token.text for token in cut.tokens] == [token.text for token in whole.tokens]


def test_other_rows(tokenizer: Any) -> None:
    better, worse = seen(tokenizer, Preference(ASKED, "Yes.", "No.", 1), 2048)
    assert (better.title, worse.title) == ("The better answer", "The worse answer")
    (judged,) = seen(tokenizer, Judged(ASKED, "Yes.", False, 1), 2048)
    assert judged.title == "A bad answer"
    (text,) = seen(tokenizer, Passage("Some words.", 1), 2048)
    assert {token.kind for token in text.tokens} == {LEARNED}
