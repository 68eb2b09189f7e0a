"""Who may call: a program with the token from anywhere, or, where there is no token, programs on this machine only."""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass

from starlette.requests import Request

from playground.api.hosts import LOCAL_NAMES, name_in
from playground.settings import Settings

TOKEN_VARIABLE = "PLAYGROUND_API_TOKEN"
_PROXIES = frozenset({"forwarded", "via", "x-real-ip", "x-client-ip", "cf-connecting-ip", "true-client-ip"})


@dataclass(frozen=True)
class Refusal:
    """status: of the HTTP answer. words: what is wrong, and what to do."""

    status: int
    words: str


def refusal(request: Request, settings: Settings) -> Refusal | None:
    """Why this request may not use /v1, or None.

    1. With a token: whoever shows it, from any host; nobody else.
    2. Without one, where the app is shared: nobody.
    3. Without one, on a person's own machine: a program on that machine, not by way of a proxy, that names the machine as
       itself. A foreign Host is a page that made its name point here; a foreign Origin, or Sec-Fetch-Site, is a page from elsewhere.
    """
    if settings.api_token:
        if shows(request, settings.api_token):
            return None
        return Refusal(401, f"The token is missing or wrong. Send 'Authorization: Bearer' with the one in {TOKEN_VARIABLE}.")
    if settings.shared:
        return Refusal(403, f"/v1 is off: this app is shared and has no token. Whoever runs it can set {TOKEN_VARIABLE}.")
    if not from_here(request):
        return Refusal(
            403, f"Without a token /v1 answers programs on its own machine only. Set {TOKEN_VARIABLE} to call from others."
        )
    if [name_in(f"//{host}") in LOCAL_NAMES for host in request.headers.getlist("host")] != [True]:
        return Refusal(403, f"Without a token /v1 must be called as localhost or 127.0.0.1. Do so, or set {TOKEN_VARIABLE}.")
    local = all(_is_local_origin(origin) for origin in request.headers.getlist("origin"))
    if not local or "cross-site" in request.headers.getlist("sec-fetch-site"):
        return Refusal(403, f"A page from elsewhere may not call /v1 without a token. Set {TOKEN_VARIABLE}, and send it.")
    return None


def shows(request: Request, token: str) -> bool:
    """Whether the request carries the bearer token; takes as long for a wrong one as for the right one."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    same = secrets.compare_digest(given.strip().encode("latin-1", "replace"), token.encode("utf-8", "surrogateescape"))
    return same and scheme.lower() == "bearer"


def from_here(request: Request) -> bool:
    """Whether the caller runs on this machine and did not come by way of a proxy."""
    forwarded = any(name in _PROXIES or name.startswith("x-forwarded-") for name in request.headers)
    if request.client is None or forwarded:
        return False
    try:
        address = ipaddress.ip_address(request.client.host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _is_local_origin(origin: str) -> bool:
    return origin.startswith(("http://", "https://")) and name_in(origin) in LOCAL_NAMES
