"""Files that a browser sent: opened only where the page's server put them, whatever path a caller names."""

from __future__ import annotations

from pathlib import Path

from playground.errors import NotFoundError
from playground.settings import Settings


def handed_over(settings: Settings, path: Path) -> Path:
    """``path`` if it was uploaded. Raises NotFoundError."""
    folder, real = settings.incoming_dir.resolve(), Path(path).resolve()
    if not (real.is_relative_to(folder) and real.is_file()):
        raise NotFoundError(f"There is no uploaded file {Path(path).name[:80]!r}. Upload it again.")
    return real
