"""`alchemint generate --memory --quantize`, and what the plan says of memory."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alchemint.cli.memory import memory_line
from alchemint.cli.models import TOY, find_model
from alchemint.memory import MemoryOptions
from alchemint.memory_estimate import Work

EXAMPLES = Path(__file__).parents[2] / "examples"

Alchemint = Callable[..., Any]


@pytest.mark.usefixtures("toy")
def test_the_plan_tells_the_memory(alchemint: Alchemint, tmp_path: Path) -> None:
    outcome = alchemint("generate", EXAMPLES / "park.yaml", "--dry-run", "--memory", "low")
    assert outcome.status == 0, outcome.err
    assert re.search(r"^memory  0\.0\d GiB expected, most in denoising; low$", outcome.out, re.MULTILINE)


@pytest.mark.usefixtures("toy")
def test_on_a_gpu_the_plan_tells_both_memories() -> None:
    line = memory_line(find_model(TOY), Work(64, 64, 25), MemoryOptions("balanced"), "cuda", "bfloat16")
    assert re.fullmatch(r"memory  [\d.]+ GiB expected on cuda, most in \w+, and about 0\.50 GiB of its own; "
                        r"[\d.]+ GiB in the host's memory; balanced", line)


@pytest.mark.usefixtures("toy")
def test_a_video_is_made_in_little_memory_and_says_so(alchemint: Alchemint, tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    outcome = alchemint("generate", EXAMPLES / "empty.yaml", "-o", target, "--steps", 1, "--memory", "low")
    assert outcome.status == 0, outcome.err
    record = json.loads(target.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["options"]["memory"] == {"memory": "low", "quantize": None}


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(("options", "message"), [
    (["--memory", "balanced"], "on a CPU use high or low"),
    (["--memory", "low", "--compile"], "can't trace the casts"),
    (["--quantize", "gguf"], "one .gguf file in"),
])
def test_what_cannot_work_is_one_line_of_a_dry_run(alchemint: Alchemint, options: list[str], message: str) -> None:
    if "gguf" in options:
        pytest.importorskip("gguf")
    outcome = alchemint("generate", EXAMPLES / "park.yaml", "--dry-run", *options)
    assert (outcome.status, outcome.out) == (2, "")
    assert message in outcome.err
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1


def test_a_plain_wan_is_planned_but_not_quantised(
    alchemint: Alchemint, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    board = shutil.copy(EXAMPLES / "empty.yaml", tmp_path / "empty.yaml")
    model = ("--model", folder_of("tiny"), "--dry-run")
    outcome = alchemint("generate", board, *model)
    assert outcome.status == 0, outcome.err
    assert "GiB expected" in outcome.out
    outcome = alchemint("generate", board, *model, "--quantize", "gguf")
    assert outcome.status == 2
    assert "is a plain Wan" in outcome.err
