"""Files, and a tokenizer of words, for the tests of the readers."""

import io
import json
import tomllib
from array import array
from pathlib import Path

import openpyxl
import pyarrow
import pyarrow.parquet
import pytest
from jinja2 import TemplateError

from playground.data.columns import FORMATS
from playground.data.example import Checked, Example, Judged, Message, Passage, Preference
from playground.data.render import load_tokenizer
from playground.data.token_counts import TokenReport

OBJECTIVES = {each.name: each.objective for each in FORMATS} | {"instruction": "sft"}


def cases(name):
    """A file of tables beside the tests."""
    return tomllib.loads(Path(__file__).with_name(f"{name}.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def tokenizer(tiny_base):
    """The default base's own."""
    return load_tokenizer(tiny_base)


def put(folder, name, content):
    """A file of this name. content: bytes, text, or what makes them."""
    path = folder / name
    content = content() if callable(content) else content
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lines(*rows):
    """JSONL; a row that is text already stays as it is."""
    return "\n".join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)


def jsonl(folder, *rows):
    return put(folder, "rows.jsonl", lines(*rows))


def pair(words, answer, **more):
    return {"prompt": "p " * words, "completion": "a " * answer, **more}


def book(*rows):
    held = openpyxl.Workbook()
    for row in rows:
        held.active.append(row)
    out = io.BytesIO()
    held.save(out)
    return out.getvalue()


def parquet(*, store_schema=True, **columns):
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), out, store_schema=store_schema)
    return out.getvalue()


def chat(*contents, row=1, system=""):
    """The user's turn and the assistant's, and so on, after a system prompt if there is one."""
    turns = (Message(("user", "assistant")[place % 2], text) for place, text in enumerate(contents))
    return Example((*([Message("system", system)] if system else []), *turns), row)


def usable(*rows, **more):
    """What a check finds in these rows."""
    kinds = {Example: "sft", Preference: "preference", Judged: "unpaired_preference", Passage: "text"}
    objective = kinds[type(rows[0])]
    sft = objective == "sft"
    return Checked("any", objective, len(rows), rows if sft else (), others=() if sft else rows, **more)


def lengths(*rows, limit=100, packed=False):
    """Rows of so many tokens of prompt and answer."""
    prompts, answers = array("L", [p for p, _ in rows]), array("L", [a for _, a in rows])
    return TokenReport(array("L", range(1, len(rows) + 1)), prompts, answers, limit, packed)


class Words:
    """A tokenizer of words: each turn is its role, its words and, for the assistant, an end mark."""

    eos_token = "<e>"
    chat_template = "its own"

    def apply_chat_template(self, messages, **options):
        if messages[0]["content"].startswith("refused"):  # also where it is joined to the first question
            raise TemplateError("System role not supported")
        text = "".join(f"{m['role']}: {m['content']} " + ("<e> " if m["role"] == "assistant" else "") for m in messages)
        return text + ("assistant: " if options["add_generation_prompt"] else "")

    def __call__(self, text, **_):
        return {"input_ids": [len(word) for word in text.split()]}
