"""The prompt bench and the prompt search through the real services on a tiny model, and as plain values."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count

import pytest

from playground.chat.compare import Side
from playground.data.editing import as_record
from playground.data.split import hashes_of, split
from playground.errors import NotFoundError, PlaygroundError
from playground.evaluation.checks import parse_checks
from playground.evaluation.criterion import suggested
from playground.evaluation.prompt_search import BLOCK, finalists, halving, written_prompt
from playground.models.endpoints import Endpoint
from playground.services import build_services
from playground.verdict.answers import Answering
from playground.verdict.bench import LETTERS_MAX, VERSIONS_MAX, PromptBook, Score, best_of, scores_of
from playground.verdict.search import BUDGET_S, Rival
from tests.refused import refused
from tests.services.conftest import last, put_rows, reply, verdicts_by
from tests.shared.conftest import ANNA, BEN

CHECK = "contains:gladly"
book = pytest.fixture(lambda tmp_path: PromptBook(tmp_path / "prompts", clock=lambda: 7.0))


def side(name, prompt, shots, value, tokens):
    metrics = {CHECK: {"value": value, "n": 24}}
    return {"side": name, "prompt": prompt, "shots": shots, "metrics": metrics, "prompt_tokens_mean": tokens}


def record(*sides, kind="yes-no", higher=True):
    about = {CHECK: {"kind": kind, "higher_is_better": higher}}
    return {"id": "b", "created_s": 5.0, "main_metric": CHECK, "about": about, "examples": 24, "sides": list(sides)}


def test_the_best_has_the_best_figure_and_then_the_fewest_tokens():
    values = iter((0.6, 0.6, 0.875, 0.875, 0.2, 0.875))
    made = [side(f"v{n} + {k} shots", f"p{n}", k, next(values), 50 * n + 40 * k) for n in (1, 2, 3) for k in (0, 4)]
    best = best_of(record(*made))
    assert (best.text, best.shots) == ("p2", 0)
    assert best.sentence == "The best of 6 (3 prompts, with 0 or 4 shots) on 24 validation rows: 21 of 24."
    lower = best_of(record(side("v1", "p1", 0, 2.0, 9), side("v2", "p2", 0, 1.5, 99), kind="mean", higher=False))
    assert lower.text == "p2"
    assert lower.sentence == f"The best of 2 (2 prompts, without shots) on 24 validation rows: {CHECK} 1.500."
    only = best_of(record(side("v1", "p1", 1, 1.0, 9)))
    assert only.sentence == "The only one that was tried (1 prompt, with 1 shot) on 24 validation rows: 24 of 24."
    refused("Give a check", best_of, {**record(*made), "main_metric": None})
    (score, _) = scores_of(record(*made), "f.jsonl")["p2"]
    assert (score.file, score.shots, score.passed, score.n, score.tokens) == ("f.jsonl", 0, 21, 24, 100)
    assert score.bench == "b"


@pytest.fixture
def kept(services, rows_file):
    put_rows(rows_file, 60)
    return [services.bench.keep(text, rows_file).id for text in ("Be glad.", "Say gladly, and the number.")]


def ended(services, id, owner="local"):
    assert services.jobs.wait(f"verdict {id}", 120)
    return services.bench.show(id, owner)


def test_every_version_and_count_is_scored_and_a_verdict_says_how_its_prompt_was_found(
    services, rows_file, kept, asked
):
    id = services.bench.score(rows_file, kept, (0, 2), (CHECK,), max_tokens=4)
    assert [view.id for view in services.bench.views()] == [id]
    assert services.verdicts.views() == [], "the list of verdicts leaves it out"
    refused("still measures", services.bench.best, id)
    view = ended(services, id)
    assert (view.state, view.name) == ("DONE", f"Prompt bench: {rows_file.name}"), view.error
    assert [one["side"] for one in view.record["sides"]] == ["v1", "v1 + 2 shots", "v2", "v2 + 2 shots"]
    parts = split(services.data.check(rows_file).examples, 7)
    rows = services.verdicts.rows(id)
    assert {row["example"] for row in rows} == set(parts.validation)
    examples = services.data.check(rows_file).examples
    told = {examples[number - 1].messages[-2].content for number in (*parts.validation, *parts.test)}
    for row in rows:
        asks = [part.partition("<|im_end|>")[0].strip() for part in row["prompt"].split("<|im_start|>user")[1:]]
        assert (len(asks), asks[-1]) == ((3 if "shots" in row["side"] else 1), row["question"])
        assert not told & set(asks[:-1]), "shots come from what is trained on"
    assert view.record["forgetting"] == {}
    assert "seconds" not in view.record["sides"][0]["metrics"]
    best = services.bench.best(id)
    assert best.sentence.startswith("The best of 4 (2 prompts, with 0 or 2 shots) on 6 validation rows: ")
    versions = services.bench.versions(rows_file)
    assert [sorted(score.shots for score in one.scores) for one in versions] == [[0, 2], [0, 2]]
    assert (versions[0].scores[0].file, services.bench.newest(rows_file).id) == (rows_file.name, id)
    id = services.bench.score(rows_file, kept, (0,), (CHECK,), max_tokens=4, limit=2)
    ended(services, id)
    best = services.bench.best(id)
    test = split(services.data.check(rows_file).examples, 7).test
    sides = (Side("base", name="Base"), Side("base", best.text, best.shots, name="Told"))

    def tried(**changes):
        request = replace(asked, losses=False, **{"sides": sides, "rows": test[:2]} | changes)
        return str(last(services.verdicts.run(request)).record["tried"])

    assert (tried(), tried(sides=(Side("base", "Another prompt."),))) == (best.sentence, "")
    seen = (*test[:1], services.bench.parts(rows_file).validation[0])
    assert tried(rows=seen) == f"{best.sentence} 1 of these rows are judged by too, which favours the prompt."
    assert tried(tried="By hand.") == "By hand."


def test_a_wrong_call_runs_nothing_and_held_out_rows_of_a_set_stand_for_it(services, rows_file, kept, tmp_path):
    few, score = put_rows(tmp_path / "few.jsonl", 9), services.bench.score
    refused("no validation part", score, few, kept, (0,), ())
    refused("no version to score.*No number of shots", score, rows_file, [], (), ())
    refused("make 14; one bench takes 12", score, rows_file, kept, range(7), ())
    refused("from 0 to 16", score, rows_file, kept, (17,), ())
    refused("There are: v1, v2", score, rows_file, ["v9"], (0,), ())
    refused("is not a check", score, rows_file, kept, (0,), ("nonsense",))
    assert services.bench.views() == []
    shipped = services.data.shipped("hospital_reports")
    version = services.bench.keep(shipped.system_prompt, shipped.heldout)
    assert services.bench.versions(shipped.file) == [version]
    rows = services.bench.parts(shipped.heldout).validation
    assert rows == split(services.data.check(shipped.file).examples, 7, test=0.0).validation
    request = services.bench.request(shipped.heldout, [version.id], (0, 4), (shipped.check,))
    assert (request.file, request.rows) == (shipped.file, rows)


def test_another_visitors_bench_and_prompts_are_not_there(shared):
    bench, kept = shared.bench, shared.bench.keep("Annas secret.", owner=ANNA)
    hers = shared.verdicts.files.new(ANNA, "Prompt bench: x", {}, 1.7e9, "bench")
    verdict = shared.verdicts.files.new(BEN, "his", {}, 1.7e9)
    for call in (bench.show, bench.best, bench.stop):
        refused("no prompt bench", call, verdict.id, BEN, error=NotFoundError)
    assert bench.versions(owner=BEN) == []
    refused("", bench.forget, kept.id, BEN, error=NotFoundError)
    for wrong in ("../x", "", f"{ANNA}/../x", "anna"):
        refused("", bench.book.versions, wrong, error=NotFoundError)
    assert {item.kind for item in shared.storage.items(ANNA)} == {"prompts", "verdict"}
    assert [item.id for item in shared.storage.items(BEN)] == [verdict.id]
    assert ANNA in shared.storage.owners()
    freed = shared.storage.remove_everything(ANNA)
    assert (freed.count("prompts"), freed.count("verdict"), bench.book.owners()) == (1, 1, set())
    assert list(bench.book.file("local").parent.iterdir()) == []
    assert not shared.verdicts.files.folder(hers.id).exists()


ROWS = tuple(range(1, 25))


def raced(tokens, best, budget_s, passed):
    """(seconds, rows each was asked) where a reply takes a second and a candidate passes its first rows of ``best``."""
    clock = [0.0]
    for asks in halving(tokens, ROWS, passed, lambda: budget_s - clock[0]):
        for row, name in asks:
            if (row, name) not in passed:
                clock[0] += 1
                passed[row, name] = row <= best[name]
            if budget_s <= clock[0]:
                break
    return clock[0], {name: sum(1 for _, other in passed if other == name) for name in tokens}


def test_halving_asks_the_better_half_more_and_equal_ones_are_told_apart_by_their_tokens():
    tokens = {name: 100.0 - at for at, name in enumerate("abcdefgh")}
    best = dict(zip("abcdefgh", (0, 1, 2, 3, 3, 8, 12, 20), strict=True))
    passed = {}
    assert raced(tokens, best, 100, passed) == (88, dict(zip("abcdefgh", (4, 4, 4, 4, 12, 12, 24, 24), strict=True)))
    assert finalists(tokens, passed) == ["h", "g"]
    assert raced(tokens, best, 1e6, {})[1] == dict.fromkeys("abcdefgh", 24), "with time for all, nobody goes early"
    seconds, asked = raced(tokens, best, 20, {})  # half of the time at most to look at each
    assert (seconds, asked["a"], asked["b"], asked["c"], asked["h"]) == (20, 4, 8, 8, 0)
    assert raced({"only": 9.0}, {"only": 3}, 1e6, {}) == (24, {"only": 24})
    same = dict.fromkeys(((row, name) for row in ROWS for name in "ab"), True)
    assert finalists({"a": 30.0, "b": 20.0}, same) == ["b", "a"]
    near = {(row, name): value for row in ROWS for name, value in {"a": 0.4, "b": 0.2}.items()}
    assert finalists({"a": 30.0, "b": 20.0}, near) == ["a", "b"], "where none passes, the nearer one"
    assert finalists({"a": 30.0, "b": 20.0}, near | {(1, "b"): 1.0}) == ["b", "a"], "but what passes comes first"
    lucky = dict.fromkeys(((row, "c") for row in ROWS[:8]), True)
    half = {(row, "a"): row % 2 == 0 for row in ROWS}
    assert finalists({"a": 30.0, "c": 1.0}, half | lucky) == ["a"]
    cut = dict.fromkeys(((row, "c") for row in ROWS[:-BLOCK]), True)
    assert finalists({"a": 30.0, "c": 1.0}, half | cut) == ["c", "a"], "one block may be cut off by the budget"
    assert finalists({"a": 1.0}, {}) == []
    first, second = ROWS[:BLOCK], ROWS[BLOCK : 2 * BLOCK]
    early = {(row, name): row in first[:2] for row in first for name in "abc"}
    late = {(row, name): name == "a" or row == second[0] for row in second for name in "ab"}
    tokens = {"a": 30.0, "b": 20.0, "c": 1.0}
    assert finalists(tokens, early | late) == ["a", "b"], "who went early does not shorten what the others are told by"


JSON = [json.dumps({"kind": kind, "id": n}) for n in range(12) for kind in ("new", "old")]
SIGNED = [f"Vitals: fine {n}\nTests: none of {n}\n\nSigned by Ann Lee" for n in range(12)]


@pytest.mark.parametrize(
    ("references", "checks", "parts"),
    [
        (["yes", "no"] * 6, ("contains:e",), ("Answer with the label only, one of: no, yes.",)),
        (JSON, ("json",), ("JSON only", '"kind": one of "new", "old"', '"id": a whole number', "one line")),
        (SIGNED, ("max-words:30", "contains:fine"), ("Vitals: ...\nTests: ...", "ends with “Signed by Ann Lee”", "30")),
        (["12", "a house", "forty two"], (), ("the answer alone",)),
    ],
)
def test_a_prompt_is_written_from_what_is_right(references, checks, parts):
    made = written_prompt(suggested(references), parse_checks(checks), references)
    assert [part for part in parts if part not in made] == [], made


SEARCHED = {"mine": "Be glad.", "long": "word " * 1200}


def ticking(services):
    """The same, with a search's clock that goes a second on whenever it is looked at."""
    services.bench.verdicts = verdicts_by(services, Answering, services.batches, ticks=count().__next__)
    return services


