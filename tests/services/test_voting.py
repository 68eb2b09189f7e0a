"""Blind votes on a verdict on disk, and labels of single replies; and a judge that does the same."""

import itertools
import json
import threading
from collections import Counter
from dataclasses import replace
from itertools import count

import pytest

from playground.chat.programs import parse_side
from playground.errors import NotFoundError
from playground.evaluation.votes import Vote, bradley_terry
from playground.models.endpoints import Endpoint
from playground.services import build_services
from playground.verdict.answers import Answering
from playground.verdict.files import DONE, JUDGE
from playground.verdict.judges import BASE, ENDPOINT, endpoint_of
from playground.verdict.judging import MARKS
from tests.refused import refused
from tests.services.conftest import SIDES, last, put_rows, put_verdict, reply, verdicts_by, vote_all
from tests.shared.conftest import ANNA

ended = pytest.fixture(lambda services: put_verdict(services))
asked = pytest.fixture(lambda asked: replace(asked, checks=(), limit=5, losses=False, right=(f"judge:{ENDPOINT}",)))


def test_the_pair_with_the_fewest_votes_is_next_and_the_places_are_shuffled(services, ended):
    swapped = []
    for n in range(15):
        ballot = services.voting.next(ended)
        assert ballot == services.voting.next(ended), "the same until it is answered"
        assert ballot.number == n
        services.voting.vote(ended, n, "left")
        *_, last = cast = services.voting.files.read(ended)
        swapped.append(last.winner == "b")
        votes = Counter((one.a, one.b) for one in cast)
        assert max(votes.values()) - min(votes.get(pair, 0) for pair in itertools.combinations(SIDES, 2)) <= 1
        assert last.winner in ("a", "b")
        row = {(row["example"], row["side"]): row["reply"] for row in services.verdicts.rows(ended)}
        assert row[last.example, last.b if swapped[-1] else last.a] == ballot.left
        assert ballot.question == f"question {last.example}"
    assert 0 < sum(swapped) < 15
    assert not any(side in str(ballot) for side in SIDES)


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
    assert list(found.standings) == bradley_terry([Vote(one.a, one.b, one.winner) for one in cast], SIDES)
    judged = [replace(one, owner=JUDGE, judge="Deep", winner="a") for one in cast[:10]]
    services.voting.files.change(ended, lambda there: [*there, *judged])
    again = services.voting.reveal(ended)
    assert again.standings == found.standings, "a judge is no person"
    assert (again.judge.name, again.judge.votes) == ("Deep", 10)
    assert again.judge.agreement.share.value == sum(one.winner == "a" for one in cast[:10]) / 10
    assert services.voting.count(ended) == (17, 0)


def test_votes_are_appended_the_last_can_be_taken_back_and_a_wrong_one_a_skip_or_an_early_one_is_none(services, ended):
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
    file.unlink()
    refused("is no vote", services.voting.vote, ended, 0, "Zarquon")
    for n in range(17):
        services.voting.vote(ended, n, "skip")
    assert (services.voting.next(ended), services.voting.count(ended)) == (None, (0, 0))
    refused("no vote yet", services.voting.reveal, ended)
    state = services.verdicts.files.new("local", "alone", {}, 1.7e9)
    refused("Votes begin when", services.voting.next, state.id)
    services.verdicts.files.save(state.id, services.verdicts.files.record(ended) | {"id": state.id}, [], [])
    services.verdicts.files.put(replace(state, state=DONE))
    refused("nothing to vote on", services.voting.next, state.id)


def test_in_a_shared_app_votes_and_labels_are_their_owners_and_nobody_spends_the_key(shared, judge):
    id = put_verdict(shared, ANNA)
    shared.voting.vote(id, 0, "left", ANNA)
    shared.labelling.label(id, 0, "right", ANNA)
    refused("", shared.voting.next, "../" + id, ANNA, error=NotFoundError)
    assert [one.owner for kept in (shared.voting, shared.labelling) for one in kept.files.read(id)] == [ANNA] * 2
    assert ENDPOINT not in [judge for _, judge in shared.judging.judges(ANNA)]
    refused("No endpoint is set", shared.judging.start, id, ENDPOINT, ANNA)
    assert judge.asked == []
    shared.storage.remove_everything(ANNA)
    assert shared.voting.files.read(id) == shared.labelling.files.read(id) == []


