"""Runs one verb. Progress and errors go to stderr; with --json stdout ends in one JSON object."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Sequence
from importlib import import_module

from playground.cli.common import Outcome, build_parser
from playground.errors import PlaygroundError
from playground.settings import Settings

ERRORS = "error.log"  # in the home folder: where the last unexpected fault happened
MODULES = {
    **dict.fromkeys(("check", "train", "runs", "race", "races"), "training"),
    **dict.fromkeys(("compare", "replay", "handover"), "compare"),
    **dict.fromkeys(("verdict", "bench", "search"), "verdict"),
}
"""Each verb's own, ``device`` where none is named; imported when it is called: listing runs must not pay for torch."""


def main(words: Sequence[str]) -> int:
    """Run one command; 0 done, 1 the job failed or was cancelled, 2 the input or the call is wrong."""
    as_json = "--json" in words
    try:
        options = build_parser().parse_args(list(words))
        module = import_module(f"playground.cli.{MODULES.get(options.verb, 'device')}")
        run: Callable[[Settings, Namespace], Outcome] = getattr(module, options.verb)
        outcome, text, code = run(Settings.from_env(), options)
        if options.json:
            print(json.dumps(outcome, allow_nan=False, default=str))
        elif text:
            print(text)
        sys.stdout.flush()
        return code
    except PlaygroundError as error:
        return _failed(str(error), error.exit_code, as_json)
    except KeyboardInterrupt:
        return _failed("Stopped from the keyboard.", 1, as_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        where = getattr(error, "filename", None) or "this machine"
        return _failed(f"{reason}: {where}. Check the path and the disk, then try again.", 1, as_json)
    except Exception as error:  # a fault of ours: one sentence for the person, the traceback in a file
        return _failed(_unexpected(error), 1, as_json)


def _unexpected(error: Exception) -> str:
    """One sentence on a fault of ours; where it happened goes to a file."""
    said = " ".join(str(error).split())[:300]
    words = f"Something went wrong inside the program ({type(error).__name__}{': ' if said else ''}{said.rstrip('.')})."
    with contextlib.suppress(OSError, PlaygroundError):
        file = Settings.from_env().home / ERRORS
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        words += f" Please report it with {file}, which says where."
    return words


def _failed(words: str, code: int, as_json: bool) -> int:
    print(words, file=sys.stderr)
    if as_json:
        print(json.dumps({"error": words}))
    return code
