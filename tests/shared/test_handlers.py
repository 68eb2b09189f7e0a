"""The same through the page's handlers, which anybody can call with any value: what comes back never holds what is
Anna's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pandas as pd
import pytest

from playground.errors import NotFoundError, PlaygroundError
from playground.services import Services, build_services
from playground.ui import (
    adapters,
    asking,
    bench,
    compare,
    examples,
    form,
    library,
    page,
    race,
    rows,
    runs,
    side,
    sidebar,
    train,
    verdict_form,
    verdict_shown,
    vote,
    wiring,
)
from playground.ui.asking import Comparison
from playground.ui.page import Memo, WholePage
from playground.ui.rows import Source
from playground.ui.side import Log
from playground.ui.verdict_form import Kept
from playground.ui.wiring import Visitor
from tests.shared.conftest import ANNA, BEN, SECRET, Belongings, belongings, shared_home

RUN: dict[str, Any] = {"name": "name", "method": "lora", "steps": 2, "lr": 1e-3, "rank": 4, "batch_size": 4, "seed": 7}
VERDICT = "20261124-101500-v1a2b"
MEASURE = {"repeats": 1, "max_tokens": 8, "temperature": 0, "seed": 7, "losses": False, "forgetting": False}
SITUATION = {"volume": None, "changes": "never", "latency": None, "budget": None, "prices": ""}
STARTED = {"checks": "json", "settings": MEASURE | {"limit": None}, "situation": SITUATION}
COMPARED: dict[str, Any] = {"comparison": Comparison(), "check": {"kind": "ends-with", "text": "x"}}
ASKED = {"question": "Hello", "sampling": {"temperature": 0, "top_p": 1, "max_tokens": 4, "seed": 7}} | COMPARED
KINDS = ("adapter", "run", "checkpoints", "upload", "upload by a path")


def sides(model: str = "base", source: str = "", shots: int = 0) -> Any:
    plain = {"model": "base", "prompt": "", "shots": 0, "source": ""}
    return dict.fromkeys("ABCDEF", plain) | {"A": {"model": model, "prompt": "", "shots": shots, "source": source}}


def her_rows(h: Belongings, **more: Any) -> dict[str, Any]:
    return {"source": Source(h.upload, "x", "x", good=2, roles=("prompt",)), "max_tokens": 256, **more}


def upload(h: Belongings, **more: Any) -> dict[str, Any]:
    where = {"source": "upload", "kept": Kept(), "uploaded": h.upload, "training": Source(), "seed": 7, "test": 15}
    return {"where": where, **more}


def file(h: Belongings, **more: Any) -> dict[str, Any]:
    where = upload(h)["where"] | {"source": "file", "kept": Kept(dropped=h.upload), "uploaded": None}
    return {"where": where, **more}


def line(h: Belongings) -> Any:
    return {"adapter": h.adapter, "prompt": "", "chosen": ["base", "tuned"], "offered": {}}


def stored(name: str, kind: str) -> Callable[[Belongings], dict[str, Any]]:
    def values(h: Belongings) -> dict[str, Any]:
        where = f"{ANNA}/{h.upload.parent.name}"
        ids = {"adapter": h.adapter, "upload": where, "upload by a path": f"../uploads/{where}"}
        return {name: f"{kind.split()[0]}:{ids.get(kind, h.run)}"}

    return values


Values = Callable[[Belongings], dict[str, Any]]
TRAIN, LIBRARY, COMPARE, JUDGED = "training", "library", "compare", "verdict"
RACE, CURVES, BENCH, VOTE = f"{TRAIN}.race", f"{TRAIN}.curves", f"{JUDGED}.bench", f"{JUDGED}.vote"
HANDLERS: list[tuple[Callable[..., Any], str, Values]] = [
    (library.pick, LIBRARY, lambda h: {"picked": h.adapter, "active": ""}),
    (library.ask_rename, LIBRARY, lambda h: {"chosen": h.adapter}),
    (library.rename, LIBRARY, lambda h: {"chosen": h.adapter, "active": "", "name": "mine"}),
    (library.ask_remove, LIBRARY, lambda h: {"chosen": h.adapter}),
    (library.remove, LIBRARY, lambda h: {"chosen": h.adapter, "active": ""}),
    (library.export, LIBRARY, lambda h: {"chosen": h.adapter, "format": "peft"}),
    (library.export, LIBRARY, lambda h: {"chosen": h.adapter, "format": "merged"}),
    (library.export, LIBRARY, lambda h: {"chosen": h.adapter, "format": "gguf"}),
    (library.import_file, LIBRARY, lambda h: {"uploaded": [str(h.upload)], "chosen": "", "active": ""}),
    (library.show, LIBRARY, lambda h: {"chosen": h.adapter, "active": h.adapter}),
    (library.send, LIBRARY, lambda h: {"log": Log(), "question": "Hello", "active": h.adapter}),
    (library.turned, LIBRARY, lambda h: {"log": Log(), "active": h.adapter}),
    (
        *(adapters.make, LIBRARY),
        lambda h: {"parts": [h.adapter] * 2, "how": "linear", "name": "mine", "made": "", "weights": (0.5, 0.5)},
    ),
    (runs.follow, TRAIN, lambda h: {"picked": h.run}),
    (runs.cancel, TRAIN, lambda h: {"keep": True, "followed": h.run}),
    (runs.resume, TRAIN, lambda h: {"followed": h.run}),
    (runs.move, TRAIN, lambda h: {"to": "up", "followed": h.run}),
    (runs.write, CURVES, lambda h: {"how": "csv", "followed": h.run}),
    (runs.lay, CURVES, lambda h: {"followed": h.run, "others": [h.run]}),
    (examples.open_upload, TRAIN, lambda h: {"uploaded": [str(h.upload)], "max_tokens": 256}),
    (examples.open_upload, TRAIN, lambda h: {"uploaded": ["/etc/passwd"], "max_tokens": 256}),
    (examples.read, TRAIN, her_rows),
    (examples.reread, TRAIN, her_rows),
    (examples.remap, TRAIN, lambda h: her_rows(h, roles=("prompt",))),
    (examples.read_as, TRAIN, lambda h: her_rows(h, read_as="Raw text")),
    (examples.save_edit, TRAIN, lambda h: her_rows(h, table=pd.DataFrame({"row": [1], "prompt": ["mine"]}))),
    (rows.preview, TRAIN, her_rows),
    (rows.download, TRAIN, lambda h: her_rows(h, which="bad")),
    (rows.download, TRAIN, lambda h: her_rows(h, which="good")),
    (rows.edit_page, TRAIN, lambda h: her_rows(h, which=rows.ALL)),
    (train.refresh, TRAIN, lambda h: her_rows(h, **RUN)),
    (train.start, TRAIN, lambda h: her_rows(h, **RUN)),
    (form.show_recipe, TRAIN, lambda h: her_rows(h, kind="settings", **RUN)),
    (form.bring, TRAIN, lambda h: {"uploaded": str(h.upload), "source": Source(Path("x"))}),
    (
        *(race.start, RACE),
        lambda h: (
            {"methods": ["lora", "ia3"], "kind": "steps", "amount": 2, "check": "", "source": her_rows(h)["source"]}
            | {"form": {"batch_size": 4, "max_tokens": 256, "seed": 7}}
        ),
    ),
    (race.opened, RACE, lambda h: {"race": "her-race", "which": "loss"}),
    (race.cancel, RACE, lambda h: {"race": "her-race"}),
    (race.side_of, RACE, lambda h: {"picked": h.adapter, "race": "her-race"}),
    (asking.ask, COMPARE, lambda h: ASKED | {"uploaded": None, "setups": sides(h.adapter)}),
    (asking.ask, COMPARE, lambda h: ASKED | {"uploaded": h.upload, "setups": sides(source="upload", shots=1)}),
    (asking.side_changed, COMPARE, lambda h: COMPARED | {"letter": "A", "switched": True, "setups": sides(h.adapter)}),
    (
        *(page.tick, ""),
        lambda h: (
            {"memo": Memo(), "followed": h.run, "laid": [h.run], "judged": VERDICT}
            | dict.fromkeys(("chosen", "active", "tuned"), h.adapter)
            | {"models": dict.fromkeys("ABCDEF", h.adapter)}
        ),
    ),
    (verdict_form.source_chosen, JUDGED, upload),
    (verdict_form.source_chosen, JUDGED, file),
    (verdict_form.start, JUDGED, lambda h: upload(h, line=line(h), **STARTED)),
    (verdict_form.start, JUDGED, lambda h: file(h, line=line(h), **STARTED)),
    (verdict_form.lined_up, JUDGED, lambda h: {"source": "", "kept": Kept(docs=h.upload), "line": line(h)}),
    (verdict_form.documents, JUDGED, lambda h: {"file": str(h.upload), "kept": Kept()}),
    (verdict_form.drop, JUDGED, lambda h: {"file": str(h.upload), "kept": Kept(), "uploaded": None}),
    (verdict_shown.follow, JUDGED, lambda h: {"picked": VERDICT}),
    (verdict_shown.replay, JUDGED, lambda h: {"picked": "1|0", "followed": VERDICT}),
    (verdict_shown.export, JUDGED, lambda h: {"how": "jsonl", "followed": VERDICT}),
    (verdict_shown.stop, JUDGED, lambda h: {"followed": VERDICT}),
    (verdict_shown.remove, JUDGED, lambda h: {"followed": VERDICT}),
    (bench.opened, BENCH, lambda h: upload(h, text="")),
    (bench.keep, BENCH, lambda h: file(h, text="Mine.")),
    (bench.score, BENCH, lambda h: upload(h, counts=[0], checks="json", max_tokens=8, draw=7)),
    (bench.stop, BENCH, file),
    (bench.remove, BENCH, lambda h: {"picked": "v1"}),
    (vote.show, VOTE, lambda h: {"verdict": VERDICT}),
    (vote.cast, VOTE, lambda h: {"picked": "left", "number": 0, "verdict": VERDICT}),
    (vote.undo, VOTE, lambda h: {"verdict": VERDICT}),
    (vote.reveal, VOTE, lambda h: {"verdict": VERDICT}),
    (vote.let, VOTE, lambda h: {"verdict": VERDICT, "judge": h.adapter}),
    (vote.stop, VOTE, lambda h: {"verdict": VERDICT}),
    (vote.judging, VOTE, lambda h: {"verdict": VERDICT}),
    (compare.show, f"{COMPARE}.demo", lambda h: {}),
    (compare.cancel, f"{COMPARE}.demo", lambda h: {}),
    (sidebar.show_storage, "storage", lambda h: {}),
    *((sidebar.ask, "storage", stored("picked", kind)) for kind in KINDS),
    *((sidebar.remove, "storage", stored("asked", kind)) for kind in KINDS),
    *((sidebar.remove, "storage", lambda h, kind=kind: {"asked": f"{kind}:"}) for kind in (*sidebar.KINDS, "nonsense")),
    (sidebar.remove, "storage", lambda h: {"asked": sidebar.EVERYTHING}),
    (sidebar.inspect, "device", lambda h: {"spec": "/etc"}),
    (sidebar.choose, "device", lambda h: {"spec": "a/b"}),
]
"""(handler, what it is given of the page, its values)."""
Attack = Callable[[Services, Visitor, Belongings, WholePage], Any]
OTHERS: dict[str, Attack] = {
    "runs.adapter_of": lambda s, v, h, p: runs.adapter_of(s, v, h.run),
    "library.import_folder": lambda s, v, h, p: library.import_file(
        *(s, v, p.library),
        **{"uploaded": [*map(str, (s.settings.adapters_dir / h.adapter).iterdir())], "chosen": "", "active": ""},
    ),
    "asking.use_as_side": lambda s, v, h, p: asking.use_as_side(
        s, v, p.compare, tabs=p.tabs, adapter=h.adapter, setups=sides(), **COMPARED
    ),
    "verdict_shown.opened": lambda s, v, h, p: verdict_shown.opened(s, v, p.verdict, tabs=p.tabs, asked=VERDICT),
    "bench.use": lambda s, v, h, p: bench.use(s, v, p.verdict.bench, tab=p.verdict, **upload(h)),
    "side.labels": lambda s, v, h, p: [
        *(side.labels(s, v), side.model_choices(side.usable(s, v)), side.greyed_html(s.adapters.list(v.owner)))
    ],
}


def attack_by(handler: Callable[..., Any], part: str, values: Values) -> Attack:
    return lambda s, v, h, p: handler(s, v, attrgetter(part)(p) if part else p, **values(h))


ATTACKS = OTHERS | {
    f"{n} {handler.__module__.rpartition('.')[2]}.{handler.__name__}": attack_by(handler, part, values)
    for n, (handler, part, values) in enumerate(HANDLERS)
}


@pytest.fixture(scope="module")
def loaded(
    tmp_path_factory: pytest.TempPathFactory, prepared: Path, lora: Path
) -> Iterator[tuple[Services, Belongings, WholePage]]:
    """With the base in memory, for all attacks: none of them changes anything."""
    built = build_services(shared_home(tmp_path_factory.mktemp("shared") / "home", prepared))
    built.bases.engine()
    with gr.Blocks():
        whole = WholePage(built)
    yield built, belongings(built, lora), whole
    built.close()


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_a_handler_called_with_anothers_ids(
    loaded: tuple[Services, Belongings, WholePage], ben: Visitor, attack: Attack
) -> None:
    services, her, tabs = loaded
    before = {(item.kind, item.id, item.bytes) for item in services.storage.items(ANNA)}
    try:
        found = attack(services, ben, her, tabs)
        told = str([*found] if isinstance(found, Iterator) else found).replace("Path(", "")
    except PlaygroundError as error:  # what the page shows in place of an answer
        told = str(error)
    for asked in (str(her.upload), her.upload.name, her.adapter):
        told = told.replace(asked, "")  # what was asked for may be repeated
    assert SECRET not in told
    assert {(item.kind, item.id, item.bytes) for item in services.storage.items(ANNA)} == before
    assert services.training.show(her.run, ANNA).state == "FAILED"
    assert [run.run for run in services.training.runs(BEN)] == []
    assert services.adapters.get(her.adapter, ANNA).id == her.adapter


def request(cookie: str = "", tab: str | None = None) -> Any:
    return SimpleNamespace(session_hash=tab, cookies={"prompt_or_tune": cookie} if cookie else {})


def test_the_cookie_is_who_one_is_and_local_is_nobodys(services: Services) -> None:
    for tab in ("tab-1", "tab-2"):
        assert wiring.visitor(services, request("a" * 32, tab)).owner == ANNA, "each tab of the same browser"
    for cookie, tab in (("", None), ("", "local"), ("local", None), ("x' OR 1=1", "local"), ("A" * 32, "t")):
        assert wiring.visitor(services, request(cookie, tab)).owner not in ("local", "", ANNA)
    nobody = {wiring.visitor(services, request()).owner for _ in range(5)}
    assert len(nobody) == 5, "without cookie and tab every call is a stranger"
    for other in ("b" * 32, ""):
        with pytest.raises(NotFoundError, match="There is no such page"):
            wiring.visitor(services, request(other, "tab-1"))


def test_delete_my_data_says_what_is_kept_asks_and_tells(services: Services, hers: Belongings, anna: Visitor) -> None:
    notice = sidebar.notice(services.settings)
    assert all(words in notice for words in ("24 hours", "1.0 GB"))
    with gr.Blocks():
        view = sidebar.StorageView(services)
    asked = sidebar.ask(services, anna, view, picked=sidebar.EVERYTHING)
    assert asked[view.asked] == sidebar.EVERYTHING
    assert "1 adapter, 1 run, 1 checkpoint folder and 1 upload" in asked[view.words]
    assert asked[view.yes] == "Yes, delete it all"
    assert len(services.storage.items(ANNA)) == 4, "nothing went before Yes"
    removed = sidebar.remove(services, anna, view, asked=sidebar.EVERYTHING)
    assert "Removed: 1 adapter, 1 run, 1 checkpoint folder and 1 upload" in str(removed[view.message])
    assert services.storage.items(ANNA) == []
    again = sidebar.remove(services, anna, view, asked=sidebar.EVERYTHING)
    assert "nothing to remove" in str(again[view.message])
