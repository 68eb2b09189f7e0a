"""What tells of a visitor to others, and what is left of one who has gone."""

import contextlib
import re
import sqlite3
from functools import partial
from types import SimpleNamespace

from playground.db import connect, wipe
from playground.errors import NotFoundError
from playground.library.files import private_folder
from playground.services import build_services
from playground.settings import Settings
from playground.training.run_files import keep_checkpoint, mark_complete
from playground.ui import sidebar
from playground.ui.wiring import Visit, visit_of
from playground.verdict.race_store import RaceRequest
from playground.workspace.visitors import COOKIE, HOST_COOKIE, Home, cookie_name, handed_over, owner_of
from tests.shared.conftest import ANNA, BEN, SECRET, a_race, adapter_of, ended_run, incoming, refused


def mode(path):
    return path.stat().st_mode & 0o777


def test_the_home_is_its_persons_alone_and_a_place_that_others_may_enter_is_left_as_it_is(tmp_path, monkeypatch):
    settings = Settings(home=tmp_path / "home")
    settings.home.mkdir(mode=0o755)
    settings.home.chmod(0o777)
    home = Home.take(settings)
    build_services(settings).close()
    assert (mode(settings.home), mode(settings.database), mode(settings.home / "owner.json")) == (0o700, 0o600, 0o600)
    home.release()
    common, house = tmp_path / "tmp", tmp_path / "house"
    common.mkdir()
    common.chmod(0o1777)
    house.mkdir(mode=0o755)
    monkeypatch.setenv("HOME", str(house))
    for folder in (common, house):
        private_folder(folder)
    assert (mode(common), mode(house)) == (0o777, 0o755)


