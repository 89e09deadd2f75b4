"""Versions, settings, frameworks and other instrumentations, as different environments have them."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from otel_aimon.cli.doctor import exporter_checks, frameworks, installation, neighbours, packages, settings
from otel_aimon.cli.doctor.findings import Seen
from otel_aimon.cli.doctor.frameworks import SeenFramework
from otel_aimon.instrumentation.registry import FRAMEWORKS
from tests.cli.doctoring import install, problems, remedies, seen


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """First on the path: what is installed there is found first."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Hides distributions."""
    real = importlib.metadata.distributions

    def hide(*hidden: str) -> None:
        def some(**arguments: Any) -> Any:
            return (
                each
                for each in real(**arguments)
                if packages.canonical(each.metadata["Name"] or "") not in hidden
            )

        def points(*, group: str) -> list[Any]:
            return [each for found in some() for each in found.entry_points if each.group == group]

        monkeypatch.setattr(importlib.metadata, "distributions", some)
        monkeypatch.setattr(importlib.metadata, "entry_points", points)

    return hide


class TestInstallation:
    def test_of_a_healthy_environment(self) -> None:
        looked = seen({"PATH": str(Path(sys.executable).parent)})
        found = looked.installation
        assert found.executable == sys.executable
        assert found.launcher_is_ours
        assert found.distro is not None
        assert found.distro.startswith("distro (opentelemetry-distro ")
        assert set(found.entry_points) >= {"aimon", "aimon_torch", "aimon_sklearn"}
        assert {each.name for each in found.packages if each.fits} >= {
            "opentelemetry-sdk",
            "opentelemetry-distro",
            "psutil",
        }
        assert problems(installation.CHECKS, looked) == []

    def test_without_a_distro(self, without: Any) -> None:
        without("opentelemetry-distro")
        looked = seen({"PATH": str(Path(sys.executable).parent)})
        assert (looked.installation.distro, looked.installation.configurator) == (None, None)
        assert looked.exporters.targets == ()
        found = problems(installation.CHECKS, looked)
        assert [(severity, check) for severity, check, _ in found] == [
            ("error", "sdk_is_configured"),
            ("error", "sdk_is_configured"),
            ("error", "versions_fit"),
        ]
        assert "No OpenTelemetry configurator is installed" in found[0][2]
        assert "needs opentelemetry-distro" in found[2][2]
        assert remedies(installation.CHECKS, looked)[0] == "pip install opentelemetry-distro"

    def test_another_distro_that_is_found_first(self, folder: Path) -> None:
        install(folder, "acme-distro", entry_points="[opentelemetry_distro]\nacme = acme:Distro\n")
        looked = seen({"PATH": str(Path(sys.executable).parent)})
        assert looked.installation.distro == "acme (acme-distro 1.0)"
        ((severity, check, what),) = problems(installation.CHECKS, looked)
        assert (severity, check) == ("warning", "sdk_is_configured")
        assert what.startswith(
            "Several distros are installed; acme (acme-distro 1.0) is used because it was found first"
        )

    def test_a_distro_that_is_chosen(self, folder: Path) -> None:
        install(folder, "acme-distro", entry_points="[opentelemetry_distro]\nacme = acme:Distro\n")
        path = str(Path(sys.executable).parent)
        chosen = seen({"PATH": path, "OTEL_PYTHON_DISTRO": "distro"})
        assert chosen.installation.other_distros == ("acme (acme-distro 1.0)",)
        assert problems(installation.CHECKS, chosen) == []
        missing = seen({"PATH": path, "OTEL_PYTHON_DISTRO": "other"})
        assert problems(installation.CHECKS, missing) == [
            ("error", "sdk_is_configured", "OTEL_PYTHON_DISTRO=other names no distro that is installed.")
        ]

    def test_versions_of_two_releases(self, folder: Path) -> None:
        install(folder, "opentelemetry-api", "1.20.0")
        found = problems((installation.versions_fit,), seen({}))
        sdk = importlib.metadata.version("opentelemetry-sdk")
        assert (
            "error",
            "versions_fit",
            f"Versions do not fit: opentelemetry-sdk {sdk} needs opentelemetry-api=={sdk}, but 1.20.0 is installed.",
        ) in found

    def test_a_conflict_of_one_instrumentation_only(self, folder: Path) -> None:
        install(folder, "opentelemetry-instrumentation-acme", "0.1", requires=["no-such-library"])
        assert problems((installation.versions_fit,), seen({})) == [
            (
                "warning",
                "versions_fit",
                "Versions do not fit: opentelemetry-instrumentation-acme 0.1 needs no-such-library, which is not installed.",
            )
        ]

    def test_a_distro_that_decides_where_everything_goes(self, folder: Path) -> None:
        install(folder, "acme-distro", entry_points="[opentelemetry_distro]\nacme = acme:Distro\n")
        looked = seen({"OTEL_LOGS_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "console"})
        assert [target.exporter for target in looked.exporters.targets] == ["console"]
        assert problems((exporter_checks.every_signal_has_an_exporter,), looked) == [
            (
                "warning",
                "every_signal_has_an_exporter",
                "No exporter of logs: log records and the events of otel-aimon (alerts) are dropped in the process.",
            ),
            (
                "info",
                "every_signal_has_an_exporter",
                "No variable sets an exporter of traces; acme (acme-distro 1.0) decides where they go.",
            ),
        ]

    def test_a_source_tree_that_is_not_installed(self, without: Any) -> None:
        without("otel-aimon")
        found = problems((installation.entry_points_are_registered,), seen({}))
        assert [(severity, check) for severity, check, _ in found] == [
            ("error", "entry_points_are_registered")
        ]

    @pytest.mark.parametrize(
        "first_line", ["#!{other}/bin/python", "#!/bin/sh\n'''exec' {other}/bin/python \"$0\" \"$@\""]
    )
    def test_the_launcher_of_another_environment(self, tmp_path: Path, first_line: str) -> None:
        script = tmp_path / "bin" / "opentelemetry-instrument"
        script.parent.mkdir()
        (tmp_path / "other" / "bin").mkdir(parents=True)
        script.write_text(first_line.format(other=tmp_path / "other") + "\n")
        script.chmod(0o755)
        looked = seen({"PATH": str(script.parent)})
        ((severity, _, what),) = problems(installation.CHECKS, looked)
        assert severity == "warning"
        assert what == (
            f"opentelemetry-instrument on PATH is {script}, which belongs to another environment than this command."
        )

    @pytest.mark.parametrize("first_line", ["#!{here}", "#!/bin/sh\n'''exec' {here} \"$0\" \"$@\""])
    def test_a_launcher_elsewhere_that_starts_this_environment(self, tmp_path: Path, first_line: str) -> None:
        script = tmp_path / "opentelemetry-instrument"
        script.write_text(first_line.format(here=sys.executable) + "\n")
        script.chmod(0o755)
        assert problems(installation.CHECKS, seen({"PATH": str(tmp_path)})) == []

    def test_no_launcher(self, tmp_path: Path) -> None:
        looked = seen({"PATH": str(tmp_path)})
        assert problems(installation.CHECKS, looked) == [
            ("warning", "launcher_is_of_this_environment", "opentelemetry-instrument is not on PATH.")
        ]
        beside = Path(sys.executable).with_name("opentelemetry-instrument")
        assert remedies(installation.CHECKS, looked)[0].endswith(f"start the service with {beside}")


class TestSettings:
    def test_each_has_its_source(self) -> None:
        found = seen(
            {"OTEL_AIMON_WINDOW": "30", "OTEL_AIMON_INTERVAL": "x", "OTEL_AIMON_STAGES": ""}
        ).settings
        assert {each.name: (each.value, each.source) for each in found.settings if each.name in {"window", "interval", "stages"}} == {
            "window": (30.0, "environment"),
            "interval": (0.25, "default"),
            "stages": (True, "default"),
        }  # fmt: skip

    def test_wrong_and_unknown_ones(self, caplog: pytest.LogCaptureFixture) -> None:
        looked = seen({
            "OTEL_AIMON_WINDOW": "soon", "OTEL_AIMON_WINDOWS": "3", "OTEL_AIMON_FRAMEWORKS": "torch,theano",
        })  # fmt: skip
        found = problems(settings.CHECKS, looked)
        assert [(severity, check) for severity, check, _ in found] == [
            ("warning", "settings_are_accepted")
        ] * 3
        texts = [what for _, _, what in found]
        assert "did you mean OTEL_AIMON_WINDOW?" in texts[0]
        assert texts[1].startswith("OTEL_AIMON_WINDOW='soon' from the environment is not accepted")
        assert texts[2].startswith("unknown frameworks theano are ignored")
        assert caplog.records == [], "what is captured is not shown as well"

    def test_a_variable_that_is_misspelt(self) -> None:
        found = seen({"OTEL_EXPORTER_OLTP_ENDPOINT": "http://c:4317", "OTEL_SOMETHING_ELSE": "x"})
        assert problems(settings.CHECKS, found) == [
            (
                "warning",
                "variables_are_spelt_right",
                "OTEL_EXPORTER_OLTP_ENDPOINT is read by nothing that is installed here.",
            )
        ]
        assert remedies(settings.CHECKS, found) == ["Did you mean OTEL_EXPORTER_OTLP_ENDPOINT?"]

    @pytest.mark.parametrize(
        ("variables", "severity", "what"),
        [
            ({"OTEL_SDK_DISABLED": "True"}, "error", "OTEL_SDK_DISABLED is true: OpenTelemetry and otel-aimon do nothing."),
            ({"OTEL_SDK_DISABLED": "1"}, "warning", "OTEL_SDK_DISABLED=1 is neither true nor false and counts as false."),
            ({"OTEL_AIMON_ENABLED": "no"}, "error", "otel-aimon is switched off by its setting enabled (environment)."),
            (
                {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*"}, "error",
                "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS is *: no instrumentation is loaded, ours included.",
            ),
        ],
    )  # fmt: skip
    def test_switches(self, variables: dict[str, str], severity: str, what: str) -> None:
        looked = seen(variables)
        assert problems(settings.CHECKS, looked) == [(severity, "nothing_is_switched_off", what)]
        assert any(each.instrumented for each in looked.frameworks) is (
            severity == "warning" and _some_installed(looked)
        )

    def test_names_that_disable_nothing(self) -> None:
        looked = seen({"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "torch, aimon_sklearn,aimon_tensor"})
        found = problems(settings.CHECKS, looked)
        assert [(check, what.split(" names ")[1].split(",")[0]) for _, check, what in found] == [
            ("disabled_names_exist", "torch"),
            ("disabled_names_exist", "aimon_tensor"),
        ]
        assert remedies(settings.CHECKS, looked)[0] == "Did you mean aimon_torch?"

    def test_a_declarative_file(self, tmp_path: Path) -> None:
        pytest.importorskip("opentelemetry.configuration")
        path = tmp_path / "otel.yaml"
        path.write_text(
            'file_format: "1.0"\ninstrumentation/development:\n  python:\n'
            "    aimon: {max_models: 50, window: 20, stages: maybe}\n    aimon_torch: {enabled: false}\n"
        )
        looked = seen(
            {"OTEL_CONFIG_FILE": str(path), "OTEL_AIMON_WINDOW": "30", "OTEL_AIMON_STAGES": "false"}
        )
        changed = {
            each.name: (each.value, each.source)
            for each in looked.settings.settings
            if each.source != "default"
        }
        assert changed == {
            "max_models": (50, "declarative file"),
            "window": (20.0, "declarative file"),
            "stages": (False, "environment"),
        }
        assert looked.settings.config_file_sections == ("aimon", "aimon_torch")
        assert settings.disabled(looked, "aimon_torch") == "enabled: false in the file of OTEL_CONFIG_FILE"
        assert settings.disabled(looked, "aimon_sklearn") is None
        ((severity, _, what),) = problems(settings.CHECKS, looked)
        assert (severity, what.split(" from ")[0]) == ("warning", "stages='maybe'")

    @pytest.mark.parametrize("content", [None, "file_format: [", "just text"])
    def test_a_declarative_file_that_cannot_be_used(self, tmp_path: Path, content: str | None) -> None:
        path = tmp_path / "otel.yaml"
        if content is not None:
            path.write_text(content)
        looked = seen({"OTEL_CONFIG_FILE": str(path)})
        assert looked.settings.config_file_sections is None
        ((severity, check, what),) = problems(settings.CHECKS, looked)
        assert (severity, check) == ("error", "settings_are_accepted")
        assert what.startswith(f"cannot read OTEL_CONFIG_FILE={path}")


def _some_installed(looked: Seen) -> bool:
    return any(each.version is not None for each in looked.frameworks)


TORCH = SeenFramework("torch", "PyTorch", ("torch",), "2.13.0", "2.13", "aimon_torch", True, None)


class TestFrameworks:
    def test_are_found_without_being_imported(self) -> None:
        pytest.importorskip("sklearn")
        found = {each.name: each for each in seen({}).frameworks}
        version = importlib.metadata.version("scikit-learn")
        assert list(found) == [each.name for each in FRAMEWORKS]
        assert found["sklearn"] == SeenFramework(
            "sklearn", "scikit-learn", ("scikit-learn",), version, "1.4", "aimon_sklearn", True, None
        )

    @pytest.mark.parametrize(
        ("variables", "why_not"),
        [
            ({"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "aimon_sklearn"}, "disabled by OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"),
            ({"OTEL_AIMON_FRAMEWORKS": "torch"}, "not among the setting frameworks"),
            ({"OTEL_SDK_DISABLED": "true"}, "OTEL_SDK_DISABLED is true"),
            ({"OTEL_AIMON_ENABLED": "false"}, "otel-aimon is switched off by its setting enabled"),
        ],
    )  # fmt: skip
    def test_why_one_is_not_instrumented(self, variables: dict[str, str], why_not: str) -> None:
        pytest.importorskip("sklearn")
        found = {each.name: each for each in seen(variables).frameworks}["sklearn"]
        assert (found.instrumented, found.why_not) == (False, why_not)

    @pytest.mark.parametrize(
        ("usual", "other"), [("onnxruntime", "onnxruntime-gpu"), ("xgboost", "xgboost-cpu")]
    )
    def test_another_distribution_of_the_same_module(self, folder: Path, usual: str, other: str) -> None:
        (folder / usual).mkdir()
        (folder / usual / "__init__.py").touch()
        install(folder, other, "1.20.0")
        install(folder, usual, "1.19.0")
        looked = seen({})
        found = {each.name: each for each in looked.frameworks}[usual]
        assert (found.distributions, found.version) == ((usual, other), "1.19.0")
        assert problems((frameworks.distributions_do_not_overwrite_each_other,), looked) == [
            (
                "warning",
                "distributions_do_not_overwrite_each_other",
                f"{usual} and {other} hold the same module and overwrite each other's files; the GPU may be unused.",
            )
        ]

    def test_a_module_whose_distribution_has_another_name(self, folder: Path, without: Any) -> None:
        without("onnxruntime")
        (folder / "onnxruntime").mkdir()
        (folder / "onnxruntime" / "__init__.py").touch()
        install(folder, "acme-onnx", "3.0")
        (folder / "acme_onnx-3.0.dist-info" / "top_level.txt").write_text("onnxruntime\n")
        found = {each.name: each for each in seen({}).frameworks}["onnxruntime"]
        assert (found.distributions, found.version) == (("acme-onnx",), "3.0")

    def test_none_is_installed(self) -> None:
        none = (replace(TORCH, version=None, distributions=(), instrumented=False, why_not="not installed"),)
        assert [severity for severity, *_ in problems(frameworks.CHECKS, seen({}, frameworks=none))] == [
            "warning"
        ]

    def test_all_are_disabled(self) -> None:
        off = (replace(TORCH, instrumented=False, why_not="disabled by X"),)
        assert problems(frameworks.CHECKS, seen({}, frameworks=off)) == [
            (
                "error",
                "some_framework_is_instrumented",
                "No installed framework will be instrumented (PyTorch: disabled by X).",
            )
        ]

    def test_one_is_disabled_or_old(self) -> None:
        there = (
            TORCH,
            replace(TORCH, title="Old", version="1.0", instrumented=False, why_not="disabled by X"),
        )
        assert problems(frameworks.CHECKS, seen({}, frameworks=there)) == [
            (
                "warning",
                "versions_are_tested",
                "Old 1.0 is older than 2.13, the oldest version that is tested.",
            ),
            ("info", "frameworks_are_enabled", "Old is installed and not instrumented: disabled by X."),
        ]

    def test_one_is_not_run_by_the_tests(self) -> None:
        there = (replace(TORCH, title="Far", version="1.0", checked="nothing of it"),)
        assert problems(frameworks.CHECKS, seen({}, frameworks=there)) == [
            (
                "warning",
                "versions_are_tested",
                "Far 1.0 is older than 2.13, the oldest version to whose interface it is written.",
            )
        ]
        assert "written to 2.13" in "\n".join(frameworks.tell(there))

    def test_a_version_that_cannot_be_read(self) -> None:
        there = (replace(TORCH, version="unknown"),)
        assert problems(frameworks.CHECKS, seen({}, frameworks=there)) == []


class TestNeighbours:
    def test_what_is_done_beside_each(self, folder: Path) -> None:
        for name, point in (
            ("openinference-instrumentation-openai", "openai"),
            ("opentelemetry-instrumentation-fastapi", "fastapi"),
            ("opentelemetry-instrumentation-transformers", "transformers"),
            ("acme-instrumentation", "acme"),
        ):
            install(folder, name, entry_points=f"[opentelemetry_instrumentor]\n{point} = a:B\n")
        install(folder, "openlit", "1.34")
        looked = seen(
            {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "fastapi"},
            frameworks=(replace(TORCH, name="transformers"),),
        )
        found = {each.name: (each.active, each.beside, each.why_not) for each in looked.neighbours}
        assert {name: found[name] for name in ("openai", "fastapi", "transformers", "acme", "openlit")} == {
            "openai": (True, "its inference spans are counted in aimon.inference.*, each request once", None),
            "fastapi": (
                False,
                "its spans are parents of ours",
                "disabled by OTEL_PYTHON_DISABLED_INSTRUMENTATIONS",
            ),
            "transformers": (True, "a request of Transformers has a span of each; it is counted once", None),
            "acme": (True, "", None),
            "openlit": (
                None,
                neighbours._PEERS["openlit"],
                None,
            ),
        }
        assert problems(neighbours.CHECKS, looked) == [
            (
                "warning",
                "requests_have_one_span",
                (
                    "opentelemetry-instrumentation-transformers instruments Transformers too: each request has two "
                    "spans (and is counted once)."
                ),
            )
        ]

    def test_one_whose_library_is_missing(self, folder: Path) -> None:
        install(
            folder,
            "acme-instrumentation",
            entry_points="[opentelemetry_instrumentor]\nacme = a:B\n",
            requires=['no-such-library>=1; extra == "instruments"'],
        )
        found = {each.name: each for each in seen({}).neighbours}["acme"]
        assert (found.active, found.why_not) == (
            False,
            "what it instruments is not installed, or in another version",
        )

    def test_system_metrics(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("opentelemetry.instrumentation.system_metrics")
        monkeypatch.delenv("OTEL_PYTHON_SYSTEM_METRICS_EXCLUDED_METRICS", raising=False)
        active = {each.name: each for each in seen({}).neighbours}["system_metrics"]
        assert active.beside == "the metrics that it emits are left to it"
        assert set(active.left_to_it) >= {
            "process.cpu.time",
            "process.unix.file_descriptor.count",
            "system.paging.usage",
        }
        off = seen({"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "system_metrics"})
        assert {each.name: each.left_to_it for each in off.neighbours}["system_metrics"] == ()


def test_settings_are_not_read_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "OTEL_AIMON_WINDOW", "7")
    assert {each.name: each.value for each in seen({}).settings.settings}["window"] == 60.0
