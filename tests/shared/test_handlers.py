"""The same through the page's handlers, which anybody can call with any value: what comes back never holds what is
Anna's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
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
from playground.ui.page import Memo
from playground.ui.rows import Source
from playground.ui.side import Log
from playground.ui.verdict_form import Kept
from playground.ui.wiring import Visitor
from tests.shared.conftest import ANNA, BEN, SECRET, Belongings, belongings, shared_home

RUN: dict[str, Any] = {"name": "name", "method": "lora", "steps": 2, "lr": 1e-3, "rank": 4, "batch_size": 4, "seed": 7}
HER_VERDICT = "20261124-101500-v1a2b"
SETTINGS: Any = {
    "limit": None,
    "repeats": 1,
    "max_tokens": 8,
    "temperature": 0,
    "seed": 7,
    "losses": False,
    "forgetting": False,
}
SITUATION: Any = {"volume": None, "changes": "never", "latency": None, "budget": None, "prices": ""}
COMPARED: dict[str, Any] = {"comparison": Comparison(), "check": {"kind": "ends-with", "text": "x"}}
GREEDY: Any = {"temperature": 0, "top_p": 1, "max_tokens": 4, "seed": 7}
KINDS = ("adapter", "run", "checkpoints", "upload", "upload by a path")


class Tabs:
    """The page's tabs as they are built: what a handler is given of the page."""

    def __init__(self, services: Services) -> None:
        with gr.Blocks():
            self.watched = page.WholePage(services)
        whole = self.watched
        self.tabs, self.storage, self.train, self.library = whole.tabs, whole.storage, whole.training, whole.library
        self.compare, self.verdict = whole.compare, whole.verdict


def last(answers: Iterator[Any]) -> Any:
    return [*answers][-1]


def _sides(model: str = "base", source: str = "", shots: int = 0) -> Any:
    plain = {"model": "base", "prompt": "", "shots": 0, "source": ""}
    return dict.fromkeys("ABCDEF", plain) | {"A": {"model": model, "prompt": "", "shots": shots, "source": source}}


def _hers(hers: Belongings) -> dict[str, Any]:
    return {"source": Source(hers.upload, "x", "x", good=2, roles=("prompt",)), "max_tokens": 256}


def _raced(hers: Belongings) -> dict[str, Any]:
    form = {"batch_size": 4, "max_tokens": 256, "seed": 7}
    return {"source": _hers(hers)["source"], "form": form}


def _upload(hers: Belongings) -> Any:
    return {"source": "upload", "kept": Kept(), "uploaded": hers.upload, "training": Source(), "seed": 7, "test": 15}


def _file(hers: Belongings) -> Any:
    return _upload(hers) | {"source": "file", "kept": Kept(dropped=hers.upload), "uploaded": None}


def _line(adapter: str) -> Any:
    return {"adapter": adapter, "prompt": "", "chosen": ["base", "tuned"], "offered": {}}


def _export(kind: str, services: Services, visitor: Visitor, hers: Belongings, p: Tabs) -> Any:
    return [*library.export(services, visitor, p.library, chosen=hers.adapter, format=kind)]


def _wipe(handler: Callable[..., Any], name: str, kind: str, s: Services, v: Visitor, h: Belongings, p: Tabs) -> Any:
    upload = f"{ANNA}/{h.upload.parent.name}"
    ids = {"adapter": h.adapter, "upload": upload, "upload by a path": f"../uploads/{upload}"}
    return handler(s, v, p.storage, **{name: f"{kind.split()[0]}:{ids.get(kind, h.run)}"})


def _wipe_all(kind: str, services: Services, visitor: Visitor, hers: Belongings, p: Tabs) -> Any:
    return sidebar.remove(services, visitor, p.storage, asked=f"{kind}:")