KEY = "sk-very-secret"


def first_with_end(path, body):
    """Prefers the reply that ends with END; of two alike it names the first it read."""
    text = json.loads(body)["messages"][-1]["content"]
    a, b = (text.split(f"Reply {letter}:")[1].split("\n</")[0].endswith("END") for letter in "AB")
    return 200, reply("A" if a or not b else "The winner is: B")


@pytest.fixture
def judge(server, monkeypatch):
    """The server that is set as the judge's endpoint; it calls right what ends with END."""
    server.say = by_the_end
    for name, value in {"URL": f"{server.url}/v1", "MODEL": "deep", "KEY": KEY}.items():
        monkeypatch.setenv(f"JUDGE_{name}", value)
    return server


def judged(services, id, judge=ENDPOINT, limit=60):
    services.judging.start(id, judge, limit=limit)
    return over(services, id)


def over(services, id):
    assert services.jobs.wait(f"judging {id}", 60)
    return services.judging.show(id)


def test_a_server_judges_in_both_orders_and_agreement_shows_and_the_base_takes_its_place(services, ended, judge):
    vote_all(services, ended)
    judge.say = first_with_end
    assert services.judging.judges()[-1] == ("deep at 127.0.0.1", ENDPOINT)
    view = judged(services, ended)
    assert (view.live, view.done, view.of, view.unread, view.error) == (False, 17, 17, 0, "")
    assert len(judge.asked) == 34
    path, shown, sent = judge.asked[0]
    assert (path, shown) == ("/v1/chat/completions", f"Bearer {KEY}")
    body = json.loads(sent)
    assert (body["model"], body["temperature"]) == ("deep", 0)
    assert [one["role"] for one in body["messages"]] == ["system", "user"]
    assert not any(side in str(body) for side in SIDES)
    found = services.voting.reveal(ended)
    assert (found.judge.agreement.share.value, found.judge.agreement.share.n) == (1.0, 17)
    assert [one.side for one in found.judge.standings] == list(SIDES)
    assert KEY not in (services.verdicts.files.folder(ended) / "votes.jsonl").read_text()
    refused("has judged all 17 comparisons", services.judging.start, ended, ENDPOINT)
    view = judged(services, ended, BASE, limit=3)
    assert (view.name, view.done, view.of, view.error) == ("The base", 3, 3, "")
    assert services.manager.leases() == []
    cast = [one for one in services.voting.files.read(ended) if one.owner == JUDGE]
    assert len(cast) == 3, "another judge takes the place of the first"


def test_no_answer_is_no_vote_and_a_failure_keeps_votes(services, ended, judge):
    judge.say = lambda path, body: (200, reply("I like both the style and the tone"))
    view = judged(services, ended)
    assert view.unread == view.done == view.of
    refused("no vote yet", services.voting.reveal, ended)
    judge.asked.clear()
    judge.say = lambda path, body: first_with_end(path, body) if len(judge.asked) <= 10 else (500, {})
    view = judged(services, ended)
    assert "answered 500" in view.error
    assert (view.done, services.voting.reveal(ended).judge.votes) == (4, 4)
    judge.say = first_with_end
    asked = len(judge.asked)
    view = judged(services, ended)
    assert (view.done, view.of, len(judge.asked) - asked) == (13, 13, 26), "it goes on from there"
    assert services.voting.reveal(ended).judge.votes == 17


def test_it_can_be_stopped_and_runs_once_at_a_time(services, ended, judge):
    go, came = threading.Event(), threading.Event()

    def wait(path, body):
        came.set()
        go.wait(20)
        return 200, reply("A")

    judge.say = wait
    services.judging.start(ended, ENDPOINT)
    assert came.wait(20)
    refused("judges this verdict already", services.judging.start, ended, ENDPOINT)
    services.judging.stop(ended)
    go.set()
    assert (over(services, ended).done, len(judge.asked)) == (0, 1)


