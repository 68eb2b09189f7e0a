"""Blind votes on a verdict that lies on disk: what is asked, what is kept, what is revealed."""

import itertools
import json
import threading
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from playground.errors import NotFoundError, RunFailedError
from playground.evaluation.votes import Vote, bradley_terry
from playground.services import Services, build_services
from playground.verdict.files import DONE, JUDGE
from playground.verdict.judges import BASE, ENDPOINT, Endpoint, Judges
from playground.verdict.judging import JudgingService, JudgingView
from tests.services.conftest import SIDES, put_verdict, vote_all
from tests.shared.conftest import ANNA, refused


@pytest.fixture
def ended(services):
    return put_verdict(services)


def test_the_pair_with_the_fewest_votes_is_next_and_the_places_are_shuffled(services, ended):
    swapped = []
    for n in range(15):
        ballot = services.voting.next(ended)
        assert ballot == services.voting.next(ended), "the same until it is answered"
        assert ballot.number == n
        services.voting.vote(ended, n, "left")
        last = services.voting.files.read(ended)[-1]
        swapped.append(last.winner == "b")
        votes = Counter((one.a, one.b) for one in services.voting.files.read(ended))
        assert max(votes.values()) - min(votes.get(pair, 0) for pair in itertools.combinations(SIDES, 2)) <= 1
        assert last.winner in ("a", "b")
        row = {(row["example"], row["side"]): row["reply"] for row in services.verdicts.rows(ended)}
        assert row[last.example, last.b if swapped[-1] else last.a] == ballot.left
        assert ballot.question == f"question {last.example}"
    assert 0 < sum(swapped) < 15
    assert not any(side in str(ballot) for side in SIDES)


def test_votes_are_appended_and_the_last_can_be_taken_back(services, ended):
    for choice in ("left", "skip"):
        ballot = services.voting.next(ended)
        services.voting.vote(ended, ballot.number, choice)
    file = services.verdicts.files.folder(ended) / "votes.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [set(line) for line in lines] == [{"example", "a", "b", "winner", "owner", "when"}] * 2
    assert services.voting.count(ended) == (1, 15)
    services.voting.undo(ended)
    assert services.voting.next(ended) == ballot, "the same is asked again"
    services.voting.vote(ended, 0, "left")
    assert services.voting.count(ended)[0] == 1, "a second press on an answered ballot counts for nothing"
    services.voting.undo(ended)
    services.voting.undo(ended)
    assert services.voting.count(ended) == (0, 17)
    file.write_text('{"example": 1}\nnonsense\n' + json.dumps(lines[0]) + "\n" + '{"torn')
    assert services.voting.count(ended)[0] == 1


def test_reveal_names_strengths_and_how_far_the_metric_agrees(services, ended):
    refused("no vote yet", services.voting.reveal, ended)
    assert services.voting.count(ended) == (0, 17)
    assert vote_all(services, ended) == 17
    cast = services.voting.files.read(ended)
    assert len({one.place for one in cast}) == 17, "every comparison is asked once"
    assert (1, SIDES[1], SIDES[2]) not in {one.place for one in cast}, "equal replies never"
    found = services.voting.reveal(ended)
    assert [one.side for one in found.standings] == list(SIDES)
    assert (found.votes, found.metric, found.judge) == (17, "pass", None)
    assert (found.agreement.share.value, found.agreement.kappa) == (1.0, 1.0)
    assert list(found.standings) == bradley_terry([Vote(one.a, one.b, one.winner) for one in cast], SIDES)  # type: ignore[arg-type]
    judged = [replace(one, owner=JUDGE, judge="Deep", winner="a") for one in cast[:10]]
    services.voting.files.change(ended, lambda there: [*there, *judged])
    again = services.voting.reveal(ended)
    assert again.standings == found.standings, "a judge is no person"
    assert (again.judge.name, again.judge.votes) == ("Deep", 10)
    assert again.judge.agreement.share.value == sum(one.winner == "a" for one in cast[:10]) / 10
    assert services.voting.count(ended) == (17, 0)