Attack = Callable[[Services, Visitor, Belongings, Tabs], Any]
ATTACKS: dict[str, Attack] = {
    "pick": lambda s, v, h, p: library.pick(s, v, p.library, picked=h.adapter, active=""),
    "ask rename": lambda s, v, h, p: library.ask_rename(s, v, p.library, chosen=h.adapter),
    "rename": lambda s, v, h, p: library.rename(s, v, p.library, chosen=h.adapter, active="", name="mine"),
    "ask remove": lambda s, v, h, p: library.ask_remove(s, v, p.library, chosen=h.adapter),
    "remove": lambda s, v, h, p: library.remove(s, v, p.library, chosen=h.adapter, active=""),
    **{f"export as {kind}": partial(_export, kind) for kind in ("peft", "merged", "gguf")},
    "import": lambda s, v, h, p: library.import_file(
        s,
        v,
        p.library,
        uploaded=[str(f) for f in (s.settings.adapters_dir / h.adapter).iterdir()],
        chosen="",
        active="",
    ),
    "show the list": lambda s, v, h, p: library.show(s, v, p.library, chosen=h.adapter, active=h.adapter),
    "blend it": lambda s, v, h, p: [
        *adapters.make(
            s, v, p.library, parts=[h.adapter, h.adapter], how="linear", name="mine", made="", weights=(0.5, 0.5)
        )
    ],
    "follow": lambda s, v, h, p: runs.follow(s, v, p.train, picked=h.run),
    "cancel": lambda s, v, h, p: runs.cancel(s, v, p.train, keep=True, followed=h.run),
    "resume": lambda s, v, h, p: runs.resume(s, v, p.train, followed=h.run),
    "move": lambda s, v, h, p: runs.move(s, v, p.train, to="up", followed=h.run),
    "take its curves": lambda s, v, h, p: runs.write(s, v, p.train.curves, how="csv", followed=h.run),
    "lay it over": lambda s, v, h, p: runs.lay(s, v, p.train.curves, followed=h.run, others=[h.run]),
    "what it made": lambda s, v, h, p: runs.adapter_of(s, v, h.run),
    "open her upload": lambda s, v, h, p: [
        *examples.open_upload(s, v, p.train, uploaded=[str(h.upload)], max_tokens=256)
    ],
    "open the machine's": lambda s, v, h, p: [
        *examples.open_upload(s, v, p.train, uploaded=["/etc/passwd"], max_tokens=256)
    ],
    "read her upload": lambda s, v, h, p: [*examples.read(s, v, p.train, **_hers(h))],
    "read it again": lambda s, v, h, p: examples.reread(s, v, p.train, **_hers(h)),
    "preview it": lambda s, v, h, p: rows.preview(s, v, p.train, **_hers(h)),
    "map it": lambda s, v, h, p: [*examples.remap(s, v, p.train, roles=("prompt",), **_hers(h))],
    "read it as text": lambda s, v, h, p: [*examples.read_as(s, v, p.train, read_as="Raw text", **_hers(h))],
    "take its bad rows": lambda s, v, h, p: rows.download(s, v, p.train, which="bad", **_hers(h)),
    "take its good rows": lambda s, v, h, p: rows.download(s, v, p.train, which="good", **_hers(h)),
    "see its rows": lambda s, v, h, p: rows.edit_page(s, v, p.train, which=rows.ALL, **_hers(h)),
    "edit its rows": lambda s, v, h, p: [
        *examples.save_edit(s, v, p.train, table=pd.DataFrame({"row": [1], "prompt": ["mine"]}), **_hers(h))
    ],
    "plan on it": lambda s, v, h, p: train.refresh(s, v, p.train, **RUN, **_hers(h)),
    "train on it": lambda s, v, h, p: train.start(s, v, p.train, **RUN, **_hers(h)),
    "take its settings": lambda s, v, h, p: form.show_recipe(s, v, p.train, kind="settings", **RUN, **_hers(h)),
    "bring it as settings": lambda s, v, h, p: form.bring(
        s, v, p.train, uploaded=str(h.upload), source=Source(Path("x"))
    ),
    "race on it": lambda s, v, h, p: race.start(
        s, v, p.train.race, methods=["lora", "ia3"], kind="steps", amount=2, check="", **_raced(h)
    ),
    "look at her races": lambda s, v, h, p: race.opened(s, v, p.train.race, race="her-race", which="loss"),
    "cancel her race": lambda s, v, h, p: race.cancel(s, v, p.train.race, race="her-race"),
    "use her race's adapter": lambda s, v, h, p: race.side_of(s, v, p.train.race, picked=h.adapter, race="her-race"),
    "ask it": lambda s, v, h, p: last(
        asking.ask(
            s, v, p.compare, uploaded=None, question="Hello", sampling=GREEDY, setups=_sides(h.adapter), **COMPARED
        )
    ),
    "draw shots": lambda s, v, h, p: last(
        asking.ask(
            s,
            v,
            p.compare,
            uploaded=h.upload,
            question="Hello",
            sampling=GREEDY,
            setups=_sides(source="upload", shots=1),
            **COMPARED,
        )
    ),
    "switch a side": lambda s, v, h, p: asking.side_changed(
        s, v, p.compare, letter="A", switched=True, setups=_sides(h.adapter), **COMPARED
    ),
    "use as a side": lambda s, v, h, p: asking.use_as_side(
        s, v, p.compare, tabs=p.tabs, adapter=h.adapter, setups=_sides(), **COMPARED
    ),
    "chat with it": lambda s, v, h, p: last(
        library.send(s, v, p.library, log=Log(), question="Hello", active=h.adapter)
    ),
    "turn to it": lambda s, v, h, p: library.turned(s, v, p.library, log=Log(), active=h.adapter),
    "models": lambda s, v, h, p: [
        side.labels(s, v),
        side.model_choices(side.usable(s, v)),
        side.greyed_html(s.adapters.list(v.owner)),
    ],
    "look at everything": lambda s, v, h, p: page.tick(
        s,
        v,
        p.watched,
        memo=Memo(),
        followed=h.run,
        laid=[h.run],
        chosen=h.adapter,
        active=h.adapter,
        judged=HER_VERDICT,
        tuned=h.adapter,
        models=dict.fromkeys("ABCDEF", h.adapter),
    ),
    "judge her upload": lambda s, v, h, p: verdict_form.source_chosen(s, v, p.verdict, where=_upload(h)),
    "judge a file of hers": lambda s, v, h, p: verdict_form.source_chosen(s, v, p.verdict, where=_file(h)),
    "measure on her upload": lambda s, v, h, p: verdict_form.start(
        s, v, p.verdict, where=_upload(h), line=_line(h.adapter), checks="json", settings=SETTINGS, situation=SITUATION
    ),
    "measure on a file of hers": lambda s, v, h, p: verdict_form.start(
        s, v, p.verdict, where=_file(h), line=_line(h.adapter), checks="json", settings=SETTINGS, situation=SITUATION
    ),
    "line her adapter up": lambda s, v, h, p: verdict_form.lined_up(
        s, v, p.verdict, source="", kept=Kept(docs=h.upload), line=_line(h.adapter)
    ),
    "read her documents": lambda s, v, h, p: verdict_form.documents(s, v, p.verdict, file=str(h.upload), kept=Kept()),
    "drop her upload": lambda s, v, h, p: verdict_form.drop(
        s, v, p.verdict, file=str(h.upload), kept=Kept(), uploaded=None
    ),
    "open her verdict": lambda s, v, h, p: verdict_shown.opened(s, v, p.verdict, tabs=p.tabs, asked=HER_VERDICT),
    "follow her verdict": lambda s, v, h, p: verdict_shown.follow(s, v, p.verdict, picked=HER_VERDICT),
    "replay her verdict": lambda s, v, h, p: verdict_shown.replay(s, v, p.verdict, picked="1|0", followed=HER_VERDICT),
    "take her verdict": lambda s, v, h, p: verdict_shown.export(s, v, p.verdict, how="jsonl", followed=HER_VERDICT),
    "stop her verdict": lambda s, v, h, p: verdict_shown.stop(s, v, p.verdict, followed=HER_VERDICT),
    "remove her verdict": lambda s, v, h, p: verdict_shown.remove(s, v, p.verdict, followed=HER_VERDICT),
    "open the bench on it": lambda s, v, h, p: bench.opened(s, v, p.verdict.bench, text="", where=_upload(h)),
    "keep a prompt on it": lambda s, v, h, p: bench.keep(s, v, p.verdict.bench, text="Mine.", where=_file(h)),
    "score a prompt on it": lambda s, v, h, p: bench.score(
        s, v, p.verdict.bench, counts=[0], checks="json", max_tokens=8, draw=7, where=_upload(h)
    ),
    "use a prompt on it": lambda s, v, h, p: bench.use(s, v, p.verdict.bench, tab=p.verdict, where=_upload(h)),
    "stop the bench on it": lambda s, v, h, p: bench.stop(s, v, p.verdict.bench, where=_file(h)),
    "remove her prompt": lambda s, v, h, p: bench.remove(s, v, p.verdict.bench, picked="v1"),
    "see her vote": lambda s, v, h, p: vote.show(s, v, p.verdict.vote, verdict=HER_VERDICT),
    "vote for her": lambda s, v, h, p: vote.cast(s, v, p.verdict.vote, picked="left", number=0, verdict=HER_VERDICT),
    "undo her vote": lambda s, v, h, p: vote.undo(s, v, p.verdict.vote, verdict=HER_VERDICT),
    "reveal her votes": lambda s, v, h, p: vote.reveal(s, v, p.verdict.vote, verdict=HER_VERDICT),
    "judge her verdict": lambda s, v, h, p: vote.let(s, v, p.verdict.vote, verdict=HER_VERDICT, judge=h.adapter),
    "stop her judge": lambda s, v, h, p: vote.stop(s, v, p.verdict.vote, verdict=HER_VERDICT),
    "see her judge": lambda s, v, h, p: vote.judging(s, v, p.verdict.vote, verdict=HER_VERDICT),
    "see the story": lambda s, v, h, p: compare.show(s, v, p.compare.demo),
    "cancel the story": lambda s, v, h, p: compare.cancel(s, v, p.compare.demo),
    "see storage": lambda s, v, h, p: sidebar.show_storage(s, v, p.storage),
    **{f"ask to wipe {kind}": partial(_wipe, sidebar.ask, "picked", kind) for kind in KINDS},
    **{f"wipe {kind}": partial(_wipe, sidebar.remove, "asked", kind) for kind in KINDS},
    **{f"wipe every {kind}": partial(_wipe_all, kind) for kind in (*sidebar.KINDS, "nonsense")},
    "wipe everything": lambda s, v, h, p: sidebar.remove(s, v, p.storage, asked=sidebar.EVERYTHING),
    "look at another base": lambda s, v, h, p: sidebar.inspect(s, v, p.watched.device, spec="/etc"),
    "choose another base": lambda s, v, h, p: sidebar.choose(s, v, p.watched.device, spec="a/b"),
}