def test_the_address_comes_from_the_environment_alone(services, ended):
    assert endpoint_of({}) is None
    made = endpoint_of({"JUDGE_URL": "https://api.example.com/v1/", "JUDGE_MODEL": "m", "JUDGE_KEY": KEY})
    assert made == Endpoint("judge", "https://api.example.com/v1", "m", "JUDGE_KEY")
    for wrong in ("file:///etc/passwd", "ftp://x/y", "api.example.com", "http://me:secret@x/v1", "https://x/v1?key=1"):
        told = refused("url takes an address", endpoint_of, {"JUDGE_URL": wrong, "JUDGE_MODEL": "m"})
        assert "secret" not in told
    refused("model is missing", endpoint_of, {"JUDGE_URL": "https://x/v1"})
    refused("No endpoint is set", services.judging.start, ended, ENDPOINT)
    refused("no adapter", services.judging.start, ended, "http://127.0.0.1/v1")


def by_the_end(path, body):
    text = json.loads(body)["messages"][-1]["content"].split("Reply:\n")[1].split("\n</")[0]
    return 200, reply("Yes." if text.endswith("END") else "No.")


def label_all(services, id, most=1_000):
    done = 0
    while done < most and (sheet := services.labelling.next(id)) is not None:
        services.labelling.label(id, sheet.number, "right" if sheet.reply.endswith("END") else "wrong")
        done += 1
    return done


def mark(services, id):
    services.judging.mark(id, ENDPOINT)
    assert services.jobs.wait(f"{MARKS} {id}", 60)
    return services.judging.show(id, kind=MARKS)


def test_replies_come_unnamed_in_a_drawn_order_and_labels_outlive_the_app(services, settings):
    id = put_verdict(services)
    first = services.labelling.next(id)
    assert first == services.labelling.next(id), "the same until it is labelled"
    assert not any(side in str(first) for side in SIDES)
    assert first.reference.endswith("END")
    for choice in ("right", "unsure"):
        services.labelling.label(id, services.labelling.next(id).number, choice)
    services.labelling.label(id, 0, "wrong")
    assert services.labelling.count(id) == (1, 0, 1, 15), "a second press counts for nothing; equal replies come once"
    lines = (services.verdicts.files.folder(id) / "labels.jsonl").read_text().splitlines()
    assert [set(json.loads(line)) for line in lines] == [{"example", "side", "label", "owner", "when"}] * 2
    again = build_services(settings)
    again.labelling.undo(id)
    assert again.labelling.count(id) == (1, 0, 0, 16)
    assert label_all(again, id) == 16
    assert again.labelling.next(id) is None
    places = [one.place for one in again.labelling.files.read(id)]
    assert len({example for example, _ in places[:6]}) == 6, "another example each time, as long as there are some"
    refused("is no label", again.labelling.label, id, 17, "Zarquon")
    again.close()


def test_the_judge_marks_what_was_labelled_and_only_what_is_new(services, judge):
    id = put_verdict(services, examples=20)
    refused("There is no label yet", services.judging.mark, id, ENDPOINT)
    label_all(services, id, most=30)
    view = mark(services, id)
    assert (view.done, view.of, view.unread, view.error, len(judge.asked)) == (30, 30, 0, "", 30)
    body = json.loads(judge.asked[0][2])
    assert body["temperature"] == 0
    assert not any(side in str(body) for side in SIDES)
    trust = services.labelling.trust(id, ENDPOINT)
    assert (trust.agreed.n, trust.agreed.kappa, trust.unmarked) == (30, 1.0, 0)
    assert "30 of 50 labels that say right or wrong: label 20 more" in trust.words
    refused("marked all 30", services.judging.mark, id, ENDPOINT)
    label_all(services, id, most=25)
    assert services.labelling.trust(id, ENDPOINT).unmarked == 25
    judge.say = lambda path, body: by_the_end(path, body) if len(judge.asked) <= 40 else (500, {})
    view = mark(services, id)
    assert "answered 500" in view.error
    assert (view.done, services.labelling.trust(id, ENDPOINT).agreed.n) == (8, 38), "what was judged is kept"
    assert services.labelling.count(id).left == len(services.verdicts.rows(id)) - 1 - 55, "its marks are no labels"
    assert {one.owner for one in services.labelling.files.read(id)} == {"local", JUDGE}


def trusted(services, examples=24):
    """A labelled verdict, and the judge's marks; returns how many labels there are."""
    id = put_verdict(services, examples=examples)
    labels = label_all(services, id)
    mark(services, id)
    return labels


