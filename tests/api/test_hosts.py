"""Which Host, Origin and Sec-Fetch-Site a request may have, as plain values."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from playground.errors import InputError
from playground.server.access import foreign
from playground.settings import Settings

ALONE = Settings(home=Path("/nowhere"))


def judged(
    settings: Settings = ALONE, server: str = "127.0.0.1", method: str = "GET", **headers: str | list[str]
) -> str:
    pairs = [
        (name.replace("_", "-").encode(), value.encode())
        for name, values in ({"host": "localhost:7860"} | headers).items()
        for value in ([values] if isinstance(values, str) else values)
    ]
    return foreign(
        {"type": "http", "method": method, "path": "/", "server": (server, 7860), "headers": pairs}, settings
    )


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:7860", "[::1]:7860", socket.gethostname()])
def test_the_machine_may_be_asked_under_its_own_names(host: str) -> None:
    assert judged(host=host) == ""


OTHER_HOSTS = [
    *("evil.example", "evil.example:7860", "localhost.evil.example", "evil@localhost", "localhost:port", "localhost/x"),
    *("localhost?x", "localhost#x", "", "10.0.0.7:7860", "127.0.0.1.nip.io", "0x7f.1"),
    *(["localhost", "evil.example"], ["localhost", "localhost"], []),
]


@pytest.mark.parametrize("host", OTHER_HOSTS)
def test_any_other_host_is_refused(host: str | list[str]) -> None:
    for method in ("GET", "HEAD", "POST", "OPTIONS", "DELETE"):
        assert "may not be opened as" in judged(host=host, method=method)


@pytest.mark.parametrize("origin", ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:7860"])
def test_a_page_of_this_machine_may_ask(origin: str) -> None:
    assert judged(origin=origin, method="POST") == ""


OTHER_ORIGINS = [
    *("http://evil.example", "https://localhost.evil.example", "http://localhost@evil.example", "file://localhost"),
    *("null", "", "http://192.168.1.9:7860", "localhost", ["http://localhost", "http://evil.example"]),
]


@pytest.mark.parametrize("origin", OTHER_ORIGINS)
def test_a_page_from_elsewhere_is_refused_for_whatever_it_asks(origin: str | list[str]) -> None:
    for method in ("GET", "POST"):
        assert "may not ask this app" in judged(origin=origin, method=method)


def test_a_browser_that_says_cross_site_may_only_look() -> None:
    assert judged(sec_fetch_site="cross-site") == "", "a link from elsewhere opens the page"
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert "from elsewhere" in judged(sec_fetch_site="cross-site", method=method)
        assert judged(sec_fetch_site="same-origin", method=method) == ""


def test_the_address_at_which_a_request_came_in_is_the_machines_own() -> None:
    assert judged(host="192.168.1.5:7860", origin="http://192.168.1.5:7860", server="192.168.1.5", method="POST") == ""
    assert judged(host="192.168.1.5:7860", origin="http://localhost:3000", server="192.168.1.5"), (
        "somebody else's localhost"
    )
    assert judged(host="192.168.1.5", server="::ffff:192.168.1.5") == ""
    assert judged(host="192.168.1.6", server="192.168.1.5")
    assert judged(host="evil.example", server="192.168.1.5")
    assert judged(host="evil.example", server="evil.example"), "a server that repeats the name knows no address"


def test_other_names_are_those_that_the_settings_allow() -> None:
    settings = Settings.from_env({"PLAYGROUND_ALLOWED_HOSTS": " Playground.example, 192.168.1.20,[fd00::5],nas "})
    for host in ("playground.example:443", "192.168.1.20:7860", "[fd00::5]:7860", "nas"):
        assert judged(settings, host=host, origin=f"https://{host}", method="POST") == ""
    assert judged(settings, origin="https://playground.example", method="POST") == "", (
        "a proxy that says localhost to us"
    )
    assert judged(settings, host="www.playground.example")
    assert judged(settings, host="playground.example", origin="https://evil.example")
    words = judged(host="playground.example:8443")
    assert "PLAYGROUND_ALLOWED_HOSTS=playground.example where" in words
    assert "PLAYGROUND_ALLOWED_HOSTS=playground.example where" in judged(origin="https://playground.example")
    assert "PLAYGROUND_ALLOWED_HOSTS" not in judged(origin="null")


def test_a_space_is_asked_under_its_own_names() -> None:
    settings = Settings.from_env(
        {"SPACE_ID": "me/app", "SPACE_HOST": "me-app.hf.space,app.example", "GRADIO_SERVER_NAME": "0.0.0.0"}
    )
    for host in ("me-app.hf.space", "app.example", "localhost:7860"):
        assert judged(settings, host=host, origin=f"https://{host}", method="POST") == ""
    assert judged(settings, host="you-app.hf.space")
    assert judged(settings, host="me-app.hf.space", origin="https://you-app.hf.space", method="POST")


@pytest.mark.parametrize(
    "wrong", ["https://a.example", "a.example:8443", "10.0.0.1:7860", "*.example", "a b", "a.example/x"]
)
def test_a_wrong_name_in_the_settings_is_told(wrong: str) -> None:
    with pytest.raises(InputError, match=r"PLAYGROUND_ALLOWED_HOSTS has .*without scheme and port"):
        Settings.from_env({"PLAYGROUND_ALLOWED_HOSTS": f"b.example,{wrong}"})
