"""All that decides in a verdict, again from its rows, by scipy, scikit-learn and a second, naive walk of the tree."""

import gzip
import json
import re
from collections import Counter
from functools import cache
from itertools import combinations
from statistics import median

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score

from playground.evaluation.checks import parse_check
from playground.evaluation.criterion import parse_criterion
from playground.evaluation.decision import Terms
from playground.evaluation.verdict import SideFacts, conclude
from playground.settings import PROJECT_ROOT
from tests.evaluation import helpers

FOLDER = PROJECT_ROOT / "benchmarks" / "results" / "verdicts"
LADDER = ("base", "prompt", "constraint", "few-shot", "documents", "larger-model", "fine-tune", "fine-tune+documents")
LABELS = ("refund", "repair", "other")


def labelled():
    """Two prompted sides on one rung, and a tuned one whose replies are cut off in one row of ten."""
    wanted = [LABELS[at % 3] for at in range(60)]
    wrong = {"Prompt A": 4, "Prompt B": 2, "Tuned": 20}
    answers = {
        side: helpers.rows(
            [LABELS[(at + (at % every == 1)) % 3] for at in range(60)],
            wanted,
            side,
            finish=["length" if side == "Tuned" and at % 10 == 0 else "stop" for at in range(60)],
        )
        for side, every in wrong.items()
    }
    sides = [SideFacts(side, "fine-tune" if side == "Tuned" else "prompt", 60.0 * (side == "Tuned")) for side in wrong]
    said = {"criterion": parse_criterion("label", wanted), "terms": Terms(0.7, 0.2, maximum=60), "references": wanted}
    judged = conclude(answers, sides, [parse_check("max-words:3")], **said)
    rows = [
        {"example": one.example, "side": side, "reply": one.reply, "reference": one.reference}
        | {"metrics": {name: found.values[at] for name, found in judged.measured[side].items()}}
        for side, said in answers.items()
        for at, one in enumerate(said)
    ]
    return judged.record | {"checks": ["max-words:3"]}, rows


MADE = {
    "of four sides": lambda: helpers.verdict(40),
    "of untuned sides": lambda: helpers.verdict(40, sides=("base", "prompt", "shots")),
    "of three rows": lambda: helpers.verdict(3),
    "of labels": labelled,
}
MADE = {name: cache(make) for name, make in MADE.items()}
KEPT = sorted(file.name.removesuffix(".rows.jsonl.gz") for file in FOLDER.glob("*.rows.jsonl.gz"))


@pytest.fixture(scope="module", params=[*MADE, *KEPT])
def judged(request):
    """(record, side -> its rows in the order of the examples)."""
    if request.param in MADE:
        record, rows = MADE[request.param]()
    else:
        record = json.loads((FOLDER / f"{request.param}.json").read_text("utf-8"))
        text = gzip.decompress((FOLDER / f"{request.param}.rows.jsonl.gz").read_bytes()).decode("utf-8")
        rows = [json.loads(line) for line in text.splitlines()]
    by_side = {side["side"]: [row for row in rows if row["side"] == side["side"]] for side in record["sides"]}
    return record, {side: sorted(found, key=lambda row: row["example"]) for side, found in by_side.items()}


def words(text):
    bare = re.sub(r"[^\w\s]", "", text.lower())
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def f1(said, wanted):
    said, wanted = words(said), words(wanted)
    both = sum((Counter(said) & Counter(wanted)).values())
    return 2 * both / (len(said) + len(wanted)) if both else float(said == wanted)


def fields(text):
    try:
        read = json.loads(text.strip())
    except ValueError:
        return dict(line.split(": ", 1) for line in text.strip().splitlines() if re.match(r"\w[\w ]*: \S", line))
    return {name: str(value) for name, value in read.items()} if isinstance(read, dict) else {}


def numbers(text):
    return sorted(re.findall(r"\d+(?:[.,]\d+)*", text))


def same(said, wanted, least):
    """least: F1 of the words of free text, None for anything else."""
    if least is not None:
        return numbers(said) == numbers(wanted) and f1(said, wanted) >= least
    return said.strip(" .,;:!\"'").casefold() == wanted.strip(" .,;:!\"'").casefold()


def has_json(text):
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def holds(check, reply):
    kind, _, value = check.partition(":")
    if kind == "json":
        return has_json(reply)
    return reply.strip().endswith(value) if kind == "ends-with" else len(reply.split()) <= int(value)


def content(record, row, texts):
    """Right by the criterion of the record, and each field; texts: free-text field -> its least F1."""
    kind, _, value = record["right"].partition(":")
    if kind == "fields":
        said, wanted = fields(row["reply"]), fields(row["reference"])
        marks = {name: name in said and same(said[name], wanted[name], texts.get(name)) for name in wanted}
        return all(marks[name] for name in (value.split(",") if value else wanted)), marks
    if kind == "similarity":
        return f1(row["reply"], row["reference"]) >= float(value.partition(">=")[2]), {}
    return row["reply"].strip() == row["reference"], {}


