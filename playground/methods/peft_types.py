"""The one place that touches PEFT's enumeration of methods, which has no public way to grow. Written against PEFT
0.21."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft import PeftConfig
    from peft.tuners.tuners_utils import BaseTuner


def register(name: str, config_cls: type[PeftConfig], model_cls: type[BaseTuner]) -> None:
    """Make ``name`` a member of ``PeftType`` and a method that PEFT loads and saves; done once, whoever asks.

    ``register_peft_method`` takes methods of others only under a name that the enumeration holds, so the name is put
    there first.
    """
    from peft import PeftType
    from peft.utils import register_peft_method

    if name in PeftType.__members__:
        return
    member = str.__new__(PeftType, name)
    member._name_, member._value_ = name, name
    type.__setattr__(PeftType, name, member)
    PeftType._member_map_[name] = member
    PeftType._member_names_.append(name)
    PeftType._value2member_map_[name] = member
    register_peft_method(name=name.lower(), config_cls=config_cls, model_cls=model_cls)
