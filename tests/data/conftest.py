"""Files, and a tokenizer of words, for the tests of the readers."""

import io
import json
import tomllib
import zipfile
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


def pdf(*pages, password=None, tail=b"", times=1):
    """A content stream a page, which shows a text or is ``tail``. times: how often the pages are counted."""
    import pypdf
    from pypdf.generic import ArrayObject, DecodedStreamObject, DictionaryObject, NameObject, NumberObject

    out, held = pypdf.PdfWriter(), io.BytesIO()
    font = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}
    font = DictionaryObject({NameObject(key): NameObject(value) for key, value in font.items()})
    fonts = DictionaryObject({NameObject("/F1"): font})
    for text in pages:
        page, stream = out.add_blank_page(600, 800), DecodedStreamObject()
        shown = "".join(f"({line}) Tj T* " for line in (text or "").split("\n"))
        stream.set_data(f"BT /F1 12 Tf 14 TL 50 700 Td {shown} ET".encode("latin-1") if text else tail)
        page[NameObject("/Contents")] = out._add_object(stream.flate_encode())
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
    tree = out._root_object["/Pages"]
    tree[NameObject("/Kids")] = ArrayObject([*tree["/Kids"]] * times)
    tree[NameObject("/Count")] = NumberObject(len(pages) * times)
    if password:
        out.encrypt(password, algorithm="RC4-128")
    out.write(held)
    return held.getvalue()


OOXML = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def word(body, head="", part="word/document.xml"):
    """A Word document with this body; its style H2 is a heading."""
    held = io.BytesIO()
    styles = '<w:style w:styleId="H2"><w:name w:val="heading 2"/></w:style>'
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("word/styles.xml", f'<w:styles xmlns:w="{OOXML}">{styles}</w:styles>')
        out.writestr(part, f'{head}<w:document xmlns:w="{OOXML}"><w:body>{body}</w:body></w:document>')
    return held.getvalue()


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
