import re
from pathlib import Path

from playground.settings import PROJECT_ROOT, WHOLE, Settings
from tests.refused import refused

README = (PROJECT_ROOT / "README.md").read_text()


def test_defaults_and_what_the_environment_sets():
    assert Settings.from_env({}).base == "smollm2-135m"
    env = {"PLAYGROUND_HOME": "/x", "PLAYGROUND_BUDGET_GB": "2.5", "PLAYGROUND_SHARED": "1", "PLAYGROUND_BASE": "a/b"}
    read = Settings.from_env(env)
    assert (read.home, read.budget_bytes, read.shared, read.base) == (Path("/x"), 2_500_000_000, True, "a/b")
    assert read.upload_limit_bytes == 20 * 2**20
    assert Settings.from_env({"SPACE_ID": "a/b"}).shared
    homes = [{}, {"SPACE_ID": "a/b"}, {"SPACE_ID": "a/b", "PLAYGROUND_HOME": "/proc/home"}]
    assert [Settings.from_env(env).lasting for env in homes] == [True, False, True], "what lies on a mounted disk lasts"
    env = {"PLAYGROUND_API_TOKEN": "secret", "PLAYGROUND_LOGIN": "demo:secret:12", "PLAYGROUND_LOG": "json"}
    kept = Settings.from_env(env)
    assert (kept.login, kept.log_json, "secret" in repr(kept)) == (("demo", "secret:12"), True, False)


def test_readmes_table_names_every_variable_and_its_front_matter_is_a_valid_space_with_the_tested_gradio():
    source = (PROJECT_ROOT / "playground" / "settings.py").read_text()
    read = {*re.findall(r'"(PLAYGROUND_[A-Z_]+)"', source), "GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT"}
    assert read <= set(re.findall(r"`((?:PLAYGROUND|GRADIO)_[A-Z_]+)`", README))
    fields = dict(line.split(": ", 1) for line in README.split("---")[1].strip().splitlines())
    assert (fields["sdk"], (PROJECT_ROOT / fields["app_file"]).is_file()) == ("gradio", True)
    assert len(fields["short_description"]) <= 60
    major_minor = ".".join(fields["sdk_version"].split(".")[:2])
    assert f"gradio>={major_minor}" in (PROJECT_ROOT / "requirements.txt").read_text()


def test_limits_are_read_checked_and_in_readmes_table_and_a_wrong_value_is_told_in_words():
    env = {variable: str(number) for number, variable in enumerate([*WHOLE.values(), "PLAYGROUND_UPLOAD_MB"], 2)}
    settings = Settings.from_env(env)
    assert [getattr(settings, name) for name in [*WHOLE, "upload_mb"]] == list(range(2, 2 + len(WHOLE) + 1))
    assert (settings.session_disk_bytes, settings.keep_s) == (2 * 2**20, 5 * 3600)
    assert settings.upload_limit_bytes == (2 + len(WHOLE)) * 2**20
    told = {
        "BUDGET_GB": "lots",
        "SHARED": "yes",
        "PRECISION": "int8",
        "LOG": "yaml",
        "LOGIN": "demo:short",
        "RAY": "head; rm",
        "RAY_STORAGE": "ftp://x",
    }
    for name, wrong in told.items():
        refused(name, Settings.from_env, {f"PLAYGROUND_{name}": wrong})
    for variable in env:
        for wrong in ("0", "-1", "many", "1.5"):
            refused(variable, Settings.from_env, {variable: wrong})
    refused("session runs is 0; it is at least 1", Settings, session_runs=0)
    alone, shared = (Settings(shared=shared).upload_limit_bytes // 2**20 for shared in (False, True))
    says = {variable: f"default {getattr(Settings(), name)}" for name, variable in WHOLE.items()}
    says |= {"PLAYGROUND_UPLOAD_MB": f"default {alone}, where the app is shared {shared}"}
    for variable, default in says.items():
        assert default in next(line for line in README.splitlines() if f"`{variable}`" in line)
