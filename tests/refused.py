from collections.abc import Callable
from typing import Any

import pytest

from playground.errors import InputError


def refused(words: str, call: Callable[..., Any], *args: Any, error: type[Exception] = InputError, **named: Any) -> str:
    """What a call is refused with, in which the pattern ``words`` occurs; "" = whatever it says."""
    with pytest.raises(error, match=words or None) as told:
        call(*args, **named)
    return str(told.value)