@pytest.fixture(scope="module")
def loaded(
    tmp_path_factory: pytest.TempPathFactory, prepared: Path, lora: Path
) -> Iterator[tuple[Services, Belongings, Tabs]]:
    """With the base in memory, for all attacks: none of them changes anything."""
    built = build_services(shared_home(tmp_path_factory.mktemp("shared") / "home", prepared))
    built.bases.engine()
    yield built, belongings(built, lora), Tabs(built)
    built.close()


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_a_handler_called_with_anothers_ids(
    loaded: tuple[Services, Belongings, Tabs], ben: Visitor, attack: Attack
) -> None:
    services, hers, tabs = loaded
    before = {(item.kind, item.id, item.bytes) for item in services.storage.items(ANNA)}
    try:
        told = str(attack(services, ben, hers, tabs)).replace("Path(", "")
    except PlaygroundError as error:  # what the page shows in place of an answer
        told = str(error)
    for asked in (str(hers.upload), hers.upload.name, hers.adapter):
        told = told.replace(asked, "")  # what was asked for may be repeated
    assert SECRET not in told
    assert {(item.kind, item.id, item.bytes) for item in services.storage.items(ANNA)} == before
    assert services.training.show(hers.run, ANNA).state == "FAILED"
    assert [run.run for run in services.training.runs(BEN)] == []
    assert services.adapters.get(hers.adapter, ANNA).id == hers.adapter


