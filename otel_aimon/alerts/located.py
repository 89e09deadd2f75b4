"""YAML that remembers its lines: plain data in which each value knows where it stands.

Only the tree that the parser composes is read. No object is ever constructed from a tag.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from otel_aimon.alerts.problems import Wrong, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST = 1 << 20
MOST_NODES = 20_000

_NULL = "tag:yaml.org,2002:null"
_BOOL = "tag:yaml.org,2002:bool"
_PLAIN = "tag:yaml.org,2002:"
_TRUE = frozenset({"true", "yes", "on"})


@dataclass(slots=True)
class Item:
    """A value and its place.

    Attributes:
        line: From 1; that of its key, for a mapping's value.
        text: A scalar as written; None for a list, a mapping and null.
        items: A list's values.
        fields: A mapping's values.
        lines: The lines of a mapping's keys.
        flag: What a scalar says when it is read as true or false; None when it says neither.
    """

    line: int
    text: str | None = None
    items: list[Item] | None = None
    fields: dict[str, Item] | None = None
    lines: dict[str, int] = field(default_factory=dict)
    flag: bool | None = None

    @property
    def is_null(self) -> bool:
        """Nothing was written."""
        return self.text is None and self.items is None and self.fields is None

    def mapping(self, what: str, example: str) -> dict[str, Item]:
        """Its fields; none for null.

        Raises:
            Wrong: It is something else.
        """
        if self.is_null:
            return {}
        if self.fields is None:
            raise Wrong(f"{what} is not a mapping", f"write {example}", self.line)
        return self.fields

    def scalar(self, what: str, example: str) -> str:
        """Its text.

        Raises:
            Wrong: It is a list, a mapping or nothing.
        """
        if self.text is None:
            raise Wrong(f"{what} is not a single value", f"write {example}", self.line)
        return self.text

    def texts(self, what: str, example: str) -> list[str]:
        """A list of texts; a single one counts as a list of one.

        Raises:
            Wrong: It is something else.
        """
        if self.text is not None:
            return [self.text]
        return [each.scalar(f"a value of {what}", example) for each in self.items or ()]


def documents(text: str) -> Iterator[Item]:
    """The documents of a YAML text, one after the other.

    Raises:
        Wrong: What follows is malformed, refers to itself, or is too large.
        ImportError: PyYAML is not installed.
    """
    import yaml

    if len(text) > LARGEST:
        raise Wrong("the file is larger than 1 MiB", "leave out what is not a rule or an objective", 1)
    try:
        for node in yaml.compose_all(text, Loader=yaml.SafeLoader):
            yield _item(node, set(), [MOST_NODES])
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise Wrong(f"malformed YAML: {error.problem or error.context}", "correct it there", line) from None
    except yaml.YAMLError as error:
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        reason = getattr(error, "reason", "it cannot be read")
        raise Wrong(f"malformed YAML: {reason}", "correct it there", line) from None
    except RecursionError:
        raise Wrong("malformed YAML: it is nested too deeply", "flatten it", 1) from None


def _item(node: Any, above: set[int], left: list[int]) -> Item:
    line = node.start_mark.line + 1
    if id(node) in above:
        raise Wrong(
            "cyclic YAML: a value contains itself", "remove the alias that refers to what it is part of", line
        )
    left[0] -= 1
    if left[0] < 0:
        raise Wrong(f"the file has more than {MOST_NODES} values", "use fewer aliases of aliases", line)
    if not node.tag.startswith(_PLAIN) or node.tag.startswith(_PLAIN + "python"):
        raise Wrong(f"malformed YAML: tag {shown(node.tag)} is not allowed", "write plain values", line)
    if isinstance(node.value, str):
        if node.tag == _NULL:
            return Item(line)
        flag = node.value.lower() in _TRUE if node.tag == _BOOL else None
        return Item(line, text=node.value, flag=flag)
    above = above | {id(node)}
    if node.id == "sequence":
        return Item(line, items=[_item(child, above, left) for child in node.value])
    found = Item(line, fields={})
    assert found.fields is not None  # noqa: S101 - for the type checker
    for key, value in node.value:
        key_line = key.start_mark.line + 1
        if not isinstance(key.value, str):
            raise Wrong("malformed YAML: a key is not a text", "write a name before the colon", key_line)
        if key.value in found.fields:
            raise Wrong(f"{shown(key.value)} is written twice", "keep one of them", key_line)
        child = found.fields[key.value] = _item(value, above, left)
        # What people look for is the key, also where its value begins on the next line.
        child.line = found.lines[key.value] = key_line
    return found