def test_a_wrong_vote_an_unfinished_verdict_and_a_skip_are_no_vote(services, ended):
    refused("is no vote", services.voting.vote, ended, 0, "Zarquon")
    for n in range(17):
        services.voting.vote(ended, n, "skip")
    assert (services.voting.next(ended), services.voting.count(ended)) == (None, (0, 0))
    refused("no vote yet", services.voting.reveal, ended)
    state = services.verdicts.files.new("local", "alone", {}, 1.7e9)
    refused("Votes begin when", services.voting.next, state.id)
    services.verdicts.files.save(state.id, services.verdicts.files.record(ended) | {"id": state.id}, [], [])  # type: ignore[operator]
    services.verdicts.files.put(replace(state, state=DONE))
    refused("nothing to vote on", services.voting.next, state.id)


def test_in_a_shared_app_nobody_spends_the_key(settings, endpoint, server):
    shared = build_services(replace(settings, shared=True))
    id = put_verdict(shared, ANNA)
    shared.voting.vote(id, 0, "left", ANNA)
    refused("", shared.voting.next, "../" + id, ANNA, error=NotFoundError)
    assert [one.owner for one in shared.voting.files.read(id)] == [ANNA]
    service = judging(shared, endpoint, shared=True)
    assert ENDPOINT not in [judge for _, judge in service.judges(ANNA)]
    refused("No endpoint is set", service.start, id, ENDPOINT, ANNA)
    assert server.asked == []
    shared.storage.remove_everything(ANNA)
    assert shared.voting.files.read(id) == []
    shared.close()


KEY = "sk-very-secret"
MESSAGES = [{"role": "user", "content": "Which?"}]


def reply(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}


def first_with_end(path: str, body: bytes) -> tuple[int, Any]:
    """Prefers the reply that ends with END; of two alike it names the first it read."""
    text = json.loads(body)["messages"][-1]["content"]
    a, b = (text.split(f"Reply {letter}:")[1].split("\n</")[0].endswith("END") for letter in "AB")
    return 200, reply("A" if a or not b else "The winner is: B")


@pytest.fixture
def endpoint(server):
    return Endpoint(f"{server.url}/v1", "deep", KEY)


def judging(services: Services, endpoint: Endpoint | None, shared: bool = False) -> JudgingService:
    judges = Judges(services.bases, services.adapters, services.batches, shared=shared, endpoint=lambda: endpoint)
    return JudgingService(services.voting, services.labelling, judges, services.quota, services.jobs)


def judged(services: Services, service: JudgingService, id: str, judge: str = ENDPOINT, limit: int = 60) -> JudgingView:
    service.start(id, judge, limit=limit)
    return over(services, service, id)


def over(services: Services, service: JudgingService, id: str) -> JudgingView:
    assert services.jobs.wait(f"judging {id}", 60)
    view = service.show(id)
    assert not view.live
    return view


def test_it_judges_in_both_orders_and_agreement_shows(services, server, endpoint):
    id = put_verdict(services)
    vote_all(services, id)
    server.say = first_with_end
    service = judging(services, endpoint)
    assert service.judges()[-1] == ("deep at 127.0.0.1", ENDPOINT)
    view = judged(services, service, id)
    assert (view.done, view.of, view.unread, view.error) == (17, 17, 0, "")
    assert len(server.asked) == 34
    path, shown, sent = server.asked[0]
    assert (path, shown) == ("/v1/chat/completions", f"Bearer {KEY}")
    body = json.loads(sent)
    assert (body["model"], body["temperature"]) == ("deep", 0)
    assert [one["role"] for one in body["messages"]] == ["system", "user"]
    assert not any(side in str(body) for side in SIDES)
    found = services.voting.reveal(id)
    assert (found.judge.agreement.share.value, found.judge.agreement.share.n) == (1.0, 17)
    assert [one.side for one in found.judge.standings] == list(SIDES)
    assert KEY not in (services.verdicts.files.folder(id) / "votes.jsonl").read_text()
    judged(services, service, id, limit=3)
    cast = [one for one in services.voting.files.read(id) if one.owner == JUDGE]
    assert len(cast) == 3, "a new judging takes the place of the old one"