def request(cookie: str = "", tab: str | None = None) -> Any:
    return SimpleNamespace(session_hash=tab, cookies={"prompt_or_tune": cookie} if cookie else {})


def test_the_cookie_is_who_one_is_and_local_is_nobodys(services: Services) -> None:
    mine = wiring.visitor(services, request("a" * 32, "tab-1"))
    assert mine.owner == ANNA
    assert wiring.visitor(services, request("a" * 32, "tab-2")).owner == ANNA, "another tab of the same browser"
    for cookie, tab in (("", None), ("", "local"), ("local", None), ("x' OR 1=1", "local"), ("A" * 32, "t")):
        assert wiring.visitor(services, request(cookie, tab)).owner not in ("local", "", ANNA)
    nobody = {wiring.visitor(services, request()).owner for _ in range(5)}
    assert len(nobody) == 5, "without cookie and tab every call is a stranger"


def test_a_tabs_state_is_not_for_another_browser(services: Services) -> None:
    wiring.visitor(services, request("a" * 32, "annas-tab"))
    for other in ("b" * 32, ""):
        with pytest.raises(NotFoundError, match="There is no such page"):
            wiring.visitor(services, request(other, "annas-tab"))


def test_every_call_is_a_sign_of_life(services: Services) -> None:
    assert wiring.visitor(services, request("a" * 32, "t")).owner == ANNA
    assert set(services.sessions.visits()) == {ANNA}


def test_the_notice_says_what_is_kept_and_for_how_long(services: Services) -> None:
    assert "24 hours" in sidebar.notice(services.settings)
    assert "1.0 GB" in sidebar.notice(services.settings)


def test_delete_my_data_asks_and_tells(services: Services, hers: Belongings, anna: Visitor) -> None:
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
