"""What tells of a visitor to others, and what is left of one who has gone."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from playground.db import connect, wipe
from playground.errors import InputError, NotFoundError, PlaygroundError
from playground.library.files import private_folder
from playground.services import Services, build_services
from playground.settings import Settings
from playground.training.checkpoint import keep_checkpoint, mark_complete
from playground.ui import sidebar
from playground.ui.wiring import Visitor, visitor
from playground.verdict.race_store import RUNNING, Entry, Race
from playground.workspace.visitors import COOKIE, HOST_COOKIE, Home, cookie_name, handed_over, owner_of
from tests.shared.conftest import ANNA, BEN, SECRET, Belongings, adapter_of, ended_run, incoming

# -- the home ----------------------------------------------------------------------------------------------------


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_home_and_its_records_are_its_persons_alone(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    settings.home.mkdir(mode=0o755)
    settings.home.chmod(0o777)
    (settings.home / "owner.json.tmp").write_text("")
    home = Home.take(settings)
    build_services(settings).close()
    assert (mode(settings.home), mode(settings.database), mode(settings.home / "owner.json")) == (0o700, 0o600, 0o600)
    home.release()


def test_a_place_that_others_are_meant_to_enter_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = tmp_path / "tmp"
    common.mkdir()
    common.chmod(0o1777)
    private_folder(common)
    assert mode(common) == 0o777
    house = tmp_path / "house"
    house.mkdir(mode=0o755)
    monkeypatch.setenv("HOME", str(house))
    private_folder(house)
    assert mode(house) == 0o755


# -- gone --------------------------------------------------------------------------------------------------------


def holding(folder: Path, words: str) -> list[str]:
    """Files below a folder whose name or content holds the words."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if words in path.name or words.encode() in path.read_bytes()]


def a_race(services: Services, owner: str, run: str) -> str:
    race = f"20260101-000000-r{len(services.race.store.all()):04x}"
    about = (f"{SECRET} race", f"{SECRET}.jsonl", 1.0, RUNNING, "", 5, None, (Entry("lora", run),))
    services.race.store.add(Race(race, owner, *about))
    return race


def test_after_delete_my_data_no_file_holds_anything_of_hers(services: Services, hers: Belongings) -> None:
    a_race(services, ANNA, hers.run)
    services.adapters.export_zip(hers.adapter, ANNA)
    made = services.data.download(f"{SECRET}.jsonl", SECRET, ANNA).parent
    gone = made.parent / "gone"  # a room that vanishes after rooms were listed stops nothing
    (made.parent / f"{made.name[:-1]}_").symlink_to(gone)
    services.sessions.seen(ANNA)
    assert len(holding(services.settings.home, SECRET)) > 5
    assert [path for path in holding(services.settings.home, SECRET) if "playground.sqlite" in path]
    reading = sqlite3.connect(services.settings.database)  # a worker, or another process, that has the record open
    reading.execute("SELECT COUNT(*) FROM runs").fetchall()
    services.storage.remove_everything(ANNA)
    assert holding(services.settings.home, SECRET) == []
    assert not [room for room in services.settings.exports_dir.iterdir() if room.exists()]
    assert services.race.store.all() == []
    assert ANNA not in services.storage.owners(), "nothing of hers is looked after any more"
    reading.close()


def test_what_goes_by_itself_after_the_last_visit_leaves_nothing_either(services: Services, hers: Belongings) -> None:
    a_race(services, ANNA, hers.run)
    assert list(services.settings.incoming_dir.iterdir())
    assert not services.storage.sweep(ANNA, 1e12)
    assert holding(services.settings.home, SECRET) == []


def test_an_upload_that_another_one_sent_too_stays_for_that_one(services: Services) -> None:
    file = incoming(services.settings, "same.jsonl")
    for owner in (ANNA, BEN):
        services.data.keep_uploads([file], owner)
    services.storage.remove_everything(ANNA)
    assert handed_over(services.settings, file, BEN) == file.resolve()
    services.storage.remove_everything(BEN)
    with pytest.raises(NotFoundError):
        handed_over(services.settings, file, BEN)
    assert not file.parent.exists()


def test_what_was_deleted_before_it_was_overwritten_is_wiped_too(tmp_path: Path) -> None:
    database = tmp_path / "old.sqlite"
    with sqlite3.connect(database) as db:
        db.execute("PRAGMA secure_delete = OFF")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (name TEXT)")
        db.executemany("INSERT INTO t VALUES (?)", [(f"{SECRET} {n}" * 50,) for n in range(40)])
        db.commit()
        db.execute("DELETE FROM t")
    assert holding(tmp_path, SECRET)
    wipe(database)
    assert holding(tmp_path, SECRET) == []
    db.close()


def test_a_log_that_another_one_reads_is_not_said_to_be_wiped(tmp_path: Path) -> None:
    database = tmp_path / "read.sqlite"
    db = connect(database)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("CREATE TABLE t (name TEXT)")
    db.execute("INSERT INTO t VALUES (?)", (SECRET,))
    db.commit()
    reader = sqlite3.connect(database)
    reader.execute("BEGIN")
    assert reader.execute("SELECT name FROM t").fetchone() == (SECRET,)
    db.execute("DELETE FROM t")
    db.commit()
    with pytest.raises(sqlite3.OperationalError):
        wipe(database, timeout_s=0)
    reader.close()
    wipe(database, timeout_s=0)
    assert holding(tmp_path, SECRET) == []
    db.close()


def test_a_record_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        connect(tmp_path / "gone.sqlite", create=False)
    assert list(tmp_path.iterdir()) == []


# -- ids and refusals --------------------------------------------------------------------------------------------