def test_a_search_asks_validation_rows_within_its_budget_and_goes_on_later(services, rows_file, settings, asked):
    put_rows(rows_file, 60)
    parts = services.bench.parts(rows_file)
    refused("playground search", services.search.found, rows_file)
    verdicts, limit = ticking(services).bench.verdicts, {"max_tokens": 4}
    view = last(verdicts.run(services.search.request(rows_file, SEARCHED, (0, 2), (CHECK,), 200, **limit)))
    assert (view.state, view.name) == ("DONE", f"Prompt search: {rows_file.name}"), view.error
    about, best = view.record["search"], services.bench.best(view.id)
    tried = {one["side"]: one for one in about["candidates"]}
    assert {"mine", "written", "mine + 2 shots #1", "mine + 2 nearest shots"} < tried.keys()
    assert "its prompt takes" in tried["long"]["left_out"], "what the context does not hold is left out and named"
    assert "long was left out" in view.error
    assert [one for one in tried.values() if not set(one["picked"]) <= set(parts.train)] == []
    asked_rows = {row["example"] for row in services.verdicts.rows(view.id)}
    assert asked_rows <= set(parts.validation)
    assert 6 < sum(one["n"] for one in tried.values()) < 100, "by its budget"
    assert about["candidates"][0]["side"] == best.side
    assert about["candidates"][0]["score"]["n"] == max(one["n"] for one in tried.values())
    assert services.search.prompt_file(view.id).read_text().strip() == best.text
    assert best.sentence.startswith(f"The best of {sum(one['n'] > 0 for one in tried.values())} (2 prompts, with 0 ")

    found = services.search.found(rows_file)
    assert (found.id, found.side.picked, found.side.shots) == (view.id, best.picked, best.shots)
    assert set(services.search.unseen(found, rows_file)) == set(parts.test)
    told = replace(found.side, name="Found")
    request = replace(asked, losses=False, sides=(Side("base", name="Base"), told), rows=parts.test[:2])
    judged = last(services.verdicts.run(request)).record
    assert (judged["tried"], judged["sides"][1]["picked"]) == (best.sentence, list(best.picked))

    later = ticking(build_services(settings))
    before = {key: one.reply for key, one in later.verdicts.files.answers(view.id).items()}
    again = last(later.bench.verdicts.run(later.search.resume(view.id, 100)))
    assert (again.id, again.state) == (view.id, "DONE"), again.error
    after = {key: one.reply for key, one in later.verdicts.files.answers(view.id).items()}
    assert {key: after[key] for key in before} == before
    assert again.record["search"]["seconds"] >= about["seconds"]
    later.close()


