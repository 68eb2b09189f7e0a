"""How much one visitor may have the device do, at every door; and that several verdicts take turns batch by batch."""

import json
import re
from dataclasses import replace

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from playground.chat.batching import Asked, Batches
from playground.chat.compare import Side
from playground.chat.programs import Chat
from playground.data.example import Message
from playground.data.render import encode, render_prompt
from playground.engine.request import Direct, Sampling
from playground.errors import BusyError
from playground.runs.recipe import with_settings
from playground.runs.service import TrainRequest
from playground.server.routes import build_routes
from playground.verdict.answers import Answering
from playground.verdict.race import RaceRequest
from playground.verdict.request import VerdictRequest
from playground.verdict.service import LIVE_OF_ALL
from playground.workspace.visitors import LOCAL
from tests.services.conftest import last, verdicts_by
from tests.shared.conftest import ANNA, BEN, adapter_of, ended_run, incoming, limited, refused
from tests.waiting import wait_for

SIDES = (Side("base", name="Base"), Side("base", "Be glad.", name="Told"))


def upload(services, owner, rows=12, name="rows.jsonl"):
    lines = "\n".join(json.dumps({"prompt": f"Say {n} of {owner}", "completion": f"Number {n}."}) for n in range(rows))
    return services.data.keep_uploads([incoming(services.settings, name, lines.encode())], owner)


def asked(file, owner, **changes):
    values = {"max_tokens": 4, "losses": False, "forgetting": False} | changes
    return VerdictRequest(file, values.pop("sides", SIDES), owner=owner, **values)


def run_out(services, owner):
    wait_for(lambda: not any(view.live for view in services.verdicts.views(owner, None)))


def test_a_verdict_of_more_replies_than_one_may_have_is_refused_with_what_is_allowed(services):
    tight = limited(services, session_replies=100)
    many = asked(upload(tight, ANNA), ANNA, repeats=10)
    words = r"The verdict takes 264 replies\. One visitor may have 100 at once here\. Use fewer rows, sides or repeats"
    refused(words, tight.verdicts.start, many)
    refused(words, next, tight.verdicts.run(many))
    app = TestClient(Starlette(routes=build_routes(tight, "token")), client=("127.0.0.1", 1))
    told = app.post("/internal/verdict", json=many.as_json(), headers={"authorization": "Bearer token"})
    assert re.match(words, told.json()["error"])
    assert tight.verdicts.views(ANNA) == []
    assert last(tight.verdicts.run(replace(many, limit=2, repeats=3))).state == "DONE"
    sides = tuple(Side("base", f"Say it {n} times.", name=str(n)) for n in range(10))
    many = asked(upload(services, ANNA, rows=4000), ANNA, sides=sides, repeats=20)
    refused(r"takes 840,000 replies\. One visitor may have 2,000", services.verdicts.start, many)
    services.quota.take_replies(LOCAL, 840_000, "One person's app")


def test_what_waits_already_counts_and_is_given_back_at_the_end(services):
    tight = limited(services, session_replies=30)
    file = upload(tight, ANNA)
    holder = tight.manager.request("measure", "holder", "Answering", 1)
    first = tight.verdicts.start(asked(file, ANNA))
    waits = r"The verdict takes 24 replies; 24 of yours wait or are written already\. .* 30 .* wait until those"
    refused(waits, tight.verdicts.start, asked(file, ANNA))
    tight.verdicts.start(asked(upload(tight, BEN), BEN))
    tight.verdicts.stop(first, ANNA)
    holder.cancel()
    run_out(tight, ANNA)
    wait_for(lambda: tight.jobs.count("verdict ") <= 1)
    tight.verdicts.start(asked(file, ANNA))
    wait_for(lambda: not tight.jobs.count("verdict "))
    for owner in (ANNA, BEN):
        tight.quota.take_replies(owner, 30, "This")