def holding(folder, words):
    """Files below a folder whose name or content holds the words."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if words in path.name or words.encode() in path.read_bytes()]


def test_after_delete_my_data_no_file_holds_anything_of_hers(services, hers):
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


def test_what_goes_after_the_last_visit_leaves_nothing_either(services, hers):
    a_race(services, ANNA, hers.run)
    assert list(services.settings.incoming_dir.iterdir())
    assert not services.storage.sweep(ANNA, 1e12)
    assert holding(services.settings.home, SECRET) == []


def test_an_upload_that_another_one_sent_too_stays_for_that_one(services):
    file = incoming(services.settings, "same.jsonl")
    for owner in (ANNA, BEN):
        services.data.keep_uploads([file], owner)
    services.storage.remove_everything(ANNA)
    assert handed_over(services.settings, file, BEN) == file.resolve()
    services.storage.remove_everything(BEN)
    refused("", handed_over, services.settings, file, BEN, error=NotFoundError)
    assert not file.parent.exists()


def test_what_was_deleted_before_it_was_overwritten_is_wiped_once_nobody_reads_it(tmp_path):
    database = tmp_path / "old.sqlite"
    refused("", connect, database, create=False, error=sqlite3.OperationalError)
    assert list(tmp_path.iterdir()) == [], "a record that is gone is not made anew"
    with contextlib.closing(sqlite3.connect(database)) as db:
        db.execute("PRAGMA secure_delete = OFF")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (name TEXT)")
        db.executemany("INSERT INTO t VALUES (?)", [(f"{SECRET} {n}" * 50,) for n in range(40)])
        db.commit()
        with contextlib.closing(sqlite3.connect(database)) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT COUNT(*) FROM t").fetchone() == (40,)
            db.execute("DELETE FROM t")
            db.commit()
            refused("", wipe, database, timeout_s=0, error=sqlite3.OperationalError)
        assert holding(tmp_path, SECRET)
        wipe(database, timeout_s=0)
        assert holding(tmp_path, SECRET) == []


def test_an_id_does_not_tell_that_another_one_has_such_a_name_nor_does_what_a_run_makes(services, lora):
    names = ("reports", "reports", "reports", "hospital_reports")
    ids = [adapter_of(services, lora, BEN, names[0])]
    services.adapters.remove(ids[0], BEN)
    adapter_of(services, lora, ANNA, "reports")
    ids += [adapter_of(services, lora, BEN, name) for name in names[1:]]
    assert all(re.fullmatch(rf"{name}-[0-9a-f]{{8}}", id) for id, name in zip(ids, names, strict=True)), ids
    assert len(set(ids)) == 4
    assert [adapter_of(services, lora, "local", "mine") for _ in range(2)] == ["mine", "mine-2"]
    run = ended_run(services, BEN, "reports")
    folder = services.settings.runs_dir / run
    kept = folder / "checkpoints" / "checkpoint-5"
    (kept / "model.safetensors").unlink()
    for file in lora.iterdir():
        (kept / file.name).write_bytes(file.read_bytes())
    mark_complete(kept)
    assert re.fullmatch(r"reports-[0-9a-f]{8}", keep_checkpoint(folder) or "")


def test_verdicts_and_races_of_others_are_refused_as_if_not_there(services, hers):
    verdict, none = services.verdicts.files.new(ANNA, SECRET, {}, 1.7e9).id, "20260101-000000-v0000"
    race, no_race = a_race(services, ANNA, hers.run), "20260101-000000-rffff"
    made, races, voting, judging = services.verdicts, services.race, services.voting, services.judging
    labelling, bench = services.labelling, services.bench
    verdicts = [
        *(made.show, made.stop, made.remove, made.rows, partial(made.export, how="html")),
        *(bench.show, bench.best, bench.stop),
        *(voting.poll, voting.next, voting.undo, voting.count, voting.reveal),
        *(labelling.next, labelling.undo, labelling.count, labelling.labelled, partial(labelling.trust, judge="base")),
        *(partial(voting.vote, number=0, choice="left"), partial(labelling.label, number=0, choice="right")),
        *(judging.show, judging.stop, partial(judging.start, judge="base"), partial(judging.mark, judge="base")),
    ]
    raced = [races.show, races.cancel, races.remove]
    for calls, hers_id, missing in ((verdicts, verdict, none), (raced, race, no_race)):
        for call in calls:
            one, other = (refused("", call, id, owner=BEN, error=NotFoundError) for id in (hers_id, missing))
            assert one.replace(hers_id, "…") == other.replace(missing, "…")
    assert (services.race.races(BEN), services.bench.views(BEN)) == ([], [])
    assert [view.race.race for view in races.races(ANNA)] == [race]
    schema = RaceRequest(hers.upload, check="json-schema:/etc/passwd", owner=ANNA)
    refused("json-schema names a file", races.plan, schema)


def test_the_picker_of_bases_tells_nothing_of_a_machine(services, alone, tmp_path, tiny_base):
    (tmp_path / "there").mkdir()
    named = [*map(str, (tmp_path / "there", tmp_path / "not there"))]
    named += ["/etc", "~", "smollm2-135m", "some/other", "..", "x y"]
    view = SimpleNamespace(found="found", choose="choose", spec="spec")
    shown = partial(sidebar.inspect, Visit(services, BEN, BEN), view)
    for ask in (services.bases.inspect, services.bases.choose, lambda spec: shown(spec=spec)):
        assert len({refused("whoever runs this app chooses it", ask, spec) for spec in named}) == 1
    (services.settings.bases_dir / "hub--secret--model").mkdir()
    assert [one.spec for one in services.bases.choices()] == ["smollm2-135m"]
    assert alone.bases.inspect(str(tiny_base)).fits
    refused("There is no folder", alone.bases.inspect, "/no/such/folder")


def asked(cookies, scheme="http", tab="tab", **headers):
    """A request as Gradio hands it to a handler."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return SimpleNamespace(session_hash=tab, cookies=cookies, headers=named, url=SimpleNamespace(scheme=scheme))


def test_the_cookie_of_this_very_host_is_who_one_is_and_local_is_nobodys(services):
    mine, planted = "a" * 32, "b" * 32
    assert HOST_COOKIE == "__Host-prompt_or_tune"
    both = asked({COOKIE: planted, HOST_COOKIE: mine}, "https")
    assert visit_of(services, both).owner == owner_of(mine, "")
    proxied = asked({COOKIE: planted}, "http", "another tab", x_forwarded_proto="https")
    assert visit_of(services, proxied).owner == owner_of("", "another tab"), "what another host planted is no cookie"
    assert visit_of(services, asked({COOKIE: mine}, "http")).owner == owner_of(mine, "")
    names = [cookie_name(*words) for words in (("https", ""), ("http", "https, http"), ("http", "http"))]
    assert names == [HOST_COOKIE, HOST_COOKIE, COOKIE]
    for tab in ("tab-1", "tab-2"):
        assert visit_of(services, asked({COOKIE: "a" * 32}, tab=tab)).owner == ANNA, "each tab of the same browser"
    for cookie, tab in (("", None), ("", "local"), ("local", None), ("x' OR 1=1", "local"), ("A" * 32, "t")):
        assert visit_of(services, asked({COOKIE: cookie}, tab=tab)).owner not in ("local", "", ANNA)
    nobody = {visit_of(services, asked({}, tab=None)).owner for _ in range(5)}
    assert len(nobody) == 5, "without cookie and tab every call is a stranger"
    for cookies in ({COOKIE: "b" * 32}, {}):
        refused("There is no such page", visit_of, services, asked(cookies, tab="tab-1"), error=NotFoundError)
