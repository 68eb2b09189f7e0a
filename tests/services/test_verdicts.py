"""Verdicts through the real services on a tiny model: what is asked, kept, left by a stop or a restart."""

import json
import shutil
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from playground.chat.compare import Side
from playground.chat.programs import Saved, parse_side
from playground.data.example import Message
from playground.data.retrieval import with_passages
from playground.data.split import hashes_of
from playground.engine.request import Sampling
from playground.errors import AdapterError, NotFoundError, OutOfMemoryError
from playground.evaluation.comparison import Questions
from playground.evaluation.cost import Prices
from playground.evaluation.forgetting import Forgetting
from playground.evaluation.metrics import metrics_for
from playground.evaluation.verdict import Answered
from playground.library.files import file_sha256
from playground.services import build_services
from playground.verdict.answers import Answering
from playground.verdict.files import answer_of
from playground.verdict.losses import Recalling
from playground.verdict.records import RecordMaker, undertrained
from playground.verdict.request import VerdictRequest, request_from
from tests.refused import refused
from tests.services.conftest import last, put_rows, verdicts_by

CHECK = "contains:gladly"


def test_every_side_answers_every_row_and_the_figures_come_from_the_rows(services, asked):
    view = last(services.verdicts.run(replace(asked, repeats=2, limit=6)))
    assert view.state == "DONE", view.error
    record = view.record
    assert [(side["side"], side["kind"]) for side in record["sides"]] == [("Base", "base"), ("Base + prompt", "prompt")]
    assert (record["main_metric"], record["right"], record["planned_rows"]) == ("pass", "exact", 84)
    assert {"pass", "format", "content", CHECK, "cut_off"} <= record["about"].keys()
    assert "like-references" in record["checks"]
    assert record["examples"] == 6
    rows = services.verdicts.rows(view.id)
    assert len(rows) == 12
    assert {"example", "side", "prompt", "reply", "reference", "metrics", "stamp"} <= rows[0].keys()
    assert rows[0]["stamp"]["seed"] == asked.seed
    assert all(row["loss"] > 0 and len(row["repeats"]) == 2 for row in rows)
    prompted, figures = [row for row in rows if row["side"] == "Base + prompt"], record["sides"][1]
    assert all("Be glad." in row["prompt"] for row in prompted)
    assert figures["metrics"][CHECK]["value"] == sum("gladly" in row["reply"] for row in prompted) / 6
    assert {"consistency", f"worst:{CHECK}"} <= figures["metrics"].keys()
    assert figures["seconds_mean"] > 0
    assert sum(row["seconds"] is not None for row in prompted) == figures["timed"] == 5, "all but the first"
    assert 3 < figures["cached_tokens_mean"] < figures["prompt_tokens_mean"]
    assert {pair["metric"] for pair in record["pairs"]} >= {CHECK, "rouge_l", "loss"}
    assert services.manager.leases() == []
    again = metrics_for([answer_of(row) for row in rows if row["side"] == "Base"], [])
    assert again["rouge_l"].pooled == pytest.approx(record["sides"][0]["metrics"]["rouge_l"]["value"])
    json.dumps(record, allow_nan=False)


def test_timing_ends_with_its_time_and_the_same_count_for_all_sides(services, asked):
    hurried = verdicts_by(services, partial(Answering, ticks=count(0, 100).__next__), services.batches)
    view = last(hurried.run(replace(asked, losses=False)))
    timed = [row for row in hurried.rows(view.id) if row["seconds"] is not None]
    assert [(row["example"], row["side"]) for row in timed] == [(2, "Base"), (2, "Base + prompt")]


def test_the_references_of_the_first_rows_are_scored_and_of_twenty_rows_twenty_are_timed(services, asked, tmp_path):
    many = replace(asked, file=put_rows(tmp_path / "many.jsonl", 28), sides=asked.sides[:1], limit=26, max_tokens=1)
    rows = services.verdicts.rows(last(services.verdicts.run(many)).id)
    assert [row["example"] for row in rows if row["loss"] is None] == [25, 26]
    many = replace(asked, file=put_rows(tmp_path / "many.jsonl", 20), limit=20, max_tokens=1, losses=False)
    record = last(services.verdicts.run(replace(many, questions=Questions(latency_s=60.0)))).record
    assert [side["timed"] for side in record["sides"]] == [20, 20]
    assert "timing" not in {one["name"] for one in record["guards"]}