def test_a_bench_and_a_judging_count_too(services):
    tight = limited(services, session_replies=10)
    file = upload(tight, ANNA, rows=40)
    version = tight.bench.keep("Be glad.", file, ANNA)
    words = r"The prompt bench takes \d+ replies\. One visitor may have 10 at once"
    refused(words, tight.bench.score, file, [version.id], (0, 4, 8), ("contains:glad",), owner=ANNA)
    view = last(tight.verdicts.run(asked(file, ANNA, limit=5)))
    tight.quota.take_replies(ANNA, 8, "This")
    assert tight.voting.poll(view.id, ANNA).places
    refused(r"Judging takes \d+ replies; 8 of yours", tight.judging.start, view.id, "base", ANNA)


def test_a_reply_of_more_tokens_than_one_may_ask_for_is_refused_at_every_door(services):
    tight = limited(services, session_tokens=16)
    words = r"The longest reply is 17 tokens; up to 16 may be asked for here\."
    refused(words, tight.verdicts.start, asked(upload(tight, ANNA), ANNA, max_tokens=17))
    (reply,) = last(tight.compare.ask_each(Side("base"), ["Hello"], Sampling(max_tokens=17), ANNA, ANNA))
    assert "up to 16 may be asked for here" in reply.error
    tight.bases.engine()
    hello = (Message("user", "Hello"),)
    refused(words, next, tight.completion.complete(Chat("base", hello, Sampling(max_tokens=17)), "v1"))
    fits = Chat("base", hello, Sampling(max_tokens=99, ignore_eos=True), fit=True)
    (written,) = last(tight.completion.complete(fits, "v1"))
    assert written.state.completion_tokens == 16


def test_verdicts_of_everybody_together_have_a_limit(services):
    keys = [f"verdict {n}" for n in range(LIVE_OF_ALL - 1)]
    others = [services.jobs.start(key, lambda job: job.pause(60), "", turn="others") for key in keys]
    holder = services.manager.request("measure", "holder", "Answering", 1)
    file = upload(services, ANNA)
    first = services.verdicts.start(asked(file, ANNA))
    bens = asked(upload(services, BEN), BEN)
    refused(f"{LIVE_OF_ALL} verdicts of several people", services.verdicts.start, bens, error=BusyError)
    for other in others:
        other.stop()
        assert other.wait(60)
    second = services.verdicts.start(asked(file, ANNA))
    wait_for(lambda: len(services.manager.queue()) == 1)
    states = [services.verdicts.show(id, ANNA).state for id in (first, second)]
    assert states == ["MEASURING", "QUEUED"], "a visitor's own come one after another"
    for id in (second, first):
        services.verdicts.stop(id, ANNA)
    holder.cancel()
    run_out(services, ANNA)


def test_a_run_of_more_steps_or_minutes_than_one_may_have_is_refused_at_every_door(services):
    file = upload(services, ANNA)
    much = {"steps": 100_000, "batch_size": 2, "owner": ANNA}
    settings = with_settings(TrainRequest(file, owner=ANNA), {"method": "lora", "steps": 100_000})
    words = r"has 100,000 steps; one visitor's run may have 1,000 here\. Choose fewer"
    refused(words, services.training.start, TrainRequest(file, "r", **much))
    refused(words, services.training.start, settings)
    refused(words, services.race.start, RaceRequest(file, methods=("ia3", "lora"), **much))
    epochs = TrainRequest(file, "r", epochs=10_000, batch_size=2, owner=ANNA)
    refused("one visitor's run may have 1,000 here", services.training.start, epochs)
    run, resume = ended_run(services, ANNA), limited(services, session_steps=9).training.resume
    refused(r"The run has 10 steps; one visitor's run may have 9 here", resume, run, ANNA)
    assert [view.state for view in services.training.runs(ANNA)] == ["FAILED"]
    tight = limited(services, session_minutes=1, session_steps=100_000)
    request = TrainRequest(file, "r", steps=100_000, batch_size=64, owner=ANNA)
    assert tight.training.plan(request).seconds > 60
    refused(r"The run would take about .* one visitor's run may take 1 minutes here", tight.training.start, request)
    assert tight.training.plan(replace(request, owner=LOCAL)).blocked == ""


