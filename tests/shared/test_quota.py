"""Where a visitor's share ends, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from playground.errors import InputError
from playground.runs.service import TrainRequest
from playground.services import Services
from playground.workspace import quota
from playground.workspace.visitors import LOCAL
from tests.shared.conftest import ANNA, BEN, SECRET, adapter_of, ended_run, incoming, limited

MEBI = 1024 * 1024


def test_an_upload_past_the_disk_is_refused_with_what_there_is(services: Services) -> None:
    tight = limited(services, session_disk_mb=3)
    two = incoming(tight.settings, "two.csv", b"x" * 2 * MEBI)
    tight.data.keep_uploads([two], ANNA)
    with pytest.raises(
        InputError, match=r"two\.csv needs 2\.0 MB; you use 2\.0 MB of the 3\.0 MB .* Storage in the Device panel"
    ):
        tight.data.keep_uploads([two], ANNA)
    tight.data.keep_uploads([two], BEN)
    tight.storage.remove_kind("upload", ANNA)
    tight.data.keep_uploads([two], ANNA)


def test_one_upload_has_a_size_too(services: Services) -> None:
    tight = limited(services, upload_mb=1)
    with pytest.raises(InputError, match="the limit is 1 MB"):
        tight.data.keep_uploads([incoming(tight.settings, "two.csv", b"x" * 2 * MEBI)], ANNA)
    with pytest.raises(InputError, match="the limit is 1 MB"):
        tight.adapters.import_uploads([incoming(tight.settings, "two.zip", b"x" * 2 * MEBI)], ANNA)


def test_runs_at_once(services: Services) -> None:
    upload = services.data.keep_uploads([incoming(services.settings, "rows.jsonl")], ANNA)
    request = TrainRequest(upload, "r", steps=2, batch_size=2, owner=ANNA)
    started = [services.training.start(request) for _ in range(3)]
    for refused in (
        lambda: services.training.start(request),
        lambda: services.training.resume(ended_run(services, ANNA), ANNA),
    ):
        with pytest.raises(InputError, match=r"3 runs of yours wait or train already, of 3 .* cancel one"):
            refused()
    assert "3 runs" in services.training.plan(request).blocked
    services.training.cancel(started[0], ANNA)
    services.training.start(request)
    others = services.data.keep_uploads([incoming(services.settings, "rows.jsonl")], BEN)
    services.training.start(TrainRequest(others, steps=2, batch_size=2, owner=BEN))


def test_adapters_count_with_those_that_runs_will_make(services: Services, lora: Path) -> None:
    tight = limited(services, session_adapters=2)
    adapter_of(tight, lora, ANNA)
    upload = tight.data.keep_uploads([incoming(tight.settings, "rows.jsonl")], ANNA)
    request = TrainRequest(upload, "r", steps=2, batch_size=2, owner=ANNA)
    tight.training.start(request)
    with pytest.raises(InputError, match=r"You have 1 adapter, and 1 on the way; 2 may be kept"):
        tight.training.start(request)
    adapter_of(tight, lora, ANNA, "second")
    with pytest.raises(InputError, match=r"You have 2 adapters; 2 may be kept here\. Export and delete one"):
        adapter_of(tight, lora, ANNA, "third")
    adapter_of(tight, lora, BEN, "fourth")


def test_everything_counts(services: Services, lora: Path) -> None:
    assert services.quota.used_bytes(ANNA) == 0
    adapter_of(services, lora, ANNA)
    ended_run(services, ANNA)
    services.data.keep_uploads([incoming(services.settings, f"{SECRET}.jsonl")], ANNA)
    assert services.quota.used_bytes(ANNA) == sum(item.bytes for item in services.storage.items(ANNA)) > 5000


def test_a_full_disk_refuses_visitors(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota, "disk_free", lambda home: 1000)
    with pytest.raises(InputError, match="nearly full"):
        services.data.keep_uploads([incoming(services.settings, "rows.jsonl")], ANNA)


def test_no_share_for_whoever_runs_the_app(services: Services, lora: Path) -> None:
    tight = limited(services, session_adapters=1, session_disk_mb=1)
    adapter_of(tight, lora, LOCAL, "one")
    adapter_of(tight, lora, LOCAL, "two")