def test_no_answer_is_no_vote_and_a_failure_keeps_votes(services, server, endpoint):
    id, service = put_verdict(services), judging(services, endpoint)
    server.say = lambda path, body: (200, reply("I like both the style and the tone"))
    view = judged(services, service, id)
    assert view.unread == view.done == view.of
    refused("no vote yet", services.voting.reveal, id)
    server.asked.clear()
    server.say = lambda path, body: first_with_end(path, body) if len(server.asked) <= 10 else (500, {})
    view = judged(services, service, id)
    assert "answered 500" in view.error
    assert view.done == sum(one.owner == JUDGE for one in services.voting.files.read(id)) == 4


WRONG: tuple[tuple[int, Any, str], ...] = (
    (401, {"error": KEY}, "answered 401. Check JUDGE_KEY"),
    (404, {}, "Check JUDGE_URL and JUDGE_MODEL"),
    (429, {}, "no more requests now"),
    (500, {}, "answered 500. Try again"),
    (302, {}, "point it straight"),
    *((200, said, "does not answer as a chat completion") for said in (b"<html>", {"choices": []})),
)


def test_what_goes_wrong_is_told_without_the_key(server, endpoint):
    for times, (status, said, words) in enumerate(WRONG, 1):
        server.say = lambda path, body, told=(status, said): told
        assert KEY not in refused(words, endpoint.answer, MESSAGES, error=RunFailedError) + repr(endpoint)
        assert len(server.asked) == times, "nothing follows where it points to"


def test_it_can_be_stopped_and_runs_once_at_a_time(services, server, endpoint):
    id = put_verdict(services)
    go, came = threading.Event(), threading.Event()

    def wait(path: str, body: bytes) -> tuple[int, Any]:
        came.set()
        go.wait(20)
        return 200, reply("A")

    server.say = wait
    service = judging(services, endpoint)
    service.start(id, ENDPOINT)
    assert came.wait(20)
    refused("judges this verdict already", service.start, id, ENDPOINT)
    service.stop(id)
    go.set()
    assert over(services, service, id).done == 0
    assert len(server.asked) == 1


def test_the_address_comes_from_the_environment_alone(services):
    assert Endpoint.from_env({}) is None
    made = Endpoint.from_env({"JUDGE_URL": "https://api.example.com/v1/", "JUDGE_MODEL": "m", "JUDGE_KEY": KEY})
    assert made == Endpoint("https://api.example.com/v1", "m", KEY)
    for wrong in ("file:///etc/passwd", "ftp://x/y", "api.example.com", "http://me:secret@x/v1", "https://x/v1?key=1"):
        told = refused("JUDGE_URL is no address", Endpoint.from_env, {"JUDGE_URL": wrong, "JUDGE_MODEL": "m"})
        assert "secret" not in told
    refused("JUDGE_MODEL", Endpoint.from_env, {"JUDGE_URL": "https://x/v1"})
    id = put_verdict(services)
    refused("No endpoint is set", judging(services, None).start, id, ENDPOINT)
    refused("no adapter", judging(services, None).start, id, "http://127.0.0.1/v1")


def test_a_side_of_the_playground_judges_too(services):
    id = put_verdict(services, examples=3)
    view = judged(services, services.judging, id, BASE, limit=3)
    assert (view.name, view.done, view.of, view.error) == ("The base", 3, 3, "")
    assert [one.owner for one in services.voting.files.read(id)] == [JUDGE] * 3
    assert services.manager.leases() == []
