"""Add a data set to params.yaml as text: comments, order and layout of everything else stay byte for byte."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from xadflow.errors import BadSettings
from xadflow.settings import load_settings


@dataclass(frozen=True)
class _Insertion:
    at: int
    text: str


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


def replace_params(path: Path, text: str) -> None:
    """Write params.yaml at once. Raises BadSettings, and leaves the file as it was, when the text is not valid."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    try:
        load_settings(partial)
    except BadSettings:
        partial.unlink()
        raise
    partial.replace(path)


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


def _into_list(text: str, root: yaml.MappingNode, path: tuple[str, ...], name: str) -> _Insertion:
    node = _node(root, path)
    if node.flow_style:
        return _into_flow(text, node, name)
    last = node.value[-1]
    indent = " " * node.start_mark.column
    return _Insertion(_line_end(text, _end(last)), f"\n{indent}- {name}")


def _into_map(text: str, root: yaml.MappingNode, path: tuple[str, ...], name: str, entry: str) -> _Insertion:
    node = _node(root, path)
    if node.flow_style:
        return _into_flow(text, node, f"{name}: {entry}")
    indent = " " * node.value[-1][0].start_mark.column
    return _Insertion(_line_end(text, _end(node.value[-1][1])), f"\n{indent}{name}: {entry}")


def _into_flow(text: str, node: yaml.CollectionNode, item: str) -> _Insertion:
    """Before the closing bracket, which is the node's last character."""
    return _Insertion(node.end_mark.index - 1, f", {item}" if node.value else item)


def _end(node: yaml.Node) -> int:
    """Index after a node's last character; a block collection's own mark lies after the comments that follow it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _line_end(text: str, index: int) -> int:
    """End of the line that holds `index`: a comment behind the last item stays with it."""
    found = text.find("\n", index)
    return len(text) if found < 0 else found


def _applied(text: str, places: list[_Insertion]) -> str:
    for place in sorted(places, key=lambda place: place.at, reverse=True):
        text = text[: place.at] + place.text + text[place.at :]
    return text