def test_a_judge_decides_only_behind_enough_labels_that_it_goes_with(services, judge, asked, monkeypatch):
    refused("0 of 50 labels", services.verdicts.start, asked)
    assert trusted(services, 16) == 47
    refused("47 of 50 labels.*label 3 more", services.verdicts.start, asked)
    services.verdicts.remove(services.verdicts.views()[0].id)
    judge.say = lambda path, body: (200, reply("yes" if len(judge.asked) % 3 else "no"))
    trusted(services)
    refused("does not judge as you do.*Label replies", services.verdicts.start, asked)
    judge.say = by_the_end
    monkeypatch.setenv("JUDGE_MODEL", "deeper")
    refused("0 of 50 labels.* 71 more are not marked by it yet", services.verdicts.start, asked)


def test_its_marks_are_in_the_rows_and_the_record_says_how_far_it_goes(services, judge, asked, tmp_path):
    trusted(services)
    judge.asked.clear()
    (tmp_path / "old.jsonl").write_text("\n".join(f'{{"prompt": "Say {n}", "reply": "It is {n}."}}' for n in range(5)))
    asked = replace(asked, sides=(*asked.sides, parse_side(f"replies={tmp_path / 'old.jsonl'},name=Today")))
    judge.say = lambda path, body: (200, reply("no" if len(judge.asked) == 1 else "yes"))
    view = last(services.verdicts.run(asked))
    assert (view.state, view.error) == ("DONE", "")
    rows, record = services.verdicts.rows(view.id), view.record
    assert len(judge.asked) == len({(row["question"], row["reply"].strip()) for row in rows if row["reply"].strip()})
    assert all(row["marks"].keys() == {ENDPOINT} for row in rows)
    assert all(row["metrics"]["content"] == float(row["marks"][ENDPOINT]) for row in rows)
    (one,) = record["judges"]
    assert (one["judge"], one["kappa"], one["labels"], one["files"]) == (ENDPOINT, 1.0, 50, ["ward"])
    assert 0.6 < one["low"] < 1
    assert record["right"] == f"judge:{ENDPOINT}"
    guard = next(guard for guard in record["guards"] if guard["name"] == "judge")
    assert "deep at 127.0.0.1: kappa 1.00" in guard["sentence"]
    assert "of other examples (ward)" in guard["sentence"]
    asked_then = len(judge.asked)
    again = services.verdicts.again(view.id, asked.questions, asked.prices)
    assert (again.record["ladder"], again.record["judges"]) == (record["ladder"], record["judges"])
    assert len(judge.asked) == asked_then, "judged anew from the marks"
    assert "A model judged" in services.verdicts.files.write(view.id, "html", services.settings.home).read_text()


def test_a_search_asks_the_judge_of_every_reply_within_its_budget(services, judge, rows_file):
    trusted(services)
    put_rows(rows_file, 60)
    judge.asked.clear()
    judge.say = lambda path, body: (200, reply("yes" if b"Say 1" in body else "no"))
    right = (f"judge:{ENDPOINT}",)
    asked = services.search.request(rows_file, {"mine": "Be glad."}, (0,), (), 60, right=right, max_tokens=4)
    verdicts = verdicts_by(services, Answering, services.batches, ticks=count().__next__)
    *_, view = verdicts.run(asked)
    assert view.state == "DONE", view.error
    rows, tried = verdicts.rows(view.id), {one["side"]: one for one in view.record["search"]["candidates"]}
    right = [row["side"] for row in rows if row["marks"][ENDPOINT]]
    assert {name: one["passed"] for name, one in tried.items()} == {name: right.count(name) for name in tried}
    assert 0 < len(judge.asked) <= len(rows)


def test_one_whose_judge_fails_keeps_the_rows_that_it_marked(services, judge, asked):
    trusted(services)
    judge.asked.clear()
    judge.say = lambda path, body: (200, reply("yes")) if len(judge.asked) <= 4 else (500, {})
    view = last(services.verdicts.run(asked))
    assert (view.state, "answered 500" in view.error) == ("FAILED", True)
    assert 0 < view.record["examples"] < 5
    assert len(services.verdicts.rows(view.id)) == 10, "the replies are kept"
