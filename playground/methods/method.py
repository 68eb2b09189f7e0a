"""What every fine-tuning method says of itself and does with its own files: the class that each derives from, and the
methods that there are; and what an adapter's file holds, in terms of the engine's formula (``engine/load``).
Imports no torch."""

from __future__ import annotations

import copy
import math
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from playground.errors import AdapterError, InputError
from playground.methods.config_rules import Rule
from playground.plain import plain_text

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig

    from playground.methods.shapes import BaseLayout

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]  # tensor name -> shape, as a safetensors header states them

_OUTSIDE = ("embed", "lm_head", "wte", "wpe", "score")
_GPT2 = ("c_attn", "c_proj", "c_fc")
PLACEMENTS = ("houlsby", "pfeiffer")
INIT_TEXT_MAX = 2000


@dataclass(frozen=True)
class BottleneckWeights:
    """One layer's bottleneck: down [r, out], down_bias [r], up [out, r], up_bias [out]; activation: between them."""

    down: torch.Tensor
    down_bias: torch.Tensor
    up: torch.Tensor
    up_bias: torch.Tensor
    activation: str


@dataclass(frozen=True)
class FileModule:
    """One linear layer's part: a [rank, in], b [out, rank] with the scale folded in; in_scale [in]; out_scale [out];
    magnitude: DoRA's learned norm of each output row [out], a scale only together with the base's weight. None = it has
    no effect."""

    a: torch.Tensor | None = None
    b: torch.Tensor | None = None
    in_scale: torch.Tensor | None = None
    out_scale: torch.Tensor | None = None
    magnitude: torch.Tensor | None = None
    neck: BottleneckWeights | None = None


@dataclass(frozen=True)
class VirtualTokens:
    """Before the text. flat: [tokens, layers * 2 * kv_heads * head_dim] where ``prefix``, else [tokens, hidden]."""

    flat: torch.Tensor
    prefix: bool

    @property
    def count(self) -> int:
        return self.flat.shape[0]

    def keys_values(self, name: str, layers: int, kv_heads: int, head_dim: int) -> torch.Tensor:
        """[layers, tokens, 2, kv_heads, head_dim], keys first. name: the adapter's, for the AdapterError."""
        self._check_width(name, "keys and values are", layers * 2 * kv_heads * head_dim)
        return self.flat.view(self.count, layers, 2, kv_heads, head_dim).transpose(0, 1)

    def embeddings(self, name: str, hidden: int) -> torch.Tensor:
        """[tokens, hidden]. Raises AdapterError as above."""
        self._check_width(name, "embeddings are", hidden)
        return self.flat

    def _check_width(self, name: str, what: str, here: int) -> None:
        if (wide := self.flat.shape[1]) != here:
            raise AdapterError(
                f"{name} was trained on another base: its {what} {wide} numbers wide, this base's {here}. "
                "Choose the base it was trained on."
            )


@dataclass(frozen=True)
class FileAdapter:
    """All that a file holds: modules by the path of their linear layer, and the tokens it puts before the text."""

    modules: Mapping[str, FileModule]
    virtual: VirtualTokens | None = None