def test_a_few_long_rows_among_short_ones_are_in_the_estimate(services):
    asks = ["Say"] * 51 + [f"Say {n} " * 300 for n in range(49)]
    rows = "\n".join(json.dumps({"prompt": ask, "completion": f"No {n}."}) for n, ask in enumerate(asks))
    mixed = services.data.keep_uploads([incoming(services.settings, "mixed.jsonl", rows.encode())], ANNA)
    tokens = services.data.tokens(services.data.check(mixed, owner=ANNA), 2048)
    assert tokens.mean > 10 * tokens.median
    assert tokens.mean == pytest.approx(sum(map(int.__add__, tokens.prompt_lengths, tokens.answer_lengths)) / 100)

    def steps_s(file):
        one, many = (services.training.plan(TrainRequest(file, steps=steps, owner=ANNA)).seconds for steps in (1, 1000))
        return many - one

    assert steps_s(mixed) > 3 * steps_s(upload(services, ANNA))


class Recording(Direct):
    """Writes down whose batch is decoded: visitors' questions name them."""

    together = 4  # so that a verdict has many batches

    def __init__(self):
        self.seen = []

    def stream(self, engine, rows):
        self.seen.append(next(name for name in (ANNA, BEN, "chat") if name in rows[0].prompt))
        return super().stream(engine, rows)


def test_verdicts_of_two_visitors_and_a_chat_take_turns_batch_by_batch(services):
    services.bases.engine()
    decoder = Recording()
    batches = Batches(services.manager, services.bases, services.residents, decoder)
    verdicts = verdicts_by(services, Answering, batches)
    holder = services.manager.request("measure", "holder", "Answering", 1)
    for owner in (ANNA, BEN):
        verdicts.start(asked(upload(services, owner), owner))
    wait_for(lambda: len(services.manager.queue()) == 2)
    chat = services.manager.request("chat", "somebody", "Answering", 1)
    assert chat.lease is not None, "a chat does not wait for what is measured"
    chat.cancel()
    holder.cancel()
    wait_for(lambda: not any(view.live for owner in (ANNA, BEN) for view in verdicts.views(owner)))
    assert {view.state for owner in (ANNA, BEN) for view in verdicts.views(owner)} == {"DONE"}
    answers = decoder.seen[:12]
    assert set(answers[:2]) == {ANNA, BEN}, "the second visitor's first batch follows the first one's first"
    assert {answers.count(ANNA), answers.count(BEN)} <= set(range(3, 10)), answers


