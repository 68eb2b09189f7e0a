"""One row, token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from playground.data.example import Example, Judged, Message, Passage, Preference
from playground.data.render import ALL, CUT, LEARNED, READ, load_tokenizer, preview_tokens

ASKED = (Message("user", "Wie groß? 你好 😀"),)


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Any:
    return load_tokenizer(tiny_base)


def test_the_tokens_write_the_whole_text(tokenizer: Any) -> None:
    (one,) = preview_tokens(tokenizer, Example((*ASKED, Message("assistant", "Sehr groß 😀.")), 1), 2048)
    text = "".join(token.text for token in one.tokens)
    assert text.endswith("assistant\nSehr groß 😀.<|im_end|>")
    assert "".join(token.text for token in one.tokens if token.kind == LEARNED) == "Sehr groß 😀.<|im_end|>"
    assert "你好 😀" in text


def test_a_chat_alternates_and_a_cut_is_shown(tokenizer: Any) -> None:
    chat = Example((*ASKED, Message("assistant", "One."), Message("user", "And?"), Message("assistant", "Two.")), 1)
    (whole,) = preview_tokens(tokenizer, chat, 2048, ALL)
    kinds = [
        token.kind
        for place, token in enumerate(whole.tokens)
        if not place or whole.tokens[place - 1].kind != token.kind
    ]
    assert kinds == [READ, LEARNED, READ, LEARNED]
    (cut,) = preview_tokens(tokenizer, chat, len(whole.tokens) - 5, ALL)
    assert cut.count(CUT) == 5
    assert [token.text for token in cut.tokens] == [token.text for token in whole.tokens]


def test_other_rows(tokenizer: Any) -> None:
    better, worse = preview_tokens(tokenizer, Preference(ASKED, "Yes.", "No.", 1), 2048)
    assert (better.title, worse.title) == ("The better answer", "The worse answer")
    (judged,) = preview_tokens(tokenizer, Judged(ASKED, "Yes.", False, 1), 2048)
    assert judged.title == "A bad answer"
    (text,) = preview_tokens(tokenizer, Passage("Some words.", 1), 2048)
    assert {token.kind for token in text.tokens} == {LEARNED}
