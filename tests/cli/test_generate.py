"""`alchemint generate` with the model that the package ships."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from alchemint.cli.models import TOY_FOLDER
from alchemint.media import read_video

EXAMPLES = Path(__file__).parents[2] / "examples"
PARK = EXAMPLES / "park.yaml"
SEED = yaml.safe_load(PARK.read_text(encoding="utf-8"))["seed"]

Alchemint = Callable[..., Any]


@pytest.mark.usefixtures("toy")
def test_a_video_its_record_and_its_sheet(alchemint: Alchemint, tmp_path: Path) -> None:
    target = tmp_path / "new" / "park.mp4"
    outcome = alchemint("generate", PARK, "-o", target, "--steps", 2, "--sheet", "--upscale", 2)
    assert outcome.status == 0, outcome.err
    record = json.loads(target.with_suffix(".json").read_text(encoding="utf-8"))
    frames, fps = read_video(target)
    board = record["storyboard"]
    assert frames.shape == (board["num_frames"], 2 * board["height"], 2 * board["width"], 3)
    assert (fps, board["seed"]) == (board["fps"], SEED)
    assert record["options"]["steps"] == 2
    assert record["versions"].keys() == {"alchemint", "torch", "diffusers", "transformers"}
    with Image.open(target.with_suffix(".png")) as sheet:
        assert sheet.width > 600
    assert sorted(path.name for path in target.parent.iterdir()) == ["park.json", "park.mp4", "park.png"]


@pytest.mark.usefixtures("toy")
def test_a_record_is_enough_to_make_the_video_again(alchemint: Alchemint, tmp_path: Path) -> None:
    first, again = tmp_path / "first.mp4", tmp_path / "again.mp4"
    assert alchemint("generate", EXAMPLES / "empty.yaml", "-o", first, "--steps", 2, "--seed", 5).status == 0
    record = json.loads(first.with_suffix(".json").read_text(encoding="utf-8"))
    (tmp_path / "board.json").write_text(json.dumps(record["storyboard"]), encoding="utf-8")
    assert alchemint("generate", tmp_path / "board.json", "-o", again, "--steps", 2).status == 0
    assert np.array_equal(read_video(first)[0], read_video(again)[0])


@pytest.mark.usefixtures("toy")
def test_a_seed_is_drawn_and_recorded_when_none_is_given(alchemint: Alchemint, tmp_path: Path) -> None:
    (tmp_path / "board.yaml").write_text("prompt: a meadow\n", encoding="utf-8")
    seeds = set()
    for name in ("a.mp4", "b.mp4"):
        assert alchemint("generate", tmp_path / "board.yaml", "-o", tmp_path / name, "--steps", 1).status == 0
        seeds.add(json.loads((tmp_path / name).with_suffix(".json").read_text())["storyboard"]["seed"])
    assert len(seeds) == 2


@pytest.mark.usefixtures("toy")
def test_a_reference_gate_is_applied_planned_and_recorded(alchemint: Alchemint, tmp_path: Path) -> None:
    gated, free = tmp_path / "gated.mp4", tmp_path / "free.mp4"
    outcome = alchemint("generate", PARK, "-o", gated, "--steps", 1, "--reference-gate", 8)
    assert outcome.status == 0, outcome.err
    assert "gate    8 on references outside their intervals" in outcome.out
    assert json.loads(gated.with_suffix(".json").read_text())["options"]["reference_gate"] == 8
    assert alchemint("generate", PARK, "-o", free, "--steps", 1).status == 0
    assert not np.array_equal(read_video(gated)[0], read_video(free)[0])
    outcome = alchemint("generate", PARK, "--reference-gate", -1, "--dry-run")
    assert outcome.status != 0
    assert "reference_gate is -1; use a number from 0" in outcome.err


@pytest.mark.usefixtures("toy")
def test_a_dry_run_reads_no_weights_and_writes_nothing(
    alchemint: Alchemint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(TOY_FOLDER, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.chdir(tmp_path)
    outcome = alchemint("generate", PARK, "--model", tmp_path / "model", "--dry-run")
    assert outcome.status == 0, outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    tokens = next(line for line in outcome.out.splitlines() if line.startswith("tokens"))
    video, reference, word, total = (int(word) for word in tokens.split() if word.isdigit())
    assert video + reference + word == total
    assert "3 evaluations" in outcome.out


@pytest.mark.slow
@pytest.mark.usefixtures("toy")
def test_a_long_storyboard_is_made_in_windows(alchemint: Alchemint, tmp_path: Path) -> None:
    target = tmp_path / "long.mp4"
    outcome = alchemint("generate", EXAMPLES / "long.yaml", "-o", target, "--steps", 2, "--window", 29, "--sheet")
    assert outcome.status == 0, outcome.err
    assert "windows 5 of 29 frames" in outcome.out
    frames, _ = read_video(target)
    assert frames.shape == (97, 64, 64, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.json", "long.mp4", "long.png"]
    record = json.loads(target.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["storyboard"]["num_frames"] == 97
    assert (record["options"]["window"], record["options"]["overlap_s"]) == (29, None)


@pytest.mark.usefixtures("toy")
def test_the_plan_tells_the_windows(alchemint: Alchemint) -> None:
    outcome = alchemint("generate", EXAMPLES / "long.yaml", "--dry-run", "--overlap", 0.5, "--window", 53)
    lines = " ".join(outcome.out.split())
    assert "windows 2 of 53 frames; each goes on from the last 9 (1 s) of the one before" in lines
    assert "work 2 times 40 steps of 3 evaluations (240 in all)" in lines
    # The second window begins at 5.5 s: all four subjects are in it, the duck with two views.
    assert "896 video + 320 reference + 40 word-tag = 1256 in the fullest window" in lines
    assert "windows" not in alchemint("generate", PARK, "--dry-run").out
    ignored = alchemint("generate", PARK, "--dry-run", "--overlap", 0)
    assert ignored.err == "warning: --overlap has no effect, as the video fits into a window of 33 frames\n"


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("options", [["--window", 24], ["--overlap", 0.3], ["--overlap", -1], ["--overlap", 4]])
def test_windows_that_cannot_be_are_one_line(alchemint: Alchemint, options: list[object]) -> None:
    outcome = alchemint("generate", EXAMPLES / "long.yaml", "--dry-run", *options)
    assert (outcome.status, len(outcome.err.splitlines()), outcome.out) == (2, 1, "")


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(("options", "evaluations"), [
    (["--image-scale", 0, "--text-scale", 0], "1 evaluations"),
    (["--guidance", "joint", "--joint-scale", 1], "4 evaluations"),
    (["--image-scale", 2.5], "chained 2.5/1.5 guidance"),
    (["--guidance", "joint", "--text-scale", 1, "--joint-scale", 1], "joint 4/1/1 guidance"),
    (["--guidance-interval", 0, 0.5], "1 or 3 evaluations (80 in all)"),
])
def test_the_plan_tells_the_work(alchemint: Alchemint, options: list[object], evaluations: str) -> None:
    assert evaluations in alchemint("generate", PARK, "--dry-run", *options).out


@pytest.mark.usefixtures("toy")
def test_every_fault_of_a_storyboard_is_a_line(alchemint: Alchemint, tmp_path: Path) -> None:
    (tmp_path / "board.yaml").write_text(
        "prompt: a dog\nwidth: 65\nsubjects:\n  - {name: dog, wrod: dog, images: [dog.png], appears: [[0, 99]]}\n",
        encoding="utf-8")
    outcome = alchemint("generate", tmp_path / "board.yaml", "--dry-run")
    assert (outcome.status, outcome.out) == (2, "")
    lines = outcome.err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    for part in ("width 65", '"wrod"', "word is missing", "dog.png", "end 99.0 s"):
        assert any(part in line for line in lines), part
    assert len(lines) == 5


@pytest.mark.usefixtures("toy")
def test_a_word_that_the_prompt_lacks_is_a_warning(alchemint: Alchemint, tmp_path: Path) -> None:
    text = PARK.read_text(encoding="utf-8").replace("word: balloon", "word: kite")
    (tmp_path / "board.yaml").write_text(text.replace("[", f"[{EXAMPLES}/", 1).replace(
        "[balloon.png", f"[{EXAMPLES}/balloon.png"), encoding="utf-8")
    outcome = alchemint("generate", tmp_path / "board.yaml", "--dry-run")
    assert outcome.status == 0, outcome.err
    assert outcome.err.startswith('warning: subject "balloon": the prompt does not have the word "kite"')


@pytest.mark.parametrize(("arguments", "message"), [
    (["none.yaml"], "none.yaml: No such file"),
    ([PARK, "-o", "park.avi"], "must end in .mp4"),
    ([PARK, "--model", "nowhere"], "neither toy nor a folder"),
    ([PARK, "--model", EXAMPLES], "no model folder"),
])
def test_wrong_arguments_are_one_line(alchemint: Alchemint, arguments: list[object], message: str) -> None:
    outcome = alchemint("generate", *arguments)
    assert (outcome.status, len(outcome.err.splitlines())) == (2, 1)
    assert message in outcome.err


@pytest.mark.slow
@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_generation_leaves_no_file(tmp_path: Path, number: signal.Signals, status: int) -> None:
    command = [sys.executable, "-u", "-m", "alchemint", "generate", str(PARK), "-o", str(tmp_path / "park.mp4"),
               "--steps", "1000000"]
    # Who runs the tests may ignore Ctrl-C, and a child would inherit that.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          preexec_fn=heed) as process:
        assert process.stdout is not None
        while f"seed {SEED}" not in process.stdout.readline():
            assert process.poll() is None
        time.sleep(3)
        process.send_signal(number)
        process.communicate(timeout=60)
    # As a shell tells it: when Ctrl-C comes while C code loads a library, Python ends by the signal itself.
    assert (process.returncode if process.returncode >= 0 else 128 - process.returncode) == status
    assert list(tmp_path.iterdir()) == []
