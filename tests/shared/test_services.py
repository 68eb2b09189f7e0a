"""Ben holds every id and path of Anna's and calls every service with them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from playground.chat.compare import Side
from playground.chat.replay import Saved
from playground.engine.request import Sampling
from playground.errors import BusyError, InputError, NotFoundError
from playground.runs.service import TrainRequest
from playground.services import Services, build_services
from playground.workspace.visitors import LOCAL
from tests.shared.conftest import ANNA, BEN, SECRET, Belongings, belongings, ended_run, incoming, shared_home

NONE = "There is no"
Attack = Callable[[Services, Belongings], Any]
SHORT = Sampling(max_tokens=4)

ATTACKS: dict[str, Attack] = {
    "read an upload": lambda s, hers: s.data.check(hers.upload, owner=BEN),
    "read an upload as nobody": lambda s, hers: s.data.check(hers.upload),
    "read a run's copy": lambda s, hers: s.data.check(s.settings.runs_dir / hers.run / "examples.jsonl", owner=BEN),
    "read by a detour": lambda s, hers: s.data.check(
        s.settings.uploads_dir / BEN / ".." / ANNA / hers.upload.parent.name / hers.upload.name, owner=BEN
    ),
    "read the machine": lambda s, hers: s.data.check(Path("/etc/passwd"), owner=BEN),
    "keep her upload": lambda s, hers: s.data.keep_uploads([hers.upload], BEN),
    "keep the machine's": lambda s, hers: s.data.keep_uploads([Path("/etc/passwd")], BEN),
    "keep the record": lambda s, hers: s.data.keep_uploads(
        [s.settings.incoming_dir / ".." / ".." / s.settings.database.name], BEN
    ),
    "name its columns": lambda s, hers: s.data.columns(hers.upload, BEN),
    "see its rows": lambda s, hers: s.data.table(hers.upload, [1], BEN),
    "edit it": lambda s, hers: s.data.edited(hers.upload, {1: {"prompt": "mine"}}, BEN),
    "take its bad rows": lambda s, hers: s.data.bad_rows_file(
        hers.upload, s.data.check(hers.upload, owner=ANNA), None, BEN
    ),
    "plan on it": lambda s, hers: s.training.plan(TrainRequest(hers.upload, owner=BEN)),
    "train on it": lambda s, hers: s.training.start(TrainRequest(hers.upload, owner=BEN)),
    "show": lambda s, hers: s.training.show(hers.run, BEN),
    "follow": lambda s, hers: next(s.training.follow(hers.run, BEN)),
    "cancel": lambda s, hers: s.training.cancel(hers.run, BEN, keep=True),
    "resume": lambda s, hers: s.training.resume(hers.run, BEN),
    "move": lambda s, hers: s.training.move(hers.run, "first", BEN),
    "remove the run": lambda s, hers: s.training.remove(hers.run, BEN),
    "get": lambda s, hers: s.adapters.get(hers.adapter, BEN),
    "attach": lambda s, hers: s.adapters.attach(hers.adapter, BEN),
    "switch": lambda s, hers: s.adapters.switch(hers.adapter, BEN),
    "rename": lambda s, hers: s.adapters.rename(hers.adapter, "mine", BEN),
    "remove the adapter": lambda s, hers: s.adapters.remove(hers.adapter, BEN),
    "export": lambda s, hers: s.adapters.export_zip(hers.adapter, BEN),
    "export a folder": lambda s, hers: s.adapters.export_folder(hers.adapter, s.settings.home / "x", BEN),
    "import her upload": lambda s, hers: s.adapters.import_uploads([hers.upload], BEN),
    "import her adapter": lambda s, hers: s.adapters.import_uploads(
        list((s.settings.adapters_dir / hers.adapter).iterdir()), BEN
    ),
    "ask it": lambda s, hers: next(s.compare.ask_each(Side(hers.adapter), ["Hello"], SHORT, BEN)),
    "draw shots": lambda s, hers: next(
        s.compare.ask_each(Side("base", shots=1, shots_from=hers.upload), ["Hello"], SHORT, BEN)
    ),
    "ask it over /v1": lambda s, hers: s.completion.card(hers.adapter),
    "replay with it": lambda s, hers: s.replay.check(Saved(_stamp(hers.adapter)), BEN),
    "find on disk": lambda s, hers: s.storage.find("adapter", hers.adapter, BEN),
    "wipe the adapter": lambda s, hers: s.storage.remove("adapter", hers.adapter, BEN),
    "wipe the run": lambda s, hers: s.storage.remove("run", hers.run, BEN),
    "wipe the checkpoints": lambda s, hers: s.storage.remove("checkpoints", hers.run, BEN),
    "wipe the upload": lambda s, hers: s.storage.remove("upload", f"{ANNA}/{hers.upload.parent.name}", BEN),
    "wipe by a detour": lambda s, hers: s.storage.remove("upload", f"../runs/{hers.run}", BEN),
    "wipe the base": lambda s, hers: s.storage.remove("base", "smollm2-135m", BEN),
    "wipe what passes": lambda s, hers: s.storage.remove("passing", "uploads/gradio", BEN),
}


def _stamp(adapter: str) -> dict[str, Any]:
    prompt = {"text": "x", "sha256": hashlib.sha256(b"x").hexdigest()}
    return {"adapter": adapter, "rows": 1, "seed": 7, "base": "", "sampling": {}, "prompt": prompt}


@pytest.fixture(scope="module")
def annas(
    tmp_path_factory: pytest.TempPathFactory, prepared: Path, lora: Path
) -> Iterator[tuple[Services, Belongings]]:
    """For all attacks: none of them changes anything."""
    built = build_services(shared_home(tmp_path_factory.mktemp("shared") / "home", prepared))
    incoming(built.settings, "anything.jsonl")
    yield built, belongings(built, lora)
    built.close()


def told(attack: Callable[[], Any], one: Belongings) -> str:
    """The refusal, without what was asked for."""
    with pytest.raises(NotFoundError, match=NONE) as refused:
        attack()
    words = str(refused.value)
    for name in (str(one.upload), one.upload.name, one.upload.parent.name, one.run, one.adapter):
        words = words.replace(name, "…")
    return words


PLAIN = ("import her adapter", "keep the machine's")
"""What they name is not hers to tell of."""


@pytest.mark.parametrize("name", ATTACKS)
def test_another_visitors_things_are_as_if_they_were_not_there(annas: tuple[Services, Belongings], name: str) -> None:
    services, hers = annas
    before = {path for path in services.settings.home.rglob("*") if SECRET in str(path) or hers.run in str(path)}
    words = told(lambda: ATTACKS[name](services, hers), hers)
    assert SECRET not in re.sub(r"'[^']*'", "", words)  # a refusal repeats what was asked for, in quotes
    after = {path for path in services.settings.home.rglob("*") if SECRET in str(path) or hers.run in str(path)}
    assert after == before
    assert services.training.show(hers.run, ANNA).state == "FAILED"
    none = hers.upload.parent.parent / "0123456789ab" / "none.jsonl"
    missing = Belongings(ANNA, none, "20200101-000000-aaaa", "none-3fa94c1e")
    if name == "take its bad rows":  # what was checked is hers; the file is not there
        checked = services.data.check(hers.upload, owner=ANNA)
        assert words == told(lambda: services.data.bad_rows_file(missing.upload, checked, None, BEN), missing)
    elif name not in PLAIN:
        assert words == told(lambda: ATTACKS[name](services, missing), missing)


def test_a_side_that_is_hers_fails_alone(services: Services, hers: Belongings) -> None:
    sides = [Side(hers.adapter), Side("base", shots=1, shots_from=hers.upload)]
    first = next(iter(services.compare.ask(sides, [[], []], "Hello", SHORT, BEN)))
    assert all(reply.done and NONE in reply.error for reply in first)


def test_lists_hold_ones_own_and_what_ships(services: Services, hers: Belongings) -> None:
    assert services.training.runs(BEN) == []
    assert all(row.card.shipped for row in services.adapters.list(BEN))
    assert services.storage.items(BEN) == []
    assert [item.kind for item in services.storage.items(ANNA)] == ["adapter", "run", "checkpoints", "upload"]
    assert SECRET not in str(services.completion.adapters())
    assert services.demo.state(BEN).phase == "idle"


def test_the_refusal_names_ones_own_runs_only(services: Services, hers: Belongings) -> None:
    mine = ended_run(services, BEN, "bens run")
    for run in (hers.run, "20200101-000000-aaaa"):
        with pytest.raises(NotFoundError, match=mine) as refused:
            services.training.show(run, BEN)
        assert set(re.findall(r"\d{8}-\d{6}-\w{4}", str(refused.value))) == {mine, run}


def test_she_herself_may(services: Services, hers: Belongings) -> None:
    assert services.data.check(hers.upload, owner=ANNA).rows == 12
    assert services.training.show(hers.run, ANNA).samples == [(1, SECRET)]
    assert services.adapters.get(hers.adapter, ANNA).owner == ANNA
    packed = services.adapters.export_zip(hers.adapter, ANNA)
    assert len(packed.parent.name) == 48
    assert "owner" not in json.loads(
        (services.adapters.export_folder(hers.adapter, services.settings.home / "out", ANNA) / "run.json").read_text()
    )


def test_shipped_things_are_everybodys_and_nobodys_to_change(services: Services) -> None:
    shipped = services.data.sets()[0]
    assert services.data.check(shipped.file, owner=BEN).rows > 0
    card = services.adapters.list(BEN)[0].card
    for change in (services.adapters.remove, lambda id, owner: services.adapters.rename(id, "x", owner)):
        with pytest.raises(InputError, match="came with the app"):
            change(card.id, BEN)
    with pytest.raises(NotFoundError, match=NONE):
        services.storage.remove("adapter", card.id, BEN)


def test_the_status_names_no_names(services: Services, hers: Belongings) -> None:
    lease = services.manager.adopt("train", ANNA, f"Training {SECRET}", 5)
    waiting = services.manager.request("train", ANNA, f"Training {SECRET} too", 5)
    services.manager.set_resident(f"full {hers.adapter}", 7)
    told = json.dumps([services.device.status(), services.device.counts(), services.device.line(BEN)])
    assert SECRET not in told
    waiting.cancel()
    lease.close()


def test_whoever_runs_the_app_reads_what_they_name_and_nobody_else_changes_the_base(
    services: Services, hers: Belongings, tmp_path: Path
) -> None:
    own = tmp_path / "own.jsonl"
    own.write_bytes(hers.upload.read_bytes())
    assert services.data.check(own, owner=LOCAL).rows == 12
    for spec in ("smollm2-135m", "some/other"):
        with pytest.raises(InputError, match="whoever runs this app"):
            services.bases.choose(spec)


def test_a_running_run_is_not_removed(services: Services) -> None:
    run = ended_run(services, ANNA, state="QUEUED")
    with pytest.raises(BusyError, match="has not ended"):
        services.training.remove(run, ANNA)
    with pytest.raises(BusyError, match="stays: it has not ended"):
        services.storage.remove("run", run, ANNA)