def test_a_side_that_is_held_to_a_form_stands_on_its_rung_and_the_form_is_written_down(services, tmp_path):
    file = tmp_path / "mails.jsonl"
    mails = ({"prompt": f"Mail {n}", "completion": json.dumps({"id": n, "late": n % 2 > 0})} for n in range(12))
    file.write_text("\n".join(map(json.dumps, mails)))
    sides = tuple(parse_side(f"model=base{more}", file) for more in ("", ",format=references", ",format=json,shots=1"))
    sides += (Side("base", "Write a novel.", name="tight", format="regex:.{200}"),)
    request = VerdictRequest(file, sides, ("json",), limit=6, max_tokens=24, forgetting=False, losses=False)
    view = last(services.verdicts.run(request))
    assert view.state == "DONE", view.error
    kinds = {side["side"]: side["kind"] for side in view.record["sides"]}
    assert kinds == {"base": "base", "base + form": "constraint", "base + 1 shots + form": "few-shot"}
    assert "Let replies have at least" in view.record["failed"]["tight"]
    schema = json.loads(view.record["sides"][1]["format"].removeprefix("json-schema:"))
    assert schema["properties"] == {"id": {"type": "integer"}, "late": {"type": "boolean"}}
    assert [side["metrics"]["json"]["value"] for side in view.record["sides"]][1:] == [1.0, 1.0]
    assert [side["metrics"]["cut_off"]["value"] for side in view.record["sides"]][1:] == [0.0, 0.0]
    assert "held to json-schema:" in services.verdicts.files.write(view.id, "html", tmp_path).read_text()


def test_shots_are_other_rows_and_documents_are_read(services, asked, tmp_path):
    (tmp_path / "docs.md").write_text("Say is a verb.\n\nNumber 3 is odd.\n\nNothing else.")
    sides = (
        Side("base", "", 2, asked.file, "drawn"),
        Side("base", "", 2, asked.file, "near", nearest=True),
        Side("base", name="read", docs=tmp_path / "docs.md"),
    )
    view = last(services.verdicts.run(replace(asked, sides=sides, limit=3, losses=False)))
    assert view.state == "DONE", view.error
    for row in services.verdicts.rows(view.id):
        asks = row["prompt"].count("<|im_start|>user")
        if row["side"] == "read":
            assert row["passages"]
            assert (asks, with_passages(row["question"], row["passages"]) in row["prompt"]) == (1, True)
        else:
            said = row["prompt"].count(row["question"] + "<|im_end|>")
            assert (asks, said) == (3, 1), "a question is never its own shot"
    assert [side["kind"] for side in view.record["sides"]] == ["few-shot", "few-shot", "documents"]
    assert "groundedness" in view.record["sides"][2]["metrics"]
    told = {side: said["asked"] for side, said in view.record["refusals"].items()}
    assert told == {"read": 20}, "only who reads documents is asked what they cannot answer"
    assert "Said that it does not know" in services.verdicts.files.write(view.id, "html", tmp_path).read_text()


def failing(services, phase, fault):
    """Verdicts that ``fault`` strikes in one phase, after every step that makes something known of what is asked."""

    def steps(self, asking):
        for step in getattr(Answering, phase)(self, asking):
            yield step
            if step.known:
                fault(asking)

    return verdicts_by(services, type("Failing", (Answering,), {phase: steps}), services.batches)


def out_of_memory(asking):
    raise OutOfMemoryError("The device is full.")