def test_a_search_competes_with_the_training_that_read_its_rows_of_whatever_file(services, rows_file, make_lora):
    put_rows(rows_file, 60)
    rows = services.data.check(rows_file).examples
    for name, some in (("Mine", rows[:40]), ("Other", [replace(one, messages=one.messages[::-1]) for one in rows])):
        folder = make_lora(31)
        about = {"schema": 1, "name": name, "seconds": 9.0, "tokens_per_s": 2.0, **hashes_of(some)}
        (folder / "run.json").write_text(json.dumps(about))
        services.adapters.import_file(folder)
    assert services.search.rival(rows_file) == Rival("Mine", 9.0, 18)
    assert services.search.request(rows_file, {}, (0,), ()).budget_s == 9.0
    several = rows_file.with_name("several.json")
    lists = {name: [as_record(one) for one in rows[at::2]] for at, name in enumerate(("cats", "dogs"))}
    several.write_text(json.dumps(lists))
    assert services.search.rival(several, mapping={"split": "cats"}) is None
    assert services.search.request(several, {}, (0,), (), mapping={"split": "cats"}).budget_s == BUDGET_S


def test_a_search_that_is_stopped_keeps_what_it_knows(services, rows_file):
    put_rows(rows_file, 60)
    id = services.verdicts.start(services.search.request(rows_file, SEARCHED, (0, 2), (CHECK,), 600, max_tokens=60))
    while not services.bench.show(id).so_far and not services.jobs.wait(f"verdict {id}", 0.01):
        pass
    services.bench.stop(id)
    view = ended(services, id)
    assert (view.state, services.manager.leases()) == ("STOPPED", [])
    assert view.record["search"]["candidates"][0]["n"] > 0
    assert services.search.found(rows_file).id == id
    assert f"on {view.record['examples']} validation rows" in services.bench.best(id).sentence
    refused("from 0 to 16", services.search.request, rows_file, {}, (17,), ())
    state, took = services.verdicts.files.state(id), view.record["search"]["seconds"]
    killed = services.verdicts.files.put(replace(state, state="MEASURING", pid=999_999_999))
    services.verdicts.files.keep(id, services.verdicts.files.answers(id).values())
    begun = services.verdicts.files.folder(id) / "state.json"
    os.utime(begun, (begun.stat().st_mtime - 100,) * 2)
    again = services.bench.show(killed.id)
    assert (again.state, round(again.record["search"]["seconds"] - took)) == ("STOPPED", 100), "what a killed one took"
    refused("begins with 64", services.search.request, rows_file, {str(n): f"p{n}" for n in range(40)}, (0, 2), ())


