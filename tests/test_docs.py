"""The docs say what is true: their tables come from the code, their links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from otel_aimon import semconv
from otel_aimon.instrumentation.registry import FRAMEWORKS, Framework

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("*/README.md"),
        *ROOT.glob("examples/*/**/*.md"),
    ]
)


def test_generated_tables_are_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    broken = [
        target
        for target in targets
        if target and not target.startswith(("http://", "https://")) and not (page.parent / target).exists()
    ]
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_signal_named_in_the_docs_exists(page: Path) -> None:
    known = {metric.name for metric in semconv.METRICS} | {
        value for value in vars(semconv).values() if isinstance(value, str)
    }
    named = set(re.findall(r"`((?:aimon|gen_ai)\.[a-z_]+(?:\.[a-z_]+)*)`", page.read_text(encoding="utf-8")))
    assert named - known == set()


def test_every_framework_has_a_page() -> None:
    missing = [
        each.name for each in FRAMEWORKS if not (ROOT / "docs" / "frameworks" / f"{each.name}.md").exists()
    ]
    assert missing == []


@pytest.mark.parametrize(
    "framework", [each for each in FRAMEWORKS if each.checked], ids=lambda each: each.name
)
def test_pages_of_frameworks_that_are_not_run_as_for_their_users_say_so(framework: Framework) -> None:
    page = (ROOT / "docs" / "frameworks" / f"{framework.name}.md").read_text(encoding="utf-8")
    assert framework.checked in " ".join(page.split())


def test_the_two_commands_of_the_readme_are_targets_of_the_makefile() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test"):
        assert re.search(rf"^make {target}\b", readme, re.MULTILINE)
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
