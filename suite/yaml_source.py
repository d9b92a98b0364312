"""Reading YAML so that every value remembers its line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Path_ = tuple[str | int, ...]


class ExperimentError(ValueError):
    """A file or override that is not an experiment; one line per problem: where, what was given, what is allowed."""


@dataclass
class YamlSource:
    """Plain data, and the line of each key and list item by its path."""

    file: str
    data: dict[str, Any]
    lines: dict[Path_, int] = field(default_factory=dict)

    def place(self, path: Path_) -> str:
        """file:line of a path, or of the nearest one above it that the file has."""
        return f"{self.file}:{self.line(path)}"

    def line(self, path: Path_) -> int:
        """The line alone."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


class _Loader(yaml.SafeLoader):
    """YAML as people expect it: 1e-6 is a number, yes and off are words, duplicate keys are errors."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:(?:\d[\d_]*\.[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def parse_value(text: str) -> Any:
    """One YAML value, as after the = of an override.

    Raises:
        yaml.YAMLError: it is not YAML.
    """
    return yaml.load(text, Loader=_Loader)


def read_yaml(path: str | Path) -> YamlSource:
    """A YAML file whose top level is a mapping.

    Raises:
        ExperimentError: it cannot be read, is not YAML, or repeats a key.
    """
    text = _text(Path(path))
    try:
        node = yaml.compose(text, Loader=_Loader)
        data = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ExperimentError(f"{path}:{line}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ExperimentError(f"{path}:1: not valid YAML: {error}") from None
    if not isinstance(data, dict) or node is None:
        given = "the file is empty" if data is None else f"the top level is a {type(data).__name__}"
        raise ExperimentError(
            f"{path}:1: {given}; an experiment is a mapping of keys to values (`stillpoint init` prints one)"
        )
    source = YamlSource(str(path), data)
    problems: list[str] = []
    _walk(node, (), source, problems, set())
    if problems:
        raise ExperimentError("\n".join(problems))
    return source


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except IsADirectoryError:
        raise ExperimentError(f"{path}: is a folder; give a YAML file") from None
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise ExperimentError(f"{path}: cannot be read: {error.strerror}; give the path of a YAML file") from None


def _walk(node: yaml.Node, path: Path_, source: YamlSource, problems: list[str], above: set[int]) -> None:
    """Note lines, and keys that appear twice."""
    if id(node) in above:
        problems.append(f"{source.file}:{node.start_mark.line + 1}: an alias contains itself")
        return
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            source.lines.setdefault((*path, index), item.start_mark.line + 1)
            _walk(item, (*path, index), source, problems, above | {id(node)})
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line, name = key.start_mark.line + 1, str(key.value)
            if name in seen:
                problems.append(
                    f"{source.file}:{line}: {name!r} is given twice, first in line {seen[name]}; keep one of them"
                )
            seen.setdefault(name, line)
            if name != "<<":
                source.lines.setdefault((*path, name), line)
            _walk(value, path if name == "<<" else (*path, name), source, problems, above | {id(node)})
