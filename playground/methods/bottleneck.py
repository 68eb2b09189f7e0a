"""Importing this registers bottleneck adapters with PEFT, which makes, saves and loads them from then on (``tuners/bottleneck.py``)."""

from playground.methods.tuners.bottleneck import BottleneckConfig, BottleneckLayer, BottleneckModel, register

__all__ = ["BottleneckConfig", "BottleneckLayer", "BottleneckModel", "register"]
