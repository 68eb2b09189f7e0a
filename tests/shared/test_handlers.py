"""The same through the page's handlers, which anybody can call with any value: what comes back never holds what is Anna's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from playground.errors import NotFoundError
from playground.services.container import Services
from playground.ui import (
    asking,
    bench,
    chat,
    curves,
    demo,
    edit,
    examples,
    library,
    plan,
    race,
    rows,
    runs,
    seen,
    side,
    sidebar,
    storage,
    story,
    verdict_form,
    verdict_shown,
    vote,
    watch,
    wiring,
)
from playground.ui.asking import Comparison
from playground.ui.source import Source
from playground.ui.transcript import Log
from playground.ui.verdict_form import Kept
from playground.ui.watch import Memo
from playground.ui.wiring import Visitor
from tests.shared.conftest import ANNA, BEN, SECRET, Belongings, belongings, shared_home

PLAN = ("name", "lora", 2, 1e-3, 4, 4, 256, 7)
HER_VERDICT = "20261124-101500-v1a2b"
EMPTY = ("base", "", 0, "") * 6


def sides(adapter: str = "base", source: str = "", shots: int = 0) -> tuple[Any, ...]:
    return (adapter, "", shots, source, *EMPTY[4:])


Attack = Callable[[Services, Visitor, Belongings], Any]
ATTACKS: dict[str, Attack] = {
    "pick": lambda s, v, h: library.pick(s, v, h.adapter, "", ""),
    "ask rename": lambda s, v, h: library.ask_rename(s, v, h.adapter),
    "rename": lambda s, v, h: library.rename(s, v, h.adapter, "", "mine"),
    "ask remove": lambda s, v, h: library.ask_remove(s, v, h.adapter),
    "remove": lambda s, v, h: library.remove(s, v, h.adapter, ""),
    "export": lambda s, v, h: [[*library.export(s, v, h.adapter, kind)] for kind in ("peft", "merged", "gguf")],
    "import": lambda s, v, h: library.import_file(s, v, [str(f) for f in (s.settings.adapters_dir / h.adapter).iterdir()], "", ""),
    "show the list": lambda s, v, h: library.show(s, v, h.adapter, h.adapter),
    "follow": lambda s, v, h: runs.follow(s, v, h.run),
    "cancel": lambda s, v, h: runs.cancel(s, v, True, h.run),
    "resume": lambda s, v, h: runs.resume(s, v, h.run),
    "take its curves": lambda s, v, h: curves.write(s, v, "csv", h.run),
    "lay it over": lambda s, v, h: curves.lay(s, v, h.run, [h.run]),
    "what it made": lambda s, v, h: runs.adapter_of(s, v, h.run),
    "open her upload": lambda s, v, h: [*examples.open_upload(s, v, Source(), [str(h.upload)], 2048)],
    "open the machine's": lambda s, v, h: [*examples.open_upload(s, v, Source(), ["/etc/passwd"], 2048)],
    "read her upload": lambda s, v, h: [*examples.read(s, v, Source(h.upload, "x", "x"), 2048)],
    "preview it": lambda s, v, h: seen.show(s, v, Source(h.upload, "x", "x", good=2), 2048),
    "map it": lambda s, v, h: [*examples.remap(s, v, Source(h.upload, "x", "x", roles=("prompt",)), 2048, "prompt")],
    "read it as text": lambda s, v, h: [*examples.read_as(s, v, "Raw text", Source(h.upload, "x", "x"), 2048)],
    "take its rows": lambda s, v, h: [rows.download(s, v, which, Source(h.upload, "x", "x", good=2), 2048) for which in ("bad", "good")],
    "see its rows": lambda s, v, h: edit.show(s, v, edit.ALL, 0, Source(h.upload, "x", "x", good=2), 2048),
    "edit its rows": lambda s, v, h: [*examples.save_edit(s, v, Source(h.upload, "x", "x", good=2), 2048, {"headers": ["row", "prompt"], "data": [[1, "mine"]]})],
    "plan on it": lambda s, v, h: plan.refresh(s, v, Source(h.upload, "x", "x", good=2), *PLAN),
    "race on it": lambda s, v, h: race.start(s, v, Source(h.upload, "x", "x", good=2), ["lora", "ia3"], "steps", 2, "", 4, 256, 7),
    "look at her races": lambda s, v, h: [race.opened(s, v, "her-race", {}, "loss"), race.cancel(s, v, "her-race"), race.side_of(s, v, h.adapter, "her-race")],
    "train on it": lambda s, v, h: plan.start(s, v, Source(h.upload, "x", "x", good=2), *PLAN),
    "ask it": lambda s, v, h: [*asking.ask(s, v, Comparison(), "Hello", None, "ends-with", "x", 0, 1, 4, 7, *sides(h.adapter))][-1],
    "draw shots": lambda s, v, h: [*asking.ask(s, v, Comparison(), "Hello", h.upload, "ends-with", "x", 0, 1, 4, 7, *sides(source="upload", shots=1))][-1],
    "switch a side": lambda s, v, h: asking.side_changed(s, v, "A", True, Comparison(), "ends-with", "x", *sides(h.adapter)),
    "use as a side": lambda s, v, h: story.use_as_side(s, v, h.adapter, Comparison(), "ends-with", "x", *EMPTY),
    "chat with it": lambda s, v, h: [*chat.send(s, v, Log(), "Hello", h.adapter)][-1],
    "turn to it": lambda s, v, h: chat.turned(s, v, Log(), h.adapter),
    "models": lambda s, v, h: [side.labels(s, v), side.model_choices(s, v), side.greyed_list(s, v)],
    "look at everything": lambda s, v, h: watch.tick(s, v, Memo(), h.run, [h.run], h.adapter, h.adapter, "her-verdict", h.adapter, *[h.adapter] * 6),
    "judge by her upload": lambda s, v, h: [verdict_form.source_chosen(s, v, *where) for where in _judged(h)],
    "measure on it": lambda s, v, h: [verdict_form.start(s, v, *where, ["base", "tuned"], None, 1, 8, 0, 7, False, False, h.adapter, "", "json", None, "never", None, None, "") for where in _judged(h)],
    "line her adapter up": lambda s, v, h: verdict_form.lined_up(s, v, h.adapter, "", Kept(docs=h.upload), [], {}, ""),
    "read her documents": lambda s, v, h: verdict_form.documents(s, v, str(h.upload), Kept()),
    "open her verdict": lambda s, v, h: [verdict_shown.opened(s, v, HER_VERDICT), verdict_shown.follow(s, v, HER_VERDICT), verdict_shown.replay(s, v, "1|0", HER_VERDICT)],
    "take her verdict": lambda s, v, h: [verdict_shown.export(s, v, "jsonl", HER_VERDICT), verdict_shown.stop(s, v, HER_VERDICT), verdict_shown.remove(s, v, HER_VERDICT)],
    "try a prompt on it": lambda s, v, h: [[bench.opened(s, v, "", {}, *w), bench.keep(s, v, "Mine.", *w), bench.score(s, v, [0], "json", 8, 7, *w), bench.use(s, v, *w), bench.stop(s, v, *w)] for w in _judged(h)],
    "remove her prompt": lambda s, v, h: bench.remove(s, v, "v1"),
    "vote on her verdict": lambda s, v, h: [vote.opened(s, v, -1, HER_VERDICT), vote.show(s, v, HER_VERDICT), vote.cast(s, v, "left", 0, HER_VERDICT), vote.undo(s, v, HER_VERDICT), vote.reveal(s, v, HER_VERDICT)],
    "judge her verdict": lambda s, v, h: [vote.let(s, v, HER_VERDICT, h.adapter), vote.stop(s, v, HER_VERDICT), vote.judging(s, v, HER_VERDICT)],
    "the story": lambda s, v, h: [demo.show(s, v), demo.cancel(s, v)],
    "storage": lambda s, v, h: [storage.show(s, v), *[storage.ask(s, v, f"{k}:{i}") for k, i in _ids(h)]],
    "wipe": lambda s, v, h: [storage.remove(s, v, f"{k}:{i}") for k, i in _ids(h)],
    "wipe all of a kind": lambda s, v, h: [storage.remove(s, v, f"{k}:") for k in (*storage.TITLES, "nonsense")],
    "wipe everything": lambda s, v, h: storage.remove(s, v, storage.EVERYTHING),
    "another base": lambda s, v, h: [sidebar.inspect(s, v, "/etc"), sidebar.choose(s, v, "a/b")],
}  # fmt: skip


def _judged(hers: Belongings) -> list[tuple[Any, ...]]:
    return [("upload", Kept(), hers.upload, Source(), 7, 15), ("file", Kept(dropped=hers.upload), None, Source(), 7, 15)]


def _ids(hers: Belongings) -> list[tuple[str, str]]:
    upload = f"{ANNA}/{hers.upload.parent.name}"
    return [
        ("adapter", hers.adapter),
        ("run", hers.run),
        ("checkpoints", hers.run),
        ("upload", upload),
        ("upload", f"../uploads/{upload}"),
    ]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, prepared: Path, lora: Path) -> Iterator[tuple[Services, Belongings]]:
    """With the base in memory, for all attacks: none of them changes anything."""
    built = Services(shared_home(tmp_path_factory.mktemp("shared") / "home", prepared))
    built.bases.engine()
    yield built, belongings(built, lora)
    built.close()


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_a_handler_called_with_anothers_ids(loaded: tuple[Services, Belongings], ben: Visitor, attack: Attack) -> None:
    services, hers = loaded
    before = {(item.kind, item.id, item.bytes) for item in services.storage.items(ANNA)}
    told = str(attack(services, ben, hers)).replace("Path(", "")
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
    called = wiring.bind(services, lambda services, visitor, value: (visitor.owner, value))
    assert called(request("a" * 32, "t"), 5) == (ANNA, 5)
    assert set(services.sessions.visits()) == {ANNA}


def test_the_notice_says_what_is_kept_and_for_how_long(services: Services) -> None:
    assert "24 hours" in storage.notice(services.settings)
    assert "1.0 GB" in storage.notice(services.settings)


def test_delete_my_data_asks_and_tells(services: Services, hers: Belongings, anna: Visitor) -> None:
    asked, words, _, yes, _ = storage.ask(services, anna, storage.EVERYTHING)
    assert asked == storage.EVERYTHING
    assert "1 adapter, 1 run, 1 checkpoint folder and 1 upload" in words
    assert yes == "Yes, delete it all"
    assert len(services.storage.items(ANNA)) == 4, "nothing went before Yes"
    message = str(storage.remove(services, anna, asked)[2])
    assert "Removed: 1 adapter, 1 run, 1 checkpoint folder and 1 upload" in message
    assert services.storage.items(ANNA) == []
    assert "nothing to remove" in str(storage.remove(services, anna, storage.EVERYTHING)[2])
