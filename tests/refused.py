import pytest

from playground.errors import InputError


def refused(words, call, *args, error=InputError, **named):
    """What a call is refused with, in which the pattern ``words`` occurs; "" = whatever it says."""
    with pytest.raises(error, match=words or None) as told:
        call(*args, **named)
    return str(told.value)
