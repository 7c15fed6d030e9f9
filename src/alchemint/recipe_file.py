"""Recipes as files: YAML with `dotted.path=value` overrides, and one line for each fault."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError


def read_values(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the values of a recipe file with overrides applied.

    Raises ValueError when there is no such file or it is no mapping, or for an override that can't be read.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such recipe file") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {error}".replace("\n", " ")) from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: a recipe is a mapping of keys to values")
    return with_overrides(values, overrides)


def with_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set `dotted.path=value` in `values`, in place, and return it; values are read as YAML."""
    for override in overrides:
        _apply(values, override)
    return values


def fault_lines(label: object, error: ValidationError, num_skipped: int = 0) -> str:
    """Return a line for each fault that pydantic found; `label` names the file.

    num_skipped: parts of a key's path that are not in the file (a union's tag). What is told of the recipe as a whole
    names its own keys.
    """
    return "\n".join(_line(label, fault, num_skipped) for fault in error.errors())


def _line(label: object, fault: Any, num_skipped: int) -> str:
    union = fault["type"].startswith("union_tag")
    place = "kind" if union else ".".join(str(part) for part in fault["loc"][num_skipped:])
    given = "" if isinstance(fault["input"], dict) else f" (given: {fault['input']!r:.80})"
    return f"{label}: {f'{place}: ' if place else ''}{fault['msg'].removeprefix('Value error, ')}{given}"


def _apply(values: dict[str, Any], override: str) -> None:
    path, separator, value = override.partition("=")
    if not separator:
        raise ValueError(f'override "{override}": write it as key.path=value')
    *parents, key = path.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ValueError(f'override "{override}": "{parent}" is not a section of the recipe')
    try:
        values[key] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f'override "{override}": "{value}" is not valid YAML; quote it') from error
