"""What a model is computed in. On a GPU that follows from the device. A processor that multiplies bf16 itself
(AVX512-BF16, AMX) is two to three times as fast with it; one that does not, up to a hundred times slower. So it is
measured, when a model is loaded there for the first time, and the home remembers it for this processor and torch.

Replies and training are judged apart: a reply reads every weight for a few rows, a training step multiplies hundreds.
A model that is small, or packed in 4 bits, stays in fp32."""

from __future__ import annotations

import hashlib
import json
import platform
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from playground.library.files import write_json

if TYPE_CHECKING:
    from torch import Tensor

Use = Literal["chat", "train"]
Widths = tuple[int, int]
"""Of a model: hidden, and inside the MLP."""
FILE = "precision.json"
LEAST = 1.3
"""Times as fast as fp32 that bf16 must be: it rounds, and timings are short."""
SMALL = 50_000
"""Numbers in a weight below which nothing is measured: what surrounds the products takes longer."""
SET_BYTES = 128_000_000
"""Weights that are read in turn, in fp32: more than a processor's caches hold."""
ROWS = (1, 4)
PRODUCTS, MOST_ROWS = 1e9, 512
"""Multiplications of the training-like product, and its rows at most."""
LIMIT_S = 0.3
PACKED_ROWS = 4
"""Rows that a packed weight is laid out for; others are as fast."""
HOPELESS = 10.0
"""Times slower with one small product: the rest is not waited for."""
_measuring = threading.Lock()


class Gain(NamedTuple):
    """Times as fast as in fp32 that bf16 is here: replies, training."""

    chat: float
    train: float