def test_everything_counts_and_exports_are_listed_and_written_one_at_a_time(services, lora):
    assert services.quota.used_bytes(ANNA) == 0
    adapter = adapter_of(services, lora, ANNA)
    ended_run(services, ANNA)
    upload(services, ANNA)
    first = services.exporter.export(adapter, "merged", ANNA)
    next(first)
    refused("An export of yours is being written already", next, services.exporter.export(adapter, "gguf", ANNA))
    first.close()
    before = services.quota.used_bytes(ANNA)
    packed = services.adapters.export_zip(adapter, ANNA)
    assert services.quota.used_bytes(ANNA) == before + packed.stat().st_size
    assert services.quota.used_bytes(ANNA) == sum(item.bytes for item in services.storage.items(ANNA)) > 5000
    assert services.storage.items(BEN) == []
    tight = limited(services, session_disk_mb=max(1, services.quota.used_bytes(ANNA) // 2**20))
    words = r"you use .* that one visitor may\. Remove some under Storage"
    refused(words, next, tight.exporter.export(adapter, "merged", ANNA))
    refused(words, lambda: [tight.adapters.export_zip(adapter, ANNA) for _ in range(2000)])
    refused(words, tight.data.download, "rows.jsonl", "x" * 3 * 2**20, ANNA)
    assert services.storage.remove_kind("passing", ANNA).count("passing") >= 1
    assert not packed.exists()


MEBI = 1024 * 1024


def test_an_upload_past_the_disk_is_refused_with_what_there_is(services):
    tight = limited(services, session_disk_mb=3)
    two = incoming(tight.settings, "two.csv", b"x" * 2 * MEBI)
    tight.data.keep_uploads([two], ANNA)
    words = r"two\.csv needs 2\.0 MB; you use 2\.0 MB of the 3\.0 MB .* Storage in the Device panel"
    refused(words, tight.data.keep_uploads, [two], ANNA)
    tight.data.keep_uploads([two], BEN)
    tight.storage.remove_kind("upload", ANNA)
    tight.data.keep_uploads([two], ANNA)
    tight = limited(services, upload_mb=1)
    refused("the limit is 1 MB", tight.data.keep_uploads, [two], BEN)
    zipped = incoming(tight.settings, "two.zip", b"x" * 2 * MEBI)
    refused("the limit is 1 MB", tight.adapters.import_uploads, [zipped], BEN)


def test_adapters_count_with_those_that_runs_will_make(services, lora):
    tight = limited(services, session_adapters=2)
    adapter_of(tight, lora, ANNA)
    request = TrainRequest(upload(tight, ANNA), "r", steps=2, batch_size=2, owner=ANNA)
    tight.training.start(request)
    refused(r"You have 1 adapter, and 1 on the way; 2 may be kept", tight.training.start, request)
    adapter_of(tight, lora, ANNA, "second")
    refused(r"You have 2 adapters; 2 may be kept here\. Export and delete one", adapter_of, tight, lora, ANNA, "third")
    adapter_of(tight, lora, BEN, "fourth")
    tight = limited(services, session_adapters=1, session_disk_mb=1)
    for name in ("one", "two"):
        adapter_of(tight, lora, LOCAL, name)


def test_runs_at_once_are_limited_and_a_full_disk_takes_no_upload(services):
    request = TrainRequest(upload(services, ANNA), "r", steps=2, batch_size=2, owner=ANNA)
    started = [services.training.start(request) for _ in range(3)]
    words = r"3 runs of yours wait or train already, of 3 .* cancel one"
    refused(words, services.training.start, request)
    refused(words, services.training.resume, ended_run(services, ANNA), ANNA)
    assert "3 runs" in services.training.plan(request).blocked
    services.training.cancel(started[0], ANNA)
    services.training.start(request)
    services.training.start(replace(request, file=upload(services, BEN), owner=BEN))
    refused("nearly full", limited(services, session_disk_mb=2**40).quota.check_disk, ANNA, 2**50, "It")


LONG = "A prompt that is long enough to be kept for the next question, since it has more than sixteen tokens."


def reused(services, prompt, session):
    """Prompt tokens that are copied from the prefix cache instead of being read."""
    engine = services.bases.engine()
    before = engine.backend.scheduler.cached_tokens
    (written,) = last(services.batches.run([Asked(None, prompt, Sampling(max_tokens=2))], session))
    assert written.failure is None
    engine.worker.run(lambda: None)
    return engine.backend.scheduler.cached_tokens - before


def test_visitors_share_what_was_read_of_a_prompt_that_ships_and_of_no_other(services):
    """So that nobody guesses another's prompt by timing."""
    assert reused(services, LONG, "ann") == 0
    assert reused(services, LONG, "bob") == 0, "as if nobody had asked it"
    assert reused(services, LONG, "ann") > 0
    tokenizer, system = services.bases.tokenizer(), services.data.sets()[0].system_prompt
    messages = [[Message("system", system), Message("user", text * 40)] for text in ("secret ", "another ")]
    first, other = (render_prompt(tokenizer, asked) for asked in messages)
    reused(services, first, "ann")
    length = len(encode(tokenizer, system))
    for asked, visitor in ((first, "bob"), (other, "cid")):
        assert length - 2 <= reused(services, asked, visitor) < length + 20, "the system prompt, not the question"
