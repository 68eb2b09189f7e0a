"""Which call computes a product: chosen by whole decode steps, on a fake machine with a clock and a small cache."""

from collections import OrderedDict

import pytest
import torch

from playground.engine.llama_layout import CALLS, LATE, PLAIN, RETRY_S, ROWS_MAX, STEPS, MatmulLayouts

CACHED = 4
LAYERS = 8
SIDE = 16


class Machine:
    """cost(call, rows, whether the weight is in the cache) -> seconds. steps: of how many rows each trial step was."""

    def __init__(self, cost, layers=LAYERS):
        self.cost, self.now = cost, 0.0
        self.ran = []
        self.steps = []
        self.cache = OrderedDict()
        self.weights = [torch.randn(SIDE, SIDE).t() for _ in range(layers)]
        self.calls = {name: self._call(name) for name in CALLS}
        self.matmul = self.layouts()

    def layouts(self, **calls):
        return MatmulLayouts(lambda: self.weights, self.trial, clock=lambda: self.now, calls=self.calls | calls)

    def _call(self, name):
        def call(x, weight):
            self.now += self.cost(name, x.shape[0], weight.data_ptr() in self.cache)
            self.ran.append((name, x.shape[0]))
            self.cache[weight.data_ptr()] = None
            self.cache.move_to_end(weight.data_ptr())
            while len(self.cache) > CACHED:
                self.cache.popitem(last=False)
            return torch.mm(x, weight)

        return call

    def _multiply(self, rows):
        for weight in self.weights:
            self.matmul(torch.randn(rows, SIDE), weight)

    def trial(self, rows):
        self.steps.append(rows)
        self._multiply(rows)

    def step(self, rows):
        """A decode step of live rows; returns its seconds."""
        started = self.now
        with self.matmul.watched(rows):
            self._multiply(rows)
        return self.now - started

    def settled(self, rows):
        """Seconds of a step when the choice has been made."""
        self.step(rows)
        return self.step(rows)


def test_the_call_that_is_fastest_over_a_whole_step_is_chosen_and_not_one_that_is_so_in_the_cache_only():
    seconds = {"plain": (2.0, 2.0), "transposed": (3.0, 3.0), "halves": (4.0, 0.5)}
    machine = Machine(lambda name, rows, cached: seconds[name][cached])
    assert (machine.settled(4), set(machine.matmul.chosen.values())) == (2.0 * LAYERS, {PLAIN})
    best = {1: "halves", 2: "transposed", 4: "transposed", 8: "plain", 16: "halves"}
    machine = Machine(lambda name, rows, cached: rows * (1.0 if name == best.get(rows, best[4]) else 3.0))
    for rows in best:
        assert machine.settled(rows) == rows * LAYERS
    assert machine.steps.count(4) == 1, "eight weights show three calls twice each in one step"
    machine.settled(3)
    assert machine.steps.count(4) == 1, "three rows take what was chosen for four"


@pytest.mark.parametrize(("one", "shape"), [(0.5, 1), (1.01, 2), (2.0, 2)])
def test_one_row_goes_through_the_shape_of_two_where_its_own_is_slower(one, shape):
    machine = Machine(lambda name, rows, cached: {1: one, 2: 1.0}[rows])
    assert (machine.settled(1), machine.ran[-1][1]) == (pytest.approx(min(one, 1.0) * LAYERS), shape)
    assert {way[1] for (_, (rows, _)), way in machine.matmul.chosen.items() if rows == 1} == {shape}


def test_steps_that_take_far_longer_than_promised_have_the_choice_made_again_once():
    slow = {}
    seconds = {"plain": 0.002, "transposed": 0.001, "halves": 0.003}
    machine = Machine(lambda name, rows, cached: seconds[name] + slow.get(name, 0.0))
    assert machine.settled(4) == pytest.approx(0.001 * LAYERS)
    machine.now += RETRY_S
    for _ in range(2 * STEPS):
        machine.step(4)
    assert machine.steps == [4], "a promise that is kept is not looked at again"
    slow["transposed"] = 0.004
    taken = [machine.step(4) for _ in range(4 * STEPS)]
    assert (machine.steps, taken[0]) == ([4, 4], pytest.approx(0.005 * LAYERS))
    assert taken[-1] == pytest.approx(0.002 * LAYERS)


