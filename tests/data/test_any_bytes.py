"""Whatever bytes a file holds, a check gives a result or one clear error; and every row is either good or bad."""

import gzip
import json
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from playground.data.advice import as_json, as_text
from playground.data.check import check_file
from playground.data.example import texts_of
from playground.data.files import TAKEN, TEXT_READERS
from playground.errors import InputError
from tests.data.conftest import book, parquet

LIMIT = 1_000_000
QUICK = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "derandomize": True}

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "cp1251", "cp932", "gb18030")
WORDS = """
prompt completion messages conversations chosen rejected label text input output system role content from value parts
response_a response_b winner data rows columns annotations completions answers tools a.b
"""
KEYS = st.sampled_from((*WORDS.split(), "", "\ufeffprompt"))
ROLES = ("user", "assistant", "human", "gpt", "system", "a", "model_b")
LEAVES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    st.sampled_from((*ROLES, "\ud800", "[{'role': 'user'}", "Human: x\nAssistant: y")),
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(("user", "assistant", "system", "tool", "")), "content": st.text(max_size=5) | st.none()},
    optional={"tool_calls": LEAVES | st.lists(LEAVES | st.dictionaries(KEYS, LEAVES, max_size=2), max_size=2)},
)
NEAR = st.dictionaries(KEYS, VALUES | st.lists(TURN, max_size=4), max_size=5)
CELLS = st.one_of(
    st.text(alphabet=st.sampled_from("ab ,;|\t\n\r\"'{}[]é\ufeff\0"), max_size=10),
    st.sampled_from(("prompt", "completion", "a", "1", '"')),
)


def holds(name, content):
    """Checks a file of this name and content, and that what comes of it is consistent and can be shown."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        try:
            checked = check_file(path, limit_bytes=LIMIT)
        except InputError as error:
            json.dumps(str(error), ensure_ascii=False).encode()  # can be shown
            return
    numbers = [row.row for row in (*checked.usable, *checked.bad)]
    assert checked.good + len(checked.bad) == checked.rows == len(set(numbers))
    assert min(numbers) >= 1
    assert {warning.row for warning in checked.warnings} <= {row.row for row in checked.usable}
    assert all(row.reason and row.fix for row in checked.bad)
    assert 0 < checked.confidence <= 1
    assert json.dumps(as_json(checked), allow_nan=False).encode()
    assert as_text(checked).encode()


@settings(max_examples=40, **QUICK)
@given(st.binary(max_size=300), st.sampled_from(TAKEN), st.integers(0, 40))
def test_any_bytes(content, kind, cut):
    holds(f"any{kind}", content)
    if kind in TEXT_READERS:
        holds(f"any{kind}.gz", gzip.compress(content)[: -cut or None])


def test_calls_that_are_none_make_a_bad_row():
    for calls in ({"tool_calls": True}, {"tool_calls": "x"}, {"role": "function_call", "content": "[" * 100_000}):
        chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"} | calls]
        holds("calls.jsonl", json.dumps({"messages": chat}).encode())


@settings(max_examples=60, **QUICK)
@given(
    st.lists(NEAR, min_size=1, max_size=6) | VALUES,
    st.sampled_from((".json", ".jsonl", ".txt")),
    st.lists(st.integers(0, 2000), max_size=3),
)
def test_nearly_rows(value, kind, cuts):
    by_line = isinstance(value, list) and kind != ".json"
    text = "\n".join(map(json.dumps, value)) if by_line else json.dumps(value)
    for cut in cuts:
        text = text[: cut % (len(text) + 1)] + text[cut % (len(text) + 1) + 1 :]
    holds(f"near{kind}", text.encode("utf-8", errors="surrogatepass"))


WORD = st.text("abcdefghij", min_size=3, max_size=6)
INNER = st.recursive(
    WORD | st.integers(100),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(WORD, one, max_size=3),
    max_leaves=8,
)
SAID = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": WORD}, optional={"weight": st.just(1), "note": INNER}
)
CHAT = st.tuples(st.just({"from": "user", "value": "q"}), SAID).map(list)
PAIR = {"prompt": WORD, "completion": WORD | st.lists(WORD, min_size=1, max_size=2) | INNER}
TWO = {"prompt": WORD, "chosen": WORD, "rejected": st.lists(SAID, min_size=1, max_size=1)}
REQUEST = st.fixed_dictionaries(
    {"messages": CHAT.map(lambda turns: turns[:1]), "model": WORD}, optional={"seed": INNER}
)
RESPONSE = st.fixed_dictionaries(
    {"choices": st.lists(st.fixed_dictionaries({"message": SAID}, optional={"index": INNER}), min_size=1, max_size=2)},
    optional={"usage": INNER},
)
BESIDE = {"system": WORD, "history": INNER, "meta": INNER, "input": WORD, "score": st.integers(), "kept": CHAT}
BESIDE |= {"documents": st.lists(INNER, max_size=2), "options": INNER, "reasoning": INNER, **dict.fromkeys("ABC", WORD)}
LOGGED = {"request": REQUEST, "response": RESPONSE, "messages": INNER}
WHOLE = st.one_of(st.fixed_dictionaries(each, optional=BESIDE) for each in (PAIR, TWO, LOGGED, {"messages": CHAT}))
TURNED = {"request.messages": "messages", "response.choices[].message": "messages[]"}
TURNED |= {"response.choices": "response.replies"}
"""Where the turns of a log come to stand; its row's own are moved."""