@dataclass(frozen=True)
class Options:
    """Options of methods beyond rank and learning rate; each off unless it is set. rslora: scale by alpha / sqrt(rank)
    in place of alpha / rank, so that high ranks learn as fast (Kalajdzievski 2023, arXiv:2312.03732). pissa: begin
    with the base's strongest directions in place of noise (Meng et al. 2024, arXiv:2404.02948). layers: of a full
    fine-tune train the last so many layers and the norm behind them; 0 = all weights. init_text: what virtual tokens
    begin as; '' = tokens drawn from the vocabulary. placement: bottlenecks after attention and MLP (``houlsby``, also
    '') or after the MLP (``pfeiffer``). Raises InputError, with every fault at once."""

    rslora: bool = False
    pissa: bool = False
    layers: int = 0
    init_text: str = ""
    placement: str = ""

    def __post_init__(self) -> None:
        faults = []
        if not isinstance(self.layers, int) or isinstance(self.layers, bool) or not 0 <= self.layers <= 1000:
            faults.append(f"layers is {self.layers!r}; it is a whole number of layers, 0 = all weights")
        if not isinstance(self.init_text, str) or len(self.init_text) > INIT_TEXT_MAX:
            faults.append(f"the text that virtual tokens begin as is no text of at most {INIT_TEXT_MAX} characters")
        if self.placement not in ("", *PLACEMENTS):
            faults.append(f"the placement is {self.placement!r}; there is {' and '.join(PLACEMENTS)}")
        if faults:
            text = "; ".join(faults)
            raise InputError(text[0].upper() + text[1:] + ".")

    def chosen(self) -> dict[str, Any]:
        """The options that are set, by name."""
        return {name: value for name, value in asdict(self).items() if value}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Options:
        """From a record, such as run.json; what it does not know is left out. Raises InputError."""
        known = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in record.items() if name in known})


NO_OPTIONS = Options()
SIZES = (60_000_000, 600_000_000, 4_000_000_000)
"""Weights of a base's linear layers up to which it counts as tiny, small, middling; above the last it is large."""
BEGIN = "base_model.model."  # what PEFT puts before the name of every module in an adapter's file


