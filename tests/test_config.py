"""Every setting from every source, and exactly one warning for whatever is wrong."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_aimon import config
from otel_aimon.config import Settings
from tests.support.scripts import output, run

DEFAULTS = {field.name: field.default for field in dataclasses.fields(Settings)}

# name → (as a program or a file says it, as the environment says it, what becomes of it, a wrong value)
VALUES: dict[str, tuple[Any, str, Any, Any]] = {
    "enabled": (False, "off", False, "perhaps"),
    "frameworks": (["sklearn", "torch"], " sklearn, torch ,", ("sklearn", "torch"), 7),
    "torch_roots": (("a.B",), "a.B", ("a.B",), [1]),
    "stages": (False, "NO", False, "maybe"),
    "max_models": (7, "7", 7, 0),
    "queue_size": (64, "64", 64, "many"),
    "interval": (1.5, "1.5", 1.5, float("nan")),
    "window": (5, "5", 5.0, True),
    "resources": (["gpu", "process"], " gpu, process ", ("process", "gpu"), "disk"),
    "sample_interval": (1, "1", 1.0, 0),
    "unique_memory": (True, "true", True, "some"),
    "event_loop_lag": (True, "on", True, 2),
    "alerts": (False, "no", False, 5),
    "alert_rules": (Path("rules.yaml"), "rules.yaml", "rules.yaml", 7),
    "slos": ("error=99%", "error=99%", "error=99%", 7),
    "alert_tick": (1, "1", 1.0, 0),
    "alert_learning": (60, "60", 60.0, -1),
    "hints": (False, "false", False, "maybe"),
    "limiter": ("dry_run", "dry_run", "dry_run", "sometimes"),
    "alert_state": (Path("learned.json"), "learned.json", "learned.json", 7),
    "lock_directory": (Path("locks"), "locks", "locks", 7),
}
ANY_TEXT = {"frameworks", "torch_roots", "lock_directory", "alert_rules", "slos", "alert_state"}
EACH = pytest.mark.parametrize("name", VALUES)


def resolve(**sources: Any) -> Settings:
    return Settings.resolve(sources.get("arguments"), sources.get("file"), sources.get("environ", {}))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_every_setting_is_tested_here() -> None:
    assert set(VALUES) == set(DEFAULTS)


def test_the_defaults() -> None:
    assert dataclasses.asdict(resolve()) == DEFAULTS


@EACH
class TestSources:
    def test_arguments(self, name: str, caplog: pytest.LogCaptureFixture) -> None:
        raw, _, value, _ = VALUES[name]
        assert dataclasses.asdict(resolve(arguments={name: raw})) == {**DEFAULTS, name: value}
        assert warnings(caplog) == []

    def test_file(self, name: str, caplog: pytest.LogCaptureFixture) -> None:
        raw, _, value, _ = VALUES[name]
        assert dataclasses.asdict(resolve(file={name: raw})) == {**DEFAULTS, name: value}
        assert warnings(caplog) == []

    def test_environment(self, name: str, caplog: pytest.LogCaptureFixture) -> None:
        _, raw, value, _ = VALUES[name]
        environ = {f"OTEL_AIMON_{name.upper()}": raw}
        assert dataclasses.asdict(resolve(environ=environ)) == {**DEFAULTS, name: value}
        assert warnings(caplog) == []

    @pytest.mark.parametrize("source", ["arguments", "file", "environment"])
    def test_a_wrong_value_is_one_warning(
        self, name: str, source: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        wrong = VALUES[name][3]
        spelled = name
        if source == "environment":
            if name in ANY_TEXT:
                return  # Any text is a list of names, or a path.
            wrong = {"max_models": "1.5", "interval": "nan", "window": "1e9"}.get(name, str(wrong))
            spelled = f"OTEL_AIMON_{name.upper()}"
            found = resolve(environ={spelled: wrong})
        else:
            found = resolve(**{source: {name: wrong}})
        assert dataclasses.asdict(found) == DEFAULTS
        (message,) = warnings(caplog)
        assert f"{spelled}={wrong!r}" in message
        assert source in message
        accepts = {field.name: field for field in dataclasses.fields(Settings)}[name].metadata["accepts"]
        assert f"({accepts.what})" in message
        assert message.endswith(f"using {DEFAULTS[name]!r} from the default.")

    def test_none_is_not_given(self, name: str, caplog: pytest.LogCaptureFixture) -> None:
        environ = {f"OTEL_AIMON_{name.upper()}": " "}
        assert (
            dataclasses.asdict(resolve(arguments={name: None}, file={name: None}, environ=environ))
            == DEFAULTS
        )
        assert warnings(caplog) == []


class TestPrecedence:
    ENVIRON = {"OTEL_AIMON_MAX_MODELS": "3"}

    def test_arguments_then_file_then_environment(self) -> None:
        file = {"max_models": 2}
        assert resolve(arguments={"max_models": 1}, file=file, environ=self.ENVIRON).max_models == 1
        assert resolve(file=file, environ=self.ENVIRON).max_models == 2
        assert resolve(environ=self.ENVIRON).max_models == 3

    def test_a_wrong_value_leaves_it_to_the_next(self, caplog: pytest.LogCaptureFixture) -> None:
        found = resolve(arguments={"max_models": "x"}, file={"max_models": -1}, environ=self.ENVIRON)
        assert found.max_models == 3
        assert warnings(caplog) == [
            (
                "otel-aimon: max_models='x' from the arguments of instrument() is not accepted "
                "(a whole number from 1 to 10000); using 3 from the environment."
            ),
            (
                "otel-aimon: max_models=-1 from the declarative configuration file is not accepted "
                "(a whole number from 1 to 10000); using 3 from the environment."
            ),
        ]

    def test_what_the_sdk_passes_on_from_the_file_is_still_the_file(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = {"max_models": "x", "windw": 3}
        resolve(arguments=dict(file), file=file)
        assert len(warnings(caplog)) == 2
        assert all("the declarative configuration file" in message for message in warnings(caplog))

    def test_the_process_environment_is_the_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_AIMON_MAX_MODELS", "9")
        assert Settings.resolve().max_models == 9


class TestUnknown:
    @pytest.mark.parametrize("source", ["arguments", "file", "environment"])
    def test_an_unknown_key_is_one_warning_with_a_hint(
        self, source: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        if source == "environment":
            resolve(environ={"OTEL_AIMON_MAX_MODEL": "3"})
        else:
            resolve(**{source: {"max_model": 3}})
        (message,) = warnings(caplog)
        shown = "OTEL_AIMON_{}" if source == "environment" else "{}"
        names = ("MAX_MODEL", "MAX_MODELS") if source == "environment" else ("max_model", "max_models")
        assert f"unknown setting {shown.format(names[0])}" in message
        assert f"did you mean {shown.format(names[1])}?" in message
        assert source in message
        assert all((name.upper() if source == "environment" else name) in message for name in DEFAULTS)

    def test_a_key_like_none_has_no_hint(self, caplog: pytest.LogCaptureFixture) -> None:
        resolve(file={7: 3, "zzzzzz": 1})
        assert len(warnings(caplog)) == 2
        assert not any("did you mean" in message for message in warnings(caplog))

    def test_our_own_tests_variable_is_none(self, caplog: pytest.LogCaptureFixture) -> None:
        resolve(environ={"OTEL_AIMON_TEST_RERAISE": "1", "OTEL_SERVICE_NAME": "x"})
        assert warnings(caplog) == []


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        resolve().window = 3.0  # type: ignore[misc]


class Rude:
    """A value that can be neither read nor shown nor compared."""

    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    __hash__ = None  # type: ignore[assignment]


def test_a_rude_value_is_one_warning_too(caplog: pytest.LogCaptureFixture) -> None:
    rude = Rude()
    found = resolve(arguments={"enabled": rude, "window": rude}, file={"enabled": rude})
    assert dataclasses.asdict(found) == DEFAULTS
    assert len(warnings(caplog)) == 3
    assert all("<Rude>" in message for message in warnings(caplog))


garbage = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(sorted(DEFAULTS)) | st.text(max_size=10)


@given(st.dictionaries(keys, garbage, max_size=4), st.dictionaries(keys, garbage, max_size=4))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_never_stops_a_service(
    caplog: pytest.LogCaptureFixture, arguments: dict[str, Any], file: dict[str, Any]
) -> None:
    caplog.clear()
    found = resolve(arguments=arguments, file=file)
    for field in dataclasses.fields(Settings):
        value = getattr(found, field.name)
        assert field.metadata["accepts"].parse(value) == value
    given_twice = sum(
        key in file and type(file[key]) is type(value) and file[key] == value
        for key, value in arguments.items()
    )
    assert len(warnings(caplog)) <= len(arguments) + len(file) - given_twice


# --- the declarative file ------------------------------------------------------------------------

HEAD = """
file_format: "1.0"
instrumentation/development:
  python:
