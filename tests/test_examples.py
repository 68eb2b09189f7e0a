"""The example sets: made by their scripts, big enough, without leaks, and correct by their own checks."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from playground.data.check import check_file
from playground.data.split import row_hash
from playground.evaluation.criterion import parse_criteria, samples, suggested

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SETS = json.loads((EXAMPLES / "sets.json").read_text(encoding="utf-8"))
SCRIPTS = {s["id"]: f"make_{s['id']}.py" for s in SETS}
KEYS = ["category", "product", "order_id", "urgency", "summary"]

each_set = pytest.mark.parametrize("info", SETS, ids=[s["id"] for s in SETS])


def rows(name):
    return [json.loads(line) for line in (EXAMPLES / name).read_text(encoding="utf-8").splitlines()]


def by_id(set_id):
    info = next(s for s in SETS if s["id"] == set_id)
    return rows(info["file"]) + rows(info["heldout"])


def test_sets_json_names_three_complete_sets():
    assert [s["id"] for s in SETS] == ["hospital_reports", "support_json", "brand_voice"]
    wanted = "id title description file heldout prompt ask check right adapter documents"
    assert all((EXAMPLES / s["documents"]).read_text(encoding="utf-8").strip() for s in SETS)
    assert all(set(s) == set(wanted.split()) and all(s.values()) and s["adapter"] == s["id"] for s in SETS)


@each_set
def test_the_script_writes_the_shipped_files_byte_for_byte(info, tmp_path):
    for name in ("_write.py", SCRIPTS[info["id"]]):
        shutil.copy(EXAMPLES / name, tmp_path)
    subprocess.run([sys.executable, str(tmp_path / SCRIPTS[info["id"]])], check=True, capture_output=True, cwd=tmp_path)
    for name in (info["file"], info["heldout"], info["prompt"]):
        assert (tmp_path / name).read_bytes() == (EXAMPLES / name).read_bytes(), (
            f"{name}: run python examples/{SCRIPTS[info['id']]}"
        )


@each_set
def test_sizes_fields_and_the_set_s_own_check(info):
    train, heldout = rows(info["file"]), rows(info["heldout"])
    kind, _, text = info["check"].partition(":")
    assert len(train) >= 240
    assert len(heldout) == 120
    assert kind in ("json", "ends-with")
    for row in train + heldout:
        assert list(row) == ["prompt", "completion"]
        assert all(text and text == text.strip() for text in row.values())
        assert "{" not in row["prompt"], "a slot was left open"
        assert "  " not in row["prompt"] + row["completion"]
        assert not re.search(r"\ba [aeio]|[,.;]{2}| [,.;]", row["prompt"]), row["prompt"]
        assert json.loads(row["completion"]) if kind == "json" else row["completion"].endswith(text)


@each_set
def test_no_prompt_twice_and_none_leaks(info):
    files = (rows(info[part]) for part in ("file", "heldout"))
    train, heldout = ([re.sub(r"\W+", " ", row["prompt"].lower()) for row in file] for file in files)
    assert len({*train, *heldout}) == len(train) + len(heldout)
    assert re.sub(r"\W+", " ", info["ask"].lower()) not in {*train, *heldout}


@each_set
def test_a_set_s_own_criterion_is_what_its_references_suggest_and_its_answers_pass(info):
    answers = [row["completion"] for row in rows(info["heldout"])]
    criterion = parse_criteria(info["right"], answers)
    assert criterion.label == suggested(answers).label
    assert all(criterion.mark(answer, answer).right for answer in answers)
    others = [one.mark.right for one in samples(criterion, answers, len(answers)) if not one.own]
    assert sum(others) <= len(others) / 10, "another row's answer is nearly always wrong"
    before = sum(criterion.mark(answer, answers[place - 1]).right for place, answer in enumerate(answers))
    assert before <= 0.05 * len(answers)


@each_set
def test_the_system_prompt_tells_the_format_in_full(info):
    prompt = (EXAMPLES / info["prompt"]).read_text(encoding="utf-8")
    parts = {
        "hospital_reports": ["Vitals: BP", "Diagnosis: Suspected", "Suggested tests:", "Reviewed by Dr. Sharma"],
        "support_json": [
            *(f'"{key}"' for key in KEYS),
            *("billing", "delivery", "technical", "account", "returns", "low", "high"),
        ],
        "brand_voice": ["Thank you for reaching out to Larkfield.", "Warmly, your Larkfield team"],
    }[info["id"]]
    assert [part for part in parts if part not in prompt] == []


def test_reports_keep_the_format_copy_vitals_and_impression_and_held_out_patients_have_their_own():
    def vitals(name):
        return {row["completion"].split("/min")[0] for row in rows(name)}

    assert not vitals("hospital_reports.jsonl") & vitals("hospital_reports_heldout.jsonl")
    form = re.compile(
        r"Vitals: BP (\d+)/(\d+) mmHg, pulse (\d+)/min, (?:afebrile|febrile (\d\d\.\d) °C)\n"
        r"Diagnosis: Suspected ([^;\n]+)\n"
        r"Suggested tests: [^,\n]+(?:, [^,\n]+){1,3}\n\nReviewed by Dr\. Sharma"
    )
    women = {"cystitis", "pyelonephritis", "iron deficiency anaemia", "pre-eclampsia", "ectopic pregnancy"}
    men = {"benign prostatic hyperplasia", "gout"}
    names = set()
    for row in by_id("hospital_reports"):
        asked, found = row["prompt"], form.fullmatch(row["completion"])
        assert found, row["completion"]
        systolic, diastolic, pulse, degrees, name = found.groups()
        assert re.search(rf"{systolic}(?:/| over ){diastolic}\b", asked)
        assert re.search(rf"\b{pulse}\b", asked)
        assert degrees is None or degrees in asked
        assert name in asked
        assert 20 < int(systolic) - int(diastolic) < 100
        female = re.search(r"\b(woman|girl|female|F)\b", asked, re.IGNORECASE) is not None
        male = re.search(r"\b(man|boy|male|M)\b", asked, re.IGNORECASE) is not None
        assert female != male, asked
        assert (female or name not in women, male or name not in men) == (True, True), asked
        names.add(name)
    assert len(names) >= 25


def test_support_json_is_one_line_with_the_keys_in_order_and_only_facts_of_the_mail():
    seen = set()
    for row in by_id("support_json"):
        answer = json.loads(row["completion"])
        assert "\n" not in row["completion"]
        assert list(answer) == KEYS
        assert answer["category"] in {"billing", "delivery", "technical", "account", "returns"}
        assert answer["urgency"] in {"low", "medium", "high"}
        assert answer["product"] in row["prompt"].lower()
        assert re.findall(r"[A-Z]-\d{5}", row["prompt"]) == ([answer["order_id"]] if answer["order_id"] else [])
        assert len(answer["summary"].split()) <= 8
        seen.add((answer["category"], answer["urgency"]))
    assert len(seen) == 15


def test_brand_voice_keeps_every_number_and_day_and_rewrites_the_rest():
    for row in by_id("brand_voice"):
        opening, closing = "Thank you for reaching out to Larkfield. ", "\n\nWarmly, your Larkfield team"
        assert row["completion"].startswith(opening)
        middle = row["completion"].removeprefix(opening).removesuffix(closing)
        assert "Larkfield" not in middle
        assert row["prompt"] not in middle
        for fact in re.findall(r"\d+|\b[A-Z][a-z]+day\b|\b(?:green|blue|grey|white|red|brown)\b", row["prompt"]):
            assert fact in middle, row


@each_set
def test_it_is_known_which_rows_a_shipped_adapter_learned_from(info):
    name = info["id"]
    run = json.loads((EXAMPLES.parent / "adapters" / name / "run.json").read_text())
    known = set(run["row_hashes"])
    rows = check_file(EXAMPLES / f"{name}.jsonl").examples
    held_out = check_file(EXAMPLES / f"{name}_heldout.jsonl").examples
    assert (len(known), sum(row_hash(row) in known for row in rows)) == (run["rows_used"], run["rows_used"])
    assert not any(row_hash(row) in known for row in held_out)
