"""Ben holds every id and path of Anna's and calls every service with them."""

import hashlib
import json
import re
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

import pytest

from playground.chat.compare import Side
from playground.chat.programs import Saved
from playground.engine.request import Sampling
from playground.errors import BusyError, NotFoundError
from playground.runs.service import TrainRequest
from playground.workspace.visitors import LOCAL
from tests.shared.conftest import ANNA, BEN, SECRET, Belongings, ended_run, filled, refused

NONE = "There is no"
SHORT = Sampling(max_tokens=4)
TABLE = Path(__file__).with_name("attacks.jsonl").read_text("utf-8").splitlines()
ATTACKS = {attack["what"]: attack for attack in map(json.loads, TABLE)}
"""The calls with what they are given; $name is looked up in ``words``."""


def words(s, h):
    """What the table's words stand for: all that is Anna's, and what leads there or out of the home."""
    settings, room, stamped = s.settings, h.upload.parent.name, hashlib.sha256(b"x").hexdigest()
    stamp = {"rows": 1, "seed": 7, "base": "", "sampling": {}, "prompt": {"text": "x", "sha256": stamped}}
    folder = settings.adapters_dir / h.adapter
    return {
        **{"upload": h.upload, "room": room, "run": h.run, "adapter": h.adapter, "anna": ANNA, "ben": BEN},
        "copy": settings.runs_dir / h.run / "examples.jsonl",
        "detour": settings.uploads_dir / BEN / ".." / ANNA / room / h.upload.name,
        "machine": Path("/etc/passwd"),
        "record": settings.incoming_dir / ".." / ".." / settings.database.name,
        "files": [*folder.iterdir()] if folder.is_dir() else [],
        "out": settings.home / "x",
        "edit": {1: {"prompt": "mine"}},
        "request": TrainRequest(h.upload, owner=BEN),
        "side": Side(h.adapter),
        "shots": Side("base", shots=1, shots_from=h.upload),
        "short": SHORT,
        "saved": Saved(stamp | {"adapter": h.adapter}),
    }


def attempt(s, h, attack):
    known = words(s, h)
    found = attrgetter(attack["call"])(s)(*filled(attack["args"], known), **filled(attack.get("named", {}), known))
    if isinstance(found, Iterator):
        next(found)


def told(s, h, attack):
    """The refusal, without what was asked for."""
    said = refused(NONE, attempt, s, h, attack, error=NotFoundError)
    for name in (str(h.upload), h.upload.name, h.upload.parent.name, h.run, h.adapter):
        said = said.replace(name, "…")
    return said


PLAIN = ("import her adapter", "keep the machine's")
"""What they name is not hers to tell of."""


@pytest.mark.parametrize("name", ATTACKS)
def test_anothers_things_are_as_if_they_were_not_there(attacked, name):
    services, hers = attacked
    before = {path for path in services.settings.home.rglob("*") if SECRET in str(path) or hers.run in str(path)}
    said = told(services, hers, ATTACKS[name])
    assert SECRET not in re.sub(r"'[^']*'", "", said)  # a refusal repeats what was asked for, in quotes
    after = {path for path in services.settings.home.rglob("*") if SECRET in str(path) or hers.run in str(path)}
    assert (after, services.training.show(hers.run, ANNA).state) == (before, "FAILED")
    none = hers.upload.parent.parent / "0123456789ab" / "none.jsonl"
    missing = Belongings(ANNA, none, "20200101-000000-aaaa", "none-3fa94c1e")
    if name not in PLAIN:
        assert said == told(services, missing, ATTACKS[name])


def test_a_side_that_is_hers_fails_alone(services, hers):
    sides = [Side(hers.adapter), Side("base", shots=1, shots_from=hers.upload)]
    first = next(iter(services.compare.ask(sides, [[], []], "Hello", SHORT, BEN)))
    assert all(reply.done and NONE in reply.error for reply in first)


def test_the_refusal_names_ones_own_runs_only(services, hers):
    mine = ended_run(services, BEN, "bens run")
    for run in (hers.run, "20200101-000000-aaaa"):
        said = refused(mine, services.training.show, run, BEN, error=NotFoundError)
        assert set(re.findall(r"\d{8}-\d{6}-\w{4}", said)) == {mine, run}


def test_she_herself_may_and_so_may_who_runs_the_app(services, hers, tmp_path):
    assert services.data.check(hers.upload, owner=ANNA).rows == 12
    assert services.training.show(hers.run, ANNA).samples == [(1, SECRET)]
    assert services.adapters.get(hers.adapter, ANNA).owner == ANNA
    packed = services.adapters.export_zip(hers.adapter, ANNA)
    assert len(packed.parent.name) == 48
    folder = services.adapters.export_folder(hers.adapter, services.settings.home / "out", ANNA)
    assert "owner" not in json.loads((folder / "run.json").read_text())
    own = tmp_path / "own.jsonl"
    own.write_bytes(hers.upload.read_bytes())
    assert services.data.check(own, owner=LOCAL).rows == 12, "who runs the app names any file"


def test_the_status_names_no_names(services, hers):
    lease = services.manager.adopt("train", ANNA, f"Training {SECRET}", 5)
    waiting = services.manager.request("train", ANNA, f"Training {SECRET} too", 5)
    services.manager.set_resident(f"full {hers.adapter}", 7)
    told = json.dumps([services.device.status(), services.device.counts(), services.device.line(BEN)])
    assert SECRET not in told
    waiting.cancel()
    lease.close()


def test_shipped_things_are_nobodys_to_change_and_a_running_run_is_not_removed(services):
    assert services.data.check(services.data.sets()[0].file, owner=BEN).rows > 0
    card = services.adapters.list(BEN)[0].card
    refused("came with the app", services.adapters.remove, card.id, BEN)
    refused("came with the app", services.adapters.rename, card.id, "x", BEN)
    refused(NONE, services.storage.remove, "adapter", card.id, BEN, error=NotFoundError)
    run = ended_run(services, ANNA, state="QUEUED")
    refused("has not ended", services.training.remove, run, ANNA, error=BusyError)
    refused("stays: it has not ended", services.storage.remove, "run", run, ANNA, error=BusyError)
