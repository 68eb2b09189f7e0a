"""Blind votes on a verdict that lies on disk: what is asked, what is kept, what is revealed."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace

import pytest

from playground.errors import InputError, NotFoundError
from playground.evaluation.votes import Vote, bradley_terry
from playground.services import Services, build_services
from playground.settings import Settings
from playground.verdict.files import DONE, JUDGE
from tests.services.conftest import CHECK, SIDES, put_verdict, vote_all
from tests.shared.conftest import ANNA, BEN


@pytest.fixture
def services(settings: Settings) -> Services:
    return build_services(settings)


@pytest.fixture
def ended(services: Services) -> str:
    return put_verdict(services)


def test_every_comparison_is_asked_once_and_equal_replies_never(services: Services, ended: str) -> None:
    assert services.voting.count(ended) == (0, 17)
    assert vote_all(services, ended) == 17
    cast = services.voting.files.read(ended)
    assert len({one.place for one in cast}) == 17
    assert (1, SIDES[1], SIDES[2]) not in {one.place for one in cast}
    assert services.voting.count(ended) == (17, 0)


def test_the_pair_with_the_fewest_votes_is_next_and_the_places_are_shuffled(services: Services, ended: str) -> None:
    swapped = []
    for n in range(15):
        ballot = services.voting.next(ended)
        assert ballot is not None
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


def test_votes_are_appended_and_the_last_can_be_taken_back(services: Services, ended: str) -> None:
    for choice in ("left", "skip"):
        ballot = services.voting.next(ended)
        assert ballot is not None
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


def test_reveal_names_strengths_and_how_far_the_metric_agrees(services: Services, ended: str) -> None:
    with pytest.raises(InputError, match="no vote yet"):
        services.voting.reveal(ended)
    vote_all(services, ended)
    found = services.voting.reveal(ended)
    assert [one.side for one in found.standings] == list(SIDES)
    assert found.votes == 17
    assert found.metric == CHECK
    assert found.agreement is not None
    assert found.agreement.share.value == 1.0
    assert found.agreement.kappa == 1.0
    cast = services.voting.files.read(ended)
    assert list(found.standings) == bradley_terry([Vote(one.a, one.b, one.winner) for one in cast], SIDES)  # type: ignore[arg-type]
    assert found.judge is None
    judged = [replace(one, owner=JUDGE, judge="Deep", winner="a") for one in cast[:10]]
    services.voting.files.change(ended, lambda there: [*there, *judged])
    again = services.voting.reveal(ended)
    assert again.standings == found.standings, "a judge is no person"
    assert again.judge is not None
    assert (again.judge.name, again.judge.votes) == ("Deep", 10)
    assert again.judge.agreement is not None
    assert again.judge.agreement.share.value == sum(one.winner == "a" for one in cast[:10]) / 10
    assert services.voting.count(ended) == (17, 0)


def test_a_wrong_vote_and_an_unfinished_verdict_are_refused(services: Services, ended: str) -> None:
    with pytest.raises(InputError, match="is no vote"):
        services.voting.vote(ended, 0, "Zarquon")
    state = services.verdicts.files.new("local", "alone", {}, 1.7e9)
    with pytest.raises(InputError, match="Votes begin when"):
        services.voting.next(state.id)
    services.verdicts.files.save(state.id, services.verdicts.files.record(ended) | {"id": state.id}, [], [])  # type: ignore[operator]
    services.verdicts.files.put(replace(state, state=DONE))
    with pytest.raises(InputError, match="nothing to vote on"):
        services.voting.next(state.id)


def test_only_the_owner_votes_and_sees_votes(settings: Settings) -> None:
    shared = build_services(replace(settings, shared=True))
    id = put_verdict(shared, ANNA)
    shared.voting.vote(id, 0, "left", ANNA)
    for call in (
        lambda: shared.voting.next(id, BEN),
        lambda: shared.voting.vote(id, 0, "left", BEN),
        lambda: shared.voting.undo(id, BEN),
        lambda: shared.voting.count(id, BEN),
        lambda: shared.voting.reveal(id, BEN),
        lambda: shared.judging.start(id, "base", BEN),
        lambda: shared.judging.show(id, BEN),
        lambda: shared.judging.stop(id, BEN),
        lambda: shared.voting.next("../" + id, ANNA),
    ):
        with pytest.raises(NotFoundError):
            call()
    assert [one.owner for one in shared.voting.files.read(id)] == [ANNA]
    shared.storage.remove_everything(ANNA)
    assert shared.voting.files.read(id) == []
    shared.close()


def test_a_skip_is_no_vote(services: Services, ended: str) -> None:
    for n in range(17):
        services.voting.vote(ended, n, "skip")
    assert services.voting.next(ended) is None
    assert services.voting.count(ended) == (0, 0)
    with pytest.raises(InputError, match="no vote yet"):
        services.voting.reveal(ended)