"""


@pytest.fixture(autouse=True)
def _fresh() -> None:
    config._read_sections.cache_clear()


class TestFile:
    def write(self, folder: Path, body: str) -> dict[str, str]:
        path = folder / "otel.yaml"
        path.write_text(HEAD + body)
        return {"OTEL_CONFIG_FILE": str(path)}

    def test_no_file(self) -> None:
        assert config.declarative_sections({}) == {}

    def test_sections(self, tmp_path: Path) -> None:
        environ = self.write(
            tmp_path, "    aimon:\n      window: 30\n    aimon_torch:\n      enabled: false\n"
        )
        assert config.declarative_sections(environ) == {
            "aimon": {"window": 30},
            "aimon_torch": {"enabled": False},
        }

    def test_it_is_read_once_and_again_when_it_changes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        environ = self.write(tmp_path, "    aimon:\n      window: 30\n")
        for _ in range(3):
            config.declarative_sections(environ)
        assert config._read_sections.cache_info().misses == 1
        monkeypatch.setattr(Path, "stat", lambda _self: type("Stat", (), {"st_mtime_ns": 1})())
        config.declarative_sections(environ)
        assert config._read_sections.cache_info().misses == 2

    @pytest.mark.parametrize("damage", ["missing", "no YAML"])
    def test_a_damaged_file_is_one_warning(
        self, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "otel.yaml"
        if damage != "missing":
            path.write_text("{ not: [yaml")
        for _ in range(2):
            assert config.declarative_sections({"OTEL_CONFIG_FILE": str(path)}) == {}
        (message,) = [each for each in warnings(caplog) if each.startswith("otel-aimon")]
        assert str(path) in message

    @pytest.mark.parametrize(
        ("raw", "enabled", "warned"),
        [("true", True, 0), ("false", False, 0), ("0", False, 0), ("'off'", False, 0), ("perhaps", True, 1)],
    )
    def test_enabled(
        self,
        tmp_path: Path,
        raw: str,
        enabled: bool,
        warned: int,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        for key, value in self.write(tmp_path, f"    aimon_torch:\n      enabled: {raw}\n").items():
            monkeypatch.setenv(key, value)
        assert config.enabled_by_file("aimon_torch") is enabled
        assert config.enabled_by_file("aimon_sklearn") is True
        assert len(warnings(caplog)) == warned
        caplog.clear()

    def test_a_section_that_is_no_mapping_is_one_warning_and_the_others_count(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert config._options("aimon_torch", ["x"]) == {}
        assert config._options("somebody_else", ["x"]) == {}
        assert config._options("aimon", None) == {}
        assert config._options("aimon", {"a": 1}) == {"a": 1}
        (message,) = warnings(caplog)
        assert "aimon_torch=['x'] from the declarative configuration file" in message

    SCRIPT = """
        import json
        from otel_aimon import runtime
        from otel_aimon.instrumentation import loader
        running = runtime.current()
        print(json.dumps({
            "armed": loader.armed(),
            "window": running.settings.window if running else None,
            "models": running.settings.max_models if running else None,
        }))
    """

    def test_under_opentelemetry_instrument(self, tmp_path: Path) -> None:
        body = (
            "    aimon:\n      window: 30\n      max_models: none\n      stagez: true\n"
            "    aimon_sklearn:\n      enabled: false\n"
            "    aimon_onnxruntime:\n      batch: 7\n"
        )
        environ = self.write(tmp_path, body)
        line, logs = output(tmp_path, self.SCRIPT, env=environ, instrument=True)
        found = json.loads(line)
        assert found["window"] == 30
        assert found["models"] == 100
        assert "sklearn" not in found["armed"]
        assert "onnxruntime" in found["armed"]
        ours = [each for each in logs.splitlines() if each.startswith("otel-aimon")]
        assert len(ours) == 3, logs
        assert sum("max_models='none' from the declarative configuration file" in each for each in ours) == 1
        assert sum("unknown setting stagez" in each for each in ours) == 1
        assert sum("unknown option batch of aimon_onnxruntime" in each for each in ours) == 1

    def test_disabled_as_a_whole(self, tmp_path: Path) -> None:
        environ = self.write(tmp_path, "    aimon:\n      enabled: false\n    aimon_sklearn:\n")
        found = run(tmp_path, self.SCRIPT, env=environ, instrument=True)
        assert found == {"armed": [], "window": None, "models": None}
