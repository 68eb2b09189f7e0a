"""Messages -> the text and tokens a model is given, which it learns, and how many; raw text in packed rows."""

import copy
import itertools
import json
import random
from dataclasses import asdict, replace
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import pytest

from playground.data import render
from playground.data.check import check_file
from playground.data.editing import good_rows_jsonl
from playground.data.example import CHANNELS, Example, Judged, Message, Passage, Preference, answer_turn, parted
from playground.data.token_counts import CUT, LEARNED, READ, preview_tokens, token_report
from playground.errors import InputError
from tests.data.conftest import Words, chat, jsonl, lengths, put, usable
from tests.refused import refused

CHAT = chat("What is it?", "A report.", "Who wrote it?", "Doctor Sharma did.", "When?", "On Monday.", row=3)


def learned(tokenizer, row):
    """The texts that count for the loss, in turn."""
    begins = (0, *(end for _, end in row.read))
    ends = (*(begin for begin, _ in row.read), len(row.completion_ids))
    return [tokenizer.decode(row.completion_ids[begin:end]) for begin, end in zip(begins, ends, strict=True)]


def test_every_answer_is_learned_and_nothing_else_or_the_last_alone(tokenizer):
    row = render.render_example(tokenizer, CHAT, 2048, render.ALL)
    assert learned(tokenizer, row) == ["A report.<|im_end|>", "Doctor Sharma did.<|im_end|>", "On Monday.<|im_end|>"]
    whole = tokenizer.apply_chat_template([asdict(turn) for turn in CHAT.messages], tokenize=False).rstrip("\n")
    assert row.prompt_text + row.completion_text == whole
    assert row.prompt_ids + row.completion_ids == render.encode(tokenizer, whole)
    assert row.learned == sum(len(render.encode(tokenizer, text)) for text in learned(tokenizer, row))
    row = render.render_example(tokenizer, CHAT, 2048, render.LAST)
    assert (learned(tokenizer, row), row.read) == (["On Monday.<|im_end|>"], ())
    both = render.render_example(tokenizer, CHAT, 2048, render.ALL)
    assert row.prompt_ids + row.completion_ids == both.prompt_ids + both.completion_ids
    one = chat("Hello", "Good day.")
    every, last = (render.render_example(tokenizer, one, 2048, turns) for turns in (render.ALL, render.LAST))
    assert every == last


def test_a_cut_takes_the_start_and_learns_whole_answers_only(tokenizer):
    whole = render.render_example(tokenizer, CHAT, 2048, render.ALL)
    ids, answers = whole.prompt_ids + whole.completion_ids, learned(tokenizer, whole)
    for limit in range(16, 90):
        row = render.render_example(tokenizer, CHAT, limit, render.ALL)
        assert row.prompt_ids + row.completion_ids == ids[-limit:], limit
        assert row.cut == max(0, len(ids) - limit), limit
        kept = learned(tokenizer, row)
        assert kept == answers[-len(kept) :], limit
        assert row.prompt_ids, f"there is something to tell the first token from at {limit}"
    with pytest.raises(InputError, match="Row 3: the answer alone is 6 tokens, the limit is 4"):
        render.render_example(tokenizer, CHAT, 4, render.ALL)


class Letters:
    """A token a letter; 0 is the end."""

    eos_token_id = 0

    def __call__(self, text, **kwargs):
        return {"input_ids": [ord(char) for char in text]}


class Forgetful(Letters):
    """A thinking model's template: what was thought is shown for the last turn only."""

    chat_template = "its own"
    eos_token = "<e>"

    def apply_chat_template(self, messages, *, add_generation_prompt, **kwargs):
        shown = [f"{turn['role']}: {turn['content']}" for turn in messages]
        if messages[-1]["role"] == "assistant":
            shown[-1] = f"assistant: <think></think>{messages[-1]['content']}<e>"
        return "\n".join(shown) + ("\nassistant: " if add_generation_prompt else "")


class Mute(Forgetful):
    def apply_chat_template(self, messages, **kwargs):
        return "".join(turn["content"] for turn in messages if turn["role"] == "user")


