"""One side's metrics: by hand and against rouge-score, sacrebleu and scikit-learn; which are there, and how pooled."""

import math
import socket

import evaluate
import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import accuracy_score, f1_score

from playground.evaluation import metrics
from playground.evaluation.checks import parse_check
from playground.evaluation.metrics import metrics_for
from tests.evaluation.helpers import cases, rows
from tests.refused import refused

PLAIN = ["exact_match", "token_f1", "rouge_l", "bleu", "chrf"]
LAST = ["seconds", "prompt_tokens", "completion_tokens"]
EXACT, F1, ROUGE, GROUNDED = metrics.ExactMatch(), metrics.TokenF1(), metrics.RougeL(), metrics.Groundedness()
QUICK = {"max_examples": 40, "deadline": None, "derandomize": True}


@pytest.mark.parametrize(
    ("metric", "reply", "reference", "value"),
    [
        (EXACT, "  a  b\n", "a b", 1),
        (EXACT, "a b", "A b", 0),
        (EXACT, "a b.", "a b", 0),
        (EXACT, "", "", 1),
        (EXACT, "ab", "a b", 0),
        (F1, "The cat sat.", "a cat sat", 1),  # articles, case and punctuation fall away
        (F1, "cat dog", "cat", 2 * 1 / 3),
        (F1, "cat cat", "cat", 2 * 1 / 3),  # the second one is one too many
        (F1, "x y", "a b", 0),  # b against x, y: nothing shared
        (F1, "", "the", 1),  # no word on either side
        (F1, "", "cat", 0),
        (F1, "“Ja”, sagte er", "ja sagte sie", 2 * 2 / 6),
        (F1, "我喜欢猫", "我喜欢狗", 2 * 3 / 8),
        # longest common subsequence: the, cat, on, mat
        (ROUGE, "the cat is on the mat", "the cat sat on a mat", 4 / 6),
        (ROUGE, "", "a", 0),
        (ROUGE, "Größe über alles", "größe über alles", 1),
        (ROUGE, "врач осмотрел", "врач осмотрел пациента", 2 * 2 / 5),
        (ROUGE, "猫とdog", "猫 と dog", 1),
        (GROUNDED, "The lamp costs 40 euros.", ["A lamp is 40 euros"], 3 / 4),  # lamp, 40, euros; not costs
        (GROUNDED, "It is by Ann.", ["Ann made it"], 1),  # a name counts at any length
        (GROUNDED, "Ann is it.", ["."], None),  # three letters at the start of a sentence: no name, no content word
        (GROUNDED, "Pulse 90, pressure 110/70", ["pressure of 110/70"], 2 / 4),
        (GROUNDED, "Returns within 14 days.", ["a return is possible", "for 14 days"], 1),
        (GROUNDED, "It was so.", ["anything"], None),
        (GROUNDED, "Zebras run", ["no such animal"], 0),
        (GROUNDED, "Zebras run", [], None),
    ],
)
def test_a_value_by_hand(metric, reply, reference, value):
    assert metric.value(reply, reference) == (None if value is None else pytest.approx(value))


@settings(**QUICK)
@given(st.text(alphabet="abcd AB.,'3", max_size=30), st.text(alphabet="abcd AB.,'3", max_size=30))
def test_rouge_l_is_what_rouge_score_gives(reply, reference):
    plain = RougeScorer(["rougeL"]).score(reference, reply)["rougeL"].fmeasure
    assert ROUGE.value(reply, reference) == pytest.approx(plain)


