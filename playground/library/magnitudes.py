"""Are an adapter's numbers such as training makes them? A huge one makes every reply overflow that is written with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from playground.errors import AdapterError
from playground.library.files import plain_text

if TYPE_CHECKING:
    import torch

LARGEST = 1e4
"""No number of an adapter is larger, its scale included: trained ones stay far below, and half precision (65504) holds it."""


def check_magnitudes(name: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise AdapterError that names the first tensor with a number past LARGEST, an infinite one, or one that is none. name: the
    adapter's."""
    import torch

    filled = {key: tensor for key, tensor in tensors.items() if tensor.numel()}
    norms = torch.stack(torch._foreach_norm([t.float() for t in filled.values()], float("inf"))).tolist() if filled else []
    for key, norm in zip(filled, norms, strict=True):
        if not norm <= LARGEST:
            raise AdapterError(
                f"{name} holds {norm:.3g} in {plain_text(key)}, which is not a number that training makes: at most {LARGEST:g} is "
                "taken. Train it again at a lower learning rate."
            )


def check_file(file: Path) -> None:
    """The same for the tensors of a safetensors file, read one at a time."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as held:
        for key in held.keys():  # noqa: SIM118 - no mapping
            check_magnitudes("This adapter", {key: held.get_tensor(key)})