def test_a_template_that_rewrites_earlier_turns_learns_the_last_and_one_that_shows_none_is_refused():
    row = render.render_example(Forgetful(), CHAT, 2048, render.ALL)
    assert (row.read, row.completion_text) == ((), "On Monday.<e>"), "without the empty thought"
    refused("leaves nothing of the answer to learn", render.render_example, Mute(), CHAT, 2048)


CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
CHATML += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
CALLS_SMOLLM3 = "{% if xml_tools %}<tools>{{ xml_tools | string }}</tools> as <tool_call>…</tool_call>{% endif %}"
CALLS_SMOLLM3 += CHATML
"""Templates that behave as those of these families do; the others are the families' own, as TRL ships them."""
OWN = {
    "smollm3-tools": CALLS_SMOLLM3.replace("m.role }}", "'user' if m.role == 'tool' else m.role }}"),
    "none": CHATML.replace("<|im_end|>", ""),
    "mistral": CHATML.replace("<|im_end|>\n", "{{ eos_token }}"),
}
EMPTY, CLOSED, TWO = ("<think>\n\n</think>\n", "<think></think>", "<think>\n\n</think>\n\n")
ALOUD = "<think>\nHm.\n</think>\n\n"
FAMILIES = {
    "none": ("<|endoftext|>", "<|endoftext|>", "", "", ALOUD),
    "mistral": ("</s>", "</s>", "", "", ALOUD),
    "qwen2_5": ("<|endoftext|>", "<|im_end|>", "", "", ALOUD),
    "phi3": ("<|endoftext|>", "<|end|>", "", "", ALOUD),
    "llama3": ("<|end_of_text|>", "<|eot_id|>", "", "", ALOUD),
    "gemma": ("<eos>", "<end_of_turn>", "", "", ALOUD),
    "gemma3": ("<eos>", "<end_of_turn>", "", "", ALOUD),
    "smollm3": ("<|im_end|>", "<|im_end|>", "", EMPTY, ALOUD),
    "qwen3": ("<|endoftext|>", "<|im_end|>", "", TWO, ALOUD),
    "qwen3_6": ("<|im_end|>", "<|im_end|>", "<think>\n", TWO, "Hm.\n</think>\n\n"),
    "deepseek_r1_distill": ("<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<think>\n", TWO, "Hm.\n</think>\n\n"),
    "nemotron_3_nano": ("<|im_end|>", "<|im_end|>", "<think>\n", CLOSED, "Hm.\n</think>\n"),
    "gptoss": ("<|endoftext|>", "<|return|>", "", "", f"{CHANNELS.begin}Hm.{CHANNELS.end}"),
    "gemma4_v5": ("<eos>", "<turn|>", "", "", "<|channel>thought\nHm.\n<channel|>"),
}
"""Family -> its end token, what closes an answer, what a prompt ends with where thinking is on and where it is off, and
what is learned of a thought before an answer."""
SWITCHED = {"smollm3", "qwen3", "qwen3_6", "nemotron_3_nano", "gemma4_v5"}
TAGS = ("<think>", "</think>", "<|channel>", "<channel|>")
MARKS = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>"]


