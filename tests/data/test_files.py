"""Small files of every kind, whole and broken: what each is, what it trains, and which of its rows cannot be used and
why."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from playground.data.check import check_file
from playground.data.example import Example, Judged, Passage, Preference
from playground.errors import InputError
from tests.data.conftest import book, parquet, put

U, A, S = (lambda text, role=role: {"role": role, "content": text} for role in ("user", "assistant", "system"))
H, G = (lambda text, role=role: {"from": role, "value": text} for role in ("human", "gpt"))


def lines(*rows: Any) -> str:
    return "\n".join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)


def csv(*rows: str, end: str = "\n") -> str:
    return end.join(rows) + end


@dataclass(frozen=True)
class Case:
    """A file and what is expected of it. first: the answer (or text) of the first usable row. bad: number -> part of
    the reason."""

    name: str
    content: Any
    format: str
    objective: str
    good: int
    bad: dict[int, str]
    first: str = ""


def sft(
    name: str,
    content: Any,
    good: int,
    bad: dict[int, str] | None = None,
    kind: str = "prompt-completion",
    first: str = "",
) -> Case:
    return Case(name, content, kind, "sft", good, bad or {}, first)


def chat(name: str, content: Any, good: int, bad: dict[int, str] | None = None, first: str = "") -> Case:
    return Case(name, content, "chat", "sft", good, bad or {}, first)


def pref(name: str, content: Any, good: int, bad: dict[int, str] | None = None, first: str = "") -> Case:
    return Case(name, content, "preference", "preference", good, bad or {}, first)


def kto(name: str, content: Any, good: int, bad: dict[int, str] | None = None, first: str = "") -> Case:
    return Case(name, content, "unpaired-preference", "unpaired_preference", good, bad or {}, first)


def raw(name: str, content: Any, good: int, bad: dict[int, str] | None = None, first: str = "") -> Case:
    return Case(name, content, "text", "text", good, bad or {}, first)


PAIRS = [
    sft("pair.csv", csv("prompt,completion", "q one,a one", "q two,a two"), 2, first="a one"),
    sft("pair.jsonl", lines({"prompt": "q", "completion": "a"}, {"prompt": "r", "completion": "b"}), 2, first="a"),
    sft("pair.ndjson", lines({"prompt": "q", "completion": "a"}, {"prompt": "r", "completion": "b"}), 2),
    sft("pair.tsv", "Eingabe\tAusgabe\nfrage eins\tantwort eins\n", 1, first="antwort eins"),
    sft("pair.xlsx", lambda: book(["Question", "Answer"], ["q", "a"], ["r", 5]), 2),
    sft("pair.parquet", lambda: parquet(question=["q", "r"], answer=["a", "b"]), 2, first="a"),
    sft("pair.csv.gz", gzip.compress(csv("prompt,completion", "q,a").encode()), 1, first="a"),
    sft(
        "pair.jsonl.gz",
        gzip.compress(lines({"prompt": "q", "completion": "a"}, {"prompt": "r", "completion": "b"}).encode()),
        2,
    ),
    sft("packed.TSV.GZ", gzip.compress("prompt\tcompletion\nq\ta\n".encode("utf-16")), 1, first="a"),
    sft("latin.csv", "frage;antwort\nGrüße;schön\n".encode("latin-1"), 1, first="schön"),
    sft("wide.csv", "prompt,completion\r\nGrüße,schön\r\n".encode("utf-16"), 1, first="schön"),
    sft("wider.csv", "prompt,completion\nq,schön\n".encode("utf-32"), 1, first="schön"),
    sft("wider_no_mark.csv", "prompt,completion\nquestion,answer\n".encode("utf-32-be"), 1, first="answer"),
    sft("russian.csv", "вопрос;ответ\nкакая сегодня погода;сегодня тепло\n".encode("cp1251"), 1, first="сегодня тепло"),
    sft(
        "russian_koi8.csv",
        "вопрос;ответ\nкакая сегодня погода;сегодня тепло\n".encode("koi8-r"),
        1,
        first="сегодня тепло",
    ),
    sft(
        "japanese.csv",
        "質問,回答\n今日の天気はどうですか,とても暖かいです\n".encode("cp932"),
        1,
        first="とても暖かいです",
    ),
    sft("chinese.csv", "问题,回答\n今天天气怎么样,今天很暖和\n".encode("gb18030"), 1, first="今天很暖和"),
    sft("korean.csv", "질문,답변\n오늘 날씨는 어때요,아주 따뜻합니다\n".encode("cp949"), 1, first="아주 따뜻합니다"),
    sft("hidden.csv", "\ufeffpro\u200bmpt ,\u00a0COMPLETION\nq,a\n", 1, first="a"),
    sft("table.txt", "prompt\tcompletion\nq\ta\nr\tb\n", 2, first="a"),
    sft("lines.txt", lines({"prompt": "q", "completion": "a"}, {"prompt": "r", "completion": "b"}), 2, first="a"),
    sft("columns.json", json.dumps({"prompt": ["q", "r"], "completion": ["a", "b"]}), 2, first="a"),
    sft("pandas.json", json.dumps({"prompt": {"0": "q", "1": "r"}, "completion": {"0": "a", "1": "b"}}), 2, first="a"),
    sft(
        "split.json",
        json.dumps({"columns": ["prompt", "completion"], "index": [0], "data": [["q", "a"]]}),
        1,
        first="a",
    ),
    sft(
        "viewer.json",
        json.dumps({"features": [{"name": "q"}], "rows": [{"row_idx": 0, "row": {"question": "q", "answer": "a"}}]}),
        1,
    ),
    sft("nested.jsonl", lines(*({"data": {"prompt": "q", "completion": str(n)}} for n in range(2))), 2, first="0"),
    sft(
        "traces.jsonl",
        lines(*({"inputs": {"question": "q"}, "outputs": {"answer": str(n)}, "id": n} for n in range(2))),
        2,
        first="0",
    ),
    sft(
        "translation.jsonl",
        lines(*({"translation": {"en": f"the word {n}", "de": f"das Wort {n}"}} for n in range(3))),
        3,
        first="das Wort 0",
    ),
]
TASKS = [
    sft(
        "alpaca.json",
        json.dumps(
            [{"instruction": "add", "input": "1 2", "output": "3"}, {"instruction": "go", "input": "", "output": "y"}]
        ),
        2,
        kind="instruction",
        first="3",
    ),
    sft(
        "alpaca_zh.jsonl",
        lines({"指令": "加", "输入": "一", "输出": "二"}, {"指令": "减", "输入": "", "输出": "三"}),
        2,
        kind="instruction",
        first="二",
    ),
    sft(
        "dolly.jsonl",
        lines(*({"instruction": "i", "context": "", "response": str(n), "category": "open_qa"} for n in range(2))),
        2,
        kind="instruction",
        first="0",
    ),
    sft(
        "squad.jsonl",
        lines(
            *(
                {
                    "id": str(n),
                    "title": "t",
                    "context": "c c",
                    "question": f"q {n}",
                    "answers": {"text": [f"a{n}", "other"], "answer_start": [1, 2]},
                }
                for n in range(2)
            )
        ),
        2,
        kind="instruction",
        first="a0",
    ),
    sft(
        "squad.parquet",
        lambda: parquet(question=["q", "r"], context=["c", "d"], answers=[{"text": ["a"]}, {"text": []}]),
        1,
        {2: "the answer is empty (answers.text)"},
        kind="instruction",
    ),
    sft("evals.jsonl", lines(*[{"input": [U("q")], "ideal": ["a", "b"]}] * 2), 2, first="a"),
    sft(
        "nli.csv", csv("premise,hypothesis,label", "a man,someone,0", "a dog,a cat,2"), 2, kind="instruction", first="0"
    ),
    sft("gsm8k.jsonl", lines({"question": "1+1?", "answer": "2 #### 2"}, {"question": "2+2?", "answer": "4"}), 2),
    sft(
        "samsum.json",
        json.dumps([{"id": "13818513", "dialogue": "A: hi\r\nB: ho", "summary": "They greet."}]),
        1,
        first="They greet.",
    ),
    sft("xsum.parquet", lambda: parquet(document=["a long story"], summary=["short"], id=["1"]), 1, first="short"),
    sft(
        "orca.jsonl",
        lines(*({"id": "x", "system_prompt": "be kind", "question": "q", "response": str(n)} for n in range(2))),
        2,
        first="0",
    ),
    sft("imdb.csv", csv("review,sentiment", '"Good, really",positive', "Bad film,negative"), 2, first="positive"),
    sft("agnews.csv", csv("text,label", "stocks fall,2", "team wins,1"), 2, first="2"),
    sft(
        "sms.csv",
        b"v1,v2,,,\nham,Go until jurong\x85,,,\nspam,Free entry now,,,\nham,Ok lar then,,,\nham,U dun say so,,,\n",
        4,
        first="ham",
    ),
    sft(
        "labelstudio.json",
        json.dumps(
            [
                {
                    "id": 1,
                    "annotations": [{"result": [{"value": {"choices": ["Positive"]}, "type": "choices"}]}],
                    "data": {"text": "I like it"},
                }
            ]
        ),
        1,
        first="Positive",
    ),
    sft(
        "labelstudio_min.json",
        json.dumps([{"text": "I like it", "id": 1, "sentiment": "Positive", "annotator": 1, "lead_time": 2.5}]),
        1,
        first="Positive",
    ),
    sft(
        "bitext.csv",
        csv(
            "flags,instruction,category,intent,response",
            "B,cancel my order,ORDER,cancel,Of course",
            "B,x,ORDER,cancel,Yes",
        ),
        2,
        kind="instruction",
        first="Of course",
    ),
]
TURNS = [U("hi"), A("ho")]
CHATS = [
    chat("openai.jsonl", lines({"messages": [S("s"), *TURNS]}, {"messages": TURNS}), 2, first="ho"),
    chat("parts.jsonl", lines(*[{"messages": [U([{"type": "text", "text": "x"}]), A("y")]}] * 2), 2),
    chat(
        "bedrock.jsonl",
        lines(*[{"system": "s", "messages": [U([{"text": "x"}]), A([{"text": "y"}])]}] * 2),
        2,
        first="y",
    ),
    chat(
        "batch.jsonl",
        lines(*[{"custom_id": "1", "method": "POST", "url": "/v1", "body": {"model": "m", "messages": TURNS}}] * 2),
        2,
    ),
    chat("sharegpt.json", json.dumps([{"id": "1", "conversations": [H("x"), G("y"), H("z"), G("w")]}]), 1, first="w"),
    chat(
        "sharegpt_tools.jsonl",
        lines(
            *[
                {
                    "system": "s",
                    "tools": "[]",
                    "conversations": [
                        H("x"),
                        {"from": "function_call", "value": "{}"},
                        {"from": "observation", "value": "3"},
                        G("y"),
                    ],
                }
            ]
            * 2
        ),
        2,
        first="y",
    ),
    chat(
        "vertex.jsonl",
        lines(
            *[
                {
                    "systemInstruction": {"role": "system", "parts": [{"text": "s"}]},
                    "contents": [
                        {"role": "user", "parts": [{"text": "x"}]},
                        {"role": "model", "parts": [{"text": "y"}]},
                    ],
                }
            ]
            * 2
        ),
        2,
        first="y",
    ),
    chat(
        "cohere.jsonl",
        lines(
            *[
                {
                    "messages": [
                        {"role": "System", "content": "s"},
                        {"role": "User", "content": "x"},
                        {"role": "Chatbot", "content": "y"},
                    ]
                }
            ]
            * 2
        ),
        2,
        first="y",
    ),
    chat(
        "capybara.jsonl",
        lines(*[{"source": "m", "conversation": [{"input": "x", "output": "y"}, {"input": "z", "output": "w"}]}] * 2),
        2,
        first="w",
    ),
    chat("ultrachat.jsonl", lines(*[{"id": str(n), "data": ["x", "y", "z", "w"]} for n in range(2)]), 2, first="w"),
    chat("lima.jsonl", lines(*[{"conversations": ["x", "y"], "source": "w"}] * 2), 2, first="y"),
    chat("bare.jsonl", lines(TURNS, TURNS), 2, first="ho"),
    chat(
        "cells.csv",
        'id,messages\n1,"[{""role"": ""user"", ""content"": ""x""}, {""role"": ""assistant"", ""content"": ""y""}]"\n',
        1,
        first="y",
    ),
    chat("chat.parquet", lambda: parquet(messages=[TURNS, TURNS]), 2, first="ho"),
    chat("glaive.jsonl", lines(*[{"system": "s", "chat": "USER: x\n\nASSISTANT: y"}] * 2), 2, first="y"),
    chat(
        "oasst_tree.jsonl",
        lines(
            *[
                {
                    "message_tree_id": "1",
                    "prompt": {
                        "message_id": "1",
                        "text": "x",
                        "role": "prompter",
                        "replies": [
                            {
                                "text": "y",
                                "role": "assistant",
                                "replies": [{"text": "z", "role": "prompter", "replies": []}],
                            }
                        ],
                    },
                }
            ]
            * 2
        ),
        2,
        first="y",
    ),
    chat("keys.jsonl", lines(*[{"dialog": [{"user": "x"}, {"assistant": "y"}]}] * 2), 2, first="y"),
]
PREFERENCES = [
    pref(
        "dpo.jsonl",
        lines({"prompt": "q", "chosen": "a", "rejected": "b"}, {"prompt": "r", "chosen": "a", "rejected": "b"}),
        2,
        first="a",
    ),
    pref("dpo.csv", csv("question,chosen,rejected", "q,a,b"), 1, first="a"),
    pref("turns.jsonl", lines(*[{"prompt": TURNS[:1], "chosen": [A("a")], "rejected": [A("b")]}] * 2), 2, first="a"),
    pref("whole.jsonl", lines(*[{"chosen": [U("q"), A("a")], "rejected": [U("q"), A("b")]}] * 2), 2, first="a"),
    pref(
        "binarized.parquet",
        lambda: parquet(
            prompt=["q"],
            prompt_id=["1"],
            chosen=[[U("q"), A("a")]],
            rejected=[[U("q"), A("b")]],
            messages=[TURNS],
            score_chosen=[8.0],
            score_rejected=[2.0],
        ),
        1,
        first="a",
    ),
    pref(
        "hh.jsonl",
        lines(*[{"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}] * 2),
        2,
        first="a",
    ),
    pref("stack.jsonl", lines(*[{"qid": 1, "question": "q", "response_j": "a", "response_k": "b"}] * 2), 2, first="a"),
    pref("list.json", json.dumps([{"instruction": "q", "input": "", "output": ["a", "b"]}] * 2), 2, first="a"),
    pref(
        "sharegpt_pref.json",
        json.dumps([{"conversations": [H("q")], "chosen": G("a"), "rejected": G("b")}] * 2),
        2,
        first="a",
    ),
    pref(
        "openai_pref.jsonl",
        lines(
            *[
                {
                    "input": {"messages": [U("q")], "tools": []},
                    "preferred_output": [A("a")],
                    "non_preferred_output": [A("b")],
                }
            ]
            * 2
        ),
        2,
        first="a",
    ),
    pref("arena.csv", csv("prompt,response_a,response_b,winner", "q one,x,y,model_b", "q two,x,y,a"), 2, first="y"),
    pref(
        "safe.jsonl",
        lines(*[{"prompt": "q", "response_0": "x", "response_1": "y", "better_response_id": n} for n in (1, 0)]),
        2,
        first="y",
    ),
    pref("one_two.csv", csv("question,answer1,answer2,preference", "q,x,y,2", "r,x,y,1"), 2, first="y"),
    pref(
        "arena.jsonl",
        lines(
            *[
                {"conversation_a": [U("q"), A("x")], "conversation_b": [U("q"), A("y")], "winner": w}
                for w in ("model_b", "model_a")
            ]
        ),
        2,
        first="y",
    ),
    pref(
        "ultrafeedback.jsonl",
        lines(
            *[
                {
                    "instruction": "q",
                    "completions": [
                        {"response": "x", "overall_score": 3.0},
                        {"response": "y", "overall_score": 8},
                        {"response": "z", "overall_score": 5},
                    ],
                }
            ]
            * 2
        ),
        2,
        first="y",
    ),
    pref(
        "shp.jsonl",
        lines(*[{"post_id": "p", "history": "q", "human_ref_A": "x", "human_ref_B": "y", "labels": n} for n in (0, 1)]),
        2,
        first="y",
    ),
    pref(
        "helpsteer.jsonl",
        lines(*[{"context": [U("q")], "response1": "x", "response2": "y", "overall_preference": n} for n in (2, -3)]),
        2,
        first="y",
    ),
    pref(
        "ratings.jsonl",
        lines(*[{"instruction": "q", "generations": ["x", "y"], "ratings": [1.0, 2.5]}] * 2),
        2,
        first="y",
    ),
    kto("kto.jsonl", lines(*[{"prompt": "q", "completion": "a", "label": n} for n in (True, False)]), 2, first="a"),
    kto(
        "kto_mix.jsonl",
        lines(*[{"prompt": [U("q")], "completion": [A("a")], "label": n} for n in (True, False)]),
        2,
        first="a",
    ),
    kto("judged.jsonl", lines(*[{"messages": TURNS, "label": n} for n in (True, False)]), 2, first="ho"),
    kto(
        "kto_tag.json",
        json.dumps([{"conversations": [H("q"), G("a")], "kto_tag": n} for n in (True, False)]),
        2,
        first="a",
    ),
    kto("score.csv", csv("question,answer,score", "q,a,1", "r,b,0"), 2, first="a"),
    kto("thumbs.csv", csv("instruction,response,feedback", "q,a,👍", "r,b,👎"), 2, first="a"),
]
TEXTS = [
    raw("text.jsonl", lines({"text": "one two"}, {"text": "three"}), 2, first="one two"),
    raw("text.csv", csv("text", "one, two", "three"), 2, first="one, two"),
    raw(
        "pile.jsonl",
        lines(*[{"text": f"a story {n}", "meta": {"pile_set_name": "Books"}} for n in range(6)]),
        6,
        first="a story 0",
    ),
    raw("blocks.txt", "One line\nand another.\n\n\nThe second passage.\n", 2, first="One line\nand another."),
    raw("single.txt", "one\ntwo\nthree\n", 3, first="one"),
    raw(
        "notes.md",
        "# Title\n\n## Part\n\nWords of it.\n\n```\ncode\n\nmore\n```\n",
        2,
        first="# Title\n\n## Part\n\nWords of it.",
    ),
    raw("story.md.gz", gzip.compress(b"One.\r\n\r\nTwo.\r\n"), 2, first="One."),
]
BROKEN = [
    sft(
        "empty_answer.csv",
        csv("prompt,completion", "q,a", "r,", "s,  "),
        1,
        {2: "the answer is empty", 3: "the answer is empty"},
    ),
    sft(
        "empty_prompt.jsonl",
        lines({"prompt": " ", "completion": "a"}, {"prompt": "q", "completion": "b"}),
        1,
        {1: "the prompt is empty"},
    ),
    sft(
        "broken_line.jsonl",
        lines({"prompt": "q", "completion": "a"}, '{"prompt": "q", ', "", {"prompt": "r", "completion": "b"}),
        2,
        {2: "not valid JSON"},
    ),
    sft("line_number.jsonl", "\n\n" + lines({"prompt": "q", "completion": "a"}, "oops"), 1, {4: "not valid JSON"}),
    sft(
        "single_quotes.jsonl",
        lines({"prompt": "q", "completion": "a"}, "{'prompt': 'r', 'completion': 'b'}"),
        1,
        {2: "not valid JSON"},
    ),
    sft(
        "not_object.jsonl",
        lines({"prompt": "q", "completion": "a"}, "[1, 2]", "null", '"x"'),
        1,
        {2: "a list, not an object", 3: "nothing (null)", 4: "a text, not an object"},
    ),
    sft(
        "too_many_cells.csv", csv("prompt,completion", "q,a", "r,b,c", "s,d"), 2, {2: "3 cells in a table of 2 columns"}
    ),
    sft(
        "open_quote.csv",
        csv("prompt,completion", "q,a", '"never closed,b', "s,d"),
        2,
        {2: "a quote is opened and never closed"},
    ),
    sft("inner_quote.csv", csv("prompt,completion", '"he said "no" to me",b', "s,d"), 1, {1: "not doubled"}),
    sft(
        "missing_key.jsonl",
        lines({"prompt": "q", "completion": "a"}, {"prompt": "r"}, {"completion": "b"}),
        1,
        {2: "no answer: 'completion' is missing", 3: "no prompt: 'prompt' is missing"},
    ),
    sft(
        "object_answer.jsonl",
        lines(*[{"prompt": "q", "completion": "a"}] * 3, {"prompt": "q", "completion": {"a": 1}}),
        3,
        {4: "is an object, not text"},
    ),
    sft(
        "half_character.jsonl",
        lines({"prompt": "q", "completion": "a"}, '{"prompt": "r\\ud800", "completion": "b"}'),
        1,
        {2: "lone surrogate"},
    ),
    sft(
        "items.json",
        json.dumps([{"prompt": "q", "completion": "a"}, 5, {"prompt": "r", "completion": "b"}]),
        2,
        {2: "a number, not an object"},
    ),
    sft(
        "cut_off.jsonl.gz",
        gzip.compress(lines({"prompt": "q", "completion": "a"}, '{"prompt": "r", "comp').encode()),
        1,
        {2: "not valid JSON"},
    ),
    sft(
        "empty_cells.xlsx",
        lambda: book(["prompt", "completion"], ["q", "a"], ["r", None], [None, None], ["s", "b"]),
        2,
        {2: "the answer is empty", 3: "the prompt is empty"},
    ),
    sft("null.parquet", lambda: parquet(prompt=["q", None], completion=["a", "b"]), 1, {2: "the prompt is empty"}),
    chat(
        "no_role.jsonl",
        lines({"messages": TURNS}, {"messages": [{"content": "x"}, A("y")]}),
        1,
        {2: "turn 1 of 'messages' has no role"},
    ),
    chat(
        "unknown_role.jsonl",
        lines({"messages": TURNS}, {"messages": [U("x"), {"role": "narrator", "content": "y"}]}),
        1,
        {2: "unknown role 'narrator' in turn 2"},
    ),
    chat(
        "twice.jsonl",
        lines({"messages": TURNS}, {"messages": [*TURNS, A("again")]}),
        1,
        {2: "two assistant turns in a row (turns 2 and 3)"},
    ),
    chat("no_answer.jsonl", lines({"messages": TURNS}, {"messages": TURNS[:1]}), 1, {2: "no assistant turn"}),
    chat(
        "last_user.json",
        json.dumps([{"conversations": [H("x"), G("y")]}, {"conversations": [H("x"), G("y"), H("z")]}]),
        1,
        {2: "the last turn is not the assistant's"},
    ),
    chat(
        "starts_with_answer.json",
        json.dumps([{"conversations": [H("x"), G("y")]}, {"conversations": [G("y"), H("z"), G("w")]}]),
        1,
        {2: "the first turn is the assistant's"},
    ),
    chat(
        "empty_turn.jsonl",
        lines({"messages": TURNS}, {"messages": [U("x"), A(" ")]}),
        1,
        {2: "turn 2 (assistant) is empty"},
    ),
    chat(
        "late_system.jsonl",
        lines({"messages": TURNS}, {"messages": [U("x"), S("s"), A("y")]}),
        1,
        {2: "a system turn that is not the first"},
    ),
    chat(
        "tool_call.jsonl",
        lines(
            {"messages": TURNS},
            {
                "messages": [
                    U("x"),
                    {"role": "assistant", "content": None, "tool_calls": [{}]},
                    {"role": "tool", "content": "3"},
                    A("y"),
                ]
            },
            {"messages": [U("x"), A("w"), {"role": "tool", "content": "3"}, A("y")]},
        ),
        1,
        {2: "turn 2 (assistant) calls a tool and says nothing", 3: "unknown role 'tool' in turn 3"},
    ),
    chat(
        "image.jsonl",
        lines({"messages": TURNS}, {"messages": [U([{"type": "image_url", "image_url": {}}]), A("y")]}),
        1,
        {2: "other than text"},
    ),
    chat(
        "not_a_list.jsonl",
        lines(*[{"messages": TURNS}] * 2, {"messages": "hello"}, {"messages": []}, {}),
        2,
        {3: "not a list of turns", 4: "is an empty list", 5: "no messages"},
    ),
    pref(
        "same.jsonl",
        lines({"prompt": "q", "chosen": "a", "rejected": "b"}, {"prompt": "r", "chosen": "a", "rejected": "a "}),
        1,
        {2: "chosen and rejected are the same"},
    ),
    pref(
        "two_prompts.jsonl",
        lines({"chosen": TURNS, "rejected": [U("hi"), A("b")]}, {"chosen": TURNS, "rejected": [U("bye"), A("b")]}),
        1,
        {2: "do not share one prompt"},
    ),
    pref("half.csv", csv("prompt,chosen,rejected", "q,a,b", "r,a,"), 1, {2: "the rejected answer is empty"}),
    pref(
        "tie.csv",
        csv("prompt,response_a,response_b,winner", "q,x,y,a", "r,x,y,tie", "s,x,y,", "t,x,y,B"),
        2,
        {2: "says 'tie', neither of the two answers", 3: "the choice (winner) is empty"},
    ),
    kto(
        "maybe.jsonl",
        lines(*[{"prompt": "q", "completion": "a", "label": n} for n in (True, False, "maybe", None)]),
        2,
        {3: "'maybe', neither true nor false", 4: "the label (label) is empty"},
    ),
    raw("blank_text.jsonl", lines({"text": "one"}, {"text": " \n"}, {"text": "two"}), 2, {2: "the text is empty"}),
]
CASES = [*PAIRS, *TASKS, *CHATS, *PREFERENCES, *TEXTS, *BROKEN]


def answer(row: Any) -> str:
    if isinstance(row, Example | Judged):
        return row.completion
    return row.chosen if isinstance(row, Preference) else row.text if isinstance(row, Passage) else ""


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_what_a_file_is_and_which_rows_are_bad(case: Case, tmp_path: Path) -> None:
    checked = check_file(put(tmp_path, case.name, case.content))
    assert (checked.format, checked.objective) == (case.format, case.objective), checked.why
    assert [bad.row for bad in checked.bad] == list(case.bad)
    for bad in checked.bad:
        assert case.bad[bad.row] in bad.reason
        assert bad.fix
    assert checked.good == case.good == checked.rows - len(checked.bad)
    assert 0 < checked.confidence <= 1
    assert checked.why
    assert set(checked.mapping.values()) <= set(checked.columns)
    if case.first:
        assert answer(checked.usable[0]) == case.first
    again = check_file(tmp_path / case.name, checked.mapping)  # what was guessed can be said, too
    assert (again.objective, again.usable, again.confidence) == (checked.objective, checked.usable, 1.0)


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 100
    assert len(BROKEN) >= 25
    assert len({case.name for case in CASES}) == len(CASES)


REFUSED = [
    ("packed.gz", gzip.compress(b"text\nx\n"), "does not say what it holds"),
    ("book.xlsx.gz", gzip.compress(b"PK"), "does not say what it holds"),
    ("damaged.csv.gz", gzip.compress(b"text\nx\n" * 1000)[:-9], "damaged"),
    ("flipped.csv.gz", gzip.compress(b"text\nx\n")[:-5] + b"12345", "damaged"),
    ("plain.csv.gz", b"text\nx\n", "no gzip archive"),
    ("bomb.csv.gz", gzip.compress(b"text\n" + b"x" * 20_000_000), "unpacks to more than 10 times"),
    ("twice.csv.gz", gzip.compress(gzip.compress(b"text\nx\n")), "a gzip archive, not a text file"),
    ("blank.txt", "\n \n", "is empty"),
    ("picture.md", b"\x89PNG\r\n", "a PNG image"),
    ("unknown.csv", csv("a,b,c", "x y,y z,z x"), "which is the prompt"),
]


@pytest.mark.parametrize(("name", "content", "says"), REFUSED, ids=[row[0] for row in REFUSED])
def test_refused_in_words(name: str, content: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        check_file(put(tmp_path, name, content), limit_bytes=1_000_000)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("header", "given", "least", "most", "why"),
    [
        ("prompt,completion", {}, 0.95, 1, "the names prompt and completion"),
        ("text,label", {}, 0.7, 0.95, "the label is the answer"),
        ("question,finding", {}, 0.5, 0.7, "the name question and from what finding holds"),
        ("befund,kennung", {}, 0.2, 0.5, "what the columns hold, not from their names"),
        ("befund,kennung", {"prompt": "befund", "completion": "kennung"}, 1, 1, "as you said"),
        ("befund,kennung", {"prompt": "befund"}, 0.3, 0.7, "partly as you said"),
    ],
)
def test_confidence(header: str, given: dict[str, str], least: float, most: float, why: str, tmp_path: Path) -> None:
    checked = check_file(
        put(tmp_path, "a.csv", csv(header, *(f"a long text {n},some words {n}" for n in range(9)))), given or None
    )
    assert least <= checked.confidence <= most
    assert why in checked.why


def test_a_column_that_is_mostly_empty_makes_less_sure(tmp_path: Path) -> None:
    full = check_file(put(tmp_path, "a.csv", csv("prompt,completion", "q,a", "r,b")))
    thin = check_file(put(tmp_path, "b.csv", csv("prompt,completion", "q,a", "r,", "s,")))
    assert thin.confidence < full.confidence
    assert "most rows have no completion" in thin.why


def test_odd_labels_are_warned_of(tmp_path: Path) -> None:
    rows = [f"message {n},{'spam' if n % 2 else 'ham'}" for n in range(30)]
    checked = check_file(put(tmp_path, "a.csv", csv("text,label", *rows, "one more,Spam ", "and more,ham")))
    assert [(item.row, item.kind, item.reason) for item in checked.warnings] == [
        (31, "label", "the label 'Spam ' is spelt 'spam' in 15 other rows")
    ]
    assert not check_file(put(tmp_path, "b.csv", csv("text,label", *rows, "one more,other"))).warnings


def test_several_files_are_numbered_on(tmp_path: Path) -> None:
    put(tmp_path, "b.jsonl", "\n" + lines({"question": "q", "answer": "a"}, "oops", {"question": "x", "answer": "y"}))
    put(tmp_path, "a.csv", csv("prompt,completion", "q,a", "r,"))
    put(tmp_path, "c.tsv.gz", gzip.compress(b"prompt\tcompletion\nq\tz\n"))
    put(tmp_path, ".hidden", "x")
    whole = check_file(tmp_path)
    assert [(part.name, part.first, part.rows) for part in whole.files] == [
        ("a.csv", 1, 2),
        ("b.jsonl", 3, 4),
        ("c.tsv.gz", 7, 1),
    ]
    assert (whole.rows, whole.good) == (6, 4)
    assert [(bad.row, whole.place(bad.row)) for bad in whole.bad] == [(2, "a.csv 2"), (5, "b.jsonl 3")]
    assert [row.row for row in whole.usable] == [1, 4, 6, 7]
    assert [(item.row, item.reason) for item in whole.warnings] == [
        (4, "the same as row 1"),
        (7, "same prompt as row 1, another answer"),
    ]
    assert whole.columns == ("prompt", "completion", "question", "answer")
    assert "b.jsonl: told from the names question and answer" in whole.why
    listed = check_file([tmp_path / "c.tsv.gz", str(tmp_path / "a.csv")])
    assert [part.name for part in listed.files] == ["a.csv", "c.tsv.gz"]
    assert check_file([tmp_path / "a.csv"]).files == ()


def test_several_files_must_train_the_same(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", csv("prompt,completion", "q,a"))
    put(tmp_path, "b.txt", "some words\n\nand more\n")
    with pytest.raises(InputError, match=r"a\.csv trains sft \(prompt-completion\); b\.txt trains text \(text\)"):
        check_file(tmp_path)
    put(tmp_path, "b.txt", "prompt\tcompletion\n" + "q\ta\n" * 50)
    with pytest.raises(InputError, match="All 2 files together is 240 bytes; the limit is 210"):
        check_file(tmp_path, limit_bytes=210)
    put(tmp_path, "b.txt", b"\x89PNG")
    with pytest.raises(InputError, match=r"b\.txt is a PNG"):
        check_file(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="The folder none holds no files"):
        check_file(tmp_path / "none")
    with pytest.raises(InputError, match="No file was given"):
        check_file([])
    for name in ("a.csv", "b.txt"):
        put(tmp_path, name, csv("x,y", "q,a"))
    assert (
        check_file([tmp_path / "a.csv", tmp_path / "b.txt"][:1], {"prompt": "y", "completion": "x"})
        .examples[0]
        .completion
        == "q"
    )


def test_progress_goes_from_nothing_to_all(tmp_path: Path) -> None:
    rows = lines(*({"prompt": f"question {n}", "completion": "a"} for n in range(20_000)))
    for name, content in (("a.jsonl", rows), ("b.jsonl.gz", gzip.compress(rows.encode()))):
        said: list[float] = []
        assert check_file(put(tmp_path, name, content), progress=said.append).good == 20_000
        assert said == sorted(said)
        assert 0 <= said[0] < said[-1] == 1


def test_large_lines_are_not_kept(tmp_path: Path) -> None:
    """The records of a JSONL file are read anew each time; only rows and digests stay."""
    from playground.data.read import read_records

    path = put(tmp_path, "a.jsonl", lines(*({"text": f"passage {n}", "more": {"inner": n}} for n in range(5000))))
    records = read_records(path, 10_000_000)
    assert records.columns == ("text", "more.inner")
    assert not isinstance(records.rows, list)
    assert len(records.rows) == 5000 == sum(1 for _ in records.rows)
    assert [*records.rows][4999] == (5000, {"text": "passage 4999", "more": {"inner": 4999}, "more.inner": 4999})
    assert 500 <= len(records.sample) <= 1000
    assert {"passage 0", "passage 4992"} <= {row["text"] for row in records.sample}