def test_an_id_does_not_tell_that_another_one_has_such_a_name(services: Services, lora: Path) -> None:
    names = ("reports", "reports", "reports", "hospital_reports")
    ids = [adapter_of(services, lora, BEN, names[0])]
    services.adapters.remove(ids[0], BEN)
    adapter_of(services, lora, ANNA, "reports")
    ids += [adapter_of(services, lora, BEN, name) for name in names[1:]]
    assert all(re.fullmatch(rf"{name}-[0-9a-f]{{8}}", id) for id, name in zip(ids, names, strict=True)), ids
    assert len(set(ids)) == 4
    assert [adapter_of(services, lora, "local", "mine") for _ in range(2)] == ["mine", "mine-2"]


def test_what_a_run_makes_has_such_an_id_too(services: Services, lora: Path) -> None:
    run = ended_run(services, BEN, "reports")
    folder = services.settings.runs_dir / run
    kept = folder / "checkpoints" / "checkpoint-5"
    (kept / "model.safetensors").unlink()
    for file in lora.iterdir():
        (kept / file.name).write_bytes(file.read_bytes())
    mark_complete(kept)
    made = keep_checkpoint(folder)
    assert made is not None
    assert re.fullmatch(r"reports-[0-9a-f]{8}", made)


def said(attack: Callable[[], Any]) -> str:
    with pytest.raises(PlaygroundError) as refused:
        attack()
    return f"{type(refused.value).__name__}: {refused.value}"


def test_verdicts_and_races_of_others_are_refused_as_those_that_are_not_there(
    services: Services, hers: Belongings
) -> None:
    verdict, none = services.verdicts.files.new(ANNA, SECRET, {}, 1.7e9).id, "20260101-000000-v0000"
    race, no_race = a_race(services, ANNA, hers.run), "20260101-000000-rffff"
    verdicts = [services.verdicts.show, services.verdicts.stop, services.verdicts.remove, services.verdicts.rows]
    verdicts += [services.bench.show, services.voting.poll, services.judging.show]
    verdicts += [lambda id, owner: services.verdicts.export(id, "html", owner)]
    races = [services.race.show, services.race.cancel, services.race.remove]
    for calls, hers_id, missing in ((verdicts, verdict, none), (races, race, no_race)):
        for call in calls:
            one, other = (said(partial(call, id, owner=BEN)) for id in (hers_id, missing))
            assert one.replace(hers_id, "…") == other.replace(missing, "…")


# -- bases -------------------------------------------------------------------------------------------------------


def test_the_picker_of_bases_tells_nothing_of_this_machine_but_where_it_is_one_persons(
    services: Services, tmp_path: Path, tiny_base: Path
) -> None:
    (tmp_path / "there").mkdir()
    named = [str(tmp_path / "there"), str(tmp_path / "not there")]
    named += ["/etc", "~", "smollm2-135m", "some/other", "..", "x y"]
    ben, view = Visitor(BEN, BEN), SimpleNamespace(found="found", choose="choose", spec="spec")
    shown: Any = partial(sidebar.inspect, services, ben, view)
    for ask in (services.bases.inspect, services.bases.choose, lambda spec: shown(spec=spec)):
        (words,) = {said(partial(ask, spec)) for spec in named}
        assert "whoever runs this app chooses it" in words
    (services.settings.bases_dir / "hub--secret--model").mkdir()
    assert [one.spec for one in services.bases.choices()] == ["smollm2-135m"]
    alone = build_services(replace(services.settings, shared=False))
    assert alone.bases.inspect(str(tiny_base)).fits
    with pytest.raises(InputError, match="There is no folder"):
        alone.bases.inspect("/no/such/folder")
    alone.close()


# -- the cookie --------------------------------------------------------------------------------------------------


def asked(cookies: dict[str, str], scheme: str = "http", tab: str | None = "tab", **headers: str) -> Any:
    """A request as Gradio hands it to a handler."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return SimpleNamespace(session_hash=tab, cookies=cookies, headers=named, url=SimpleNamespace(scheme=scheme))


def test_over_https_only_the_cookie_of_this_very_host_counts(services: Services) -> None:
    mine, planted = "a" * 32, "b" * 32
    assert HOST_COOKIE == "__Host-prompt_or_tune"
    both = asked({COOKIE: planted, HOST_COOKIE: mine}, "https")
    assert visitor(services, both).owner == owner_of(mine, "")
    proxied = asked({COOKIE: planted}, "http", "another tab", x_forwarded_proto="https")
    assert visitor(services, proxied).owner == owner_of("", "another tab"), "what another host planted is no cookie"
    assert visitor(services, asked({COOKIE: mine}, "http")).owner == owner_of(mine, "")
    names = [cookie_name(*words) for words in (("https", ""), ("http", "https, http"), ("http", "http"))]
    assert names == [HOST_COOKIE, HOST_COOKIE, COOKIE]


def test_the_cookie_is_who_one_is_and_local_is_nobodys(services: Services) -> None:
    for tab in ("tab-1", "tab-2"):
        assert visitor(services, asked({COOKIE: "a" * 32}, tab=tab)).owner == ANNA, "each tab of the same browser"
    for cookie, tab in (("", None), ("", "local"), ("local", None), ("x' OR 1=1", "local"), ("A" * 32, "t")):
        assert visitor(services, asked({COOKIE: cookie}, tab=tab)).owner not in ("local", "", ANNA)
    nobody = {visitor(services, asked({}, tab=None)).owner for _ in range(5)}
    assert len(nobody) == 5, "without cookie and tab every call is a stranger"
    for cookies in ({COOKIE: "b" * 32}, {}):
        with pytest.raises(NotFoundError, match="There is no such page"):
            visitor(services, asked(cookies, tab="tab-1"))