@pytest.mark.parametrize(("phase", "what", "empty"), [("repeats", "repeats", []), ("losses", "loss", None)])
def test_a_fault_while_it_repeats_or_scores_keeps_what_is_known_of_all_sides(services, asked, phase, what, empty):
    verdicts = failing(services, phase, out_of_memory)
    view = last(verdicts.run(replace(asked, repeats=3)))
    assert (view.state, view.error) == ("FAILED", "The device is full. What was measured by then is kept.")
    rows = verdicts.rows(view.id)
    known = {(row["example"], row["side"]) for row in rows if row[what] != empty}
    assert len(known) == 2 * len({example for example, _ in known}) > 0, "both sides of an example, or neither"
    assert (len(rows), view.record["examples"]) == (24, 12)
    assert "consistency" in view.record["sides"][0]["metrics"]


def test_what_an_app_had_measured_when_it_was_killed_is_kept(services, asked, settings):
    files = services.verdicts.files
    view = last(services.verdicts.run(replace(asked, limit=6, losses=False)))
    answers = [answer_of(row) for row in files.rows(view.id)]
    odd = [replace(answer, reply=answer.reply + "\u2028\x85end") for answer in answers]
    killed = files.new("local", "killed", files.request(view.id), 1.7e9)
    files.put(replace(killed, state="MEASURING", pid=999_999_999))
    files.keep(killed.id, odd[:5])
    files.keep(killed.id, odd[5:9])
    with (files.folder(killed.id) / "answers.jsonl").open("a") as file:
        file.write('{"example": 1, "si')
    found = build_services(settings).verdicts.show(killed.id)
    assert found.state == "STOPPED"
    assert found.error == "The app ended while it was measured. What was measured by then is kept."
    assert 3 <= found.record["examples"] <= 6
    assert all(row["reply"].endswith("\x85end") for row in files.rows(killed.id))
    assert not (files.folder(killed.id) / "answers.jsonl").exists()
    for wrong in ("", "..", "../" + view.id, "x" * 100):
        refused("", services.verdicts.show, wrong, error=NotFoundError)
    for id in (view.id, killed.id):
        services.verdicts.remove(id)
    assert services.verdicts.views() == []


def test_one_that_waits_and_is_stopped_is_stopped_and_one_that_cannot_be_judged_has_failed(services, asked, tmp_path):
    first = services.verdicts.start(replace(asked, limit=None, max_tokens=60))
    second = services.verdicts.start(asked)
    services.verdicts.stop(second)
    assert services.jobs.wait(f"verdict {second}", 60)
    view = services.verdicts.show(second)
    assert (view.state, view.error, view.record) == ("STOPPED", "Stopped before it began.", None)
    services.verdicts.stop(first)
    assert services.jobs.wait(f"verdict {first}", 60)
    file = tmp_path / "gone.jsonl"
    file.write_bytes(asked.file.read_bytes())
    verdicts = failing(services, "losses", lambda asking: file.unlink(missing_ok=True))
    view = last(verdicts.run(replace(asked, file=file, limit=2)))
    assert view.state == "FAILED"
    assert "gone.jsonl" in view.error


def test_a_request_crosses_to_another_process_whole_and_the_ready_made_sides(asked, services, rows_file):
    full = replace(asked, questions=Questions(5, "weekly", 1.5, 10.0), prices=Prices("EUR"), rows=(1, 2), name="n")
    assert request_from(json.loads(json.dumps(full.as_json()))) == full
    sides = services.verdicts.line_up(rows_file, "", "Be glad.", None)
    assert [side.label for side in sides] == ["Base", "Base + prompt", "Base + 4 shots"]
    held = services.verdicts.line_up(rows_file, "", "Be glad.", None, form=True)[2]
    assert (held.label, held.format, held.shots_from) == ("Base + prompt + form", "references", rows_file)


@pytest.mark.parametrize("phase", ["repeats", "timings"])
def test_a_side_that_fails_late_is_left_out_and_the_other_keeps_what_is_known_of_it(services, asked, phase):
    def fails(asking):
        asking.failed["Base + prompt"] = "It cannot go on."

    verdicts = failing(services, phase, fails)
    view = last(verdicts.run(replace(asked, repeats=2, limit=3, losses=False)))
    assert (view.state, "Base + prompt was left out: It cannot go on." in view.error) == ("DONE", True)
    rows = verdicts.rows(view.id)
    assert [(row["side"], len(row["repeats"])) for row in rows] == [("Base", 2)] * 3
    assert [row["seconds"] is None for row in rows] == [True, False, False]


