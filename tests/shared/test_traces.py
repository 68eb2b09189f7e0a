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
from playground.server.gate import Visit, token_in
from playground.services import Services, build_services
from playground.settings import Settings
from playground.training.checkpoint import keep_checkpoint
from playground.ui import sidebar
from playground.ui.wiring import Visitor, visitor
from playground.verdict.race_store import RUNNING, Entry, Race
from playground.workspace.visitors import COOKIE, HOST_COOKIE, Home, cookie_name, handed_over, owner_of
from tests.shared.conftest import ANNA, BEN, SECRET, Belongings, adapter_of, ended_run, incoming
from tests.shared.test_services import ATTACKS, Attack

# -- the home ----------------------------------------------------------------------------------------------------


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_home_and_its_records_are_its_persons_alone(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    built = build_services(settings)
    assert (mode(settings.home), mode(settings.database)) == (0o700, 0o600)
    home = Home.take(settings)
    assert mode(settings.home / "owner.json") == 0o600
    home.release()
    built.close()


def test_a_home_that_is_open_is_closed_when_the_app_starts(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    settings.home.mkdir(mode=0o755)
    settings.home.chmod(0o777)
    (settings.home / "owner.json.tmp").write_text("")
    Home.take(settings).release()
    assert mode(settings.home) == 0o700


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


def a_race(services: Services, owner: str, run: str, name: str = f"{SECRET} race") -> str:
    race = Race(
        f"20260101-000000-r{len(services.race.store.all()):04x}",
        owner,
        name,
        f"{SECRET}.jsonl",
        1.0,
        RUNNING,
        "",
        5,
        None,
        (Entry("lora", run),),
    )
    services.race.store.add(race)
    return race.race


def test_after_delete_my_data_no_file_holds_anything_of_hers(services: Services, hers: Belongings) -> None:
    a_race(services, ANNA, hers.run)
    services.adapters.export_zip(hers.adapter, ANNA)
    services.data.download(f"{SECRET}.jsonl", SECRET, ANNA)
    services.sessions.seen(ANNA)
    assert len(holding(services.settings.home, SECRET)) > 5
    assert [path for path in holding(services.settings.home, SECRET) if "playground.sqlite" in path]
    reading = RunReader(services.settings.database)  # a worker, or another process, that has the record open
    services.storage.remove_everything(ANNA)
    assert holding(services.settings.home, SECRET) == []
    assert list(services.settings.exports_dir.iterdir()) == []
    assert services.race.store.all() == []
    assert ANNA not in services.storage.owners(), "nothing of hers is looked after any more"
    reading.close()


class RunReader:
    def __init__(self, database: Path) -> None:
        self._db = sqlite3.connect(database)
        self._db.execute("SELECT COUNT(*) FROM runs").fetchall()

    def close(self) -> None:
        self._db.close()


def test_what_goes_by_itself_after_the_last_visit_leaves_nothing_either(services: Services, hers: Belongings) -> None:
    a_race(services, ANNA, hers.run)
    incoming_before = list(services.settings.incoming_dir.iterdir())
    assert incoming_before
    assert not services.storage.sweep(ANNA, 1e12)
    assert holding(services.settings.home, SECRET) == []


def test_a_room_that_vanishes_while_all_is_deleted_stops_nothing(services: Services, hers: Belongings) -> None:
    made = services.data.download(f"{SECRET}.jsonl", SECRET, ANNA).parent
    (made.parent / f"{made.name[:-1]}_").symlink_to(
        made.parent / "gone"
    )  # named when rooms were listed, and not there any more
    services.storage.remove_everything(ANNA)
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
    alone = adapter_of(services, lora, BEN, "reports")
    services.adapters.remove(alone, BEN)
    adapter_of(services, lora, ANNA, "reports")
    beside = adapter_of(services, lora, BEN, "reports")
    again = adapter_of(services, lora, BEN, "reports")
    shipped = adapter_of(services, lora, BEN, "hospital_reports")
    for id, name in ((alone, "reports"), (beside, "reports"), (again, "reports"), (shipped, "hospital_reports")):
        assert re.fullmatch(rf"{name}-[0-9a-f]{{8}}", id)
    assert len({alone, beside, again}) == 3


def test_what_a_run_makes_has_such_an_id_too(services: Services, lora: Path) -> None:
    run = ended_run(services, BEN, "reports")
    folder = services.settings.runs_dir / run
    kept = folder / "checkpoints" / "checkpoint-5"
    (kept / "model.safetensors").unlink()
    for file in lora.iterdir():
        (kept / file.name).write_bytes(file.read_bytes())
    from playground.training.checkpoint import mark_complete

    mark_complete(kept)
    made = keep_checkpoint(folder)
    assert made is not None
    assert re.fullmatch(r"reports-[0-9a-f]{8}", made)


def test_whoever_runs_the_app_keeps_plain_ids(services: Services, lora: Path) -> None:
    assert [adapter_of(services, lora, "local", "mine") for _ in range(2)] == ["mine", "mine-2"]


def said(attack: Callable[[], Any]) -> str:
    with pytest.raises(PlaygroundError) as refused:
        attack()
    return f"{type(refused.value).__name__}: {refused.value}"


BY_ID = {name: attack for name, attack in ATTACKS.items() if name not in ("import her adapter", "keep the machine's")}


@pytest.mark.parametrize("attack", BY_ID.values(), ids=BY_ID.keys())
def test_the_refusal_is_that_of_a_thing_that_is_not_there(services: Services, hers: Belongings, attack: Attack) -> None:
    incoming(services.settings, "anything.jsonl")
    missing = Belongings(
        ANNA, hers.upload.parent.parent / "0123456789ab" / "none.jsonl", "20200101-000000-aaaa", "none-3fa94c1e"
    )

    def plain(words: str, one: Belongings) -> str:
        for name in (str(one.upload), one.upload.name, one.upload.parent.name, one.run, one.adapter):
            words = words.replace(name, "…")
        return words

    checked = services.data.check(hers.upload, owner=ANNA)
    if attack is ATTACKS["take its bad rows"]:
        told = said(lambda: services.data.bad_rows_file(missing.upload, checked, None, BEN))
    else:
        told = said(lambda: attack(services, missing))
    assert plain(said(lambda: attack(services, hers)), hers) == plain(told, missing)


def test_so_it_is_with_verdicts_and_races(services: Services, hers: Belongings) -> None:
    verdict, none = services.verdicts.files.new(ANNA, SECRET, {}, 1.7e9).id, "20260101-000000-v0000"
    race, no_race = a_race(services, ANNA, hers.run), "20260101-000000-rffff"
    calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (services.verdicts.show, ()),
        (services.verdicts.stop, ()),
        (services.verdicts.remove, ()),
        (services.verdicts.rows, ()),
        (services.verdicts.export, ("html",)),
        (services.bench.show, ()),
        (services.voting.poll, ()),
        (services.judging.show, ()),
    ]
    for call, more in calls:
        one, other = (said(partial(call, id, *more, owner=BEN)) for id in (verdict, none))
        assert one.replace(verdict, "…") == other.replace(none, "…")
    for call in (services.race.show, services.race.cancel, services.race.remove):
        one, other = (said(partial(call, id, owner=BEN)) for id in (race, no_race))
        assert one.replace(race, "…") == other.replace(no_race, "…")


# -- bases -------------------------------------------------------------------------------------------------------


def test_the_picker_of_bases_tells_nothing_of_this_machine(services: Services, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    named = [
        str(tmp_path / "there"),
        str(tmp_path / "not there"),
        "/etc",
        "~",
        "smollm2-135m",
        "some/other",
        "..",
        "nothing at all",
    ]
    ben, view = Visitor(BEN, BEN), SimpleNamespace(found="found", choose="choose", spec="spec")
    shown: Any = partial(sidebar.inspect, services, ben, view)
    for ask in (services.bases.inspect, services.bases.choose, lambda spec: shown(spec=spec)):
        told = {said(partial(ask, spec)) for spec in named}
        assert len(told) == 1, told
        assert "whoever runs this app chooses it" in told.pop()
    (services.settings.bases_dir / "hub--secret--model").mkdir()
    assert [one.spec for one in services.bases.choices()] == ["smollm2-135m"]


def test_the_picker_looks_where_the_app_is_one_persons(services: Services, tiny_base: Path) -> None:
    alone = build_services(replace(services.settings, shared=False))
    assert alone.bases.inspect(str(tiny_base)).fits
    with pytest.raises(InputError, match="There is no folder"):
        alone.bases.inspect("/no/such/folder")
    alone.close()


# -- the cookie --------------------------------------------------------------------------------------------------


class Asked:
    """A request as Gradio hands it to a handler."""

    session_hash = "tab"

    def __init__(self, cookies: dict[str, str], scheme: str, headers: dict[str, str] | None = None) -> None:
        self.cookies, self.headers = cookies, headers or {}
        self.url = type("Url", (), {"scheme": scheme})()


def test_over_https_only_the_cookie_of_this_very_host_counts(services: Services) -> None:
    mine, planted = "a" * 32, "b" * 32
    both = {COOKIE: planted, HOST_COOKIE: mine}
    assert visitor(services, Asked(both, "https")).owner == owner_of(mine, "")  # type: ignore[arg-type]
    assert HOST_COOKIE == "__Host-prompt_or_tune"
    proxied = Asked({COOKIE: planted}, "http", {"x-forwarded-proto": "https"})
    proxied.session_hash = "another tab"
    assert visitor(services, proxied).owner == owner_of("", "another tab"), (
        "what another host of the domain planted is no cookie"
    )  # type: ignore[arg-type]
    local = Asked({COOKIE: mine}, "http")
    assert visitor(services, local).owner == owner_of(mine, "")  # type: ignore[arg-type]
    assert [cookie_name(*words) for words in (("https", ""), ("http", "https, http"), ("http", "http"))] == [
        HOST_COOKIE,
        HOST_COOKIE,
        COOKIE,
    ]


async def _page(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(("scheme", "name"), [("http", COOKIE), ("https", HOST_COOKIE)])
def test_the_page_sets_the_cookie_that_its_connection_takes(tmp_path: Path, scheme: str, name: str) -> None:
    from starlette.testclient import TestClient

    client = TestClient(Visit(_page, tmp_path), base_url=f"{scheme}://testserver")
    given = client.get("/").headers["set-cookie"]
    token = token_in(given.split(";")[0], name)
    assert len(token) == 32
    assert given.startswith(f"{name}={token}; Path=/; ")
    assert "Domain" not in given
    assert ("; Secure" in given) == (scheme == "https")
    again = client.get(
        "/", headers={"cookie": f"{name}={token}; {COOKIE if scheme == 'https' else HOST_COOKIE}={'c' * 32}"}
    )
    assert token in again.headers["set-cookie"]
