"""What the environment may set, read once. README's table of settings is tested against this."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from playground.errors import InputError

PROJECT_ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds app.py, adapters/ and examples/."""

DEFAULT_BASE = "smollm2-135m"
_MEBI = 1024 * 1024


@dataclass(frozen=True)
class Settings:
    """One process's settings.

    home: the one folder the app writes to.
    base: the default base: ``smollm2-135m``, a hub id (``owner/name`` or ``owner/name@revision``), or a local folder.
    budget_bytes: memory the session manager may use; None = what the device has, less a reserve.
    shared: several people who do not know each other use this app.
    api_token: bearer token for /v1; empty = this machine only.
    """

    home: Path = field(default_factory=lambda: Path.home() / ".prompt-or-tune")
    base: str = DEFAULT_BASE
    budget_bytes: int | None = None
    shared: bool = False
    api_token: str = field(default="", repr=False)

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Read ``PLAYGROUND_*``. Raises InputError when a value cannot be read."""
        env = os.environ if env is None else env
        budget = env.get("PLAYGROUND_BUDGET_GB", "").strip()
        if budget and not re.fullmatch(r"\d+(\.\d+)?", budget):
            raise InputError(f"PLAYGROUND_BUDGET_GB is {budget!r}; it takes a number of gigabytes, such as 8 or 3.5.")
        shared = env.get("PLAYGROUND_SHARED", "").strip()
        if shared not in ("", "0", "1"):
            raise InputError(f"PLAYGROUND_SHARED is {shared!r}; it takes 1 (several people) or 0 (one person).")
        home = env.get("PLAYGROUND_HOME", "").strip()
        return cls(
            home=Path(home).expanduser().absolute() if home else Path.home() / ".prompt-or-tune",
            base=env.get("PLAYGROUND_BASE", "").strip() or DEFAULT_BASE,
            budget_bytes=int(float(budget) * 1e9) if budget else None,
            shared=shared == "1" if shared else bool(env.get("SPACE_ID")),
            api_token=env.get("PLAYGROUND_API_TOKEN", ""),
        )

    @property
    def bases_dir(self) -> Path:
        return self.home / "bases"

    @property
    def runs_dir(self) -> Path:
        return self.home / "runs"

    @property
    def adapters_dir(self) -> Path:
        return self.home / "adapters"

    @property
    def uploads_dir(self) -> Path:
        return self.home / "uploads"

    @property
    def database(self) -> Path:
        return self.home / "playground.sqlite"

    @property
    def shipped_adapters_dir(self) -> Path:
        return PROJECT_ROOT / "adapters"

    @property
    def examples_dir(self) -> Path:
        return PROJECT_ROOT / "examples"

    @property
    def upload_limit_bytes(self) -> int:
        return (20 if self.shared else 256) * _MEBI
