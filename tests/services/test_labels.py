"""Labels of single replies, a judge that marks the same ones, and what it may decide by then."""

import json
from dataclasses import replace
from typing import Any

import pytest

from playground.chat.compare import Side
from playground.errors import NotFoundError
from playground.services import Services, build_services
from playground.verdict.files import JUDGE
from playground.verdict.judges import ENDPOINT
from playground.verdict.judging import LABELS
from playground.verdict.request import VerdictRequest
from tests.services.conftest import SIDES, put_verdict
from tests.services.test_voting import reply
from tests.shared.conftest import ANNA, refused


def says_of(body: bytes) -> str:
    """The reply that a judge is asked about."""
    text: str = json.loads(body)["messages"][-1]["content"]
    return text.split("Reply:\n")[1].split("\n</")[0]


def by_the_end(path: str, body: bytes) -> tuple[int, Any]:
    return 200, reply("Yes." if says_of(body).endswith("END") else "No.")


@pytest.fixture
def judge(server, monkeypatch):
    """A fake server that calls right what ends with END."""
    monkeypatch.setenv("JUDGE_URL", f"{server.url}/v1")
    monkeypatch.setenv("JUDGE_MODEL", "deep")
    server.say = by_the_end
    return server


def label_all(services: Services, id: str, owner: str = "local", most: int = 1_000) -> int:
    done = 0
    while done < most and (sheet := services.labelling.next(id, owner)) is not None:
        choice = "right" if sheet.reply.endswith("END") else "wrong"
        services.labelling.label(id, sheet.number, choice, owner)
        done += 1
    return done


def mark(services: Services, id: str) -> Any:
    services.judging.mark(id, ENDPOINT)
    assert services.jobs.wait(f"{LABELS} {id}", 60)
    return services.judging.show(id, kind=LABELS)


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


def test_only_the_owner_labels(settings):
    shared = build_services(replace(settings, shared=True))
    id = put_verdict(shared, ANNA)
    assert label_all(shared, id, ANNA, 3) == 3
    for call in (shared.labelling.next, shared.labelling.count, shared.labelling.undo, shared.labelling.labelled):
        refused("", call, id, "somebody", error=NotFoundError)
    refused("", shared.labelling.label, id, 3, "right", "somebody", error=NotFoundError)
    assert {one.owner for one in shared.labelling.files.read(id)} == {ANNA}
    shared.close()


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


def trusted(services: Services, examples: int = 24) -> str:
    """A labelled verdict with which the judge goes."""
    id = put_verdict(services, examples=examples)
    label_all(services, id)
    mark(services, id)
    return id


@pytest.fixture
def asked(rows_file):
    sides = (Side("base", name="Base"), Side("base", "Be glad.", name="Base + prompt"))
    own = {"losses": False, "forgetting": False, "right": (f"judge:{ENDPOINT}",)}
    return VerdictRequest(rows_file, sides, limit=5, max_tokens=5, **own)  # type: ignore[arg-type]


def ended(services: Services, request: VerdictRequest) -> Any:
    *_, view = services.verdicts.run(request)
    return view


def test_a_judge_decides_only_behind_enough_labels_that_it_goes_with(services, judge, asked, monkeypatch):
    refused("0 of 50 labels", services.verdicts.start, asked)
    few = put_verdict(services, examples=16)
    assert label_all(services, few) == 47
    mark(services, few)
    refused("47 of 50 labels.*label 3 more", services.verdicts.start, asked)
    services.verdicts.remove(few)
    judge.say = lambda path, body: (200, reply("yes" if len(judge.asked) % 3 else "no"))
    trusted(services)
    refused("does not judge as you do.*Label replies", services.verdicts.start, asked)
    judge.say = by_the_end
    monkeypatch.setenv("JUDGE_MODEL", "deeper")
    refused("0 of 50 labels.* 71 more are not marked by it yet", services.verdicts.start, asked)


def test_its_marks_are_in_the_rows_and_the_record_says_how_far_it_goes(services, judge, asked):
    trusted(services)
    judge.asked.clear()
    judge.say = lambda path, body: (200, reply("no" if len(judge.asked) == 1 else "yes"))
    view = ended(services, asked)
    assert (view.state, view.error) == ("DONE", "")
    rows, record = services.verdicts.rows(view.id), view.record
    assert len(judge.asked) == len({(row["question"], row["reply"].strip()) for row in rows if row["reply"].strip()})
    assert all(row["marks"].keys() == {ENDPOINT} for row in rows)
    assert all(row["metrics"]["content"] == float(row["marks"][ENDPOINT]) for row in rows)
    (one,) = record["judges"]
    assert (one["judge"], one["kappa"], one["labels"], one["files"]) == (ENDPOINT, 1.0, 71, ["ward"])
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


def test_one_whose_judge_fails_keeps_the_rows_that_it_marked(services, judge, asked):
    trusted(services)
    judge.asked.clear()
    judge.say = lambda path, body: (200, reply("yes")) if len(judge.asked) <= 4 else (500, {})
    view = ended(services, asked)
    assert view.state == "FAILED"
    assert "answered 500" in view.error
    assert 0 < view.record["examples"] < 5
    assert len(services.verdicts.rows(view.id)) == 10, "the replies are kept"