class Method:
    """One way to fine-tune: a subclass with a ``name`` of its own, in any file of this package; nothing else to
    register. None of it needs torch but ``peft_config``, ``register``, ``resumed`` and ``read``.
    name: as on the command line. label: as on a button; ``cost`` are a few words beside it, ``explain`` two sentences
    for a person, ``summary`` the model card's words. order: place in a form, from 1. rates: learning rates for a tiny,
    small, middling and large base (``SIZES``). kind: what an error calls such an adapter."""

    name: ClassVar[str]
    label: str
    cost: str
    explain: str
    summary: str
    paper: str
    order: float
    rates: tuple[float, float, float, float]
    kind: str
    rank: int | None = None  # the default on a small base, None = it has none
    rank_label: str = "Rank"  # what it is, in the form; ``rank_info``: a sentence
    rank_info: str = "Size of the correction."
    options: tuple[str, ...] = ()  # names of the ``Options`` it takes
    peft_options: tuple[str, ...] = ()  # those of them that PEFT's own config can say
    exceptions: Mapping[str, str] = {}  # objective it does not take -> why, and what to choose in its place
    quantised: bool = False  # the base is loaded in NF4 while training
    virtual: bool = False  # virtual tokens stand before the text, so that documents cannot share a row
    starts_as_tokens: bool = False  # they begin as real tokens
    deep: bool = False  # they are keys and values of every layer in place of embeddings
    whole: bool = False  # the base's own weights move, and the result is a whole model: there is no PEFT config
    mergeable: bool = False  # a change of weights; others add tokens or layers that no plain model has a place for
    blendable: bool = False  # several of them can be added up to one
    lighter: tuple[str, ...] = ("qlora",)  # methods to offer where memory runs out
    writes: str = ""  # name of the method whose files it writes, '' = its own: ``lora`` for QLoRA
    goes_on_as: str = ""  # name of the method that trains its files further, "" = the one that writes them
    pace: float = 1.0  # seconds a step, in those of LoRA (benchmarks/results/race.json, padded rows)
    kept: float = 3.6  # floats a token keeps for the backward pass, per output of a linear layer (memory_estimate.json)
    axolotl: Mapping[str, Any] | None = None  # its lines in an Axolotl configuration beside rank and scale
    imports: str = ""  # the module to import before PEFT knows the method, '' = it is PEFT's own

    peft_type: str = ""
    settings: Mapping[str, Rule] = {}  # what ``adapter_config.json`` may say beside the settings common to all
    required: tuple[str, ...] = ()  # settings that must stand there
    pattern: re.Pattern[str] | None = None  # its tensors' names, by groups ``module`` and ``part``; None = no modules

    def __init__(self) -> None:
        self.learning_rate = self.rates[1]

    # Before a run. Options that a base has no place for raise InputError.

    def sized(self, shapes: Shapes) -> Method:
        """This method with the defaults for a base of this size: a larger one takes smaller steps."""
        found = copy.copy(self)
        found.learning_rate = self.rates[sum(linear_weights(shapes) > size for size in SIZES)]
        return found

    def default_rate(self, options: Options) -> float:
        """The learning rate unless a person chooses one. PiSSA moves the strongest directions: smaller steps."""
        return self.learning_rate * (0.2 if options.pissa else 1.0)

    def check(self, options: Options) -> None:
        """Raise InputError when options are set that this method does not have."""
        wrong = [name for name in options.chosen() if name not in self.options]
        if wrong:
            said = ", ".join(f"--{name.replace('_', '-')}" for name in wrong)
            has = ", ".join(f"--{name.replace('_', '-')}" for name in self.options) or "none"
            raise InputError(f"{self.label} does not take {said}. Its own options: {has}.")

    def check_objective(self, objective: str) -> None:
        """Raise InputError where this method does not take ``objective``."""
        if why := self.exceptions.get(objective):
            raise InputError(f"{self.name} cannot train {objective}: {why}")

    def saves(self, shapes: Shapes, rank: int, options: Options) -> Shapes:
        """Every tensor of the finished file."""
        raise NotImplementedError

    def trains(self, shapes: Shapes, rank: int, options: Options) -> int:
        """Number of weights that are trained: all that the file holds, unless a method says otherwise."""
        return weights_in(self.saves(shapes, rank, options))

    # In PEFT.

    def peft_config(self, shapes: Shapes, rank: int, options: Options) -> PeftConfig | None:
        """None where the base's own weights move."""
        return None

    def register(self) -> None:
        """Make PEFT know the method, where it is not its own."""

    def resumed(self, config: PeftConfig) -> PeftConfig:
        """The config with which a finished adapter is trained further."""
        return config

    # Its files.

    def accepts(self, config: Mapping[str, Any]) -> bool:
        """Whether an ``adapter_config.json`` is one of this method's."""
        return bool(self.peft_type) and config.get("peft_type") == self.peft_type

    def modules(self, tensors: Shapes) -> dict[str, bool]:
        """Layer -> whether its input is what is scaled (IA3), for every layer that a file has weights for."""
        return dict.fromkeys(self.parts(tensors)[0], False)

    def faults(self, shapes: Shapes, config: Mapping[str, Any], base: BaseLayout | None) -> Iterator[str]:
        """What is wrong with a file's tensors, by its config and, where it is known, the base: ends of sentences, or
        ''."""
        raise NotImplementedError

    def without_training(self, config: dict[str, Any]) -> list[str]:
        """Take out of an imported config what only matters while training; returns in words what was left out."""
        return []

    def written_out(self, config: dict[str, Any], modules: Mapping[str, bool]) -> None:
        """Put the layers' names in place of patterns over them."""
        config["target_modules"] = sorted(modules)

    def factors(self, config: Mapping[str, Any], shapes: Shapes, whose: str = "") -> dict[str, float]:
        """Tensor name -> what it is multiplied with when it is used, for those that are. whose: before a setting's name
        in an error."""
        return {}

    def read(self, name: str, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> FileAdapter:
        """A file's tensors in the terms of the engine's formula. name: the adapter's, for the AdapterError."""
        raise NotImplementedError

    def checked_shapes(self, name: str, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Shapes:
        """The tensors' shapes. Raises AdapterError where they have a fault."""
        shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        if fault := next(filter(None, self.faults(shapes, config, None)), ""):
            raise AdapterError(f"{name} {fault}. The file is damaged, or of another kind; export the adapter again.")
        return shapes

    def parts(self, tensors: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """(by module: its parts by their names, names of tensors that are none of this method's)."""
        found: dict[str, dict[str, Any]] = {}
        foreign = []
        for name, value in tensors.items():
            if self.pattern and (match := self.pattern.fullmatch(name)):
                found.setdefault(match["module"], {})[match["part"]] = value
            else:
                foreign.append(name)
        return found, foreign

    def foreign(self, name: str) -> str:
        """The fault of a tensor that is no part of such an adapter."""
        name = plain_text(name)
        if "base_layer" in name:
            return f"carries weights of the base itself ({name}); save it again with save_embedding_layers=False"
        if "lora_embedding" in name:
            return f"adapts the embedding layer ({name}); only linear layers can carry an adapter here"
        return f"holds {name}, which is no part of a {self.kind} adapter"


@dataclass(frozen=True)
class Linear:
    """A linear layer: its module's name, and how many outputs and inputs it has."""

    name: str
    outputs: int
    inputs: int


def linears(shapes: Shapes) -> list[Linear]:
    """Every linear layer of the body, neither embeddings nor head. GPT-2 keeps its weights as inputs x outputs."""
    turned = any(name.endswith("c_attn.weight") and shape[1:] == (3 * shape[0],) for name, shape in shapes.items())
    found = []
    for name, shape in shapes.items():
        if len(shape) == 2 and name.endswith(".weight") and not any(word in name for word in _OUTSIDE):
            module = name.removesuffix(".weight")
            outputs, inputs = reversed(shape) if turned and module.endswith(_GPT2) else shape
            found.append(Linear(module, outputs, inputs))
    return found


def linears_ending(shapes: Shapes, ends: Iterable[str]) -> list[Linear]:
    """The linear layers whose names end in one of ``ends``, such as ``q_proj`` or ``mlp.down_proj``."""
    places = tuple(f".{end}" for end in ends)
    return [one for one in linears(shapes) if f".{one.name}".endswith(places)]


def linear_weights(shapes: Shapes) -> int:
    return sum(one.outputs * one.inputs for one in linears(shapes))


def weights_in(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def file_bytes(tensors: Shapes) -> int:
    """Bytes of a safetensors file with these tensors in fp32, as PEFT and transformers write it: its header, and the
    numbers."""
    header, at = '{"__metadata__":{"format":"pt"}', 0
    for name, shape in sorted(tensors.items()):
        end = at + weights_in({name: shape}) * 4
        sides = ",".join(map(str, shape))
        header += f',"{name}":{{"dtype":"F32","shape":[{sides}],"data_offsets":[{at},{end}]}}'
        at = end
    return 8 + -(-(len(header) + 1) // 8) * 8 + at


_TUNERS = frozenset({"bottleneck"})
"""Modules that need torch and PEFT: they hold what PEFT trains, not what a form offers."""


@cache
def all_methods() -> dict[str, Method]:
    """Every method by name, in the order in which a form offers them."""
    found: list[Method] = []
    for info in pkgutil.iter_modules(import_module(__package__).__path__):
        if info.name not in _TUNERS:
            module = import_module(f"{__package__}.{info.name}")
            classes = (one for one in vars(module).values() if isinstance(one, type) and issubclass(one, Method))
            found += [one() for one in classes if one.__module__ == module.__name__ and "name" in vars(one)]
    return {method.name: method for method in sorted(found, key=lambda method: method.order)}


def get_method(name: str) -> Method:
    """The method called ``name``. Raises InputError with the names there are."""
    methods = all_methods()
    if name not in methods:
        raise InputError(f"There is no method {name!r}. There are: {', '.join(methods)}.")
    return methods[name]


def method_for(config: Mapping[str, Any]) -> Method | None:
    """The first method that an ``adapter_config.json`` can be of and whose files are its own, None = there is none."""
    return next((one for one in all_methods().values() if not one.writes and one.accepts(config)), None)


def method_of(config: Mapping[str, Any]) -> str:
    """The method's name as the command line has it, from an ``adapter_config.json``."""
    method = method_for(config)
    return method.name if method is not None else plain_text(config.get("peft_type"), 40).lower() or "unknown"


def register_with_peft() -> None:
    """Make PEFT know the methods that are not its own."""
    for method in all_methods().values():
        method.register()
