"""Every error a person may see: what is wrong, what there is, what to do. Only the edges (ui, server, cli) show these;
anything else that escapes is a bug."""

from __future__ import annotations


class PlaygroundError(Exception):
    """Base class. ``exit_code`` is what the command line exits with: 1 the job failed, 2 the call is wrong."""

    exit_code = 1


class InputError(PlaygroundError):
    """What was handed in (a file, an option, an id) is wrong."""

    exit_code = 2


class NotFoundError(InputError):
    """No run, adapter or base has this id, or it belongs to somebody else."""


class BaseUnavailableError(PlaygroundError):
    """The base model could not be fetched, converted or loaded."""


class AdapterError(InputError):
    """An adapter is unsafe, damaged, or does not fit the base."""


class BusyError(PlaygroundError):
    """The device's queue is full, or something still uses what was to be removed."""


class CancelledError(PlaygroundError):
    """A person cancelled the job."""


class OutOfMemoryError(PlaygroundError):
    """The device's memory does not suffice; the message names a smaller setting."""


class DiskFullError(PlaygroundError):
    """The disk is full, or cannot be written for another reason; the message says how much is free."""


class EndpointError(PlaygroundError):
    """Another server did not answer a request; its side fails, and no other one."""


class RunFailedError(PlaygroundError):
    """A training run failed; the message is the one sentence that says why."""


_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, of whatever library, says that memory ran out."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _NO_MEMORY)


def is_unreachable(error: BaseException | None) -> bool:
    """Whether an error, or what led to it, says that a server was not reached: of the system, of httpx or httpx2."""
    while error is not None and not isinstance(error, ConnectionError):
        if any(
            kind.__module__.startswith("httpx") and kind.__name__ == "TransportError" for kind in type(error).__mro__
        ):
            return True
        error = error.__cause__ or error.__context__
    return error is not None


def hub_errors() -> type[Exception]:
    """What the HTTP library of ``huggingface_hub`` raises, whichever it is (httpx or httpx2)."""
    from huggingface_hub.errors import HfHubHTTPError

    return next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")