def test_a_busy_machine_is_asked_ever_less_often_a_choice_made_on_it_held_to_a_quiet_one_a_hiccup_ignored():
    busy = [1.0]
    cost = {"plain": 0.002, "transposed": 0.001, "halves": 0.003}
    machine = Machine(lambda name, rows, cached: busy[0] * cost[name])
    machine.settled(4)
    busy[0] = 2 * LATE
    ends = machine.now + 8 * RETRY_S
    while machine.now < ends:
        machine.step(4)
        machine.now += 1.0
    assert 2 <= len(machine.steps) - 1 <= 3, "after 60 s, 120 s and 240 s"
    assert {way for (_, (rows, _)), way in machine.matmul.chosen.items() if rows == 4} == {("transposed", 1)}
    busy, slow = [5.0], [0.0]
    machine = Machine(lambda name, rows, cached: busy[0] * (1.0 + slow[0] if name == "transposed" else 2.0))
    machine.settled(4)
    busy[0] = 1.0
    for _ in range(STEPS):
        machine.step(4)
    slow[0], machine.now = 2.0, machine.now + RETRY_S
    for _ in range(2 * STEPS):
        machine.step(4)
    assert machine.settled(4) == 2.0 * LAYERS
    slow = [1.0]
    machine = Machine(lambda name, rows, cached: slow[0])
    machine.settled(4)
    machine.now += RETRY_S
    for slow[0] in [10.0, 1.0, 1.0] * 30:
        machine.step(4)
    assert machine.steps == [4]


@pytest.mark.parametrize("faster", [True, False])
def test_the_layout_that_whole_steps_show_to_be_faster_is_taken(faster):
    """Fast in the cache only, or fast: ``plain`` on a weight by columns, which the machine knows by its stride."""
    machine = Machine(lambda name, rows, cached: 2.0)
    machine.weights[1::4] = [torch.randn(SIDE, SIDE) for _ in range(LAYERS // 4)]
    columns = {weight.data_ptr() for weight in machine.weights[1::4]}
    inner = machine.calls["plain"]

    def plain(x, weight):
        cached = weight.data_ptr() in machine.cache
        y = inner(x, weight)
        if weight.data_ptr() in columns:
            machine.now += -1.5 if cached or faster else 2.0
        return y

    machine.matmul = machine.layouts(plain=plain)
    assert machine.matmul.by_columns() is faster


KINDS = [(name, by_rows) for name in CALLS for by_rows in (True, False) if by_rows or name != "halves"]


@pytest.mark.parametrize("rows", [1, 2, 3, 8, ROWS_MAX])
@pytest.mark.parametrize(("name", "by_rows"), KINDS)
def test_every_call_gives_the_same_product_and_lays_it_out_alike(name, by_rows, rows):
    """One row may have any stride, and decides by it which path the next product takes: (1, 1) was slower."""
    torch.manual_seed(0)
    weight = torch.randn(24, 12).t() if by_rows else torch.randn(12, 24)
    x, seen = torch.randn(rows, 12), []

    def call(x, weight):
        seen.append(x.stride())
        return CALLS[name](x, weight)

    matmul = MatmulLayouts(lambda: [weight], lambda rows: matmul(x, weight), calls={"plain": call})
    given = x.as_strided((1, 12), (1, 1)) if rows == 1 else x
    bias, residual = torch.randn(24), torch.randn(rows, 24)
    got = matmul(given, weight, bias)
    assert torch.allclose(got, x @ weight + bias, atol=1e-5)
    assert got.stride() == (24, 1)
    assert set(seen) == {(12, 1)}
    assert torch.allclose(matmul(given, weight, bias, residual), x @ weight + bias + residual, atol=1e-5)


def test_a_choice_is_for_the_threads_that_it_was_measured_with():
    """Cores are shared out while a run trains: what is fastest for one thread is not for two."""
    cost = {1: {"plain": 2.0, "transposed": 1.0, "halves": 3.0}, 2: {"plain": 1.5, "transposed": 1.4, "halves": 0.5}}
    before = torch.get_num_threads()
    machine = Machine(lambda name, rows, cached: cost[torch.get_num_threads()][name])
    try:
        for threads, step, seconds in ((1, machine.settled, 1.0), (2, machine.settled, 0.5), (1, machine.step, 1.0)):
            torch.set_num_threads(threads)
            assert step(4) == seconds * LAYERS, "what was chosen for one thread is still known"
    finally:
        torch.set_num_threads(before)
