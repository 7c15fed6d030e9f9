"""A YAML or JSON file as keys with values, and what is wrong with its form: syntax, keys given twice."""

import json
import reprlib
from collections import Counter
from pathlib import Path, PurePath
from typing import Any

import yaml


def quoted(value: object) -> str:
    """Return any value as messages show it: on one line, cut when long, text in double quotes."""
    shown = _ShortRepr().repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def read_document(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the keys and values of a file (JSON when its suffix is .json, else YAML), and the faults passed over.

    Raises OSError, or ValueError with one line when the file is no such document at all.
    """
    return parse_document(path.read_bytes(), path)


def parse_document(content: bytes, path: PurePath) -> tuple[dict[str, Any], list[str]]:
    """Return what `read_document` does, of bytes; `path` names them in messages, and its suffix tells their kind."""
    try:
        text = content.decode("utf-8-sig")
        document, faults = _parse_json(text) if path.suffix.lower() == ".json" else _parse_yaml(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}; correct the JSON there") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}{_yaml_fault(error)}; correct the YAML there") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply; make it flatter") from error
    except ValueError as error:  # a date that is none
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read: {reason}; put the value in quotes") from error
    if not isinstance(document, dict):
        held = "is empty" if document is None else f"holds {quoted(document)}"
        raise ValueError(f"{path} {held}, but must hold keys with values, as in key: value")
    faults += [f"unknown key {quoted(key)}; remove it" for key in document if not isinstance(key, str)]
    return {key: value for key, value in document.items() if isinstance(key, str)}, faults


class _ShortRepr(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxtuple, self.maxdict, self.maxother = 3, 4, 4, 4, 60

    def repr_str(self, text: str, level: int) -> str:
        return json.dumps(text if len(text) <= 60 else text[:57] + "...", ensure_ascii=False)


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which also notes the keys that a mapping has twice."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.faults: list[str] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                continue  # refused by the call below
            if key.value in lines:
                self.faults.append(_repeated(key.value, f", in lines {lines[key.value]} and {line}"))
            lines.setdefault(key.value, line)
        return super().construct_mapping(node, deep=deep)


def _parse_yaml(text: str) -> tuple[Any, list[str]]:
    loader = _Loader(text)
    return loader.get_single_data(), loader.faults


def _parse_json(text: str) -> tuple[Any, list[str]]:
    faults: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = Counter(key for key, _ in pairs)
        faults.extend(_repeated(key) for key, count in counts.items() if count > 1)
        return dict(pairs)

    return json.loads(text, object_pairs_hook=unique), faults


def _repeated(key: str, where: str = "") -> str:
    return f"key {quoted(key)} is given twice{where}; remove one"


def _yaml_fault(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f": {problem}" if mark is None else f", line {mark.line + 1}: {problem}"
