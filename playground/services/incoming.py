"""Files that a browser sent: opened only where the page's server put them, whatever path a caller names, and marked as whose they are."""

from __future__ import annotations

import shutil
from pathlib import Path

from playground.errors import NotFoundError
from playground.services.sessions import LOCAL
from playground.settings import Settings

MARK = ".of-"
"""Begins the name of an empty file in the folder of what was sent; it goes on with the owner."""


def handed_over(settings: Settings, path: Path, owner: str = LOCAL) -> Path:
    """``path`` if it was uploaded. Raises NotFoundError."""
    folder, real = settings.incoming_dir.resolve(), Path(path).resolve()
    missing = f"There is no uploaded file {Path(path).name[:80]!r}. Upload it again."
    if not (real.is_relative_to(folder) and real.is_file()):
        raise NotFoundError(missing)
    if settings.shared and owner.isalnum() and real.parent != folder:
        try:
            (folder / real.relative_to(folder).parts[0] / f"{MARK}{owner}").touch()
        except FileNotFoundError as error:  # removed meanwhile
            raise NotFoundError(missing) from error
    return real


def remove_incoming(settings: Settings, owner: str) -> None:
    """Remove what this owner handed over; what another one sent too (the page's server keeps equal files once) stays for that one."""
    for mark in list(settings.incoming_dir.glob(f"*/{MARK}{owner}")) if owner.isalnum() else []:
        mark.unlink(missing_ok=True)
        if not any(mark.parent.glob(f"{MARK}*")):
            shutil.rmtree(mark.parent, ignore_errors=True)
