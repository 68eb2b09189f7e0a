"""What the environment may set, read once. README's table of settings is tested against this."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from playground.errors import InputError

PROJECT_ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds app.py, adapters/ and examples/."""

DEFAULT_BASE = "smollm2-135m"
ALLOWED_HOSTS = "PLAYGROUND_ALLOWED_HOSTS"
HOST_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*|(?=.*:.*:)[0-9a-f:.]+")
"""A name or address of a machine, in small letters, without scheme, port or brackets."""
PASSED = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT"),
    *("PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "HF_HOME", "HF_HUB_OFFLINE"),
    *("CUDA_DEVICE_ORDER", "CUDA_HOME", "PYTORCH_CUDA_ALLOC_CONF"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "PLAYGROUND_PRECISION"),
)
"""The only variables that a child process inherits, so that no token or key reaches it."""
OF_PIP = re.compile(r"PIP_.*|SSL_.*|.*_CA_BUNDLE|(?i:.*_proxy)")
"""What pip takes besides: where packages come from, and through which proxy."""
_MEBI = 1024 * 1024
PASSWORD_MIN = 8
WHOLE = {
    name: f"PLAYGROUND_{name.upper()}"
    for name in (
        *("session_disk_mb", "session_runs", "session_adapters", "keep_hours", "zero_seconds"),
        *("session_replies", "session_tokens", "session_steps", "session_minutes"),
    )
}
"""Settings that are whole numbers above 0, and the variable that sets each."""
PRECISION = "PLAYGROUND_PRECISION"
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""torch's names."""
ENGINE_KEY = "PLAYGROUND_ENGINE_KEY"
"""Holds the key of the server that ``Settings.engine`` names; it is read at the moment of a request."""


