"""`alchemint s2vtime score --perception grounded-sam2` as a user runs it, with tiny weights of the real classes."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alchemint import media
from alchemint.s2vtime.suite import About, write_suite

GIB = 2**30

MEASURED = """
import atexit, runpy, sys
atexit.register(lambda: print(open("/proc/self/status").read(), file=sys.stderr))
runpy.run_module("alchemint", run_name="__main__", alter_sys=True)
"""
"""alchemint, telling in the end the most memory that it held. The resource usage of a child would not tell: the kernel
counts into it what the process held that started it."""


@pytest.mark.slow
def test_a_long_video_at_480p_is_scored_in_bounded_memory(
    saved_models: Callable[..., Path], dino_model: Any, dino_processor: Any, clip_model: Any, clip_processor: Any,
    sam_model: Any, tmp_path: Path
) -> None:
    """300 frames of 832 x 480 pixels, two subjects: every stage runs, and the whole process stays under 2 GiB."""
    (tmp_path / "suite" / "images").mkdir(parents=True)
    subjects = []
    for word, colour in (("red cup", "red"), ("fox", "orange")):
        Image.new("RGB", (64, 64), colour).save(tmp_path / "suite" / "images" / f"{colour}.png")
        subjects.append({"name": word, "word": word, "images": [f"images/{colour}.png"], "appears": [[1.0, 9.0]]})
    write_suite(tmp_path / "suite", About(name="cups", version=1), [
        {"id": "cups", "storyboard": {"prompt": "A red cup beside a fox.", "subjects": subjects}}])
    frames = np.random.default_rng(0).integers(0, 255, (1, 480, 832, 3), np.uint8).repeat(300, axis=0)
    for number, frame in enumerate(frames):
        frame[100:300, 2 * number:2 * number + 160] = (250, 40, 30)
    media.write_video(tmp_path / "run" / "cups.mp4", frames, 30.0)
    weights = {"--detector": saved_models("dino", dino_model, dino_processor),
               "--comparer": saved_models("clip", clip_model, clip_processor),
               "--tracker": saved_models("sam", sam_model)}
    command = [sys.executable, "-c", MEASURED, "s2vtime", "score", str(tmp_path / "run"), "--suite",
               str(tmp_path / "suite"), "--perception", "grounded-sam2", "--device", "cpu",
               *(str(part) for pair in weights.items() for part in pair)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "run" / "scores").glob("grounded-sam2*/cups.json")
    row = json.loads(path.read_text())
    assert row["status"] == "ok", row
    assert row["video"]["num_frames"] == 300
    assert [subject["word"] for subject in row["subjects"]] == ["red cup", "fox"]
    for subject in row["subjects"]:
        assert subject["asked"] == [[30, 269]]
        assert 0 <= subject["t_iou"] <= 1
    peak = int(re.findall(r"VmHWM:\s*(\d+) kB", done.stderr)[-1]) * 1024
    assert peak < 2 * GIB, f"{peak / GIB:.2f} GiB"
