"""Memory that runs out all the same: free what nobody uses, try once more, then say what would fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from playground.errors import OutOfMemoryError
from playground.gpu.manager import DeviceManager

T = TypeVar("T")
_SIGNS = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, of whatever library, says that memory ran out."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _SIGNS)


def retried(work: Callable[[], T], manager: DeviceManager, failed: str, hint: str = "Choose a smaller base") -> T:
    """``work()``; when memory runs out, once more after idle models have been unloaded. failed: what did not work, for a person;
    hint: what to do. Raises OutOfMemoryError."""
    try:
        return work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    freed = manager.unload_idle()
    try:
        return work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        also = f", not even after {', '.join(freed)} had made room" if freed else ""
        raise OutOfMemoryError(f"{failed}{also}. {hint}, or close other programs.") from error
