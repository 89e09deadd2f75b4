"""``otel-aimon doctor`` as users run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from otel_aimon.cli import doctor, main
from otel_aimon.cli.doctor.document import SCHEMA, Document, Failed
from otel_aimon.cli.doctor.findings import Part, Problem, Seen
from otel_aimon.version import __version__
from tests.cli.doctoring import closed_port, environment, install, listener, shape

COMMAND = str(Path(sys.executable).with_name("otel-aimon"))
BIN = str(Path(sys.executable).parent)
SECRETS = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:s3cret@127.0.0.1:4317?token=s3cret",
    "OTEL_EXPORTER_OTLP_HEADERS": "api-key=s3cret,Bearer s3cret",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "authorization=Basic%20s3cret",
    "OTEL_RESOURCE_ATTRIBUTES": "token=s3cret",
    "https_proxy": "http://user:s3cret@proxy:3128",
}


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "doctor", *arguments],
        env=environment(**{"PATH": BIN, **variables}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def port() -> Iterator[int]:
    with listener() as number:
        yield number


def test_a_healthy_environment(port: int) -> None:
    done = run(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}", OTEL_SERVICE_NAME="shop")
    assert (done.returncode, done.stderr) == (0, "")
    headings = [line for line in done.stdout.splitlines() if line and not line.startswith(" ")]
    assert headings[:-1] == [
        "Installation",
        "Settings",
        "Frameworks",
        "Devices and limits",
        "Exporters",
        "Other instrumentations",
        "What will be emitted",
    ]
    assert headings[-1].startswith("Problems: ")
    assert "error" not in headings[-1]
    assert f"http://127.0.0.1:{port}" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 110
    assert "\x1b" not in done.stdout


def test_an_endpoint_that_cannot_be_reached() -> None:
    number = closed_port()
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{number}", "OTEL_SERVICE_NAME": "shop"}
    done = run("--json", **variables)
    document = json.loads(done.stdout)
    assert (done.returncode, document["ok"]) == (1, False)
    assert document["problems"][0] == {
        "severity": "error",
        "what": f"127.0.0.1:{number} (traces, metrics, logs) cannot be reached: connection refused: nothing listens "
        "there.",
        "remedy": "Start the Collector or backend, or set OTEL_EXPORTER_OTLP_ENDPOINT to where it is. In a container, "
        "localhost is the container itself.",
        "check": "endpoints_can_be_reached",
    }
    offline = run("--json", "--offline", **variables)
    assert offline.returncode == 0, offline.stdout
    assert {target["reachable"] for target in json.loads(offline.stdout)["exporters"]["targets"]} == {None}


def test_the_json_document(port: int) -> None:
    pytest.importorskip("sklearn")
    done = run(
        "--json",
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}",
        OTEL_EXPORTER_OTLP_HEADERS="api-key=s3cret",
        OTEL_METRIC_EXPORT_INTERVAL="10",
        OTEL_AIMON_WINDOW="30",
        OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="aimon_sklearn",
    )
    document = json.loads(done.stdout)
    assert shape(_with_stand_ins(document)) == SHAPE
    assert list(document) == list(SHAPE)
    assert (document["schema"], document["otel_aimon"], SCHEMA) == (1, __version__, 1)
    assert document["exporters"] == {
        "source": "environment",
        "targets": [
            {
                "signal": signal,
                "exporter": "otlp_proto_grpc",
                "installed": True,
                "protocol": "grpc",
                "endpoint": f"http://127.0.0.1:{port}",
                "endpoint_from": "OTEL_EXPORTER_OTLP_ENDPOINT",
                "address": {
                    "scheme": "http",
                    "host": "127.0.0.1",
                    "port": port,
                    "path": "",
                    "credentials": False,
                },
                "secure": False,
                "headers": ["api-key"],
                "timeout_s": 10.0,
                "certificate": None,
                "reachable": True,
                "why_not": None,
            }
            for signal in ("traces", "metrics", "logs")
        ],
        "metric_interval_s": 0.01,
        "sampler": "parentbased_always_on",
        "sampler_argument": None,
        "service_name": None,
    }
    sections = {each["section"]: each for each in document["signals"]["metrics"]}
    assert list(sections) == ["inference", "engines", "process", "container", "host", "gpu", "selfmon"]
    assert "aimon.inference.duration" in sections["inference"]["emitted"]
    assert sections["process"]["absent"]["aimon.process.memory.unique"] == "the setting unique_memory is off"
    assert {each["check"] for each in document["problems"]} >= {
        "times_are_plausible",
        "frameworks_are_enabled",
        "the_service_has_a_name",
    }


def _with_stand_ins(document: dict[str, Any]) -> dict[str, Any]:
    """Maps whose keys are names of what was found, and lists that may be empty, with something that is always so."""
    document = json.loads(json.dumps(document))
    resources = document["resources"]
    for measured in ("process", "host", "container"):
        assert {type(value) for value in resources[measured].values()} <= {int, float, dict}
        resources[measured] = {"some": 1}
    device = {"id": "", "kind": "", "vendor": "", "name": "", "model": "", "ordinals": [""], "visible": True}
    resources["devices"] = [{**each, "values": {"some": 1}} for each in [*resources["devices"], device]]
    resources["drivers"].append("")
    for each in document["signals"]["metrics"]:
        assert {type(why) for why in each["absent"].values()} <= {str}
        each["absent"] = {"some": ""}
        each["emitted"].append("")
    for each in document["settings"]["settings"]:
        each["value"] = ""
    neighbour = {"name": "", "distribution": "", "version": "", "active": None, "why_not": "", "beside": ""}
    active = [True, False, None]
    document["neighbours"] = [
        {**each, "active": state, "why_not": why, "left_to_it": [""]}
        for each in [*document["neighbours"], neighbour]
        for state in active
        for why in ("", None)
    ]
    package = document["installation"]["packages"][0]
    document["installation"]["packages"] += [
        {**package, "extra": "gpu", "version": None, "fits": None},
        {**package, "version": "1"},
    ]
    framework = document["frameworks"][0]
    document["frameworks"] += [{**framework, "version": None, "why_not": ""}]
    document["resources"]["cpu_utilization"] = 0.5
    document["installation"]["conflicts"].append("")
    return document


SHAPE: dict[str, Any] = {
    "schema": "int",
    "otel_aimon": "str",
    "ok": "bool",
    "installation": {
        "otel_aimon": "str",
        "python": "str",
        "executable": "str",
        "platform": "str",
        "packages": [
            {
                "name": "str",
                "version": "str | None",
                "required": "str",
                "extra": "str | None",
                "fits": "bool | None",
            }
        ],
        "conflicts": ["str"],
        "entry_points": ["str"],
        "launcher": "str",
        "launcher_beside": "str",
        "launcher_is_ours": "bool",
        "distro": "str",
        "other_distros": [],
        "configurator": "str",
        "other_configurators": [],
    },
    "settings": {
        "enabled": "bool",
        "settings": [{"name": "str", "value": "str", "source": "str"}],
        "warnings": [],
        "sdk_disabled": "None",
        "config_file": "None",
        "config_file_sections": "None",
        "disabled_instrumentations": ["str"],
        "unknown_variables": [],
    },
    "frameworks": [
        {
            "name": "str",
            "title": "str",
            "distributions": ["str"],
            "version": "str | None",
            "oldest": "str",
            "entry_point": "str",
            "instrumented": "bool",
            "why_not": "str | None",
            "checked": "str",
        }
    ],
    "resources": {
        "process": {"some": "int"},
        "host": {"some": "int"},
        "container": {"some": "int"},
        "cpu_utilization": "float",
        "memory_utilization": "float",
        "devices": [
            {
                "id": "str",
                "kind": "str",
                "vendor": "str",
                "name": "str",
                "model": "str",
                "ordinals": ["str"],
                "visible": "bool",
                "values": {"some": "int"},
            }
        ],
        "sources": [{"name": "str", "available": "bool", "why": "str | None", "wrong": "bool"}],
        "choices": {},
        "drivers": ["str"],
        "lock_directory": "str",
        "lock_directory_usable": "bool",
        "observed": ["str"],
    },
    "exporters": {
        "source": "str",
        "targets": [
            {
                "signal": "str",
                "exporter": "str",
                "installed": "bool",
                "protocol": "str",
                "endpoint": "str",
                "endpoint_from": "str",
                "address": {
                    "scheme": "str",
                    "host": "str",
                    "port": "int",
                    "path": "str",
                    "credentials": "bool",
                },
                "secure": "bool",
                "headers": ["str"],
                "timeout_s": "float",
                "certificate": "None",
                "reachable": "bool",
                "why_not": "None",
            }
        ],
        "metric_interval_s": "float",
        "sampler": "str",
        "sampler_argument": "None",
        "service_name": "None",
    },
    "neighbours": [
        {
            "name": "str",
            "distribution": "str",
            "version": "str",
            "active": "bool | None",
            "why_not": "str | None",
            "beside": "str",
            "left_to_it": ["str"],
        }
    ],
    "signals": {
        "spans": [{"framework": "str", "of": "str"}],
        "metrics": [{"section": "str", "emitted": ["str"], "absent": {"some": "str"}}],
    },
    "problems": [{"severity": "str", "what": "str", "remedy": "str", "check": "str"}],
}


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_no_secret_is_shown(options: list[str]) -> None:
    done = run("--offline", *options, **SECRETS)
    assert done.stdout
    assert "s3cret" not in done.stdout + done.stderr
    assert "api-key" in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_outputs_that_lack_signs(encoding: str) -> None:
    done = subprocess.run(
        [COMMAND, "doctor", "--offline"],
        env=environment(PATH=BIN, PYTHONIOENCODING=encoding, OTEL_SERVICE_NAME="Größe €"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert {"ascii": "Gr??e ?", "latin-1": "Größe ?", "utf-8": "Größe €"}[encoding] in done.stdout.decode(
        encoding
    )


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", "--nonsense"])
    assert stopped.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err


def test_what_other_commands_need_is_not_needed() -> None:
    code = (
        "import sys; sys.modules['otel_aimon.cli.demo'] = None\n"
        "from otel_aimon.cli import main; sys.exit(main(['doctor', '--offline']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_frameworks_are_not_imported() -> None:
    code = (
        "import sys; from otel_aimon.cli import main; main(['doctor', '--offline'])\n"
        "print([name for name in ('torch', 'transformers', 'sklearn', 'onnxruntime', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_under_opentelemetry_instrument(tmp_path: Path) -> None:
    none = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")}
    done = subprocess.run(
        [str(Path(BIN, "opentelemetry-instrument")), COMMAND, "doctor", "--json"],
        env=environment(PATH=BIN, **none),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert [each["check"] for each in document["problems"] if each["severity"] == "error"] == [
        "every_signal_has_an_exporter"
    ]


def test_a_peer_that_is_installed_elsewhere_on_the_path(tmp_path: Path) -> None:
    install(tmp_path, "openlit", "1.34.0")
    done = run("--json", "--offline", PYTHONPATH=str(tmp_path))
    peer = {each["name"]: each for each in json.loads(done.stdout)["neighbours"]}["openlit"]
    assert (peer["version"], peer["active"]) == ("1.34.0", None)


class TestNothingStopsIt:
    @staticmethod
    def failing(_seen: Seen) -> Any:
        raise ValueError("s3cret")

    def test_a_section_that_fails(self) -> None:
        def uses(seen: Seen) -> str:
            return seen.settings.warnings[0]

        def check(seen: Seen) -> Iterator[Problem]:
            yield Problem("info", str(seen.settings), "")

        parts = (
            Part("settings", "Settings", self.failing, list),
            Part("frameworks", "Frameworks", uses, list),
            Part("neighbours", "Neighbours", lambda _seen: "facts", lambda facts: [facts]),
        )
        document = doctor.examine(Seen({}), parts, (check,))
        place = f"ValueError in {__name__}, line {self.failing.__code__.co_firstlineno + 2}"
        assert document.as_data() == {
            "schema": 1,
            "otel_aimon": __version__,
            "ok": False,
            "settings": {"failed": place},
            "frameworks": {"failed": "it needs settings, which could not be examined"},
            "neighbours": "facts",
            "problems": [
                {
                    "severity": "error",
                    "what": f"The section settings failed: {place}.",
                    "remedy": "This is a mistake of otel-aimon; please report it with this document.",
                    "check": "doctor",
                }
            ],
        }
        assert document.as_text().startswith(f"Settings\n  could not be examined: {place}\n\nFrameworks\n")

    def test_a_check_that_fails(self) -> None:
        def check(seen: Seen) -> Iterator[Problem]:
            yield Problem("info", "before", "")
            self.failing(seen)

        document = doctor.examine(Seen({}), (), (check,))
        assert [(each.severity, each.check) for each in document.problems] == [
            ("error", "doctor"),
            ("info", "check"),
        ]

    def test_a_telling_that_fails(self) -> None:
        part = Part("settings", "Settings", lambda _seen: "facts", self.failing)
        ((_, found),) = doctor.examine(Seen({}), (part,), ()).parts
        assert isinstance(found, Failed)


def test_problems_are_wrapped_and_counted() -> None:
    document = Document((), [Problem("error", "word " * 40, "do " * 50), Problem("info", "short", "nothing")])
    lines = document.as_text().splitlines()
    assert lines[0] == "Problems: 1 error, 1 info"
    assert lines[1].startswith("  1. ERROR    word word")
    assert lines[-2:] == ["  2. INFO     short", "              -> nothing"]
    assert max(map(len, lines)) <= 110
    assert Document((), ()).as_text() == "Problems: none"
    assert Document((), [Problem("warning", "a", "b")] * 2).as_text().startswith("Problems: 2 warnings\n")


def test_every_check_says_why_it_matters() -> None:
    names = [check.__name__ for check in doctor.CHECKS]
    assert len(set(names)) == len(names)
    assert all(check.__doc__ for check in doctor.CHECKS)


def test_the_process_is_left_as_it_was(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    before = dict(os.environ)
    assert main(["doctor", "--offline", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    assert dict(os.environ) == before
