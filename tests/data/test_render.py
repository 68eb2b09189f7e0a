"""Messages -> the text and tokens that a model is given, which of them it learns, and raw text in packed rows."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from playground.data.example import Example, Judged, Message, Passage, Preference
from playground.data.render import (
    ALL,
    CUT,
    LAST,
    LEARNED,
    READ,
    encode,
    load_tokenizer,
    pack,
    preview_tokens,
    render_example,
)
from playground.errors import InputError


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Any:
    """The default base's own."""
    return load_tokenizer(tiny_base)


def chat(*contents: str, row: int = 3) -> Example:
    roles = ("user", "assistant")
    return Example(tuple(Message(roles[place % 2], text) for place, text in enumerate(contents)), row)


CHAT = chat("What is it?", "A report.", "Who wrote it?", "Doctor Sharma did.", "When?", "On Monday.")


def learned(tokenizer: Any, row: Any) -> list[str]:
    """The texts that count for the loss, in turn."""
    spans, at = [], 0
    for begin, end in (*row.read, (len(row.completion_ids),) * 2):
        spans.append(tokenizer.decode(row.completion_ids[at:begin]))
        at = end
    return spans


def test_every_answer_is_learned_and_nothing_else(tokenizer: Any) -> None:
    row = render_example(tokenizer, CHAT, 2048, ALL)
    assert learned(tokenizer, row) == ["A report.<|im_end|>", "Doctor Sharma did.<|im_end|>", "On Monday.<|im_end|>"]
    whole = tokenizer.apply_chat_template([asdict(turn) for turn in CHAT.messages], tokenize=False).rstrip("\n")
    assert row.prompt_text + row.completion_text == whole
    assert row.prompt_ids + row.completion_ids == encode(tokenizer, whole), (
        "the same tokens as the whole text in one piece"
    )
    assert row.learned == sum(len(encode(tokenizer, text)) for text in learned(tokenizer, row))


def test_the_last_answer_alone_and_one_answer_either_way(tokenizer: Any) -> None:
    row = render_example(tokenizer, CHAT, 2048, LAST)
    assert learned(tokenizer, row) == ["On Monday.<|im_end|>"]
    assert row.read == ()
    both = render_example(tokenizer, CHAT, 2048, ALL)
    assert row.prompt_ids + row.completion_ids == both.prompt_ids + both.completion_ids
    one = chat("Hello", "Good day.")
    assert render_example(tokenizer, one, 2048, ALL) == render_example(tokenizer, one, 2048, LAST)


def test_a_cut_takes_the_start_and_learns_whole_answers_only(tokenizer: Any) -> None:
    whole = render_example(tokenizer, CHAT, 2048, ALL)
    ids, answers = whole.prompt_ids + whole.completion_ids, learned(tokenizer, whole)
    for limit in range(16, 90):
        row = render_example(tokenizer, CHAT, limit, ALL)
        assert row.prompt_ids + row.completion_ids == ids[-limit:], limit
        assert row.cut == max(0, len(ids) - limit), limit
        kept = learned(tokenizer, row)
        assert kept == answers[-len(kept) :], limit
        assert row.prompt_ids, f"there is something to tell the first token from at {limit}"


def test_an_answer_that_does_not_fit_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InputError, match="Row 3: the answer alone is 4 tokens, the limit is 4"):
        render_example(tokenizer, CHAT, 4, ALL)


class Forgetful:
    """A thinking model's template: what was thought is shown for the last turn only."""

    chat_template = "its own"
    eos_token = "<e>"

    def apply_chat_template(self, messages: list[dict[str, str]], *, add_generation_prompt: bool, **kwargs: Any) -> str:
        shown = [f"{turn['role']}: {turn['content']}" for turn in messages]
        if messages[-1]["role"] == "assistant":
            shown[-1] = f"assistant: <think></think>{messages[-1]['content']}<e>"
        return "\n".join(shown) + ("\nassistant: " if add_generation_prompt else "")

    def __call__(self, text: str, **kwargs: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(char) for char in text]}


def test_a_template_that_rewrites_earlier_turns_learns_the_last() -> None:
    row = render_example(Forgetful(), CHAT, 2048, ALL)
    assert row.read == ()
    assert row.completion_text == "<think></think>On Monday.<e>"


class Mute(Forgetful):
    def apply_chat_template(self, messages: list[dict[str, str]], *, add_generation_prompt: bool, **kwargs: Any) -> str:
        return "".join(turn["content"] for turn in messages if turn["role"] == "user")


def test_a_template_that_shows_no_answer_is_refused() -> None:
    with pytest.raises(InputError, match="leaves nothing of the answer to learn"):
        render_example(Mute(), CHAT, 2048)


ASKED = (Message("user", "Wie groß? 你好 😀"),)


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


class Letters:
    """A token a letter; 0 is the end."""

    eos_token_id = 0

    def __call__(self, text: str, **kwargs: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(char) for char in text]}


def passages(*texts: str) -> list[Passage]:
    return [Passage(text, row) for row, text in enumerate(texts, 1)]


def documents(rows: Any) -> list[str]:
    found = []
    for row in rows:
        for begin, end in zip(row.starts, (*row.starts[1:], len(row.ids)), strict=True):
            found.append("".join(chr(token) if token else "." for token in row.ids[begin:end]))
    return found


def test_every_token_once_and_documents_apart() -> None:
    rows = pack(Letters(), passages("abc", "de", "fghijklmnop", "q"), 8)
    assert sorted(documents(rows)) == sorted(["abc.", "de.", "fghijklm", "nop.", "q."])
    assert all(len(row.ids) <= 8 for row in rows)
    assert len(rows) == 3, "short ones share a row"
    assert all(row.starts[0] == 0 for row in rows)


def test_the_order_is_kept_as_far_as_rows_fill() -> None:
    rows = pack(Letters(), passages(*("x" * 3,) * 10), 8)
    assert [len(row.ids) for row in rows] == [8, 8, 8, 8, 8]


def test_a_lone_token_is_left_out() -> None:
    assert documents(pack(Letters(), passages("abcdefgh"), 8)) == ["abcdefgh"]


def test_too_short() -> None:
    with pytest.raises(InputError, match="at least 2"):
        pack(Letters(), passages("a"), 1)