@pytest.mark.parametrize("status", [200, 500])
def test_a_server_rewrites_the_best_prompt_from_training_rows_or_is_noted_to_fail(services, rows_file, server, status):
    put_rows(rows_file, 60)
    services.endpoints.add(Endpoint("deep", f"{server.url}/v1", "deep"))
    server.say = lambda path, body: (status, reply("Here:\n```\nSay gladly.\n```"))
    parts = services.bench.parts(rows_file)
    request = services.search.request(rows_file, {}, (0,), (CHECK,), 300, max_tokens=4, proposer="deep")
    view = last(ticking(services).bench.verdicts.run(request))
    assert view.state == "DONE", view.error
    told = " ".join(json.loads(body)["messages"][0]["content"] for _, _, body in server.asked)
    asks = {one.row: one.messages[-2].content for one in services.data.check(rows_file).examples}
    held = [row for row in (*parts.validation, *parts.test) if f"{asks[row]}\n" in told]
    assert (bool(told), held) == (True, []), "it reads training rows alone"
    prompts = {one["prompt"]: one["side"] for one in view.record["search"]["candidates"]}
    assert ("Say gladly." in prompts, "answered 500" in view.error) == (status == 200, status == 500)
    away = replace(request, proposer="far")
    services.endpoints.add(Endpoint("far", "https://far.example/v1", "far"))
    refused("36 training rows, with replies and answers, to far at far.example", services.verdicts.start, away)


