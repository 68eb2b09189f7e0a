"""Messages -> the text and tokens that a model is given, and which of them it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from playground.data.example import Example, Message
from playground.data.render import ALL, LAST, encode, load_tokenizer, render_example
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
    whole = tokenizer.apply_chat_template([turn.as_dict() for turn in CHAT.messages], tokenize=False).rstrip("\n")
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