def test_forgetting_goes_on_without_an_adapter_that_fails(services, asked, make_lora):
    good, bad = (services.adapters.import_file(make_lora(seed)).id for seed in (3, 4))

    class Fails:
        def measure(self, cards, session):
            if any(card.id == bad for card in cards):
                raise AdapterError("It overflows.")
            yield Recalling(1, 1, "", tuple(Forgetting(1.0, 1.1, 10, 5, 4, 10, 0.1, "") for _ in cards))

    services.forgetting = Fails()
    sides = (Side(good, name="A"), Side(bad, name="B"))
    asked = replace(asked, sides=sides, limit=2, losses=False, forgetting=True)
    record = last(verdicts_by(services, Answering, services.batches).run(asked)).record
    assert (list(record["forgetting"]), len(record["sides"])) == (["A"], 2)


@pytest.mark.parametrize(
    ("losses", "changes", "words"),
    [
        ([2.0, 1.5, 1.5], {}, ""),
        ([2.0, 1.5, 1.2], {}, "still falling at its end, from 1.5 to 1.2"),
        ([1.5, 1.2], {}, ""),
        ([], {"steps": 9}, "saw 72 of its 80 rows"),
        ([], {"steps": 9, "objective": "grpo"}, ""),
        ([], {"rows_used": None}, ""),
        ([], {"steps": 9, "epochs": 1.4}, ""),
        ([], {"epochs": 0.3}, "saw 24 of its 80 rows"),
    ],
)
def test_a_run_that_was_too_short_is_told_by_its_record(losses, changes, words):
    run = {"steps": 10, "batch_size": 8, "rows_used": 80, "objective": "sft", **changes}
    why = undertrained(run | {"curve": {"held_out": [[10 * at, loss] for at, loss in enumerate(losses)]}})
    assert (words in why, bool(why)) == (True, bool(words))


def test_other_prices_and_answers_change_the_choice_without_its_file_and_ask_nothing_again(services, asked, tmp_path):
    gone = Path(shutil.copyfile(asked.file, tmp_path / "gone.jsonl"))
    view = last(services.verdicts.run(replace(asked, file=gone, rows=tuple(range(1, 9)), losses=False)))
    gone.unlink()
    rows = services.verdicts.rows(view.id)
    dear = services.verdicts.again(view.id, Questions(volume=7), Prices("EUR", prompt_per_million=1e6))
    before, after = view.record["sides"][0], dear.record["sides"][0]
    assert after["cost"]["per_request"] > 1 > before["cost"]["per_request"]
    assert (dear.record["questions"]["volume"], dear.record["data_sha256"]) == (7, view.record["data_sha256"])
    assert (after["metrics"], services.verdicts.rows(view.id)) == (before["metrics"], rows)
    assert services.verdicts.show(view.id).record == dear.record


def test_what_cannot_be_measured_or_read_is_refused_before_anything_runs(services, asked, tmp_path):
    raw, guide = tmp_path / "raw.txt", tmp_path / "guide.pdf"
    raw.write_text("Only text.\n\nMore of it.\n")
    guide.write_bytes(b"%PDF-1.4 \x00\xff")
    for changes, words in (
        *(({"sides": ()}, "1 to 12 sides"), ({"repeats": 0, "limit": 0}, "Repeats go from 1.*limit of rows")),
        *(({"max_tokens": -1}, "longest reply"), ({"bar": 0.9, "margin": 0.0}, "cannot be tested")),
        ({"right": ("label",), "form_only": True}, "not both"),
        *(({"file": raw}, "raw text"), ({"rows": (999,)}, "No row is left")),
        ({"sides": (Side("base", name="read", docs=guide),)}, r"guide\.pdf"),
        *(({"right": ("taste",)}, "There are"), ({"right": ("fields:colour",)}, "no common fields")),
        ({"right": ("similarity:token_f1>=2",)}, "no similarity"),
    ):
        refused(words, lambda given=changes: services.verdicts.start(replace(asked, **given)))
    assert services.verdicts.views() == []


