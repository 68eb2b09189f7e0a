"""No version that may be installed, and none that is, has a known hole. The list is kept beside this file; it says how
to refresh it."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
LISTED: list[dict[str, Any]] = tomllib.loads((ROOT / "tests" / "advisories.toml").read_text(encoding="utf-8"))[
    "advisory"
]
OPEN = [one for one in LISTED if "accepted" not in one]


def required(name: str) -> dict[str, Requirement]:
    """A file's own lines, by package."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith("-")]
    return {canonicalize_name(one.name): one for one in found}


REQUIRED = required("requirements.txt") | required("requirements-dev.txt")


def lowest(one: Requirement) -> Version | None:
    """The oldest version that a requirement takes, as it says; None where it is open below."""
    bounds = [Version(part.version) for part in one.specifier if part.operator in (">=", "==", "~=")]
    return max(bounds, default=None)


def installed() -> dict[str, Version]:
    """What this project's requirements have brought in here, and what those brought in, by package."""
    found: dict[str, Version] = {}
    waiting = [*REQUIRED.values()]
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        if name in found or (one.marker is not None and not one.marker.evaluate({"extra": ""})):
            continue
        try:
            there = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found[name] = Version(there.version)
        waiting += [Requirement(line) for line in there.requires or ()]
    return found


def holes(versions: dict[str, Version]) -> list[str]:
    return [
        f"{one['package']} {version}: {one['id']}, affected {one['affected']}"
        for one in OPEN
        if (version := versions.get(canonicalize_name(one["package"]))) is not None
        and SpecifierSet(one["affected"], prereleases=True).contains(version)
    ]


@pytest.mark.parametrize("name", REQUIRED)
def test_every_requirement_has_a_lower_bound(name: str) -> None:
    assert lowest(REQUIRED[name]) is not None


def test_no_lower_bound_has_a_known_hole() -> None:
    assert holes({name: version for name, one in REQUIRED.items() if (version := lowest(one)) is not None}) == []


def test_nothing_that_is_installed_has_a_known_hole() -> None:
    assert holes(installed()) == []


def test_what_is_brought_in_and_has_had_a_hole_has_a_bound_of_its_own() -> None:
    assert {canonicalize_name(one["package"]) for one in LISTED} & set(installed()) <= set(REQUIRED)


def test_an_old_bound_would_be_found() -> None:
    found = holes(
        {"filelock": Version("3.16"), "nltk": Version("3.9.1"), "pyarrow": Version("18"), "gradio": Version("6.31")}
    )
    assert {line.split()[0] for line in found} == {"filelock", "nltk", "pyarrow"}


@pytest.mark.parametrize("one", LISTED, ids=lambda one: f"{one['package']} {one['id']}")
def test_an_entry_is_whole_and_what_is_accepted_is_not_used(one: dict[str, Any]) -> None:
    assert (
        {"package", "affected", "id", "source"}
        <= one.keys()
        <= {"package", "affected", "id", "source", "accepted", "unused"}
    )
    assert SpecifierSet(one["affected"])
    assert re.fullmatch(r"(CVE|GHSA|PYSEC)-[\w-]+", one["id"])
    assert one["source"].startswith("https://")
    assert ("accepted" in one) == ("unused" in one)
    for name in one.get("unused", ()):
        users = [str(path) for path in (ROOT / "playground").rglob("*.py") if name in path.read_text(encoding="utf-8")]
        assert users == [], f"{name} is used, so {one['id']} is not harmless any more"