def of_family(tokenizer, family):
    own, shipped = Path(__file__).parent, Path(next(iter(find_spec("trl").submodule_search_locations)))
    files = [folder / "chat_templates" / f"{family}.jinja" for folder in (own, shipped)]
    mine = copy.deepcopy(tokenizer)
    text = OWN.get(family) or next(file.read_text(encoding="utf-8") for file in files if file.is_file())
    mine.chat_template = text
    end, closing, *_ = FAMILIES.get(family, ("<|end|>", "<|end|>"))
    mine.add_tokens([] if family == "gptoss" else list(TAGS))
    marks = MARKS * (family == "gptoss")
    mine.add_special_tokens({"additional_special_tokens": [closing, *marks], "eos_token": end})
    return mine


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_learned_is_what_is_asked_for_later(tokenizer, family):
    mine, (_, end, on, off, thought) = of_family(tokenizer, family), FAMILIES[family]
    asked = chat("Who?", "Doctor Sharma.", system="Be brief.")
    row = render.render_example(mine, asked, 2048)
    said = "<|channel|>final<|message|>" * (family == "gptoss") + f"Doctor Sharma.{end}"
    assert row.completion_text == said, "no empty thought"
    assert row.completion_ids[-1] in render.end_ids(mine)
    assert "Be brief." in row.prompt_text
    assert row.prompt_text == render.render_prompt(mine, asked.prompt, think=False)
    assert render.takes_system_turn(mine) == (family != "gemma")
    assert list(token_report(usable(asked), mine, 60).answer_lengths) == [len(row.completion_ids)]
    assert render.render_example(mine, asked, 2048, render.ALL) == row
    last = answer_turn("<think>Hm.</think>Doctor Sharma.")
    aloud = render.render_example(mine, Example((*asked.prompt, last), 1), 2048)
    assert aloud.prompt_text == render.render_prompt(mine, asked.prompt, think=True)
    assert aloud.completion_text == f"{thought}Doctor Sharma.{end}"
    history = (*asked.prompt, last, Message("user", "And?"))
    prompts = [render.render_prompt(mine, history, think) for think in (True, False)]
    assert not any("Hm." in prompt for prompt in prompts), "nothing of what was thought before earlier answers"
    assert all(prompt.endswith(ending) for prompt, ending in zip(prompts, (on, off), strict=True))
    found = render.thinking(mine)
    assert (bool(found.switch), found.opens) == (family in SWITCHED, bool(on))
    assert [found.comes_first(*asked) for asked in zip(prompts, (True, False), strict=True)] == [True, False]


TAGGED = '<tool_call>\n{"name": "look", "arguments": {"word": "pi"}}\n</tool_call>'
LOOK = [{"type": "function", "function": {"name": "look", "description": "Looks up.", "parameters": {}}}]
CALLED = Example(
    (
        *(Message("tools", json.dumps(LOOK)), Message("system", "Be brief."), Message("user", "Pi?")),
        *(Message("assistant", TAGGED), Message("tool", "3.14"), Message("assistant", "It is 3.14.")),
    ),
    1,
)
WRITTEN = {
    **dict.fromkeys(("qwen2_5", "qwen3"), (TAGGED, "<|im_end|>")),
    "llama3_1": ('{"name": "look", "parameters": {"word": "pi"}}', "<|eot_id|>"),
    "gemma4_v5": ('<|tool_call>call:look{word:<|"|>pi<|"|>}<tool_call|>', "<turn|>"),
    "mistral-tools": ('[TOOL_CALLS] [{"name": "look", "arguments": {"word": "pi"}}]', "<|end|>"),
    "smollm3-tools": (TAGGED, "<|im_end|>"),
}
"""Family -> how its template writes a call, and what closes an answer."""


@pytest.mark.parametrize("family", WRITTEN)
def test_calls_are_learned_as_the_template_writes_them_and_their_results_are_read(tokenizer, family):
    mine, (call, end) = of_family(tokenizer, family), WRITTEN[family]
    mine.add_special_tokens({"eos_token": end})
    shown = preview_tokens(mine, CALLED, 2048, render.ALL)
    learned = ["".join(token.text for token in one.tokens if token.kind == LEARNED) for one in shown]
    assert "".join(learned).startswith(call)
    assert "".join(learned).endswith(f"It is 3.14.{end}")
    assert "3.14" not in "".join(learned).replace("It is 3.14.", ""), "the result is read, not learned"
    read = "".join(token.text for one in shown for token in one.tokens if token.kind == READ)
    assert all(text in read for text in ("Looks up.", "Be brief.", "Pi?", "3.14"))
    assert render.learned_turns(mine, CALLED) == [False, False, False, True, False, True]
    first = render.render_example(mine, Example(CALLED.messages[:4], 1), 2048)
    assert first.prompt_text == render.render_prompt(mine, CALLED.messages[:3], think=False)
    assert first.completion_text.startswith(call)
    assert list(token_report(usable(CALLED), mine, 2048).rows) == [1]
    said = Example((*CALLED.messages[:3], Message("assistant", f"I look.\n{TAGGED}")), 1)
    silent = [warning.reason for warning in token_report(usable(said), mine, 2048).warnings]
    assert len(silent) == (family in ("llama3_1", "mistral-tools"))