def test_a_verdict_is_extended_by_rows_not_yet_measured_of_its_part_with_the_same_shots(services, asked, tmp_path):
    first = last(services.verdicts.run(replace(asked, limit=4, maximum=10)))
    assert (first.record["look"], first.record["examples"], first.record["maximum"]) == (1, 4, 10)
    assert first.record["facts"]["used_before"] == 0
    again = last(services.verdicts.run(services.verdicts.extension(first.id, 7)))
    assert (again.id, again.record["look"], again.record["examples"]) == (first.id, 2, 7)
    assert 0 < first.record["alpha"] < again.record["alpha"] < 0.05, "a look spends its share of the 5 %"
    rows = services.verdicts.rows(first.id)
    assert len({(row["example"], row["side"]) for row in rows}) == len(rows) == 14
    judged = services.verdicts.again(first.id, Questions(), Prices()).record
    assert (judged["look"], judged["alpha"]) == (2, again.record["alpha"])
    third = last(services.verdicts.run(services.verdicts.extension(first.id)))
    assert (third.record["look"], third.record["examples"]) == (3, 10)
    refused(r"All 10 rows .* are measured: its maximum is 10", services.verdicts.extension, first.id)
    changed = tmp_path / "changed.jsonl"
    changed.write_text(asked.file.read_text().replace("Number 1,", "Number 100,"))
    refused(r"Row 2 of changed.jsonl is no longer", services.verdicts.extension, first.id, file=changed)
    alone = last(services.verdicts.run(replace(asked, rows=tuple(range(8, 15)), losses=False)))
    refused("stated no maximum of rows", services.verdicts.extension, alone.id)
    assert alone.record["facts"]["used_before"] == 3
    said = {one["name"]: one["sentence"] for one in alone.record["guards"]}
    assert said["rows-used-before"].startswith("3 of these rows were used by an earlier")
    sides = (asked.sides[0], Side("base", "", 2, asked.file, "Shown"))
    part = replace(asked, sides=sides, rows=(2, 5, 7, 9, 11), limit=2, maximum=4, losses=False)
    look = last(services.verdicts.run(part))
    for n in (3, 4):
        look = last(services.verdicts.run(services.verdicts.extension(look.id, n)))
    rows = services.verdicts.rows(look.id)
    assert {row["example"] for row in rows} == {2, 5, 7, 9}
    assert len({row["prompt"].rpartition(row["question"])[0] for row in rows if row["side"] == "Shown"}) == 1


def test_examples_for_shots_that_cannot_be_read_say_that_the_reading_is_the_judged_files(services, asked, tmp_path):
    kinds = {name: [{"prompt": f"{name} {n}", "completion": "Aye."} for n in range(4)] for name in ("good", "more")}
    (lists := tmp_path / "lists.json").write_text(json.dumps(kinds))
    judged = replace(asked, mapping={"split": "more"}, losses=False, examples=lists)
    shown = replace(judged, file=lists, sides=(Side("base", "", 2, lists, "Shown"),))
    assert services.verdicts.size(shown).rows == 4
    assert {row["side"] for row in services.verdicts.rows(last(services.verdicts.run(shown)).id)} == {"Shown"}
    other = replace(shown, file=asked.file, mapping=None)
    words = f"lists.json holds several lists of rows.*can be named of {asked.file.name} alone: save the examples as"
    refused(words, services.verdicts.start, other)


