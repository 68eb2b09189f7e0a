"""Under which names and path the app may be opened, and which pages may ask it: Host, Origin and Sec-Fetch-Site of a request."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from playground.settings import ALLOWED_HOSTS, HOST_NAME, Settings

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_SAFE_METHODS = frozenset({"GET", "HEAD"})


def foreign(scope: Scope, settings: Settings) -> str:
    """Why a request is refused whatever it asks for, "" when it is not.

    1. Host is none of the app's names: a page elsewhere may have made its own name point here (DNS rebinding).
    2. Origin is none of them: a page from elsewhere asks. The port is not looked at. Who opens the app from another machine has pages
       of a localhost of their own, which are not the app's.
    3. Sec-Fetch-Site says the same of a request that may change something.
    """
    headers = Headers(scope=scope)
    hosts = headers.getlist("host")
    host = name_in(f"//{hosts[0]}") if len(hosts) == 1 else ""
    if not is_own(host, scope, settings):  # 1
        named = " and ".join(repr(one[:80]) for one in hosts[:2]) or "nothing at all"
        return f"This app may not be opened as {named}. Open it as localhost{_or_allow(host)}."
    for origin in headers.getlist("origin"):  # 2
        page = name_in(origin) if origin.startswith(("http://", "https://")) else ""
        if not is_own(page, scope, settings) or (page in LOCAL_NAMES and host not in LOCAL_NAMES):
            return f"A page from {origin[:80]!r} may not ask this app. Open the app's own page{_or_allow(page)}."
    if scope.get("method") not in _SAFE_METHODS and "cross-site" in headers.getlist("sec-fetch-site"):  # 3
        return "A page from elsewhere may not make this app do anything. Open the app's own page."
    return ""


def is_own(name: str, scope: Scope, settings: Settings) -> bool:
    """A name of this machine for itself, the address at which the request came in, the machine's host name, or one that the settings
    allow."""
    if not name:
        return False
    return name in LOCAL_NAMES or name in settings.allowed_hosts or name == _address(scope) or name in _machine_names()


def path_in(scope: Scope) -> str:
    """The path as the router sees it: without the path under which a proxy shows the app."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return (path.removeprefix(root) if path == root or path.startswith(f"{root}/") else path) or "/"


def name_in(address: str) -> str:
    """The host name in ``//host:port`` or in a URL that ends there, in small letters; "" when it cannot be read."""
    try:
        parts = urlsplit(address)
        more = parts.username is not None or parts.path or parts.query or parts.fragment or parts.port == 0
        return "" if more else parts.hostname or ""
    except ValueError:
        return ""


def _or_allow(name: str) -> str:
    told = HOST_NAME.fullmatch(name) and name not in LOCAL_NAMES
    return f", or start it with {ALLOWED_HOSTS}={name} where that is a name of this app" if told else ""


def _address(scope: Scope) -> str:
    """This machine's address at which the request came in; "" where the server tells none."""
    try:
        address = ipaddress.ip_address((scope.get("server") or ("",))[0])
    except ValueError:
        return ""
    return str(getattr(address, "ipv4_mapped", None) or address)


def _machine_names() -> set[str]:
    """What other machines of a local network call this one."""
    name = socket.gethostname().lower()
    return {name, f"{name.split('.')[0]}.local"} if name else set()
