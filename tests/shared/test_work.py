"""How much one visitor may have the device do, through every door; and that several visitors' verdicts take turns batch
by batch."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from playground.chat.batching import Batches, Chat
from playground.chat.compare import Side
from playground.data.example import Message
from playground.engine.request import Row, RowState, Sampling
from playground.errors import BusyError, InputError
from playground.runs.recipe import with_settings
from playground.runs.runner import Direct
from playground.runs.service import TrainRequest
from playground.server.routes import build_routes
from playground.services import Services
from playground.verdict import service as verdict_service
from playground.verdict.answers import Answering
from playground.verdict.race import RaceRequest
from playground.verdict.request import VerdictRequest
from playground.verdict.service import VerdictService
from playground.workspace.visitors import LOCAL
from tests.shared.conftest import ANNA, BEN, adapter_of, ended_run, incoming, limited

SIDES = (Side("base", name="Base"), Side("base", "Be glad.", name="Told"))


def upload(services: Services, owner: str, rows: int = 12, name: str = "rows.jsonl") -> Path:
    lines = "\n".join(json.dumps({"prompt": f"Say {n} of {owner}", "completion": f"Number {n}."}) for n in range(rows))
    return services.data.keep_uploads([incoming(services.settings, name, lines.encode())], owner)


def asked(file: Path, owner: str, **changes: Any) -> VerdictRequest:
    values = {"max_tokens": 4, "losses": False, "forgetting": False} | changes
    return VerdictRequest(file, values.pop("sides", SIDES), owner=owner, **values)


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "it never came to that"


def run_out(services: Services, owner: str) -> None:
    until(lambda: not any(view.live for view in services.verdicts.views(owner, None)))


# -- replies -----------------------------------------------------------------------------------------------------


def test_a_verdict_of_more_replies_than_one_may_have_is_refused_with_what_is_allowed(services: Services) -> None:
    tight = limited(services, session_replies=100)
    file = upload(tight, ANNA)
    words = (
        r"The verdict takes 264 replies\. One visitor may have 100 at once here\. Use fewer rows, sides or repeats\."
    )
    with pytest.raises(InputError, match=words):
        tight.verdicts.start(asked(file, ANNA, repeats=10))
    with pytest.raises(InputError, match=words):
        next(tight.verdicts.run(asked(file, ANNA, repeats=10)))
    app = TestClient(Starlette(routes=build_routes(tight, "token")), client=("127.0.0.1", 1))
    body, token = asked(file, ANNA, repeats=10).as_json(), {"authorization": "Bearer token"}
    assert re.match(words, app.post("/internal/verdict", json=body, headers=token).json()["error"])
    assert tight.verdicts.views(ANNA) == []
    view = None
    for view in tight.verdicts.run(asked(file, ANNA, repeats=10, limit=4)):
        pass
    assert view is not None
    assert view.state == "DONE", view.error


def test_840_000_replies_are_refused_by_default_and_never_where_the_app_is_one_persons(services: Services) -> None:
    file = upload(services, ANNA, rows=4000)
    sides = tuple(Side("base", f"Say it {n} times.", name=str(n)) for n in range(10))
    with pytest.raises(InputError, match=r"takes 840,000 replies\. One visitor may have 2,000"):
        services.verdicts.start(asked(file, ANNA, sides=sides, repeats=20))
    services.quota.take_replies(LOCAL, 840_000, "This")


def test_what_waits_already_counts_and_is_given_back_at_the_end(services: Services) -> None:
    tight = limited(services, session_replies=30)
    file = upload(tight, ANNA)
    holder = tight.manager.request("measure", "holder", "Answering", 1)
    first = tight.verdicts.start(asked(file, ANNA))
    with pytest.raises(
        InputError,
        match=r"The verdict takes 24 replies; 24 of yours wait or are written already\. .* 30 .* wait until those",
    ):
        tight.verdicts.start(asked(file, ANNA))
    tight.verdicts.start(asked(upload(tight, BEN), BEN))
    tight.verdicts.stop(first, ANNA)
    holder.cancel()
    run_out(tight, ANNA)
    tight.verdicts.start(asked(file, ANNA))
    run_out(tight, ANNA)
    run_out(tight, BEN)
    until(lambda: not tight.quota._replies)


def test_a_bench_and_a_judging_count_too(services: Services) -> None:
    tight = limited(services, session_replies=10)
    file = upload(tight, ANNA, rows=40)
    version = tight.bench.keep("Be glad.", file, ANNA)
    with pytest.raises(InputError, match=r"The prompt bench takes \d+ replies\. One visitor may have 10 at once"):
        tight.bench.score(file, [version.id], (0, 4, 8), ("contains:glad",), ANNA)
    for _ in tight.verdicts.run(asked(file, ANNA, limit=5)):
        pass
    (view,) = tight.verdicts.views(ANNA)
    tight.quota.take_replies(ANNA, 8, "This")
    if tight.voting.poll(view.id, ANNA).places:
        with pytest.raises(InputError, match=r"Judging takes \d+ replies; 8 of yours"):
            tight.judging.start(view.id, "base", ANNA)


def test_a_reply_of_more_tokens_than_one_may_ask_for_is_refused_at_every_door(services: Services) -> None:
    tight = limited(services, session_tokens=16)
    words = r"The longest reply is 17 tokens; up to 16 may be asked for here\."
    with pytest.raises(InputError, match=words):
        tight.verdicts.start(asked(upload(tight, ANNA), ANNA, max_tokens=17))
    (reply,) = list(tight.compare.ask_each(Side("base"), ["Hello"], Sampling(max_tokens=17), ANNA, ANNA))[-1]
    assert "up to 16 may be asked for here" in reply.error
    tight.bases.engine()
    chat = (Message("user", "Hello"),)
    with pytest.raises(InputError, match=words):
        next(tight.completion.complete(Chat("base", chat, Sampling(max_tokens=17)), "v1"))
    (written,) = list(
        tight.completion.complete(Chat("base", chat, Sampling(max_tokens=99, ignore_eos=True), fit=True), "v1")
    )[-1]
    assert written.state.completion_tokens == 16


def test_verdicts_of_everybody_together_have_a_limit(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict_service, "LIVE_OF_ALL", 1)
    holder = services.manager.request("measure", "holder", "Answering", 1)
    first = services.verdicts.start(asked(upload(services, ANNA), ANNA))
    with pytest.raises(BusyError, match="1 verdicts of several people"):
        services.verdicts.start(asked(upload(services, BEN), BEN))
    services.verdicts.stop(first, ANNA)
    holder.cancel()
    run_out(services, ANNA)


# -- runs --------------------------------------------------------------------------------------------------------


def test_a_run_of_more_steps_than_one_may_have_is_refused_at_every_door(services: Services) -> None:
    file = upload(services, ANNA)
    request = TrainRequest(file, "r", steps=100_000, batch_size=2, owner=ANNA)
    words = r"The run has 100,000 steps; one visitor's run may have 1,000 here\. Choose fewer\."
    for door in (
        lambda: services.training.start(request),
        lambda: services.training.start(
            with_settings(TrainRequest(file, owner=ANNA), {"method": "lora", "steps": 100_000})
        ),
        lambda: services.race.start(RaceRequest(file, ("ia3", "lora"), steps=100_000, batch_size=2, owner=ANNA)),
    ):
        with pytest.raises(InputError, match=words):
            door()
    many = TrainRequest(file, "r", epochs=10_000, batch_size=2, owner=ANNA)
    with pytest.raises(InputError, match=r"one visitor's run may have 1,000 here"):
        services.training.start(many)
    run = ended_run(services, ANNA)
    with pytest.raises(InputError, match=r"The run has 10 steps; one visitor's run may have 9 here"):
        limited(services, session_steps=9).training.resume(run, ANNA)
    assert services.training.runs(ANNA)[0].state == "FAILED"
    assert len(services.training.runs(ANNA)) == 1


def test_a_run_that_would_take_longer_by_its_estimate_is_refused(services: Services) -> None:
    tight = limited(services, session_minutes=1, session_steps=100_000)
    file = upload(tight, ANNA)
    request = TrainRequest(file, "r", steps=100_000, batch_size=64, owner=ANNA)
    seconds = tight.training.plan(request).seconds
    assert seconds > 60
    with pytest.raises(InputError, match=r"The run would take about .* one visitor's run may take 1 minutes here"):
        tight.training.start(request)
    local = TrainRequest(file, "r", steps=100_000, batch_size=64)
    assert tight.training.plan(local).blocked == ""


def test_a_few_long_rows_among_short_ones_are_in_the_estimate(services: Services) -> None:
    short = [{"prompt": "Say", "completion": "No."}] * 51
    long = [{"prompt": f"Say {n} " * 300, "completion": "No."} for n in range(49)]
    rows = "\n".join(json.dumps(row | {"completion": f"No {n}."}) for n, row in enumerate([*short, *long]))
    mixed = services.data.keep_uploads([incoming(services.settings, "mixed.jsonl", rows.encode())], ANNA)
    tokens = services.data.tokens(services.data.check(mixed, owner=ANNA), 2048)
    assert tokens.mean > 10 * tokens.median
    assert tokens.mean == pytest.approx(sum(map(int.__add__, tokens.prompt_lengths, tokens.answer_lengths)) / 100)

    def steps_s(file: Path) -> float:
        one, many = (services.training.plan(TrainRequest(file, steps=steps, owner=ANNA)).seconds for steps in (1, 1000))
        return many - one

    assert steps_s(mixed) > 3 * steps_s(upload(services, ANNA))


# -- turns -------------------------------------------------------------------------------------------------------


class Recording(Direct):
    """Writes down whose batch is decoded: visitors' questions name them. together: small, so that a verdict has many
    batches."""

    together = 4

    def __init__(self) -> None:
        self.seen: list[str] = []

    def stream(self, engine: Any, rows: Sequence[Row]) -> Generator[list[RowState], None, None]:
        self.seen.append(next(name for name in (ANNA, BEN, "chat") if name in rows[0].prompt))
        return super().stream(engine, rows)


def test_verdicts_of_two_visitors_and_a_chat_take_turns_batch_by_batch(services: Services) -> None:
    services.bases.engine()
    decoder = Recording()
    batches = Batches(services.manager, services.bases, services.residents, decoder)
    answering = Answering(services.bases, services.data, services.adapters, batches, services.scoring)
    verdicts = VerdictService(
        services.settings,
        services.bases,
        services.data,
        services.adapters,
        answering,
        services.forgetting,
        services.quota,
        services.jobs,
    )
    holder = services.manager.request("measure", "holder", "Answering", 1)
    for owner in (ANNA, BEN):
        verdicts.start(asked(upload(services, owner), owner))
    until(lambda: len(services.manager.queue()) == 2)
    chat = services.manager.request("chat", "somebody", "Answering", 1)
    assert chat.lease is not None, "a chat does not wait for what is measured"
    chat.cancel()
    holder.cancel()
    until(lambda: not any(view.live for owner in (ANNA, BEN) for view in verdicts.views(owner)))
    assert {view.state for owner in (ANNA, BEN) for view in verdicts.views(owner)} == {"DONE"}
    answers = decoder.seen[:12]
    assert decoder.seen.index(BEN) <= 1, "the second visitor's first batch follows the first one's first"
    assert decoder.seen.index(ANNA) <= 1
    assert {answers.count(ANNA), answers.count(BEN)} <= set(range(3, 10)), answers


def test_a_visitors_own_verdicts_come_one_after_another(services: Services) -> None:
    holder = services.manager.request("measure", "holder", "Answering", 1)
    file = upload(services, ANNA)
    first, second = (services.verdicts.start(asked(file, ANNA)) for _ in range(2))
    until(lambda: len(services.manager.queue()) == 1)
    states = {services.verdicts.show(id, ANNA).state for id in (first, second)}
    assert states == {"QUEUED", "MEASURING"}
    holder.cancel()
    run_out(services, ANNA)


# -- what is handed out ------------------------------------------------------------------------------------------


def test_exports_count_in_the_quota_and_are_in_the_list(services: Services, lora: Path) -> None:
    adapter = adapter_of(services, lora, ANNA)
    before = services.quota.used_bytes(ANNA)
    merged = list(services.exporter.export(adapter, "merged", ANNA))[-1].file
    assert merged is not None
    assert services.quota.used_bytes(ANNA) == before + merged.stat().st_size
    assert services.quota.used_bytes(ANNA) == sum(item.bytes for item in services.storage.items(ANNA))
    assert [item.kind for item in services.storage.items(BEN)] == []
    used = services.quota.used_bytes(ANNA)
    tight = limited(services, session_disk_mb=max(1, used // 2**20))
    for refused in (
        lambda: next(tight.exporter.export(adapter, "merged", ANNA)),
        lambda: [tight.adapters.export_zip(adapter, ANNA) for _ in range(2000)],
        lambda: tight.data.download("rows.jsonl", "x" * 3 * 2**20, ANNA),
    ):
        with pytest.raises(InputError, match=r"you use .* that one visitor may\. Remove some under Storage"):
            refused()
    assert services.storage.remove_kind("passing", ANNA).count("passing") >= 1
    assert not merged.exists()


def test_one_visitor_has_one_export_written_at_a_time(services: Services, lora: Path) -> None:
    adapter = adapter_of(services, lora, ANNA)
    first = services.exporter.export(adapter, "merged", ANNA)
    next(first)
    with pytest.raises(InputError, match="An export of yours is being written already"):
        next(services.exporter.export(adapter, "gguf", ANNA))
    first.close()  # type: ignore[attr-defined]
    again = services.exporter.export(adapter, "merged", ANNA)
    next(again)
    again.close()  # type: ignore[attr-defined]
