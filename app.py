"""Opens the playground: ``python app.py`` here, and the entry point of a Hugging Face Space."""

from __future__ import annotations

import sys

from playground.errors import PlaygroundError
from playground.gpu.device import prepare
from playground.serve import serve
from playground.settings import Settings

if __name__ == "__main__":
    try:
        device = prepare()  # first of all: on ZeroGPU nothing may touch the device before
        serve(Settings.from_env(), device)
    except PlaygroundError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(0)