@pytest.mark.parametrize("family", ["none", "phi3", "llama3", "gemma3"])
def test_a_base_whose_template_has_no_tools_refuses_chats_with_them(tokenizer, family):
    mine, two = of_family(tokenizer, family), replace(CALLED, row=2)
    words = "none of the 2 rows can be used: the base's chat template leaves out tools(,| and) calls"
    refused(words, token_report, usable(CALLED, two), mine, 2048)
    refused("Choose a base that has tools .Qwen2.5, ", render.render_prompt, mine, CALLED.prompt)


@pytest.mark.parametrize(
    ("text", "opened", "parts"),
    [
        ("Yes.", False, ("", "Yes.")),
        (" <think>\nHm.\n</think>\n\nYes. </think>", False, ("Hm.", "Yes. </think>")),
        ("<think>Hm. </thi", False, ("Hm.", "")),
        ("Hm.</think>Yes.", True, ("Hm.", "Yes.")),
        ("Hm.", True, ("Hm.", "")),
        ("<think>Hm.</think>Yes.", True, ("Hm.", "Yes.")),
        ("Hm.</think>Yes.", None, ("Hm.", "Yes.")),
        ("Hm.", None, ("", "Hm.")),
        ("Yes. <think>", False, ("", "Yes. <think>")),
        ("<", False, ("", "<")),
        (f"{CHANNELS.begin}Hm. 1 < 2{CHANNELS.end}Yes. <|return|>", False, ("Hm. 1 < 2", "Yes.")),
        ("<|channel|>final<|message|>Yes.", None, ("", "Yes.")),
        (f"{CHANNELS.begin}Hm.", None, ("Hm.", "")),
        (f"<|channel|>commentary to=f <|constrain|>json<|message|>{{}}{CHANNELS.end}1 < 2", False, ("{}", "1 < 2")),
    ],
)
def test_thought_and_answer_are_parted_as_they_grow(text, opened, parts):
    assert parted(text, opened=opened)[:2] == parts
    before = ("", "")
    for length in range(len(text) + 1):
        now = parted(text[:length], opened=opened, done=False)[:2]
        if opened is not None:
            assert all(new.startswith(old) for new, old in zip(now, before, strict=True)), text[:length]
        before = now


ASKED = (Message("user", "What is it?"),)


def test_the_tokens_write_the_whole_text_a_chat_alternates_a_cut_is_shown_and_other_rows_have_titles(tokenizer):
    (one,) = preview_tokens(tokenizer, chat("Wie groß? 你好 😀", "Sehr groß 😀."), 2048)
    assert "你好 😀" in "".join(token.text for token in one.tokens if token.kind == READ)
    assert "".join(token.text for token in one.tokens if token.kind == LEARNED) == "Sehr groß 😀.<|im_end|>"
    (whole,) = preview_tokens(tokenizer, CHAT, 2048, render.ALL)
    assert [kind for kind, _ in groupby(token.kind for token in whole.tokens)] == [
        READ,
        LEARNED,
    ] * 3
    (cut,) = preview_tokens(tokenizer, CHAT, len(whole.tokens) - 5, render.ALL)
    assert cut.count(CUT) == 5
    assert [token.text for token in cut.tokens] == [token.text for token in whole.tokens]
    for row, titles in (
        (Preference(ASKED, "Yes.", "No.", 1), ["The better answer", "The worse answer"]),
        (Judged(ASKED, "Yes.", False, 1), ["A bad answer"]),
        (Passage("Some words.", 1), [""]),
    ):
        assert [text.title for text in preview_tokens(tokenizer, row, 2048)] == titles
    assert {token.kind for token in preview_tokens(tokenizer, row, 2048)[0].tokens} == {LEARNED}


def passages(*texts):
    return [Passage(text, row) for row, text in enumerate(texts, 1)]


def test_every_token_once_documents_apart_rows_filled_in_order_and_a_lone_token_left_out():
    rows = render.pack(Letters(), passages("abc", "de", "fghijklmnop", "q"), 8)
    documents = [
        "".join(chr(token) if token else "." for token in row.ids[begin:end])
        for row in rows
        for begin, end in zip(row.starts, (*row.starts[1:], len(row.ids)), strict=True)
    ]
    assert sorted(documents) == sorted(["abc.", "de.", "fghijklm", "nop.", "q."])
    assert len(rows) == 3, "short ones share a row"
    assert all(row.starts[0] == 0 and len(row.ids) <= 8 for row in rows)
    assert [len(row.ids) for row in render.pack(Letters(), passages(*("x" * 3,) * 10), 8)] == [8, 8, 8, 8, 8]
    assert [len(row.ids) for row in render.pack(Letters(), passages("abcdefgh"), 8)] == [8]
    refused("at least 2", render.pack, Letters(), passages("a"), 1)


