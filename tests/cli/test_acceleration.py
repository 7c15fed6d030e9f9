"""The options that make `alchemint generate` faster."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alchemint.acceleration import StepCache
from alchemint.cli.acceleration import parse_step_cache

EMPTY = Path(__file__).parents[2] / "examples" / "empty.yaml"
Alchemint = Callable[..., Any]


def test_step_caches_are_read(tmp_path: Path) -> None:
    table = tmp_path / "a:b.json"
    table.write_text('{"mag_ratios": [1.0, 1.25]}')
    assert parse_step_cache("first-block") == StepCache("first-block", 0.08)
    assert parse_step_cache("first-block:0.2") == StepCache("first-block", 0.2)
    assert parse_step_cache(f"mag:{table}") == StepCache("mag", 0.06, (1.0, 1.25))
    assert parse_step_cache(f"mag:{table}:1e-2") == StepCache("mag", 0.01, (1.0, 1.25))
    assert parse_step_cache("calibrate:new.json") == StepCache("calibrate", 0.0)


@pytest.mark.parametrize(("text", "message"), [
    ("tea:0.1", '"tea" is unknown; use one of first-block, mag, calibrate'),
    ("first-block:fast", '"first-block:fast" is none of first-block:THRESHOLD, mag:FILE'),
    ("mag:0.06", '"mag:0.06" is none of'), ("calibrate", '"calibrate" is none of'),
    ("mag:{table}", 'table.json is no table of a step cache: it must be JSON with a list "mag_ratios"'),
    ("mag:{table}.no", "table.json.no: No such file"),
])
@pytest.mark.usefixtures("toy")
def test_other_step_caches_are_a_line(alchemint: Alchemint, tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "table.json"
    table.write_text('{"mag_ratios": "none"}')
    outcome = alchemint("generate", EMPTY, "--dry-run", "--step-cache", text.format(table=table))
    assert outcome.status == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(("options", "message"), [
    (["--attention-backend", "flash"], "use one of "),
    (["--context-parallel", 2], "takes 2 processes, but there is 1"),
    (["--branch-parallel", 2, "--step-cache", "calibrate:x.json"], "use one process"),
    (["--attention-backend", "flex"], "add compile")])
def test_what_cannot_be_is_told_without_weights(alchemint: Alchemint, options: list[object], message: str) -> None:
    outcome = alchemint("generate", EMPTY, "--dry-run", "--device", "cpu", *options)
    assert outcome.status == 2
    assert message in outcome.err
    assert len([line for line in outcome.err.splitlines() if line.startswith("error")]) == 1


@pytest.mark.usefixtures("toy")
def test_the_plan_tells_what_is_on(alchemint: Alchemint) -> None:
    outcome = alchemint("generate", EMPTY, "--dry-run", "--device", "cpu", "--attention-backend", "_native_math",
                        "--compile", "--step-cache", "first-block:0.1")
    assert outcome.status == 0, outcome.err
    assert "attention _native_math, compiled, step cache first-block 0.1" in " ".join(outcome.out.split())
    outcome = alchemint("generate", EMPTY, "--dry-run", "--steps", 8, "--text-interval", 0.25, 0.75)
    assert "1 or 2 evaluations (12 in all)" in outcome.out


@pytest.mark.usefixtures("toy")
def test_a_table_is_measured_and_used(alchemint: Alchemint, tmp_path: Path) -> None:
    table, target = tmp_path / "table.json", tmp_path / "empty.mp4"
    outcome = alchemint("generate", EMPTY, "-o", target, "--steps", 4, "--step-cache", f"calibrate:{table}")
    assert outcome.status == 0, outcome.err
    ratios = json.loads(table.read_text())["mag_ratios"]
    assert len(ratios) == 4
    assert ratios[0] == 1
    outcome = alchemint("generate", EMPTY, "-o", target, "--steps", 3, "--step-cache", f"mag:{table}:0.3")
    assert outcome.status == 0, outcome.err
    recorded = json.loads(target.with_suffix(".json").read_text())["options"]["acceleration"]["step_cache"]
    assert recorded == {"kind": "mag", "threshold": 0.3, "ratios": ratios}
