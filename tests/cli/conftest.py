import json

import pytest

from playground.cli.main import main
from playground.services import build_services
from tests.services.conftest import little_to_remember
from tests.services.forked import ForkedGPU


@pytest.fixture
def call(settings, monkeypatch, capsys):
    """(words) -> exit code, the JSON that ends stdout, stderr; on the tiny base and a home of its own."""
    monkeypatch.setenv("PLAYGROUND_HOME", str(settings.home))
    monkeypatch.setenv("PLAYGROUND_BASE", settings.base)

    def run(*words):
        capsys.readouterr()
        code = main([*map(str, words), "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out.splitlines()[-1]), err

    return run


@pytest.fixture
def forks(monkeypatch):
    """Runs are forks: a worker of its own takes seconds to import its libraries. They have little to remember."""

    def forking(settings):
        services = build_services(settings, zero=ForkedGPU(replies=False))
        services.forgetting.material = little_to_remember
        return services

    monkeypatch.setattr("playground.cli.common.build_services", forking)


@pytest.fixture
def done(call):
    """(words) -> the JSON of a command that succeeds."""

    def run(*words):
        code, found, err = call(*words)
        assert code == 0, err
        return found

    return run


@pytest.fixture
def rows_file(tmp_path):
    """24 good rows and one without an answer."""
    file = tmp_path / "rows.csv"
    lines = [f"Say {n},Number {n} gladly" for n in range(24)]
    file.write_text("question,answer\n" + "\n".join([*lines, "No answer,"]) + "\n")
    return file