ODD = (
    *(" ", "  ", "\n", " \n", "\n ", "\t", "a", "Word", "é", "e\u0301", "\u0301", "5", "123", ".", "...", "'s", " 's"),
    *("<|im_end|>", "<|im_start|>", "日本", "한", "\u3000", "\xa0", "\x1c", "\x85", "\u200b", "🙂", "()", "\r\n"),
    *("_", "-", " -", " the", " order"),
)


def test_histogram_counts_every_row_once_and_padding_is_that_of_the_batches():
    chance = random.Random(1)
    for rows, bins in ((1, 20), (7, 3), (500, 20), (500, 1)):
        report = lengths(*((chance.randint(1, 90), chance.randint(1, 200)) for _ in range(rows)), limit=400)
        bars = report.histogram(bins)
        assert len(bars) <= bins
        assert (bars[0][0], bars[-1][1], sum(count for *_, count in bars)) == (report.min, report.max, rows)
        assert all(before[1] + 1 == after[0] for before, after in itertools.pairwise(bars))
        assert all(count == sum(low <= length <= high for length in report.lengths) for low, high, count in bars)
    tail = lengths(*[(5, number) for number in range(1, 100)], (5, 90_000), limit=100_000).histogram(10)
    assert tail[-1][1] == 90_005
    assert sum(count > 0 for *_, count in tail) > 5  # one giant does not press the others into one bar
    assert lengths(*[(10, 5)] * 9).padding(4).random == 0
    two = lengths((10, 2), (2, 10)).padding(2)  # both sides are padded: 24 tokens in two rows of 20
    assert (two.random, two.by_length) == (pytest.approx(1 - 24 / 40), pytest.approx(1 - 24 / 40))
    chance = random.Random(2)
    mixed = lengths(*((chance.randint(1, 60), chance.randint(1, 30)) for _ in range(300)))
    padding = mixed.padding(8)
    assert 0 < padding.by_length < padding.random < 1
    assert (padding, lengths((200, 10), (90, 10), limit=100).padding(2).random) == (mixed.padding(8), 0)
    assert lengths((0, 10), (0, 90), packed=True).padding(2).random == 0


@pytest.mark.parametrize("turns", ["last", render.ALL])
def test_quick_lengths_are_those_of_the_renderer(tokenizer, turns):
    chance = random.Random(3)
    odd = ("".join(chance.choices(ODD, k=chance.randint(0, 40))) for _ in range(400))
    texts = enumerate((text if text.strip() else "word" for text in odd), 1)
    rows = [chat(f"Say {text}", text, row=at, system="" if at % 3 else "Be brief.") for at, text in texts]
    rows += [chat("a", "\nb", "c", "d", row=500), chat("q", "<|im_end|>", row=501), chat("q", "word " * 100, row=502)]
    report = token_report(usable(*rows), tokenizer, 60, turns)
    counted = {row: (p, a) for row, p, a in zip(report.rows, report.prompt_lengths, report.answer_lengths, strict=True)}
    assert 500 in counted
    assert {501, 502} <= {bad.row for bad in report.bad}
    for row in (row for row in rows if row.row in counted):
        rendered = render.render_example(tokenizer, row, 60, turns)
        assert counted[row.row] == (rendered.cut + len(rendered.prompt_ids), len(rendered.completion_ids)), row