class InHome:
    """A path below the home of the settings that it is asked of."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __get__(self, settings: Settings, owner: object = None) -> Path:
        return settings.home / self._path


@dataclass(frozen=True)
class Settings:
    """One process's settings. home: the one folder the app writes to. base: the default one: ``smollm2-135m``, a hub id
    (``owner/name`` or ``owner/name@revision``), or a local folder. budget_bytes: memory the session manager may use;
    None = what the device has, less a reserve. shared: several people who do not know each other use this app.
    api_token: bearer token for /v1; empty = this machine only. allowed_hosts: names under which the page may be opened,
    beside those of this machine. upload_mb: largest file that is taken; None = 20 where the app is shared, else 256.
    zero_seconds: longest single use of the device on a ZeroGPU Space. endpoints: the TOML file of servers that may
    answer, None = ``endpoints.toml`` in the home. engine: what computes replies, ``vllm:URL``, or ``vllm:URL#FOLDER``
    with the folder in which that server looks for adapters; "" = this process. precision: what is computed in, a key of
    PRECISIONS, or ``auto``: what suits the device. login: name and password that open the page, None = it is open.
    log_json: the log is JSON lines, every request among them. lasting: whether the home outlives a restart: on a Space
    only where it lies on a mounted disk. ray: the cluster that trains: ``auto``, or its job server's
    address; "" = this machine. ray_storage: what its nodes read and write instead of the home, "" = they see the home.

    Where the app is shared, for each visitor: session_disk_mb: uploads, runs, adapters, verdicts and exports together.
    session_runs: runs that wait or train at once. session_adapters: adapters kept. keep_hours: how long all of it stays
    after the last visit. session_replies: replies of their verdicts, benches and judgings that wait or are written at
    once. session_tokens: the longest reply. session_steps, session_minutes: of one run, the minutes by its estimate.

    sign_in: a Space of one person's own, where they can sign in to the hub, so that gated bases are fetched as theirs.
    """

    home: Path = field(default_factory=lambda: Path.home() / ".prompt-or-tune")
    base: str = DEFAULT_BASE
    budget_bytes: int | None = None
    shared: bool = False
    sign_in: bool = False
    api_token: str = field(default="", repr=False)
    allowed_hosts: tuple[str, ...] = ()
    upload_mb: int | None = None
    session_disk_mb: int = 1000
    session_runs: int = 3
    session_adapters: int = 10
    keep_hours: int = 24
    zero_seconds: int = 120
    session_replies: int = 2000
    session_tokens: int = 1024
    session_steps: int = 1000
    session_minutes: int = 30
    endpoints: Path | None = None
    precision: str = "auto"
    login: tuple[str, str] | None = field(default=None, repr=False)
    log_json: bool = False
    lasting: bool = True
    ray: str = ""
    ray_storage: str = ""
    engine: str = ""

    def __post_init__(self) -> None:
        given = {name.replace("_", " "): getattr(self, name) for name in ("upload_mb", *WHOLE)}
        if low := {name: value for name, value in given.items() if value is not None and value < 1}:
            raise InputError(f"{'; '.join(f'{name} is {value}; it is at least 1' for name, value in low.items())}.")

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
        is_shared = shared == "1" if shared else bool(env.get("SPACE_ID"))
        by_oauth = bool(env.get("SPACE_ID") and env.get("OAUTH_CLIENT_ID"))  # hf_oauth in README.md's front matter
        home = env.get("PLAYGROUND_HOME", "").strip()
        endpoints = env.get("PLAYGROUND_ENDPOINTS", "").strip()
        precision = env.get(PRECISION, "").strip() or "auto"
        if precision not in ("auto", *PRECISIONS):
            takes = ", ".join(("auto", *PRECISIONS))
            raise InputError(f"{PRECISION} is {precision!r}; it takes one of {takes}.")
        name, colon, password = env.get("PLAYGROUND_LOGIN", "").strip().partition(":")
        if (name or colon) and not (name and len(password) >= PASSWORD_MIN):
            takes = f"NAME:PASSWORD, the password of at least {PASSWORD_MIN} characters"
            raise InputError(f"PLAYGROUND_LOGIN cannot be read; it takes {takes}.")
        log = env.get("PLAYGROUND_LOG", "").strip()
        if log not in ("", "json"):
            raise InputError(f"PLAYGROUND_LOG is {log!r}; it takes json, or is not set.")
        where = Path(home).expanduser().absolute() if home else Path.home() / ".prompt-or-tune"
        mounted = any(os.path.ismount(one) for one in (where, *where.parents) if one != Path(one.anchor))
        ray = env.get("PLAYGROUND_RAY", "").strip()
        if ray and not re.fullmatch(r"auto|https?://[\w.:\[\]-]+/?", ray):
            raise InputError(f"PLAYGROUND_RAY is {ray!r}; it takes auto, or an address such as http://head:8265.")
        ray_storage = env.get("PLAYGROUND_RAY_STORAGE", "").strip()
        if ray_storage and not re.fullmatch(r"(s3://|gs://|file:///|/)[^?#@\s]+", ray_storage):
            takes = "a folder that every node sees (/mnt/runs), s3://BUCKET/FOLDER or gs://BUCKET/FOLDER"
            raise InputError(f"PLAYGROUND_RAY_STORAGE is {ray_storage!r}; it takes {takes}.")
        engine = env.get("PLAYGROUND_ENGINE", "").strip()
        if engine and not re.fullmatch(r"vllm:https?://[^\s/?#@]+(/[^\s?#]*)?(#/\S.*)?", engine):
            takes = "vllm:http://HOST:PORT, and after a # the folder in which the server looks for adapters, if any"
            raise InputError(f"PLAYGROUND_ENGINE is {engine!r}; it takes {takes}.")
        limits = {name: value for name, variable in WHOLE.items() if (value := _whole(env, variable))}
        return cls(
            home=where,
            lasting=mounted or not env.get("SPACE_ID"),
            base=env.get("PLAYGROUND_BASE", "").strip() or DEFAULT_BASE,
            budget_bytes=int(float(budget) * 1e9) if budget else None,
            shared=is_shared,
            sign_in=by_oauth and not is_shared and all(map(find_spec, ("authlib", "itsdangerous"))),
            api_token=env.get("PLAYGROUND_API_TOKEN", ""),
            allowed_hosts=_hosts(env),
            precision=precision,
            login=(name, password) if name else None,
            log_json=log == "json",
            ray=ray,
            ray_storage=ray_storage,
            engine=engine,
            upload_mb=_whole(env, "PLAYGROUND_UPLOAD_MB"),
            endpoints=Path(endpoints).expanduser().absolute() if endpoints else None,
            **limits,
        )

    bases_dir, runs_dir, adapters_dir = InHome("bases"), InHome("runs"), InHome("adapters")
    uploads_dir, database = InHome("uploads"), InHome("playground.sqlite")
    incoming_dir = InHome("uploads/gradio")
    """Where the page's server puts what a browser sends; nothing else that a caller names is opened."""
    exports_dir = InHome("exports")
    """Packed adapters on their way out, each in a folder with a name that cannot be guessed."""
    shipped_adapters_dir, examples_dir = PROJECT_ROOT / "adapters", PROJECT_ROOT / "examples"

    @property
    def endpoints_file(self) -> Path | None:
        """None where the app is shared and its environment names none."""
        return self.endpoints or (None if self.shared else self.home / "endpoints.toml")

    @property
    def upload_limit_bytes(self) -> int:
        return (self.upload_mb or (20 if self.shared else 256)) * _MEBI

    @property
    def session_disk_bytes(self) -> int:
        return self.session_disk_mb * _MEBI

    def is_visitor(self, owner: str) -> bool:
        """Whether the limits of one visitor hold: not for whoever runs the app, nor where it belongs to one person."""
        return self.shared and owner != "local"

    @property
    def longest_reply(self) -> int | None:
        """Tokens that a reply may be asked to have, None = as many as the engine writes."""
        return self.session_tokens if self.shared else None

    @property
    def keep_s(self) -> float:
        return self.keep_hours * 3600.0


def _hosts(env: Mapping[str, str]) -> tuple[str, ...]:
    """What the owner allows, the Space's own names, and where Gradio is told to serve. Raises InputError."""
    allowed = _names(env.get(ALLOWED_HOSTS, ""))
    if wrong := [name for name in allowed if not HOST_NAME.fullmatch(name)]:
        such = "names without scheme and port, separated by commas, such as playground.example,192.168.1.20"
        raise InputError(f"{ALLOWED_HOSTS} has {wrong[0]!r}; it takes {such}.")
    return (*allowed, *_names(env.get("SPACE_HOST", "")), *_names(env.get("GRADIO_SERVER_NAME", "")))


def _names(text: str) -> list[str]:
    return [name.strip().strip("[]").lower() for name in text.split(",") if name.strip()]


def _whole(env: Mapping[str, str], variable: str) -> int | None:
    """None when it is not set. Raises InputError."""
    text = env.get(variable, "").strip()
    if text and not re.fullmatch(r"[1-9]\d{0,8}", text):
        raise InputError(f"{variable} is {text!r}; it takes a whole number above 0.")
    return int(text) if text else None
