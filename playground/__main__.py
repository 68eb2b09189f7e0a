"""``python -m playground VERB``: see playground/cli."""

from __future__ import annotations

import atexit
import logging
import os
import sys


def run() -> None:
    """Run the verb and end the process by its exit code, after all other handlers of an exit: a thread that is still
    loading a base would otherwise meet an interpreter that is gone, and abort the process."""
    status: list[int] = [1]

    def end() -> None:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status[0])

    atexit.register(end)  # before anything else registers: handlers run in the reverse order
    from playground.cli.main import main

    try:
        status[0] = main(sys.argv[1:])
    except SystemExit as ended:  # of the argument parser
        status[0] = ended.code if isinstance(ended.code, int) else int(ended.code is not None)


if __name__ == "__main__":
    run()
