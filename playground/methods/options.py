"""What some methods can be told beyond rank and learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from playground.errors import InputError

PLACEMENTS = ("houlsby", "pfeiffer")
INIT_TEXT_MAX = 2000


@dataclass(frozen=True)
class Options:
    """Options of methods; each at rest unless it is set.

    rslora: scale by alpha / sqrt(rank) in place of alpha / rank, so that high ranks learn as fast (Kalajdzievski 2023, arXiv:2312.03732).
    pissa: begin with the base's strongest directions in place of noise (Meng et al. 2024, arXiv:2404.02948).
    layers: of a full fine-tune train the last so many layers and the norm behind them; 0 = all weights.
    init_text: what virtual tokens begin as; '' = tokens drawn from the vocabulary.
    placement: where bottlenecks stand: ``houlsby`` after attention and after the MLP, ``pfeiffer`` after the MLP; '' = houlsby.
    Raises InputError, with every fault at once.
    """

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
