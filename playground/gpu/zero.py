"""ZeroGPU: a Space whose device is lent for seconds at a time, to a forked process of this one.

The app's own process never has the device: it keeps the base on the CPU, where it can be hashed and checked. What needs
the device is a function wrapped by ``spaces.GPU``; it runs in a fork (a daemon: no children), its arguments and results
are pickled.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping
from typing import Any

Wrap = Callable[..., Any]
"""``spaces.GPU``, or something that behaves like it: ``wrap(duration=seconds_of)(task)``."""

_main: int | None = None


def is_zero(env: Mapping[str, str] | None = None) -> bool:
    """Whether this is a ZeroGPU Space, as the ``spaces`` package itself tells."""
    return (os.environ if env is None else env).get("SPACES_ZERO_GPU", "").strip().lower() in ("1", "t", "true")


def prepare() -> Wrap | None:
    """On a ZeroGPU Space: ``spaces.GPU``; else None. Call it before anything imports torch."""
    if not is_zero():
        return None
    import spaces

    stay_on_cpu()
    wrap: Wrap = spaces.GPU
    return wrap


def stay_on_cpu() -> None:
    """This process is the one that never has the device; its forks may."""
    global _main
    _main = os.getpid()


def without_device() -> bool:
    """Whether this process must not touch CUDA: on ZeroGPU torch claims to have it before it is lent."""
    return _main == os.getpid()


def settle_fork() -> None:
    """First thing in a fork: it has none of its parent's threads, and a pool of them that it takes for its own would be
    waited for without end. Elsewhere it does nothing."""
    if multiprocessing.parent_process() is not None:
        import torch

        torch.set_num_threads(1)