def test_rows_that_a_side_may_know_are_counted_by_how_it_may_know_them(services, asked, make_lora, tmp_path):
    folder, rows = make_lora(31), services.data.check(asked.file).examples
    other = [replace(row, messages=(*row.prompt, Message("assistant", "Otherwise."))) for row in rows[4:7]]
    record = {"schema": 1, "name": "Knows", **hashes_of([*rows[:2], *other])}
    (folder / "run.json").write_text(json.dumps(record))
    known = services.adapters.import_file(folder).id
    (folder / "run.json").write_text(json.dumps({"schema": 1, "name": "Unknown"}))
    unknown = services.adapters.import_file(folder).id
    (tmp_path / "docs.md").write_text("Say is a verb.")
    sides = (Side(known, name="Knows"), Side(unknown, docs=tmp_path / "docs.md", name="Unknown"))
    asked = replace(asked, sides=sides, limit=10, rows=tuple(range(1, 11)))
    found = last(services.verdicts.run(asked)).record
    assert found["overlap"] == 2
    assert found["facts"]["overlaps"]["Knows"] == {"rows": 2, "prompts": 3, "near": 0}
    assert found["facts"]["leaked"] == {"Knows": 0.5, "Unknown": None}
    said = {one["name"]: one["sentence"] for one in found["guards"]}
    assert "50% of these rows: 2 the same row, 3 the same prompt, 0 nearly the same prompt" in said["leakage"]
    assert "Unknown was trained on is unknown" in said["unknown-training"]
    left = replace(asked, unseen=True, limit=4)
    assert services.verdicts.size(left) == (4, 5, 4 * 2), "as many as are measured"
    view = last(services.verdicts.run(left))
    assert {row["example"] for row in services.verdicts.rows(view.id)} == {3, 4, 8, 9}
    said = {one["name"]: one["sentence"] for one in view.record["guards"]}
    assert said["seen-rows"].startswith("5 rows were left out")
    assert "leakage" not in said
    part = replace(asked, unseen=True, rows=(1, 2, 5, 6, 7))
    refused("No row is left to judge by: 5 were left out", services.verdicts.start, part)


def test_the_longest_reply_is_what_the_references_need(services, asked, tmp_path):
    file = tmp_path / "labels.jsonl"
    for lengths, tokens in (([4] * 30, 16), ([40] * 30, 56), ([10] * 29 + [20], 24), ([10] * 29 + [400], 24)):
        answers = [" ".join(["one"] * length) for length in lengths]
        rows = ({"prompt": f"Say {n}", "completion": one} for n, one in enumerate(answers))
        file.write_text("\n".join(map(json.dumps, rows)))
        view = last(services.verdicts.run(replace(asked, file=file, max_tokens=0, limit=1, losses=False)))
        assert view.record["max_tokens"] == tokens


def test_draws_of_shots_and_adapters_that_differ_in_the_seed_alone_are_told_as_one_side(services, asked, tmp_path):
    sides = (asked.sides[0], Side("base", "", 2, asked.file, "Shown", draws=5))
    request = request_from(json.loads(json.dumps(replace(asked, sides=sides, limit=4, losses=False).as_json())))
    views = list(services.verdicts.run(request))
    assert max(view.of for view in views) >= 6 * 4, "each draw is a reply"
    record = views[-1].record
    assert [side["side"] for side in record["sides"]] == ["Base", "Shown"]
    draws = [draw["side"] for draw in record["sides"][1]["draws"]]
    assert draws == ["Shown", *(f"Shown, draw {at}" for at in range(2, 6))]
    rows = [row for row in services.verdicts.rows(views[-1].id) if row["example"] == 1]
    assert len({row["prompt"] for row in rows}) == 6, "other shots in every draw"
    again = services.verdicts.again(views[-1].id, Questions(volume=7), Prices()).record
    assert again["sides"][1]["draws"] == record["sides"][1]["draws"]
    assert again["sides"][1]["metrics"] == record["sides"][1]["metrics"]
    page = services.verdicts.files.write(views[-1].id, "html", tmp_path).read_text()
    assert "5 shot draws pass" in page
    assert "intervals over rows, 5 shot draws" in page
    for wrong, words in (({"nearest": True}, "drawn by the seed"), ({"draws": 99}, "from 1 to 20")):
        refused(words, replace, sides[1], **wrong)
    runs = {"a": {"seed": 7}, "a-s2": {"seed": 8}, "other": {"seed": 7, "lr": 0.5}}
    runs |= {"more": {"row_hashes": ["1"], "steps": 5}}
    for name, run in runs.items():
        (tmp_path / name).mkdir()
        said = {"method": "lora", "lr": 0.1, "seed": 9, "row_hashes": ["1", "2"], "seconds": 3.0} | run
        (tmp_path / name / "run.json").write_text(json.dumps(said))
    cards = [SimpleNamespace(id=name, path=tmp_path / name, sha256=name, rows=2, is_base=False) for name in runs]
    maker = RecordMaker(services.bases, services.data, lambda request: cards)
    said = ("Why?", "Why?", "Number 1, gladly.", "Number 1, gladly.", 3, 3, 0.1, None)
    answers = [Answered(row, name, *said) for row in range(1, 5) for name in runs]
    request = replace(asked, sides=tuple(Side(name) for name in runs))
    record = maker.make(request, answers, {"failed": {}}).record
    found = [(side["side"], [draw["adapter_sha256"] for draw in side["draws"]]) for side in record["sides"]]
    assert found == [("a", ["a", "a-s2"]), ("other", []), ("more", [])]
    assert record["sides"][0]["interval_over"] == "rows, of the first of 2 training seeds"
    assert record["facts"]["grown"] == {"a": ["more", 1, 2], "a-s2": ["more", 1, 2]}, "other steps, fewer of its rows"


