"""Bottleneck adapters as a PEFT method: a narrow two-layer network on the output of a block's last linear layer.

    h + up(act(down(h))),  down [r, width], up [width, r], both with a bias

h is what attention or the MLP hands to the residual sum. Placement ``houlsby``: after both (Houlsby et al. 2019,
arXiv:1902.00751); ``pfeiffer``: after the MLP only (Pfeiffer et al. 2020, arXiv:2005.00052). up starts at zero, so a
fresh adapter changes nothing. Importing this registers the method with PEFT (0.21). A file holds
``base_model.model.<layer>.bottleneck_down.weight``, ``.bias``, and the same of ``bottleneck_up``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig, PeftType
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import register_peft_method
from torch import nn
from torch.nn import functional

from playground.methods.bottleneck_method import ACTIVATIONS, PEFT_NAME, targets
from playground.methods.method import PLACEMENTS, Options


@dataclass
class BottleneckConfig(PeftConfig):
    """r: width of the bottleneck. activation: between the two layers. target_modules: ends of the names of the layers
    whose output is adapted; None = found by the placement. Raises ValueError."""

    r: int = field(default=16)
    placement: str = field(default="houlsby")
    activation: str = field(default="gelu")
    target_modules: Any = field(default=None)
    exclude_modules: Any = field(default=None)
    modules_to_save: Any = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = getattr(PeftType, PEFT_NAME)
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if not isinstance(self.r, int) or self.r < 1:
            raise ValueError(f"A bottleneck is {self.r} wide; it is at least 1.")
        if self.placement not in PLACEMENTS:
            raise ValueError(f"There is no placement {self.placement!r}. There are: {', '.join(PLACEMENTS)}.")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"There is no activation {self.activation!r}. There are: {', '.join(ACTIVATIONS)}.")


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A linear layer with the adapters on its output; the layer itself is ``base_layer``."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("activations",)

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.activations: dict[str, str] = {}
        self._disable_adapters = False
        self.merged_adapters = []
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Put an adapter in that changes nothing yet."""
        outputs = _outputs(self.get_base_layer())
        down, up = nn.Linear(outputs, config.r), nn.Linear(config.r, outputs)
        nn.init.zeros_(down.bias)
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
        self.bottleneck_down[adapter_name], self.bottleneck_up[adapter_name] = down, up
        self.activations[adapter_name] = config.activation
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        result: torch.Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        kind = result.dtype
        for name in self.active_adapters:
            if name in self.bottleneck_down:
                down: Any = self.bottleneck_down[name]
                up: Any = self.bottleneck_up[name]
                h = result.to(down.weight.dtype)
                result = h + up(getattr(functional, self.activations[name])(down(h)))
        return result.to(kind)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """A bottleneck is no linear map, so no weight of the base can take it up."""
        words = "A bottleneck adapter cannot be merged into its base: it is not linear. Load it beside the base."
        raise NotImplementedError(words)


class BottleneckModel(BaseTuner):
    """A base with bottlenecks in it."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        if peft_config.target_modules is None:
            shapes = {name.replace(".base_layer", ""): tuple(p.shape) for name, p in self.model.named_parameters()}
            peft_config.target_modules = set(targets(shapes, Options(placement=peft_config.placement)))
        return peft_config

    def _create_and_replace(
        self, peft_config: Any, adapter_name: str, target: Any, target_name: str, parent: Any, *args: Any, **kwargs: Any
    ) -> None:
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
            return
        layer = BottleneckLayer(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)


def _outputs(module: nn.Module) -> int:
    """How many outputs a linear layer has, 0 for anything else. GPT-2's Conv1D keeps its weight as [in, out]."""
    if isinstance(module, nn.Linear):
        return module.out_features
    return int(module.weight.shape[1]) if type(module).__name__ == "Conv1D" else 0  # type: ignore[index]


def register() -> None:
    """Make ``PEFT_NAME`` a member of ``PeftType`` and a method that PEFT loads and saves; done once, whoever asks.
    ``register_peft_method`` takes only names that the enumeration holds, so the name is put there first."""
    if PEFT_NAME in PeftType.__members__:
        return
    member = str.__new__(PeftType, PEFT_NAME)
    member._name_, member._value_ = PEFT_NAME, PEFT_NAME
    type.__setattr__(PeftType, PEFT_NAME, member)
    PeftType._member_map_[PEFT_NAME] = member
    PeftType._member_names_.append(PEFT_NAME)
    PeftType._value2member_map_[PEFT_NAME] = member
    register_peft_method(name=PEFT_NAME.lower(), config_cls=BottleneckConfig, model_cls=BottleneckModel)


register()
