"""Read YAML with the line of every key, so that a mistake in a file can be named with its line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from repro.errors import InputError

Path_ = tuple[str | int, ...]


class LinedYaml:
    """A YAML document as plain data, and the line of each of its keys and items."""

    def __init__(self, path: Path) -> None:
        """Read `path`. Raises InputError when it is missing, is no YAML, or repeats a key."""
        self.path = path
        self._lines: dict[Path_, int] = {}
        try:
            node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except FileNotFoundError:
            raise InputError(f"{path}: no such file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read ({error})") from None
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f":{mark.line + 1}" if mark else ""
            raise InputError(f"{path}{line}: not YAML: {getattr(error, 'problem', None) or error}") from None
        self.data: Any = None if node is None else self._build(node, ())

    def where(self, location: Sequence[str | int] = ()) -> str:
        """Return `file:line` of the key path, or of the nearest parent that stands in the file."""
        keys = tuple(location)
        while keys and keys not in self._lines:
            keys = keys[:-1]
        return f"{self.path}:{self._lines.get(keys, 1)}"

    def _build(self, node: yaml.Node, keys: Path_) -> Any:
        self._lines.setdefault(keys, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, keys)
        if isinstance(node, yaml.SequenceNode):
            return [self._build(item, (*keys, index)) for index, item in enumerate(node.value)]
        loader = yaml.SafeLoader("")
        try:
            return loader.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            raise InputError(
                f"{self.path}:{node.start_mark.line + 1}: not a value: {str(error).splitlines()[0]}"
            ) from None

    def _mapping(self, node: yaml.MappingNode, keys: Path_) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in result:
                raise InputError(f"{self.path}:{line}: key {key!r} stands here a second time")
            self._lines[(*keys, key)] = line
            result[key] = self._build(value_node, (*keys, key))
        return result
