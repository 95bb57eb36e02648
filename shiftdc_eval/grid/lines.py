"""Line numbers of the entries of a grid file, for error messages."""

from __future__ import annotations

import re
from typing import Any

import yaml


def yaml_line(text: str, loc: list[Any]) -> int | None:
    """Line of the node at a path of keys and indices, or of its deepest existing ancestor."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    line = 1 if node is None else node.start_mark.line + 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def toml_line(text: str, loc: list[Any]) -> int | None:
    """As `yaml_line`, by searching the text for the keys: the TOML parser reports no positions."""
    lines = text.splitlines()
    line, begin, end, key = None, 0, len(lines), ""
    for part in loc:
        if isinstance(part, int):
            heads = [number for number, one in enumerate(lines) if re.match(rf"\s*\[\[{key}\]\]", one)]
            if part >= len(heads):
                continue  # an inline list: its entries stand on or below the line of its key
            begin = heads[part]
            end = next((n for n in range(begin + 1, len(lines)) if lines[n].startswith("[")), len(lines))
        else:
            key = re.escape(part)
            own = rf"\s*\[*{key}\s*[=\].]|.*[{{,\[]\s*{key}\s*="
            found = next((n for n in range(begin, end) if re.match(own, lines[n])), None)
            if found is None:
                break
            begin = found
            if lines[found].startswith(f"[{part}"):
                end = next((n for n in range(found + 1, len(lines)) if lines[n].startswith("[")), len(lines))
        line = begin + 1
    return line


def repeated_key(text: str) -> tuple[str, int] | None:
    """The first duplicate key of a YAML mapping and the line of its second occurrence (YAML keeps the last)."""
    seen: set[int] = set()
    waiting = [yaml.compose(text, Loader=yaml.SafeLoader)]
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:  # an alias may lead back to where it stands
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in keys:
                    return key.value, key.start_mark.line + 1
                keys.add(str(key.value))
                waiting += [key, value]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
    return None
