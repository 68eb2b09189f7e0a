"""A shared app with two visitors: one has an upload, a run and an adapter, the other would like to have them."""

import contextlib
import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template

import pytest

from playground.library import bases
from playground.services import build_services
from playground.settings import DEFAULT_BASE, Settings
from playground.training.spec import RunSpec
from playground.verdict.race_store import RUNNING, Entry, Race
from playground.workspace.visitors import owner_of
from tests.engine.conftest import make_lora
from tests.refused import refused
from tests.services.conftest import put_verdict

__all__ = ["make_lora", "refused"]

ANNA, BEN = owner_of("a" * 32, ""), owner_of("b" * 32, "")
SECRET = "annas_secret"
"""Part of every name that Anna gives; nothing that Ben is told may hold it."""

shared_settings = pytest.fixture(lambda tmp_path, prepared: shared_home(tmp_path / "home", prepared))
hers = pytest.fixture(lambda services, lora: belongings(services, lora))


@dataclass(frozen=True)
class Belongings:
    """What one visitor has. upload: the kept file. verdict, race: "" = none."""

    owner: str
    upload: Path
    run: str
    adapter: str
    verdict: str = ""
    race: str = ""


@pytest.fixture(scope="session")
def prepared(tiny_base, tmp_path_factory):
    """The tiny model as the default base: local folders are refused where the app is shared."""
    folder = tmp_path_factory.mktemp("prepared") / DEFAULT_BASE
    shutil.copytree(tiny_base, folder)
    files = {file.name: file.stat().st_size for file in folder.iterdir()}
    marker = {"schema": bases.SCHEMA, "id": DEFAULT_BASE, "licence": "test", "files": files}
    (folder / bases.MARKER).write_text(json.dumps(marker | {"fingerprint": bases.files.file_fingerprint(folder)}))
    return folder


@pytest.fixture(scope="session")
def lora(make_lora):
    """A PEFT folder that fits it."""
    return make_lora(3)


def shared_home(home, prepared):
    settings = Settings(home=home, shared=True)
    shutil.copytree(prepared, settings.bases_dir / DEFAULT_BASE, copy_function=os.link)
    return settings


@pytest.fixture
def services(shared_settings):
    """Without a supervisor: what is queued stays queued."""
    with contextlib.closing(build_services(shared_settings)) as built:
        yield built


@pytest.fixture
def alone(services):
    """The same home, as one person's."""
    with contextlib.closing(build_services(replace(services.settings, shared=False))) as built:
        yield built


def incoming(settings, name, content=b""):
    """A file where the page's server puts what a browser sends."""
    rows = "\n".join(json.dumps({"prompt": f"Say {n}", "completion": f"Number {n}."}) for n in range(12)).encode()
    file = settings.incoming_dir / ("0" * 64) / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content or rows)
    return file


def ended_run(services, owner, name=f"{SECRET} run", state="FAILED", created_s=1.0):
    """A run in the record and on disk, with a log and a checkpoint."""
    run = f"20260101-000000-{len(services.training.store.all()):04x}"
    settings = services.settings
    folder = settings.runs_dir / run
    (folder / "checkpoints" / "checkpoint-5").mkdir(parents=True)
    (folder / "checkpoints" / "checkpoint-5" / "model.safetensors").write_bytes(b"x" * 5000)
    (folder / "events.jsonl").write_text(json.dumps({"event": "sample", "step": 1, "text": SECRET}) + "\n")
    base = {"base": DEFAULT_BASE, "base_path": str(settings.bases_dir / DEFAULT_BASE), "base_fingerprint": ""}
    data = {"file": str(folder / "examples.jsonl"), "data": "examples.jsonl"}
    places = {"adapters_dir": str(settings.adapters_dir), "shipped_dir": str(settings.shipped_adapters_dir)}
    about = {"run": run, "owner": owner, "name": name, "method": "lora", "steps": 10}
    RunSpec(**about, **base, **data, **places, lr=1e-3, rank=4).write(folder)
    services.training.store.add(**about, state=state, created_s=created_s, needs_bytes=1)
    return run


def a_race(services, owner, run):
    race = f"20260101-000000-r{len(services.race.store.all()):04x}"
    about = (f"{SECRET} race", f"{SECRET}.jsonl", 1.0, RUNNING, "", 5, None, (Entry("lora", run),))
    services.race.store.add(Race(race, owner, *about))
    return race


def adapter_of(services, folder, owner, name=f"{SECRET}_adapter"):
    named = folder.parent / owner / name
    shutil.copytree(folder, named, dirs_exist_ok=True)
    return services.adapters.import_file(named, owner).id


def belongings(services, lora):
    """Everything that Anna has."""
    upload = services.data.keep_uploads([incoming(services.settings, f"{SECRET}.jsonl")], ANNA)
    return Belongings(ANNA, upload, ended_run(services, ANNA), adapter_of(services, lora, ANNA))


@pytest.fixture(scope="module")
def attacked(tmp_path_factory, prepared, lora):
    """For all attacks of a module: none of them changes anything."""
    with contextlib.closing(build_services(shared_home(tmp_path_factory.mktemp("shared") / "home", prepared))) as built:
        incoming(built.settings, "anything.jsonl")
        hers = belongings(built, lora)
        yield built, replace(hers, verdict=put_verdict(built, ANNA), race=a_race(built, ANNA, hers.run))


def limited(services, **changes):
    """The same home with other limits."""
    return build_services(replace(services.settings, **changes))


def filled(value, known):
    """A value of a table, with its words ($name) in place."""
    if isinstance(value, dict):
        return {name: filled(one, known) for name, one in value.items()}
    if isinstance(value, list):
        return [filled(one, known) for one in value]
    if not isinstance(value, str):
        return value
    return known[value[1:]] if value.startswith("$") and value[1:] in known else Template(value).substitute(known)
