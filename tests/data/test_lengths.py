"""Token lengths: quick counts are the slow ones; where rows are cut, how much is padding, what cannot be learned."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from playground.data.example import Checked, Example, Judged, Message, Passage, Preference
from playground.data.render import ALL, encode, load_tokenizer, render_example
from playground.data.token_counts import WORD_PATTERNS, TokenCounter, separable, token_report
from playground.errors import InputError
from tests.data.conftest import Words, lengths

ODD = (
    *(" ", "  ", "\n", " \n", "\n ", "\t", "a", "Word", "é", "e\u0301", "\u0301", "5", "123", ".", "...", "'s", " 's"),
    *("<|im_end|>", "<|im_start|>", "日本", "한", "\u3000", "\xa0", "\x1c", "\x85", "\u200b", "🙂", "()", "\r\n"),
    *("_", "-", " -", " the", " order"),
)


def odd(count: int) -> list[str]:
    chance = random.Random(3)
    return ["".join(chance.choice(ODD) for _ in range(chance.randint(0, 40))) for _ in range(count)]


def example(row: int, prompt: str, answer: str, system: str = "") -> Example:
    first = (Message("system", system),) if system else ()
    return Example((*first, Message("user", prompt), Message("assistant", answer)), row)


def of(*rows: Any) -> Checked:
    sft = all(isinstance(row, Example) for row in rows)
    objective = "sft" if sft else "text" if isinstance(rows[0], Passage) else "preference"
    return Checked("chat", objective, len(rows), rows if sft else (), others=() if sft else rows)


def test_every_row_has_its_lengths_and_the_limit_tells_where_it_cuts() -> None:
    found = token_report(
        of(example(1, "p p", "a"), example(4, "p " * 20, "a a"), example(9, "p", "a " * 30)), Words(), 12
    )
    assert (list(found.rows), list(found.prompt_lengths), list(found.answer_lengths)) == ([1, 4], [4, 22], [2, 3])
    assert [row.row for row in found.bad] == [9]
    cut = found.cut
    assert [(each.row, each.tokens, each.prompt, each.answer) for each in cut] == [(4, 13, 22, 3)]
    assert found.truncated == 1
    assert found.warnings[0].reason == "cut: the first 13 of 25 tokens do not fit into 12; the answer is kept"


def test_histogram_counts_every_row_once() -> None:
    chance = random.Random(1)
    for rows, bins in ((1, 20), (7, 3), (500, 20), (500, 1)):
        found = lengths(*((chance.randint(1, 90), chance.randint(1, 200)) for _ in range(rows)), limit=400)
        bars = found.histogram(bins)
        assert len(bars) <= bins
        assert sum(count for _, _, count in bars) == rows
        assert (bars[0][0], bars[-1][1]) == (found.min, found.max)
        assert all(low <= high for low, high, _ in bars)
        assert all(before[1] + 1 == after[0] for before, after in itertools.pairwise(bars))
        for low, high, count in bars:
            assert count == sum(low <= length <= high for length in found.lengths)
    tail = lengths(*[(5, number) for number in range(1, 100)], (5, 90_000), limit=100_000).histogram(10)
    assert tail[-1][1] == 90_005
    assert sum(count > 0 for *_, count in tail) > 5  # one giant does not press the others into one bar


def test_padding_is_that_of_the_batches() -> None:
    assert lengths(*[(10, 5)] * 9).padding(4).random == 0
    two = lengths((10, 2), (2, 10)).padding(2)  # both sides are padded: 24 tokens in two rows of 20
    assert (two.random, two.by_length) == (pytest.approx(1 - 24 / 40), pytest.approx(1 - 24 / 40))
    chance = random.Random(2)
    mixed = lengths(*((chance.randint(1, 60), chance.randint(1, 30)) for _ in range(300)))
    padding = mixed.padding(8)
    assert 0 < padding.by_length < padding.random < 1
    assert padding == mixed.padding(8)
    assert lengths((200, 10), (90, 10), limit=100).padding(2).random == 0  # a cut row is as long as the limit
    assert lengths((0, 10), (0, 90), packed=True).padding(2).random == 0


def test_an_answer_that_teaches_nothing_is_bad() -> None:
    found = token_report(of(example(1, "p", "<e>"), example(2, "p", "a"), example(3, "p", " <e>\n<e> ")), Words(), 50)
    assert [row.row for row in found.bad] == [1, 3]
    assert "special tokens" in found.bad[0].reason
    assert found.bad[0].fix == "Write an answer in words, or remove the row."

    class Silent(Words):
        """A template that leaves the assistant's words out."""

        def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> str:
            said = [each | {"content": ""} if each["role"] == "assistant" else each for each in messages]
            return super().apply_chat_template(said, **options)

    with pytest.raises(InputError, match="none of the 1 rows can be used"):
        token_report(of(example(1, "p", "a b c")), Silent(), 50)


def test_progress_ends_at_one() -> None:
    rows = of(*(example(number, "p", "a") for number in range(1, 2000)))
    shares: list[float] = []
    token_report(rows, Words(), 50, on_progress=shares.append)
    assert shares[-1] == 1
    assert shares == sorted(shares)