def test_scikit_learn_agrees():
    rng = np.random.default_rng(5)
    names = ["a", "b", "c", "d"]
    for _ in range(20):
        references, replies = list(rng.choice(names, size=30)), list(rng.choice([*names, "something else"], size=30))
        found, _ = metrics.LabelAccuracy(names).score(replies, references)
        assert np.mean(found) == pytest.approx(accuracy_score(references, replies))
        present = sorted(set(references))
        expected = f1_score(references, replies, labels=present, average="macro", zero_division=0)
        assert metrics.MacroF1(names).score(replies, references)[1].figure() == pytest.approx(expected)
    assert metrics.LabelAccuracy(["a", "b"]).score(["zebra"], ["zebra"])[0] == [0], "no reply can give another label"
    assert metrics.MacroF1(["a", "b"]).score(["a", "zebra"], ["a", "zebra"])[1].figure() == pytest.approx(0.5)


SAID, MEANT = zip(*cases("sentences"), strict=True)
SHORT = st.text(alphabet="ab c.é猫", max_size=15)
CORPUS = [(metrics.Bleu(), sacrebleu.corpus_bleu), (metrics.Chrf(), sacrebleu.corpus_chrf)]


@pytest.mark.parametrize(("metric", "plain"), CORPUS)
def test_any_drawing_of_examples_gives_what_sacrebleu_gives_for_it(metric, plain):
    rng = np.random.default_rng(3)
    values, tally = metric.score(SAID, MEANT)
    assert tally.figure() == pytest.approx(plain(SAID, [MEANT]).score)
    for _ in range(30):
        drawn = rng.integers(0, len(SAID), size=rng.integers(1, 7))
        expected = plain([SAID[at] for at in drawn], [[MEANT[at] for at in drawn]]).score
        assert float(tally.pool(tally.rows[drawn].sum(axis=0))) == pytest.approx(expected, abs=1e-9)
    sentence = {"bleu": sacrebleu.sentence_bleu, "chrf": sacrebleu.sentence_chrf}[metric.key]
    assert values == pytest.approx([sentence(said, [meant]).score for said, meant in zip(SAID, MEANT, strict=True)])


@settings(**QUICK)
@given(st.lists(st.tuples(SHORT, SHORT), min_size=1, max_size=4))
def test_any_text_gives_what_sacrebleu_gives(pairs):
    replies, references = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    for metric, plain in CORPUS:
        assert metric.score(replies, references)[1].figure() == pytest.approx(plain(replies, [references]).score)


@pytest.mark.parametrize(
    ("repeats", "labels", "share"),
    [
        *((("a", "a ", "b"), None, 1 / 3), (("a", "a", "a", "b"), None, 3 / 6), (("a",), None, None), ((), None, None)),
        *((("It is yes.", "yes"), ["yes", "no"], 1), (("It is yes.", "yes"), None, 0)),
    ],
)
def test_consistency(repeats, labels, share):
    assert metrics.Consistency(labels).value(repeats) == (None if share is None else pytest.approx(share))


def test_what_is_always_there_and_what_is_when_it_can_be_measured():
    found = metrics_for(rows(["a b", "c"], ["a b", "d"]))
    assert list(found) == ["pass", "format", *PLAIN, *LAST]
    assert (found["exact_match"].values, found["exact_match"].pooled) == ((1, 0), 0.5)
    assert [found[name].kind for name in ("exact_match", "token_f1", "bleu")] == ["yes-no", "mean", "corpus"]
    assert not found["seconds"].higher_is_better
    assert found["seconds"].pooled == 0.5
    answered = rows(
        ["yes", "no", "no"],
        ["yes", "no", "yes"],
        loss=[0.1, 0.2, 0.6],
        repeats=[("yes", "yes"), ("no", "yes"), ()],
        passages=[("yes it is so",), (), ("nothing",)],
    )
    found = metrics_for(answered, [parse_check("max-words:1"), parse_check("contains:yes")], ["no", "yes"])
    checks = ["max-words:1", "contains:yes", "worst:max-words:1", "worst:contains:yes"]
    labelled = ["accuracy", "macro_f1", *PLAIN, "consistency", "loss", "perplexity"]
    assert list(found) == ["pass", "format", *checks, *labelled, *LAST]
    assert found["contains:yes"].values == (1, 0, 0)
    assert found["worst:contains:yes"].values == (1, 0, None)
    assert found["worst:contains:yes"].pooled == 0.5
    assert found["consistency"].values == (1, 0, None)
    assert found["accuracy"].pooled == pytest.approx(2 / 3)
    assert found["macro_f1"].values == (None, None, None)
    assert (found["loss"].pooled, found["perplexity"].pooled) == pytest.approx((0.3, math.exp(0.3)))
    assert not found["perplexity"].higher_is_better


