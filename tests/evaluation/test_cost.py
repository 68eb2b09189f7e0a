"""Costs worked by hand."""

import pytest

from playground.evaluation import cost
from playground.evaluation.cost import Prices, SideCost, SideFigures, prices_from_json, prices_to_json, read_prices
from tests.evaluation.helpers import cases
from tests.refused import refused

PROMPT, TUNED = SideFigures(1_100, 50, 2.0), SideFigures(100, 50, 1.0, tuned=True)
PRICES = Prices(prompt_per_million=1.0, completion_per_million=4.0)


def test_a_request_costs_tokens_or_seconds_training_seconds_or_a_sum_and_the_curves_cross_at_break_even():
    dearer = Prices(prompt_per_million=1, completion_per_million=4, tuned_prompt_per_million=3)
    assert cost.cost_per_request(PROMPT, PRICES) == pytest.approx(0.0011 + 0.0002)
    assert cost.cost_per_request(TUNED, dearer) == pytest.approx(0.0005)
    assert cost.cost_per_request(PROMPT, Prices(device_per_hour=3.6)) == pytest.approx(0.002)
    assert cost.training_cost(1_800, Prices(training_per_hour=2.0)) == 1.0
    assert cost.training_cost(1_800, Prices(training=25.0)) == 25.0
    costs = {"prompt": SideCost(0.003), "tuned": SideCost(0.001, {"training": 1.0})}
    points = {point.at: point.totals for point in cost.curve(costs, 1_200)}
    assert (list(points), points[0]) == (list(range(0, 1_201, 50)), {"prompt": 0, "tuned": 1.0})
    assert points[500]["prompt"] == pytest.approx(points[500]["tuned"])
    assert points[1_000] == {"prompt": pytest.approx(3.0), "tuned": pytest.approx(2.0)}
    assert len(cost.curve(costs, 3)) == 4
    assert (cost.break_even(0.003, 0.001, 1.0), cost.break_even(0.003, 0.001, 1.001)) == (500, 501)
    assert (cost.break_even(0.001, 0.001, 1.0), cost.break_even(0.002, 0.001, 0.0)) == (None, 0)


def test_the_prompt_length_from_which_training_pays_and_a_year_itemised():
    found = cost.prompt_length_curve(PROMPT, TUNED, PRICES, 10.0, 100_000)
    points = {point.at: point.totals["prompt"] for point in found.points}
    assert (found.pays_from, points[0]) == (100, pytest.approx(0.0001 + 0.0002))
    assert points[1_000] == pytest.approx(cost.cost_per_request(PROMPT, PRICES)), "the prompt as it was measured"
    assert cost.prompt_length_curve(PROMPT, TUNED, PRICES, 0.0, 1).pays_from == 0
    prices = Prices(device_per_hour=3.6)  # 0.001 a second; 1000 tokens more took a second more: 1e-6 a token
    assert cost.prompt_length_curve(PROMPT, TUNED, prices, 10.0, 100_000).pays_from == 100
    quick = SideFigures(1_100, 50, 1.0)
    assert cost.prompt_length_curve(quick, TUNED, prices, 10.0, 100_000).pays_from is None
    prices = Prices(
        **{"prompt_per_million": 1.0, "completion_per_million": 4.0, "cached_per_million": 0.1, "training": 10.0},
        **{"hosting_per_month": 20.0, "base_hosting_per_month": 5.0, "labelling": 7.0, "label_each": 0.5},
        **{"label_share": 0.25, "prompt_revision": 3.0},
    )
    prompt = SideFigures(1_100, 50, 2.0, cached_tokens=1_000)
    assert cost.cost_per_request(prompt, prices) == pytest.approx(100e-6 + 1_000 * 0.1e-6 + 200e-6)
    tuned, told = (cost.beside(tuned, 10.0, 40, "monthly", prices) for tuned in (True, False))
    assert tuned == {"training": 10, "labels": 27, "retraining": 120, "relabelling": 60, "hosting": 240}
    assert (told, SideCost(0.01, tuned).once) == ({"hosting": 60, "revisions": 36}, 37)
    assert SideCost(0.01, tuned).total(1_000) == pytest.approx(10 + 457)
    assert cost.beside(True, 1.0, 40, "weekly", Prices()) == {"training": 1, "retraining": 52}
    assert cost.beside(False, 1.0, 40, "weekly", Prices()) == {}, "what is not given costs nothing"


def test_a_price_table_there_and_back_and_amounts_from_made_up_prices_say_so(tmp_path):
    prices = Prices(currency="EUR", device_per_hour=1.5, training=None, tuned_prompt_per_million=3.0)
    assert prices_from_json(prices_to_json(prices)) == prices
    assert "example prices" in prices_to_json(Prices())
    (tmp_path / "prices.json").write_text(prices_to_json(prices), encoding="utf-8")
    assert read_prices(tmp_path / "prices.json") == prices
    refused("no file", read_prices, tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    refused("cannot be read", read_prices, tmp_path / "bytes.json")
    assert Prices().unit == "USD at example prices"
    assert Prices(currency="EUR").unit == "EUR at example prices", "another name makes no other price"
    assert Prices(prompt_per_million=2.0).unit == "USD"
    assert Prices(hosting_per_month=20.0).made_up, "tokens still have the example's prices"


@pytest.mark.parametrize(("text", "words"), cases("prices"))
def test_every_fault_is_named(text, words):
    refused(words, prices_from_json, text)
