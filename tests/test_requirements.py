"""No version that may be installed has a known hole; the list beside this file says how to refresh it."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
LISTED = tomllib.loads((ROOT / "tests" / "advisories.toml").read_text())["advisory"]
OPEN = [one for one in LISTED if "accepted" not in one]


def required(name):
    """A file's own lines, by package."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith("-")]
    return {canonicalize_name(one.name): one for one in found}


REQUIRED = required("requirements.txt") | required("requirements-dev.txt")


def installed():
    """What this project's requirements have brought in here, and what those brought in, by package."""
    found, waiting = {}, [*REQUIRED.values()]
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


def holes(versions):
    there = [(one, versions.get(canonicalize_name(one["package"]))) for one in OPEN]
    return [
        f"{one['package']} {version}: {one['id']}, affected {one['affected']}"
        for one, version in there
        if version is not None and SpecifierSet(one["affected"], prereleases=True).contains(version)
    ]


def test_every_requirement_has_a_lower_bound_without_a_known_hole():
    lower = (">=", "==", "~=")
    parts = {name: [one for one in asked.specifier if one.operator in lower] for name, asked in REQUIRED.items()}
    assert [name for name, bounds in parts.items() if not bounds] == []
    assert holes({name: max(Version(one.version) for one in bounds) for name, bounds in parts.items()}) == []
    old = {"filelock": Version("3.16"), "nltk": Version("3.9.1"), "pyarrow": Version("18"), "gradio": Version("6.31")}
    assert {line.split()[0] for line in holes(old)} == {"filelock", "nltk", "pyarrow"}, "an old bound would be found"


def test_nothing_that_is_installed_has_a_known_hole_and_what_has_had_one_has_a_bound_of_its_own():
    there = installed()
    assert holes(there) == []
    assert {canonicalize_name(one["package"]) for one in LISTED} & set(there) <= set(REQUIRED)


def test_an_entry_is_whole_and_what_is_accepted_is_not_used():
    ours = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "playground").rglob("*.py"))
    needed = {"package", "affected", "id", "source"}
    for one in LISTED:
        assert needed <= one.keys() <= needed | {"accepted", "unused"}, one
        assert SpecifierSet(one["affected"]), one
        assert re.fullmatch(r"(CVE|GHSA|PYSEC)-[\w-]+", one["id"]), one
        assert one["source"].startswith("https://"), one
        assert ("accepted" in one) == ("unused" in one), one
        assert [name for name in one.get("unused", ()) if name in ours] == [], f"{one['id']} is not harmless any more"