def test_versions_keep_their_order_and_their_ids(book):
    assert [book.keep(text).id for text in (" Be glad. ", "Be brief.", "Be glad.")] == ["v1", "v2", "v1"]
    assert book.keep("Be glad.", file="other.jsonl").id == "v3", "the same words for other examples are another version"
    book.remove("v3")
    assert book.keep("New.").id == "v4", "an id is never given twice"
    assert [(one.id, one.text) for one in book.versions()] == [("v1", "Be glad."), ("v2", "Be brief."), ("v4", "New.")]
    assert {one.when_s for one in book.versions()} == {7.0}
    refused("v1, v2, v4", book.remove, "v3", error=NotFoundError)


def test_too_much_or_nothing_is_refused(book):
    refused("no text", book.keep, " \n")
    refused("letters long", book.keep, "x" * (LETTERS_MAX + 1))
    for n in range(VERSIONS_MAX):
        book.keep(f"Number {n}")
    refused("Remove one", book.keep, "One more")
    assert book.keep("Number 3").id == "v4", "what is there may be kept again"


def test_the_last_score_stays_for_each_file_and_count_and_a_file_that_cannot_be_read_is_left_alone(book):
    book.keep("Be glad.")

    def score(value, shots=0, file="a"):
        return Score(file, shots, "json", value, 10, int(10 * value), 20.0, 1.0, "b")

    book.note("one", {"Be glad.": [score(0.1), score(0.2, 4)], "Gone.": [score(1.0)]})
    book.note("two", {"Be glad.": [score(0.5), score(0.6, file="b")]})
    (version,) = PromptBook(book.file("local").parent).versions()
    there = sorted((one.file, one.shots, one.value) for one in version.scores)
    assert (there, book.noted()) == ([("a", 0, 0.5), ("a", 4, 0.2), ("b", 0, 0.6)], {"one", "two"})
    file = book.file("local")
    for wrong in ("{", "[]", '{"schema": 1}', json.dumps({"schema": 2, "versions": [], "next": 1, "noted": []})):
        file.write_text(wrong)
        refused("cannot be read", book.versions, error=PlaygroundError)
        refused("cannot be read", book.keep, "x", error=PlaygroundError)
        assert file.read_text() == wrong


def test_writers_beside_each_other_lose_nothing(book):
    def write(start):
        mine = PromptBook(book.file("local").parent)
        for n in range(start, start + 10):
            mine.keep(f"Number {n}")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, (0, 10, 20)))
    assert {one.id for one in book.versions()} == {f"v{n}" for n in range(1, 31)}
