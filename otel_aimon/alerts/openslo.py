"""Objectives from OpenSLO v1 documents of the kind ``SLO`` (github.com/OpenSLO/OpenSLO).

What is mapped is what this process can measure: a ``thresholdMetric`` on a latency, or a
``ratioMetric`` of good or bad to all requests. Which of our indicators a metric stands for is read from
the names in its ``metricSource.spec``, from the indicator's name, or from ``indicatorRef``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from otel_aimon.alerts.problems import Wrong, shown
from otel_aimon.alerts.quantities import checked_objective, quantity
from otel_aimon.analysis.slo import SLIS, Objective, Sli

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_aimon.alerts.located import Item

VERSION = "openslo/v1"

_METRICS: dict[str, Sli] = {
    "gen_ai.server.time_to_first_token": "ttft",
    "gen_ai.server.time_per_output_token": "tpot",
    "gen_ai.server.request.duration": "e2e",
    "aimon.inference.duration": "e2e",
    "aimon.inference.latency.quantile": "e2e",
    "aimon.inference.error.ratio": "error",
    "aimon.slo.events": "error",
}
_MEANS = "name one of error, ttft, tpot, e2e, or one of our metrics, in metricSource.spec or as the indicator"


def is_openslo(tree: Item) -> bool:
    """Whether a document says that it is OpenSLO."""
    version = (tree.fields or {}).get("apiVersion")
    return version is not None and (version.text or "").startswith("openslo")


def objectives(tree: Item) -> Iterator[Objective]:
    """The objectives of one document; none of a document of another kind than SLO.

    Raises:
        Wrong: What cannot be mapped, with its line.
    """
    version = _at(tree, "apiVersion")
    if version.text != VERSION:
        raise Wrong(f"{shown(version.text)} is not a version that is read", f"write {VERSION}", version.line)
    if _at(tree, "kind").text != "SLO":
        return
    name = re.sub(r"[^A-Za-z0-9_-]", "-", _text(tree, "metadata", "name"))
    spec = _at(tree, "spec")
    _check_method(spec)
    sli = _indicator(spec)
    items = _at(spec, "objectives").items
    if not items:
        raise Wrong("an SLO without objectives", "add objectives with a target", spec.line)
    for number, item in enumerate(items):
        own = name if len(items) == 1 else f"{name}-{number + 1}"
        try:
            yield checked_objective(own, sli, _target(item, own), _limit(item, sli, own))
        except Wrong as wrong:
            raise Wrong(wrong.what, wrong.remedy, wrong.line or item.line) from None


def _check_method(spec: Item) -> None:
    method = (spec.fields or {}).get("budgetingMethod")
    if method is not None and method.text != "Occurrences":
        raise Wrong(
            f"budgetingMethod {shown(method.text)} is not supported",
            "use Occurrences: it counts requests",
            method.line,
        )


def _target(item: Item, name: str) -> float:
    fields = item.mapping("an objective", "target: 0.99")
    if "target" in fields:
        return quantity(fields["target"].scalar("target", "0.99"), "1", f"the target of {name}")
    if "targetPercent" in fields:
        text = fields["targetPercent"].scalar("targetPercent", "99")
        return quantity(f"{text}%", "1", f"the target of {name}")
    raise Wrong(f"the objective {name} has no target", "add target: 0.99", item.line)


def _limit(item: Item, sli: Sli, name: str) -> float | None:
    if sli == "error":
        return None
    fields = item.mapping("an objective", "op: lte, value: 0.5, target: 0.99")
    op = fields.get("op")
    if op is not None and op.text not in {"lte", "lt"}:
        raise Wrong(
            f"op {shown(op.text)} of {name}: a latency is good below its limit", "use lte or lt", op.line
        )
    if "value" not in fields:
        raise Wrong(
            f"the objective {name} on a latency has no value", "add value: 0.5, in seconds", item.line
        )
    value = fields["value"]
    return quantity(value.scalar("value", "0.5"), "s", f"the value of {name}")


def _indicator(spec: Item) -> Sli:
    fields = spec.mapping("spec", "an indicator")
    if "indicatorRef" in fields:
        reference = fields["indicatorRef"]
        return _known([reference.text or ""], reference.line)
    indicator = _at(spec, "indicator")
    inner = _at(indicator, "spec").mapping("the indicator's spec", "thresholdMetric or ratioMetric")
    metric = inner.get("thresholdMetric") or inner.get("ratioMetric")
    if metric is None:
        raise Wrong("an indicator without a metric", "add thresholdMetric or ratioMetric", indicator.line)
    parts = metric.fields or {}
    if "ratioMetric" in inner and not ({"good", "bad", "raw"} & parts.keys()):
        raise Wrong("a ratioMetric without good or bad", "add good or bad, and total", metric.line)
    names = [text for part in metric.fields.values() for text in _texts(part)] if metric.fields else []
    label = ((indicator.fields or {}).get("metadata") or indicator).fields or {}
    if "name" in label:
        names.append(label["name"].text or "")
    sli = _known(names, metric.line)
    if ("thresholdMetric" in inner) == (sli == "error"):
        wanted = "ratioMetric" if sli == "error" else "thresholdMetric"
        raise Wrong(
            f"the indicator {sli} is no {'threshold' if sli == 'error' else 'ratio'} of ours",
            f"use {wanted}",
            metric.line,
        )
    return sli


def _known(names: list[str], line: int) -> Sli:
    for text in names:
        for metric, sli in _METRICS.items():
            if metric in text or metric.replace(".", "_") in text:
                return sli
        for sli in SLIS:
            if re.search(rf"(?<![A-Za-z0-9]){sli}(?![A-Za-z0-9])", text):
                return sli
    raise Wrong("an indicator that this process cannot measure", _MEANS, line)


def _texts(item: Item) -> Iterator[str]:
    if item.text is not None:
        yield item.text
    for child in (*(item.items or ()), *(item.fields or {}).values()):
        yield from _texts(child)


def _at(tree: Item, key: str) -> Item:
    found = tree.mapping("an OpenSLO document", key).get(key)
    if found is None:
        raise Wrong(f"an OpenSLO document without {key}", f"add {key}", tree.line)
    return found


def _text(tree: Item, *path: str) -> str:
    for key in path:
        tree = _at(tree, key)
    return tree.scalar(path[-1], "a name")
