"""`alchemint s2vtime` from making videos to the report, and what it says when something is wrong."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alchemint import media
from alchemint.cli import perceptions
from alchemint.cli.systems import clip_of, find_system
from alchemint.s2vtime.suite import load_suite

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def toy_perception() -> None:
    """Skip where the package has no toy perception."""
    if not (perceptions.FOLDER / "matcher.safetensors").is_file():
        pytest.skip("the toy perception is not there")


@pytest.fixture
def small_suite(tmp_path: Path) -> Path:
    """The first three storyboards of toy-dual, as a suite of their own."""
    from alchemint.s2vtime.suite import About, write_suite

    whole = load_suite("toy-dual")
    rows = [entry.row for entry in whole.entries[:3]]
    for entry in whole.entries[:3]:
        for subject in entry.row["storyboard"]["subjects"]:
            target = tmp_path / "small" / subject["images"][0]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((whole.folder / subject["images"][0]).read_bytes())
    write_suite(tmp_path / "small", About(name="small", version=1), rows)
    return tmp_path / "small"


def test_the_shipped_suites_are_listed(alchemint: Run) -> None:
    outcome = alchemint("s2vtime", "suites")
    assert outcome.status == 0
    names = [line.split()[0] for line in outcome.out.splitlines()]
    assert names == ["toy-dual", "toy-quad", "toy-similar", "toy-single"]


def test_ground_truth_from_videos_to_the_report(alchemint: Run, small_suite: Path, tmp_path: Path) -> None:
    run = ("s2vtime", "run", "--suite", small_suite, "--system", "truth", "--out", tmp_path / "truth")
    assert "3 of 3 videos" in alchemint(*run).out
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "truth").glob("*.mp4")}
    assert "3 of 3 videos are there already" in alchemint(*run).out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "truth").glob("*.mp4")} == before

    scored = alchemint("s2vtime", "score", tmp_path / "truth")
    assert scored.status == 0
    assert "3 of 3 videos" in scored.out
    assert "always on" in scored.out
    (shown,) = [line.split() for line in scored.out.splitlines() if line.strip().startswith("t-IoU")]
    assert float(shown[1]) > 0.8

    # Somebody else's videos, one of them corrupt and one missing.
    (tmp_path / "theirs").mkdir()
    media.write_video(tmp_path / "theirs" / "toy-dual-000.mp4", np.full((25, 64, 64, 3), 90, np.uint8), 6.0)
    (tmp_path / "theirs" / "toy-dual-001.mp4").write_bytes(b"no video")
    theirs = alchemint("s2vtime", "score", tmp_path / "theirs", "--suite", small_suite)
    assert theirs.status == 0
    assert "toy-dual-001: " in theirs.err
    assert "toy-dual-002: " in theirs.err
    assert "1 of 3 videos" in theirs.out

    report = alchemint("s2vtime", "report", tmp_path / "truth", tmp_path / "theirs", "--suite", small_suite,
                       "--out", tmp_path / "report")
    assert report.status == 0
    assert "| truth |" in report.out
    numbers = json.loads((tmp_path / "report" / "report.json").read_text())
    assert numbers["systems"]["theirs"]["t_iou"]["mean"] == 0
    assert numbers["systems"]["truth"]["t_iou"]["mean"] == pytest.approx(float(shown[1]), abs=5e-4)
    assert "<svg" in (tmp_path / "report" / "index.html").read_text()


def test_a_program_is_a_system(alchemint: Run, small_suite: Path, tmp_path: Path) -> None:
    media.write_video(tmp_path / "any.mp4", np.full((25, 64, 64, 3), 90, np.uint8), 6.0)
    (tmp_path / "make.py").write_text("import shutil, sys; assert 'prompt' in open(sys.argv[1]).read(); "
                                      "shutil.copyfile(sys.argv[3], sys.argv[2])")
    command = f"{sys.executable} {tmp_path}/make.py {{storyboard}} {{output}} {tmp_path}/any.mp4"
    outcome = alchemint("s2vtime", "run", "--suite", small_suite, "--command", command, "--out", tmp_path / "out",
                        "--limit", 2)
    assert "2 of 2 videos" in outcome.out
    other = alchemint("s2vtime", "run", "--suite", small_suite, "--command", f"nice {command}", "--out",
                      tmp_path / "out")
    assert other.status == 2
    assert "holds a run with another settings" in other.err


def test_failed_videos_are_told_and_tried_again_when_asked(alchemint: Run, small_suite: Path, tmp_path: Path) -> None:
    run = ("s2vtime", "run", "--suite", small_suite, "--command", "false {storyboard} {output}", "--out",
           tmp_path / "out")
    first = alchemint(*run)
    assert first.status == 0
    assert "0 of 3 videos" in first.out and "3 failed" in first.out
    assert "toy-dual-001: RuntimeError: the command ended with status 1" in first.err
    assert "3 could not be made before; --retry tries them again" in alchemint(*run).out
    assert "3 failed" in alchemint(*run, "--retry").out


@pytest.mark.parametrize(("arguments", "message"), [
    (("run", "--suite", "toy-singel", "--out", "x"), 'there is no suite "toy-singel"'),
    (("run", "--suite", "toy-single", "--system", "sora", "--out", "x"), 'system "sora" is unknown'),
    (("run", "--suite", "toy-single", "--model", "nowhere", "--out", "x"), 'model "nowhere" is neither'),
    (("run", "--suite", "toy-single", "--command", "make", "--out", "x"), "must name {storyboard} and {output}"),
    (("run", "--suite", "toy-single", "--system", "truth", "--workers", "2", "--out", "x"), "--workers needs --ray"),
    (("score", "nowhere"), "there is no folder nowhere"),
    (("score", "."), "name it with --suite"),
    (("score", ".", "--suite", "toy-single", "--tracker", "x"), "--tracker is of --perception grounded-sam2"),
    (("report", "."), "name it with --suite"),
    (("report", ".", "--suite", "toy-single"), "score them with the same perception first"),
    (("build", "--out", "x"), "--t2i or from --pictures"),
    (("build", "--out", "x", "--pictures", ".", "--duration", "3"), "have intervals of up to 5 s"),
    (("build", "--out", "x", "--pictures", ".", "--prompts", "p"), "need --llm-model"),
    (("build", "--out", "x", "--pictures", "."), 'no picture of "red fox" in .'),
])
def test_what_is_wrong_is_told_with_what_mends_it(
    alchemint: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = alchemint("s2vtime", *arguments)
    assert outcome.status == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err


def test_truth_is_the_clip_and_comes_through_the_vae_much_like_it(toy: None) -> None:
    entry = load_suite("toy-single").entries[0]
    frames, fps = find_system("truth", None, None, "cpu").make(entry)
    assert np.array_equal(frames, clip_of(entry).frames)
    decoded, same_fps = find_system("truth-vae", None, None, "cpu").make(entry)
    assert (decoded.shape, decoded.dtype, same_fps) == (frames.shape, np.uint8, fps)
    assert 0 < np.abs(decoded.astype(int) - frames).mean() < 30


def test_the_toy_model_is_a_system(toy: None) -> None:
    entry = load_suite("toy-single").entries[0]
    system = find_system("alchemint", None, 2, "cpu")
    assert system.settings["model"] == "toy"
    assert system.settings["steps"] == 2
    frames, fps = system.make(entry)
    assert frames.shape == (33, 64, 64, 3)
    assert fps == 8.0
    assert np.array_equal(system.make(entry)[0], frames)