def leaves(value, path):
    """(every column and key around it, the leaf itself)."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inner is None:
        yield path, value
        return
    for key, one in inner:
        last = f"{path[-1]}[]" if isinstance(value, list) and isinstance(one, dict) else path[-1]
        yield from leaves(one, (*path, f"{last}.{key}") if isinstance(value, dict) else (*path, last))


@settings(max_examples=150, **QUICK)
@given(st.lists(WHOLE, min_size=2, max_size=4))
def test_every_leaf_is_in_the_example_or_named(records):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        path.write_text("\n".join(map(json.dumps, records)))
        try:
            checked = check_file(path)
        except InputError:
            return
    named = {one.column for one in checked.unused}
    for row in checked.usable:
        said = "\n".join((*texts_of(row), *(turn.thought for turn in getattr(row, "messages", ()))))
        for column, value in records[row.row - 1].items():
            column = "messages of the row" if column == "messages" and "request" in records[row.row - 1] else column
            for around, leaf in leaves(value, (column,)):
                for here, there in TURNED.items():
                    around = [one.replace(here, there) for one in around]
                inside = {one.removesuffix("[]") for one in around} | {f"{one}[]" for one in around}
                structure = around[-1].rpartition(".")[2] in ("role", "from", "weight")
                mapped = column == checked.mapping.get("label")
                written = str(leaf) in said or json.dumps(leaf) in said
                assert written or structure or mapped or not named.isdisjoint(inside), (around, leaf, named)


@settings(max_examples=40, **QUICK)
@given(
    st.lists(st.lists(CELLS, max_size=4), min_size=1, max_size=8),
    st.sampled_from(",;\t|"),
    st.sampled_from(ENCODINGS),
    st.booleans(),
)
def test_nearly_tables(rows, separator, encoding, named):
    text = "\n".join(separator.join(cells) for cells in ([["prompt", "completion"]] * named + rows))
    for kind in (".csv", ".tsv", ".txt"):
        holds(f"near{kind}", text.encode(encoding, errors="replace"))


def test_cut_and_damaged_books_and_parquet():
    """Cuts, and bytes turned over: evenly spread, and in the first fields of the workbook's list of entries."""
    for kind, whole, parts in (
        (".xlsx", book(["prompt", "completion"], ["q", "a"]), 10),
        (".parquet", parquet(prompt=["q"], completion=["a"]), 8),
    ):
        fields = whole.index(b"PK\x01\x02") + 4 if kind == ".xlsx" else 0
        for place in (*range(0, len(whole), max(1, len(whole) // parts)), *range(fields, fields + 6)):
            holds(f"cut{kind}", whole[:place])
            holds(f"turned{kind}", whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