@dataclass(frozen=True)
class Precision:
    """What every part asks: the engine, workers, estimates of memory. setting: as in ``Settings``. home: where a
    measurement is kept, None = nowhere. kind: of the device, as torch names it; "" = not known before it is lent."""

    setting: str = "auto"
    home: Path | None = None
    kind: str = "cpu"

    def of(self, folder: Path, use: Use = "chat") -> str:
        """A key of ``PRECISIONS`` for the model in ``folder``; "auto" where the device decides. Measures at most once,
        about half a second. A GPU trains in what suits it, and fp16 is no precision to train in."""
        if use == "train" and (self.kind != "cpu" or self.setting == "fp16"):
            return "auto" if self.kind != "cpu" else "fp32"
        if self.setting != "auto" or self.kind != "cpu":
            return self.setting
        widths = widths_of(folder)
        if widths is None or widths[0] * widths[1] < SMALL:
            return "fp32"
        gain = self._gain(widths)  # prompts are read in products like those of training
        faster = gain.train >= LEAST if use == "train" else gain.chat >= LEAST and gain.train >= 1
        return "bf16" if faster else "fp32"

    def weight_bytes(self, folder: Path, use: Use = "chat") -> int:
        """Bytes of one weight of a model that stays as it is. Replies in bf16 on a processor keep a second layout."""
        chosen = self.of(folder, use)
        if (chosen, use, self.kind) == ("bf16", "chat", "cpu"):
            return 4
        return 4 if chosen == "fp32" or (chosen == "auto" and self.kind not in ("cuda", "xpu", "mps")) else 2

    @property
    def words(self) -> str:
        """What was measured, for a person; "" where nothing was."""
        found = self._known() if self.setting == "auto" and self.kind == "cpu" else None
        if found is None:
            return ""
        chat, train = (f"{gain:.1f}" for gain in found)
        return f"bf16 measured here at {chat} times the speed of fp32 for replies, {train} for training"

    def _gain(self, widths: Widths) -> Gain:
        with _measuring:
            found = self._known()
            if found is None:
                found = _here[processor()] = measure(widths)
                if self.home is not None:
                    with suppress(OSError):
                        self.home.mkdir(parents=True, exist_ok=True)
                        write_json(self.home / FILE, self._kept() | {processor(): found._asdict()})
            return found

    def _known(self) -> Gain | None:
        with suppress(KeyError, TypeError, ValueError):
            return Gain(**{use: float(value) for use, value in self._kept()[processor()].items()})
        return _here.get(processor()) if self.home is None else None

    def _kept(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            if self.home is not None and isinstance(kept := json.loads((self.home / FILE).read_text()), dict):
                return kept
        return {}


_here: dict[str, Gain] = {}
"""What this process has measured."""


def widths_of(folder: Path) -> Widths | None:
    """None for a model whose config does not tell, or whose weights are packed."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        if config.get("quantization_config"):
            return None
        hidden = int(config.get("hidden_size") or config["n_embd"])
        return hidden, int(config.get("intermediate_size") or config.get("n_inner") or 4 * hidden)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


@cache
def processor() -> str:
    """Stands for this processor with the torch that is installed, which is not imported."""
    about = [platform.machine(), platform.processor()]
    with suppress(OSError):
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
        about += [line for line in first if line.startswith(("model name", "flags", "Features"))]
    torch = "none"
    with suppress(PackageNotFoundError):
        torch = version("torch")
    return f"{hashlib.sha256(repr(about).encode()).hexdigest()[:16]}, torch {torch}"


def measure(widths: Widths) -> Gain:
    """Times the products of a model so wide in fp32 and bf16, in turn: processor seconds of one thread, which other
    work changes least. On a busy machine threads that wait for each other would decide it for good."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measured(widths)
    finally:
        torch.set_num_threads(threads)


def _measured(widths: Widths) -> Gain:
    import torch
    from torch.nn import functional

    hidden, inner = widths
    many = max(2, SET_BYTES // (4 * hidden * inner))
    with torch.inference_mode():
        stacks = [torch.full((many, inner, hidden), 0.01, dtype=kind) for kind in (torch.float32, torch.bfloat16)]
        inputs = [[torch.ones(rows, hidden, dtype=stack.dtype) for rows in ROWS] for stack in stacks]
        tall = max(32, min(MOST_ROWS, int(PRODUCTS / (hidden * inner))))
        large = [(torch.ones(tall, hidden, dtype=stack.dtype), stack[0]) for stack in stacks]

        def plain(place: int, few: int) -> None:
            for weight in stacks[place]:
                functional.linear(inputs[place][few], weight)

        def turned(few: int) -> None:
            for weight in stacks[0]:
                torch.mm(weight, inputs[0][few].t())

        def halves(few: int) -> None:
            for weight in stacks[0]:
                x = inputs[0][few].t()
                torch.bmm(weight.view(2, -1, hidden), x.expand(2, *x.shape))

        def in_packed(few: int) -> None:
            for weight in laid:
                times_packed(inputs[1][few], weight)

        tries: list[Callable[[], object]] = [partial(functional.linear, *pair) for pair in large]
        small = [_best([partial(functional.linear, rows[:1], weight)], 10)[0] for rows, weight in large]
        if small[1] > HOPELESS * small[0]:
            return Gain(round(small[0] / small[1], 3), round(small[0] / small[1], 3))
        laid = [packed(weight) for weight in stacks[1]] if can_pack() else []
        for few in range(len(ROWS)):  # in fp32 what is faster here depends on the processor: see llama_layout
            tries += [partial(plain, 0, few), partial(turned, few), partial(halves if inner % 2 == 0 else turned, few)]
            tries += [partial(in_packed, few) if laid else partial(plain, 1, few)]
        taken = _best(tries, 3)
    tuned = taken[0] / taken[1]
    groups = [taken[place : place + 4] for place in range(2, len(taken), 4)]
    whole = sum(min(group[:3]) for group in groups), sum(group[3] for group in groups)
    return Gain(round(whole[0] / whole[1], 2), round(tuned, 2))


def can_pack() -> bool:
    """Whether this torch has oneDNN's packed products of bf16, private as they are, and they are right."""
    import torch

    with suppress(AttributeError, NotImplementedError, RuntimeError, TypeError):
        eye = torch.eye(32, dtype=torch.bfloat16)
        return bool((times_packed(eye, packed(eye)) == eye).all())
    return False


def packed(weight: Tensor) -> Tensor:
    """A weight [out, in] in oneDNN's own blocked layout."""
    import torch

    laid: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_ROWS)
    return laid


def times_packed(x: Tensor, laid: Tensor) -> Tensor:
    """x [rows, in] -> [rows, out], the sums of ``linear``."""
    import torch

    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, laid, None, "none", [], "")
    return y


def _best(tries: list[Callable[[], object]], rounds: int) -> list[float]:
    """The shortest time of each, in seconds, in turn: a round at least, no new one after LIMIT_S."""
    found, began = [float("inf")] * len(tries), time.perf_counter()
    for number in range(rounds):
        if number and time.perf_counter() - began > LIMIT_S * number / (number + 1):
            break
        for place, work in enumerate(tries):
            started = time.thread_time()
            work()
            found[place] = min(found[place], time.thread_time() - started)
    return found