def test_values_come_in_the_order_of_one_sides_examples_and_a_loss_that_some_rows_have_is_theirs():
    assert metrics_for(rows(["a \ud800"], ["a"]))["token_f1"].pooled == 1.0
    found = metrics_for(rows(["a", "b", "c"], ["a", "b", "c"], loss=[0.1, None, 0.3]))
    assert (found["loss"].pooled, found["loss"].examples) == (pytest.approx(0.2), (0, 2))
    assert found["perplexity"].pooled == pytest.approx(math.exp(0.2))
    assert "loss" not in metrics_for(rows(["a"], ["a"], loss=[None]))
    found = metrics_for(rows(["a", "x", "c"], ["a", "b", "c"])[::-1])["exact_match"]
    assert (found.values, found.examples) == ((1, 0, 1), (0, 1, 2))
    one = rows(["a"], ["a"])
    for wrong in ([], one + rows(["a"], ["a"], side="other"), one * 2):
        refused("one side", metrics_for, wrong, error=ValueError)


REPLIES = ["yes", "no.", "yes", "I say yes", "maybe", "no"]
REFERENCES = ["yes", "no", "no", "yes", "no", "no"]


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No network, and nothing is written to the cache folder."""

    def refused(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "cache")
    yield
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("nowhere")
def test_each_gives_the_figure_of_metrics_for():
    labels, given = ["no", "yes"], {"predictions": REPLIES, "references": REFERENCES}
    ours = metrics_for(rows(REPLIES, REFERENCES), [parse_check("ends-with:.")], labels)
    plain = [metrics.ExactMatch(), metrics.TokenF1(), metrics.RougeL(), metrics.Bleu(), metrics.Chrf()]
    for metric in (*plain, metrics.LabelAccuracy(), metrics.MacroF1(labels), metrics.FormatAdherence("ends-with:.")):
        assert metric.compute(**given) == {metric.key: pytest.approx(ours[metric.key].pooled)}
        assert metric.description
    assert ours["ends-with:."].pooled == pytest.approx(1 / 6)


@pytest.mark.usefixtures("nowhere")
def test_they_combine_take_one_at_a_time_or_something_else():
    both = evaluate.combine([metrics.ExactMatch(), metrics.TokenF1(), metrics.FormatAdherence("max-words:1")])
    for reply, reference in zip(REPLIES, REFERENCES, strict=True):
        both.add(prediction=reply, reference=reference)
    whole, by_hand = both.compute(), {"exact_match": 2 / 6, "token_f1": (1 + 1 + 0 + 0.5 + 0 + 1) / 6}
    assert whole == pytest.approx(by_hand | {"max-words:1": 5 / 6})
    assert both.compute(predictions=REPLIES, references=REFERENCES) == whole
    repeats = [["a", "a", "b"], ["x"], ["c", "c", "c"]]
    assert metrics.Consistency().compute(predictions=repeats) == {"consistency": pytest.approx((1 / 3 + 1) / 2)}
    passages = {"predictions": ["Take 5 apples", "!"], "references": [["There are 5 pears."], ["."]]}
    assert metrics.Groundedness().compute(**passages) == {"groundedness": pytest.approx(1 / 3)}
    assert metrics.Perplexity().compute(predictions=[0.0, 2.0]) == {"perplexity": pytest.approx(math.e)}
    assert np.isnan(metrics.Consistency().compute(predictions=[["x"]])["consistency"])
    assert "lists of strings" in metrics.Groundedness().inputs_description
