"""What every fine-tuning method tells the rest of the app about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from playground.errors import InputError
from playground.methods.options import NO_OPTIONS, Options
from playground.methods.shapes import Shapes, body_weights, weights_in

Tensors = Mapping[str, tuple[int, ...]]
"""What a file holds: tensor name -> shape."""
SIZES = (60_000_000, 600_000_000, 4_000_000_000)
"""Weights of a base's linear layers up to which it counts as tiny, small, middling; above the last it is large."""


@dataclass(frozen=True)
class Method:
    """One way to fine-tune.

    name: as on the command line. label: as on a button. cost: a few words beside it. order: place in a form, from 1.
    explain: two sentences for a person. paper: where it comes from.
    learning_rate, rank: defaults on a small base; rank None = the method has none.
    rates: learning rates for a tiny, small, middling and large base (``SIZES``).
    rank_label, rank_info: what ``rank`` means here, for the form. options: names of the ``Options`` it takes.
    saves: (base shapes, rank, options) -> every tensor of the finished file. trains: the same -> number of weights that are trained;
    None = all that the file holds. Both raise InputError for options that this base has no place for.
    peft_config: the same -> a PEFT config, or None where the base's own weights move.
    quantised: the base is loaded in NF4 while training. virtual: it puts virtual tokens before the text, so that documents cannot share a row.
    pace: seconds a step, in those of LoRA. kept: floats that a token leaves for the backward pass, per output of every linear layer.
    Both were read off the runs of benchmarks/results/race.json (padded rows) and of memory_estimate.json.
    """

    name: str
    label: str
    cost: str
    explain: str
    paper: str
    order: int
    rates: tuple[float, float, float, float]
    rank: int | None
    saves: Callable[[Shapes, int, Options], Tensors]
    peft_config: Callable[[Shapes, int, Options], Any]
    trains: Callable[[Shapes, int, Options], int] | None = None
    rank_label: str = "Rank"
    rank_info: str = "Size of the correction."
    options: tuple[str, ...] = ()
    quantised: bool = False
    virtual: bool = False
    whole: bool = False
    pace: float = 1.0
    kept: float = 3.6
    learning_rate: float = 0.0

    def __post_init__(self) -> None:
        if not self.learning_rate:
            object.__setattr__(self, "learning_rate", self.rates[1])

    def sized(self, shapes: Shapes) -> Method:
        """This method with the defaults for a base of this size: a larger one takes smaller steps."""
        body = body_weights(shapes)
        return replace(self, learning_rate=self.rates[sum(body > size for size in SIZES)])

    def default_rate(self, options: Options) -> float:
        """The learning rate unless a person says otherwise. PiSSA moves the strongest directions, so it takes smaller steps."""
        return self.learning_rate * (0.2 if options.pissa else 1.0)

    def trained(self, shapes: Shapes, rank: int, options: Options = NO_OPTIONS) -> int:
        """Number of weights that will be trained. Raises InputError for an option this method or base has no place for."""
        self.check(options)
        return weights_in(self.saves(shapes, rank, options)) if self.trains is None else self.trains(shapes, rank, options)

    def check(self, options: Options) -> None:
        """Raise InputError when options are set that this method does not have."""
        wrong = [name for name in options.chosen() if name not in self.options]
        if wrong:
            said = ", ".join(f"--{name.replace('_', '-')}" for name in wrong)
            has = ", ".join(f"--{name.replace('_', '-')}" for name in self.options) or "none"
            raise InputError(f"{self.label} does not take {said}. Its own options: {has}.")


def file_bytes(tensors: Tensors, item_bytes: int = 4) -> int:
    """Bytes of a safetensors file with these tensors, as PEFT and transformers write it: its header, and the numbers."""
    kind = {2: "BF16", 4: "F32"}[item_bytes]
    header, at = '{"__metadata__":{"format":"pt"}', 0
    for name, shape in sorted(tensors.items()):
        end = at + weights_in({name: shape}) * item_bytes
        sides = ",".join(map(str, shape))
        header += f',"{name}":{{"dtype":"{kind}","shape":[{sides}],"data_offsets":[{at},{end}]}}'
        at = end
    return 8 + -(-(len(header) + 1) // 8) * 8 + at
