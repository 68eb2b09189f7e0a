"""The same through the page's handlers, called with any value: what comes back never holds what is Anna's."""

import json
from collections import ChainMap
from collections.abc import Iterator
from dataclasses import replace
from operator import attrgetter, itemgetter
from pathlib import Path
from pkgutil import resolve_name

import gradio as gr
import pandas as pd
import pytest

from playground.errors import PlaygroundError
from playground.ui import side, sidebar
from playground.ui.asking import Comparison
from playground.ui.judged import Kept
from playground.ui.page import Memo, WholePage
from playground.ui.rows import Source
from playground.ui.side import Log
from playground.ui.wiring import Visit
from tests.services.conftest import SIDES
from tests.shared.conftest import ANNA, BEN, SECRET, filled

NOTHING = {"name": "", "column": "", "read": None, "written": None}
TABLE = Path(__file__).with_name("handlers.jsonl").read_text("utf-8").splitlines()
"""A handler, its part of the page, and what it is given of the page; $name is looked up in ``words``."""


def sides(model="base", source="", shots=0):
    plain = {"model": "base", "prompt": "", "shots": 0, "source": "", "form": "", "form_text": ""}
    return dict.fromkeys("ABCDEF", plain) | {"A": plain | {"model": model, "shots": shots, "source": source}}


def words(s, h, p):
    """What the table's words stand for: all that is Anna's, and the page's states that name it."""
    source = Source(h.upload, "x", "x", good=2, roles=("prompt",))
    where = {"source": "upload", "kept": Kept(), "uploaded": h.upload, "training": Source(), "seed": 7, "test": 15}
    compared = {"comparison": Comparison(), "check": {"kind": "ends-with", "text": "x"}}
    sampling = {"temperature": 0, "top_p": 1, "max_tokens": 4, "seed": 7}
    measure = {"repeats": 1, "draws": 1, "max_tokens": 8, "temperature": 0, "seed": 7}
    measure |= {"losses": False, "forgetting": False}
    terms = {"right": "", "bar": 90, "margin": 5, "maximum": None, "form_only": False}
    situation = {"volume": None, "changes": "never", "latency": None, "budget": None, "forgets": None, "prices": ""}
    models = dict.fromkeys(("chosen", "active", "tuned"), h.adapter)
    return {
        **{"adapter": h.adapter, "run": h.run, "upload": h.upload, "file": str(h.upload), "verdict": h.verdict},
        **{"owner": ANNA, "room": h.upload.parent.name, "race": h.race, "source": source, "none": Source(Path("x"))},
        **{"log": Log(), "memo": Memo(), "kept": Kept(), "kept_docs": Kept(docs=h.upload)},
        "kept_file": Kept(dropped=h.upload),
        "rows": {"source": source, "max_tokens": 256},
        "situation": situation,
        "table": pd.DataFrame({"row": [1], "prompt": ["mine"]}),
        "settings": {"name": "name", "method": "lora", "steps": 2, "lr": 1e-3, "rank": 4, "batch_size": 4, "seed": 7},
        **{"compared": compared, "plain": sides(), "tabs": p.tabs, "tab": p.verdict},
        "files": [*map(str, (s.settings.adapters_dir / h.adapter).iterdir())],
        "asked": {"question": "Hello", "sampling": sampling, **compared},
        **{"her_side": sides(h.adapter), "her_shots": sides(source="upload", shots=1)},
        "models": models | {"models": dict.fromkeys("ABCDEF", h.adapter)},
        "uploaded": where,
        "dropped": where | {"source": "file", "kept": Kept(dropped=h.upload), "uploaded": None},
        "documented": where | {"source": "", "kept": Kept(docs=h.upload), "uploaded": None},
        "line": {"adapter": h.adapter, "prompt": "", "chosen": ["base", "tuned"], "offered": {}, "recorded": NOTHING},
        "replied": where | {"source": "set:hospital_reports", "kept": Kept(replies=h.upload), "uploaded": None},
        "measured": {"checks": "json", "settings": measure | {"limit": None}, "situation": situation, "terms": terms},
    }


@pytest.fixture(scope="module")
def whole(attacked):
    """The page of the attacked app, with the base in memory."""
    attacked[0].bases.engine()
    with gr.Blocks():
        return WholePage(attacked[0])


@pytest.mark.parametrize("line", map(json.loads, TABLE), ids=itemgetter("handler"))
def test_a_handler_called_by_another(attacked, whole, line):
    services, her = attacked
    exports = services.settings.exports_dir
    before = {(item.kind, item.id, item.bytes) for item in services.storage.items(ANNA)}, {*exports.rglob("*")}
    handler = resolve_name(f"playground.ui.{line['handler']}")
    part = attrgetter(line["part"])(whole) if line["part"] else whole
    values = filled(line["values"], words(services, her, whole))
    try:
        found = handler(Visit(services, BEN, BEN), part, **dict(ChainMap(*values)))
        told = str([*found] if isinstance(found, Iterator) else found).replace("Path(", "")
    except PlaygroundError as error:  # what the page shows in place of an answer
        told = str(error)
    for asked in (str(her.upload), her.upload.name, her.adapter):
        told = told.replace(asked, "")  # what was asked for may be repeated
    assert not [word for word in (SECRET, *SIDES) if word in told]
    after = {(item.kind, item.id, item.bytes) for item in services.storage.items(ANNA)}, {*exports.rglob("*")}
    assert after == before, "nothing of hers has changed, nothing was made of it"
    assert services.training.show(her.run, ANNA).state == "FAILED"
    assert [run.run for run in services.training.runs(BEN)] == []
    assert services.adapters.get(her.adapter, ANNA).id == her.adapter


def test_what_may_be_chosen_names_nothing_of_hers(attacked):
    ben = Visit(attacked[0], BEN, BEN)
    choices = side.labels(ben), side.model_choices(ben.services, side.usable(ben))
    assert SECRET not in str([*choices, side.greyed_html(ben.services.adapters.list(BEN))])


def test_delete_my_data_says_what_is_kept_asks_and_tells(services, hers):
    anna, notice = Visit(services, ANNA, ANNA), sidebar.notice(services.settings)
    assert all(words in notice for words in ("24 hours", "1.0 GB"))
    assert "no lasting disk" in sidebar.notice(replace(services.settings, lasting=False))
    assert "no lasting" not in notice
    with gr.Blocks():
        view = sidebar.StorageView(services)
    asked = sidebar.ask(anna, view, picked=sidebar.EVERYTHING)
    assert asked[view.asked] == sidebar.EVERYTHING
    assert "1 adapter, 1 run, 1 checkpoint folder and 1 upload" in asked[view.words]
    assert asked[view.yes] == "Yes, delete it all"
    assert len(services.storage.items(ANNA)) == 4, "nothing went before Yes"
    removed = sidebar.remove(anna, view, asked=sidebar.EVERYTHING)
    assert "Removed: 1 adapter, 1 run, 1 checkpoint folder and 1 upload" in str(removed[view.message])
    assert services.storage.items(ANNA) == []
    again = sidebar.remove(anna, view, asked=sidebar.EVERYTHING)
    assert "nothing to remove" in str(again[view.message])