@pytest.fixture(scope="module")
def tokenizer(real_base: Any) -> Any:
    return load_tokenizer(real_base.path)


@pytest.mark.real
def test_words_add_up_to_the_text(tokenizer: Any) -> None:
    texts = odd(3000)
    counter = TokenCounter(tokenizer, texts[:10])
    assert counter.by_words
    right = [len(encode(tokenizer, text)) for text in texts]
    assert counter.count(texts) == right
    assert counter.count(texts) == right  # now from memory


@pytest.mark.real
@pytest.mark.parametrize("turns", ["last", ALL])
def test_quick_lengths_are_those_of_the_renderer(tokenizer: Any, turns: str) -> None:
    texts = [text if text.strip() else "word" for text in odd(400)]
    rows = [
        example(at, f"Say {text}", text, system="Be brief." if at % 3 == 0 else "") for at, text in enumerate(texts, 1)
    ]
    chat = (Message("user", "a"), Message("assistant", "\nb"), Message("user", "c"), Message("assistant", "d"))
    rows += [Example(chat, 500), example(501, "q", "<|im_end|>"), example(502, "q", "word " * 100)]
    found = token_report(of(*rows), tokenizer, 60, turns)
    counted = {row: (p, a) for row, p, a in zip(found.rows, found.prompt_lengths, found.answer_lengths, strict=True)}
    assert {500} <= set(counted)
    assert {501, 502} <= {bad.row for bad in found.bad}
    for row in rows:
        if row.row not in counted:
            continue
        rendered = render_example(tokenizer, row, 60, turns)
        assert counted[row.row] == (rendered.cut + len(rendered.prompt_ids), len(rendered.completion_ids)), row


@pytest.mark.real
def test_other_objectives_are_counted_like_the_renderer(tokenizer: Any) -> None:
    prompt = (Message("user", "What is it?"),)
    rows = (
        Preference(prompt, "A long and thorough answer.", "No.", 1),
        Preference(prompt, "Yes.", "Much longer than that one.", 2),
    )
    found = token_report(of(*rows), tokenizer, 60)
    for row, p, a in zip(rows, found.prompt_lengths, found.answer_lengths, strict=True):
        both = [
            render_example(tokenizer, Example((*prompt, Message("assistant", said)), 1), 60)
            for said in (row.chosen, row.rejected)
        ]
        assert (p, a) == max((len(each.prompt_ids), len(each.completion_ids)) for each in both)
    assert token_report(of(Judged(prompt, "Yes.", True, 1)), tokenizer, 60).max > 4
    passages = token_report(of(Passage("one two  three", 1), Passage("x " * 500, 2)), tokenizer, 60)
    assert list(passages.answer_lengths) == [
        len(encode(tokenizer, "one two  three")),
        len(encode(tokenizer, "x " * 500)),
    ]
    assert (passages.truncated, passages.cut) == (0, [])


@pytest.mark.real
def test_a_template_that_refuses_one_row_spoils_no_other(tokenizer: Any, real_base: Any) -> None:
    mine = load_tokenizer(real_base.path)
    mine.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + mine.chat_template
    )
    rows = [example(at, f"question {at}", "a", system="s" if at == 7 else "") for at in range(1, 100)]
    found = token_report(of(*rows), mine, 60)
    assert [bad.row for bad in found.bad] == [7]
    assert "no system" in found.bad[0].reason
    plain = load_tokenizer(real_base.path)
    plain.chat_template = None  # a base without a template gets the plain one
    rendered = render_example(plain, rows[0], 60)
    assert token_report(of(rows[0]), plain, 60).max == len(rendered.prompt_ids) + len(rendered.completion_ids)


@pytest.mark.real
@pytest.mark.parametrize("kind", ["gpt2", "llama3", "prefix", "metaspace", "whitespace"])
def test_only_tokenizers_that_cut_before_spaces_are_counted_by_words(kind: str, tmp_path: Path) -> None:
    """Small tokenizers of each make, trained here: by words where that is right, and right all the same where it is
    not."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    own = Tokenizer(models.BPE())
    own.pre_tokenizer = {
        "gpt2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
        "llama3": lambda: pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(WORD_PATTERNS[1]), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
        "prefix": lambda: pre_tokenizers.ByteLevel(add_prefix_space=True),
        "metaspace": lambda: pre_tokenizers.Metaspace(),
        "whitespace": lambda: pre_tokenizers.Split(Regex(r"\n"), "isolated"),
    }[kind]()
    text = ["of the order and the end of the day", "a  b\n c 12 345 it's 's (of the) ", "of the of the of the"] * 20
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    own.train_from_iterator(text, trainer)
    assert separable(own) == (kind in ("gpt2", "llama3"))
    fast = PreTrainedTokenizerFast(tokenizer_object=own)
    texts = odd(500) + text
    assert TokenCounter(fast, text[:3]).count(texts) == [len(encode(fast, each)) for each in texts]
