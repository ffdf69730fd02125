"""Add a data set to params.yaml, or take it out, as text: comments, order and layout of all else stay byte for byte."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from xadflow.errors import BadSettings
from xadflow.settings import load_settings


@dataclass(frozen=True)
class _Change:
    """`text` in place of what lies between two indices."""

    at: int
    text: str
    end: int | None = None


def with_dataset(text: str, name: str, entry: Mapping[str, object]) -> str:
    """params.yaml with `name` in `catalogue` and `entry` as the last one of `datasets`."""
    one_line = yaml.safe_dump(dict(entry), default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True)
    root = _root(text)
    places = [
        _into_list(text, root, ("catalogue",), name),
        _into_map(text, root, ("datasets",), name, one_line.strip()),
    ]
    return _applied(text, places)


def with_name_in(text: str, name: str, *paths: tuple[str, ...]) -> str:
    """params.yaml with `name` appended to each of the lists at `paths` that does not hold it yet."""
    root = _root(text)
    missing = [path for path in paths if name not in [item.value for item in _node(root, path).value]]
    return _applied(text, [_into_list(text, root, path, name) for path in missing])


def without_dataset(text: str, name: str) -> str:
    """params.yaml without `name` in `catalogue`, `datasets` and the lists of both flows; comments stay."""
    for path in (("catalogue",), ("retrain", "datasets"), ("explain", "datasets"), ("datasets",)):
        while True:  # a list may hold it twice
            node = _node(_root(text), path)
            place = next((place for place, item in enumerate(node.value) if _key(item).value == name), None)
            if place is None:
                break
            text = _applied(text, [_without(text, node, place)])
    return text


def without_keys(text: str, under: str, names: Collection[str]) -> str:
    """YAML without some keys, not all of them, of the mapping `under`, a key of its root: dvc.lock without stages."""
    node = _node(_root(text), (under,))
    gone = [place for place, item in enumerate(node.value) if _key(item).value in names]
    return _applied(text, [_without(text, node, place) for place in gone])


def replace_params(path: Path, text: str) -> None:
    """Write params.yaml at once. Raises BadSettings, and leaves the file as it was, when the text is not valid."""
    partial = path.with_suffix(".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        load_settings(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _root(text: str) -> yaml.MappingNode:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise BadSettings("params.yaml must be a mapping", seen=type(root).__name__, next_step="see README")
    return root


def _node(root: yaml.MappingNode, path: tuple[str, ...]) -> yaml.CollectionNode:
    node: yaml.CollectionNode = root
    for key in path:
        found = [value for name, value in node.value if name.value == key]
        if not found or not isinstance(found[0], yaml.CollectionNode):
            raise BadSettings(
                f"params.yaml has no list or mapping {'.'.join(path)}",
                seen=key,
                next_step="add it by hand; README shows a whole params.yaml",
            )
        node = found[0]
    return node


def _into_list(text: str, root: yaml.MappingNode, path: tuple[str, ...], name: str) -> _Change:
    node = _node(root, path)
    if node.flow_style:
        return _into_flow(text, node, name)
    last = node.value[-1]
    indent = " " * node.start_mark.column
    return _Change(_line_end(text, _end(last)), f"\n{indent}- {name}")


def _into_map(text: str, root: yaml.MappingNode, path: tuple[str, ...], name: str, entry: str) -> _Change:
    node = _node(root, path)
    if node.flow_style:
        return _into_flow(text, node, f"{name}: {entry}")
    indent = " " * node.value[-1][0].start_mark.column
    return _Change(_line_end(text, _end(node.value[-1][1])), f"\n{indent}{name}: {entry}")


def _into_flow(text: str, node: yaml.CollectionNode, item: str) -> _Change:
    """Before the closing bracket, which is the node's last character."""
    return _Change(node.end_mark.index - 1, f", {item}" if node.value else item)


def _without(text: str, node: yaml.CollectionNode, place: int) -> _Change:
    """What takes one item from a list or mapping: with its comma where it is written in brackets, else its lines."""
    item = node.value[place]
    start, end = int(_key(item).start_mark.index), _end(_value(item))
    if node.flow_style:
        if place + 1 < len(node.value):
            return _Change(start, "", int(_key(node.value[place + 1]).start_mark.index))
        return _Change(_end(_value(node.value[place - 1])) if place else start, "", end)
    begin, stop = text.rfind("\n", 0, start) + 1, min(_line_end(text, end) + 1, len(text))
    if len(node.value) > 1:
        return _Change(begin, "", stop)
    indent = " " * (node.start_mark.column + 1)
    return _Change(begin, f"{indent}{'{}' if isinstance(item, tuple) else '[]'}\n", stop)


def _key(item: Any) -> yaml.Node:
    """Of an item of a mapping its key; of a list the item itself."""
    node: yaml.Node = item[0] if isinstance(item, tuple) else item
    return node


def _value(item: Any) -> yaml.Node:
    node: yaml.Node = item[1] if isinstance(item, tuple) else item
    return node


def _end(node: yaml.Node) -> int:
    """Index after a node's last character; a block collection's own mark lies after the comments that follow it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        return _end(_value(node.value[-1]))
    return int(node.end_mark.index)


def _line_end(text: str, index: int) -> int:
    """End of the line that holds `index`: a comment behind the last item stays with it."""
    found = text.find("\n", index)
    return len(text) if found < 0 else found


def _applied(text: str, places: list[_Change]) -> str:
    for place in sorted(places, key=lambda place: place.at, reverse=True):
        text = text[: place.at] + place.text + text[place.at if place.end is None else place.end :]
    return text
