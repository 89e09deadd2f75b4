"""The cases of benchmarks/frameworks.py, a module per family of frameworks."""

from __future__ import annotations

from framework_cases import audio_image, clients, servers, tabular, tensors, text

CASES = {
    name: case
    for family in (tabular, tensors, text, audio_image, clients, servers)
    for name, case in family.CASES.items()
}
"""Name → the case. What comes after a comma is not in the page."""
