"""Files of strangers, decoded in a child process that is bounded in address space, processor time and wall time, and
writes no file unless its reader must: the one place for that."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from playground.data.records import Limits
from playground.errors import InputError
from playground.settings import PASSED, PROJECT_ROOT

_BYTES, _S, _BYTES_A_S = 1 << 29, 30, 100_000
_ENVIRONMENT = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
_ENVIRONMENT |= {"MALLOC_ARENA_MAX": "2", "ARROW_DEFAULT_MEMORY_POOL": "system"}
"""Address space that a core more would reserve is nothing that the file takes, and the limit counts it."""
_FIX = "Keep less in it, or split it."
Reader = Callable[..., Iterator[Any]]
"""(file, limits, bound, *more) -> values that JSON can hold. It calls ``bound`` once what it needs is imported: the
limits are for what comes on top; with True it may write files. It may raise InputError, and MemoryError where it is
refused memory."""
_NETWORK = (
    *("HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"),
)


def read_limited(
    reader: Reader, path: Path, limits: Limits, *more: str, size: int | None = None, token: str | None = None
) -> Generator[Any, None, None]:
    """What a module's ``reader`` yields for a file, from a child; closing it ends the child. Raises the reader's
    InputError, and one where the file takes too much. size: bytes to allow time for, where it is not the file's.
    token: for a reader that goes to the hub, which finds it on its standard input; None: it needs no network."""
    size = path.stat().st_size if size is None else size
    threads = token is not None  # each takes address space
    memory, seconds = (3 * _BYTES if threads else _BYTES) + 4 * limits.upload_bytes, _S + size // _BYTES_A_S
    given = (reader.__module__, reader.__name__, path.resolve(), limits.name, limits.upload_bytes, memory, seconds)
    command = [sys.executable, "-m", "playground.data.limited", *map(str, given), *more]
    passed = PASSED if token is None else (*PASSED, *_NETWORK)
    environment = {name: os.environ[name] for name in passed if name in os.environ} | _ENVIRONMENT
    late = threading.Event()
    with subprocess.Popen(
        command,
        cwd=PROJECT_ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:

        def end() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(4 * seconds, end)
        timer.start()
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            with contextlib.suppress(BrokenPipeError), child.stdin:
                child.stdin.write((token or "").encode())
            for line in child.stdout:
                found = json.loads(line)
                if "value" not in found:
                    if "refused" in found:
                        raise InputError(found["refused"])
                    return
                yield found["value"]
        finally:
            timer.cancel()
            child.kill()
    if late.is_set():
        raise InputError(f"{limits.name} took longer than {4 * seconds} s to unpack. {_FIX}")
    what = f"{limits.name} needs more than {memory / 2**30:.1f} GB of memory, or {seconds} s, to unpack"
    raise InputError(f"{what}, or breaks its decoder. {_FIX}")


def _bound(memory_bytes: int, seconds: int, writes: bool = False) -> None:
    """Of this process: address space beyond what it has taken, processor time, no writing; nothing on Windows."""
    try:
        import resource
    except ImportError:
        return
    try:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        taken = 0
    written = memory_bytes if writes else 0
    bounds = (
        *((resource.RLIMIT_AS, taken + memory_bytes), (resource.RLIMIT_CPU, seconds)),
        (resource.RLIMIT_FSIZE, written),
    )
    for what, most in bounds:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (most, most))


def main(
    module: str, name: str, path: str, shown: str, upload_bytes: str, memory: str, seconds: str, *more: str
) -> int:
    """Prints a line of JSON for each value, and one at the end that holds none; without that one it took too much."""
    reader: Reader = getattr(importlib.import_module(module), name)
    bound = partial(_bound, int(memory), int(seconds))
    end: dict[str, str] = {}
    try:
        for value in reader(Path(path), Limits(shown, int(upload_bytes)), bound, *more):
            print(json.dumps({"value": value}), flush=True)
    except InputError as error:
        end = {"refused": str(error)}
    except MemoryError:
        return 1
    print(json.dumps(end), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