def test_a_recorded_side_is_judged_beside_the_others_and_asked_nothing(services, asked, tmp_path):
    old = tmp_path / "old.jsonl"

    def record(rows):
        old.write_text("\n".join(json.dumps({"prompt": f"Say {n}", "reply": f"Number {n}, gladly."}) for n in rows))

    record(range(3))
    sides = (asked.sides[0], parse_side(f"replies={old},prices=2.5/10,name=Today"))
    judged = replace(asked, sides=sides, right=("exact",), limit=4, maximum=8, repeats=2, losses=True)
    words = r"Today cannot be judged .*: old.jsonl has replies to 3 of 4 rows, and none to row 4 of rows.jsonl"
    refused(words, services.verdicts.start, judged)
    record(range(6))
    assert request_from(judged.as_json()) == judged
    view = last(services.verdicts.run(judged))
    assert (view.state, view.error) == ("DONE", "")
    base, today = view.record["sides"]
    assert (today["kind"], today["metrics"]["pass"]["value"], today["seconds_mean"]) == ("larger-model", 1.0, None)
    assert {"loss", "consistency"} <= base["metrics"].keys() - today["metrics"].keys()
    about = today["recorded"]
    assert (about["file"], about["sha256"], about["several"]) == ("old.jsonl", file_sha256(old), 0)
    tokens = today["prompt_tokens_mean"], today["completion_tokens_mean"]
    assert today["cost"]["per_request"] == pytest.approx((tokens[0] * 2.5 + tokens[1] * 10) / 1e6)
    rows = [row for row in services.verdicts.rows(view.id) if row["side"] == "Today"]
    assert [row["reply"] for row in rows] == [f"Number {n}, gladly." for n in range(4)]
    stamp = rows[0]["stamp"]
    refused("not replayable: recorded. .* old.jsonl", services.replay.check, Saved(stamp, rows[0]["reply"]))
    report = services.verdicts.files.write(view.id, "html", tmp_path).read_text()
    assert f"replies of old.jsonl, SHA-256 {about['sha256'][:16]}" in report
    refused("none to rows 7 and 8", services.verdicts.start, services.verdicts.extension(view.id))
    grown = last(services.verdicts.run(services.verdicts.extension(view.id, 6)))
    assert (grown.record["examples"], grown.record["sides"][1]["metrics"]["pass"]["n"]) == (6, 6)
    alone = last(services.verdicts.run(replace(judged, sides=sides[1:], maximum=None)))
    assert (alone.state, alone.record["choice"]) == ("DONE", "not-enough-evidence")
    said = services.compare.ask(sides[1:], [()], "Which?", Sampling())
    assert "answers nothing new" in last(said)[0].error
