"""Opens the playground: ``python app.py`` here, and the entry point of a Hugging Face Space."""

from __future__ import annotations

import sys

from playground.errors import PlaygroundError
from playground.serve import serve
from playground.settings import Settings

if __name__ == "__main__":
    try:
        serve(Settings.from_env())
    except PlaygroundError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(0)