def test_other_objectives_are_counted_like_the_renderer_and_a_row_that_teaches_nothing_is_bad(tokenizer):
    two = (("A long and thorough answer.", "No."), ("Yes.", "Much longer than that one."))
    pairs = usable(*(Preference(ASKED, *answers, at) for at, answers in enumerate(two, 1)))
    report = token_report(pairs, tokenizer, 60)
    for answers, *counted in zip(two, report.prompt_lengths, report.answer_lengths, strict=True):
        both = [render.render_example(tokenizer, chat("What is it?", answer), 60) for answer in answers]
        assert tuple(counted) == max((len(each.prompt_ids), len(each.completion_ids)) for each in both)
    assert token_report(usable(Judged(ASKED, "Yes.", True, 1)), tokenizer, 60).max > 4
    texts = ("one two  three", "x " * 500)
    passages = token_report(usable(*(Passage(text, at) for at, text in enumerate(texts, 1))), tokenizer, 60)
    assert list(passages.answer_lengths) == [len(render.encode(tokenizer, text)) for text in texts]
    assert (passages.truncated, passages.cut) == (0, [])
    answers = enumerate(("<e>", "a", " <e>\n<e> "), 1)
    report = token_report(usable(*(chat("p", answer, row=row) for row, answer in answers)), Words(), 50)
    assert [row.row for row in report.bad] == [1, 3]
    assert "special tokens" in report.bad[0].reason
    mine = copy.deepcopy(tokenizer)
    refusal = "{% if messages[0].content == 'question 7' %}{{ raise_exception('no sevens') }}{% endif %}"
    mine.chat_template = refusal + mine.chat_template
    rows = [chat(f"question {at}", "a", row=at) for at in range(1, 100)]
    report = token_report(usable(*rows), mine, 60)
    assert [bad.row for bad in report.bad] == [7]
    assert "no sevens" in report.bad[0].reason
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None  # a base without a template gets the plain one
    rendered = render.render_example(plain, rows[0], 60)
    assert token_report(usable(rows[0]), plain, 60).max == len(rendered.prompt_ids) + len(rendered.completion_ids)


FIRST_IS_ASKED = "{% if messages[0].role != 'user' %}{{ raise_exception('after user, assistant') }}{% endif %}"


def test_a_greeting_is_read_before_the_first_question_where_the_template_takes_one(tokenizer):
    mine = copy.deepcopy(tokenizer)
    mine.chat_template = FIRST_IS_ASKED + mine.chat_template
    said = chat("q", "a", "r", "b").messages
    row = Example((Message("assistant", "Hello.", learned=False), *said), 1)
    for base, before in (
        (tokenizer, "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nq"),
        (mine, "user\nq"),
    ):
        seen = render.render_example(base, row, 2048, render.ALL)
        assert learned(base, seen) == ["a<|im_end|>", "b<|im_end|>"]
        assert before in seen.prompt_text
        assert ("Hello." in seen.prompt_text) == (base is tokenizer)
        assert render.learned_turns(base, row) == [False, False, True, False, True]
        for turns in (render.ALL, render.LAST):
            counted = token_report(usable(row), base, 2048, turns)
            assert counted.lengths == [render.render_example(base, row, 2048, turns).tokens]


MASKED = (  # the marks of three answers -> which of them may be learned
    ([{"weight": 0}, {"weight": 1}, {}], "bc"),
    ([{"loss": True}, {"loss": False}, {"loss": True}], "ac"),
    ([{"loss_weight": 1.0}, {"train": True}, {"training": False}], "ab"),
    ([{"weight": "0"}, {"loss_weight": 0.0}, {"train": False}], ""),
)


@pytest.mark.parametrize(("marks", "may"), MASKED)
def test_only_the_answers_that_a_row_s_marks_let_be_learned_are(tokenizer, tmp_path, marks, may):
    said = [[{"role": "user", "content": "q"}, {"role": "assistant", "content": c}] for c in "abc"]
    marked = [[asked, answer | mark] for (asked, answer), mark in zip(said, marks, strict=True)]
    checked = check_file(jsonl(tmp_path, *({"messages": [*itertools.chain(*turns)]} for turns in (marked, said))))
    assert [row.row for row in checked.bad] == [1] * (not may)
    if not may:
        assert "no answer of it may be learned" in checked.bad[0].reason
        return
    again = check_file(put(tmp_path, "again.jsonl", good_rows_jsonl(checked)))
    for row in (checked.examples[0], again.examples[0]):
        seen = render.render_example(tokenizer, row, 2048, render.ALL)
        assert learned(tokenizer, seen) == [f"{answer}<|im_end|>" for answer in may]
        assert token_report(usable(row), tokenizer, 2048, render.ALL).lengths[0] == seen.tokens
        assert render.render_example(tokenizer, row, 2048, render.LAST).completion_text == f"{may[-1]}<|im_end|>"