def free_text(record, rows):
    """Field -> least F1, of those whose middle value has four words or more and that are seldom alike: what one in
    twenty pairs of different values with the same numbers reaches, in steps of 0.05."""
    file = PROJECT_ROOT / "examples" / record.get("file", "")
    answers = [row.get("reference", "") for row in next(iter(rows.values()))]
    if file.is_file():
        answers = [json.loads(line)["completion"] for line in file.read_text("utf-8").splitlines()]
    found = {}
    for name in {name for answer in answers for name in fields(answer)}:
        values = [one[name] for answer in answers if name in (one := fields(answer))]
        if median(len(value.split()) for value in values) >= 4 and len(set(values)) > len(values) / 2:
            pairs = [(a, b) for a, b in combinations(set(values), 2) if numbers(a) == numbers(b)]
            alike = sorted(f1(a, b) for a, b in pairs)
            reached = alike[-(-95 * len(alike) // 100) - 1] if alike else 0
            found[name] = min(0.95, max(0.6, -(-round(20 * reached, 6) // 1) / 20))
    return found


def test_every_mark_of_every_reply(judged):
    record, rows = judged
    texts = free_text(record, rows)
    for row in (row for found in rows.values() for row in found if "reply" in row):
        checks = [check for check in record["checks"] if check != "like-references"]
        form = bool(row["reply"].strip()) and all(holds(check, row["reply"]) for check in checks)
        marks = {"format": form, "pass": form}
        if record["right"]:
            right, by_field = content(record, row, texts)
            marks |= {"content": right, "pass": form and right}
            marks |= {f"field:{name}": ok for name, ok in by_field.items()}
        assert {name: bool(row["metrics"][name]) for name in marks} == marks, (row["side"], row["example"])


def test_every_share_with_wilsons_interval_and_labels_by_scikit_learn(judged):
    record, rows = judged
    shares = [name for name, about in record["about"].items() if about["kind"] == "yes-no"]
    assert {"pass", "format"} <= set(shares)
    for side in record["sides"]:
        for name in (name for name in shares if name in side["metrics"]):
            values = [row["metrics"][name] for row in rows[side["side"]] if row["metrics"].get(name) is not None]
            found = stats.binomtest(int(sum(values)), len(values))
            interval = found.proportion_ci(method="wilson")
            one = side["metrics"][name]
            assert (one["value"], one["n"]) == (pytest.approx(found.statistic), len(values))
            assert (one["low"], one["high"]) == pytest.approx((interval.low, interval.high), abs=1e-9)
    record, rows = judged
    for side in record["sides"]:
        said = [row["reply"] for row in rows[side["side"]] if "reply" in row] if record["labels"] else []
        if said and set(said) <= set(record["labels"]):
            wanted = [row["reference"] for row in rows[side["side"]]]
            found = accuracy_score(wanted, said), f1_score(wanted, said, average="macro")
            assert tuple(side["metrics"][name]["value"] for name in ("accuracy", "macro_f1")) == pytest.approx(found)


def holm(found):
    """The largest of what each smaller p-value, and itself, is worth among those not yet rejected."""
    order = sorted(range(len(found)), key=found.__getitem__)
    worth = [min(1.0, found[at] * (len(found) - place)) for place, at in enumerate(order)]
    return [max(worth[: order.index(at) + 1]) for at in range(len(found))]


def test_every_pair_by_mcnemar_and_holm(judged):
    record, rows = judged
    found = {}
    for a, b in combinations(rows, 2):
        x, y = (np.array([row["metrics"]["pass"] for row in rows[side]]) for side in (a, b))
        apart = int((x != y).sum())
        found[a, b] = stats.binomtest(int((x > y).sum()), apart).pvalue if apart else 1.0
    pairs = {(one["a"], one["b"]): one for one in record["pairs"] if one["metric"] == "pass"}
    assert {names: one["p_value"] for names, one in pairs.items()} == pytest.approx(found)
    adjusted = dict(zip(found, holm(list(found.values())), strict=True))
    assert {names: one["p_adjusted"] for names, one in pairs.items()} == pytest.approx(adjusted)


def set_aside(record):
    """side -> whether more than one reply in twenty was cut off, or as much of the rows may have been trained on."""
    cut = {one["side"]: one["metrics"].get("cut_off", {"value": 0})["value"] for one in record["sides"]}
    return {side: cut[side] > 0.05 or (record["facts"]["leaked"].get(side) or 0) > 0.05 for side in cut}


def on_test_rows(record, rows):
    """side -> its passes in test rows, in the order in which the tree asks them."""
    passes = {side: np.array([row["metrics"]["pass"] for row in found]) for side, found in rows.items()}
    sides = [one for one in record["sides"] if not any(text.startswith(one["side"]) for text in record["left_out"])]
    numbers = [row["example"] for row in rows[sides[0]["side"]]]
    drawn = np.array([np.random.default_rng((16, number)).random() for number in numbers])
    validation = (drawn <= 0.2) & (len(numbers) >= 50) | (drawn <= np.sort(drawn)[min(len(drawn) // 2, 10) - 1])
    family = []
    for rung in LADDER:
        rivals = [one for one in sides if one["kind"] == rung]
        rivals = [one for one in rivals if not set_aside(record)[one["side"]]] or rivals
        family += sorted(rivals, key=lambda one: -passes[one["side"]][validation].sum())[:1]
    if volume := record["questions"]["volume"]:
        whole = [one for one in family if one["cost"]["per_request"] is not None]
        if len(whole) == len(family) and all(one["training_s"] for one in family if "fine-tune" in one["kind"]):
            family.sort(key=lambda one: one["cost"]["once"] + 12 * volume * one["cost"]["per_request"])
    kept = ~validation if len(family) < len(sides) else np.ones(len(numbers), bool)
    return {one["side"]: passes[one["side"]][kept] for one in family}


def alpha_of(record, n):
    """The first look's; later ones are kept in the record alone."""
    if record["maximum"] is None or record["look"] > 1:
        return record["alpha"]
    return 2 * stats.norm.sf(stats.norm.ppf(0.975) / (n / record["maximum"]) ** 0.5) if n < record["maximum"] else 0.05


def exact(passed, n, share):
    return stats.binomtest(passed, n).proportion_ci(1 - 2 * share, "exact")


def test_the_ladder_by_exact_tests(judged):
    record, rows = judged
    passes = on_test_rows(record, rows)
    n = len(next(iter(passes.values())))
    alpha, floor = alpha_of(record, n), record["bar"] - record["margin"]
    raw = [stats.binomtest(int(one.sum()), n, floor, "greater").pvalue for one in passes.values()]
    assert record["alpha"] == pytest.approx(alpha)
    assert [one["side"] for one in record["ladder"]] == list(passes)
    for one, p in zip(record["ladder"], holm(raw), strict=True):
        passed = int(passes[one["side"]].sum())
        bounds = exact(passed, n, alpha / len(passes))
        assert (one["passed"], one["n"], one["p_value"]) == (passed, n, pytest.approx(p))
        assert (one["low"], one["high"]) == pytest.approx((bounds.low, bounds.high), abs=1e-9)


def upper_difference(x, y, level):
    """Newcombe's upper bound of the share of x less that of y, in the same rows (1998, method 10)."""
    n = len(x)
    (a, b), (c, d) = [[int(((x == i) & (y == j)).sum()) for j in (1, 0)] for i in (1, 0)]
    first, second = (stats.binomtest(k, n).proportion_ci(level, "wilson") for k in (a + b, a + c))
    up, down = max(first.high - (a + b) / n, 0), max((a + c) / n - second.low, 0)
    cross, product = a * d - b * c, (a + b) * (c + d) * (a + c) * (b + d)
    cross = max(cross - n / 2, 0) if cross > 0 else cross
    phi = cross / product**0.5 if product else 0
    return (b - c) / n + (up**2 - 2 * phi * up * down + down**2) ** 0.5


def walk(record, passes):
    """(leaf, choice, side, whether it is as good as the best)."""
    kinds = {one["side"]: one["kind"] for one in record["sides"]}
    n, k = len(next(iter(passes.values()))), len(passes)
    alpha, bar, floor = alpha_of(record, n), record["bar"], record["bar"] - record["margin"]
    cut = {one["side"]: one["metrics"].get("cut_off", {"value": 0})["value"] for one in record["sides"]}
    aside = {side for side in passes if set_aside(record)[side]}
    adjusted = holm([stats.binomtest(int(one.sum()), n, floor, "greater").pvalue for one in passes.values()])
    if aside == set(passes):
        return "5a", "not-enough-evidence", None, None
    for (side, one), p in zip(passes.items(), adjusted, strict=True):
        if side in aside or one.mean() < bar or p > alpha:
            continue
        others = [other for other in passes if other not in {*aside, side}]
        as_good = all(upper_difference(passes[other], one, 1 - 2 * alpha) <= record["margin"] for other in others)
        untuned = [passes[other].mean() for other in passes if "fine-tune" not in kinds[other]]
        leaf = "3b" if untuned and max(untuned) < 0.5 else "3a"
        return leaf, kinds[side].replace("base", "prompt"), side, as_good if others else None
    most = {side: int(one.sum()) + (round(cut[side] * n) if cut[side] > 0.05 else 0) for side, one in passes.items()}
    if all(exact(min(most[side], n), n, alpha / k).high < bar for side in passes):
        return "4", "none-good-enough", None, None
    return "5b" if floor**n > alpha / k else "5c", "not-enough-evidence", None, None


def test_the_answer_by_a_naive_walk_of_the_tree(judged):
    record, rows = judged
    found = record["rule"], record["choice"], record["chosen_side"], record["as_good_as_best"]
    assert found == walk(record, on_test_rows(record, rows))


def test_the_verdicts_made_here_end_in_different_leaves():
    assert len({make()[0]["rule"] for make in MADE.values()}) == len(MADE)
