"""The report of two real runs: what stands in it is what was scored, and nothing of it comes from outside."""

import json
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alchemint import media
from alchemint.s2vtime import runs
from alchemint.s2vtime.report import NUM_THUMBNAILS, Scored, write_report
from alchemint.s2vtime.scoring import Judge
from alchemint.s2vtime.suite import About, Suite, write_suite

NUM = 6


class Brightness:
    """Embeddings that tell light from dark."""

    def embed_words(self, words: Sequence[str]) -> np.ndarray:
        return np.tile([[1.0, 0.0]], (len(words), 1))

    def embed_pictures(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        angles = np.array([picture.mean() / 255 for picture in pictures])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).reshape(-1, 2)


def bright_places(video: np.ndarray, sought: Sequence[Any]) -> np.ndarray:
    return np.repeat((video.max(-1) > 120)[None], len(sought), axis=0)


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    folder = tmp_path / "suite"
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(NUM):
        Image.new("RGB", (8, 8), (40 * number, 90, 200)).save(folder / "images" / f"{number}.png")
        rows.append({"id": f"board-{number}", "storyboard": {"prompt": f"A <b>lamp</b> & {number} moths", "subjects": [
            {"name": "lamp", "word": "lamp", "images": [f"images/{number}.png"], "appears": [[0.5, 2.0]]}]}})
    return write_suite(folder, About(name="lamps", version=1, description="Lamps."), rows)


@pytest.fixture
def new_scored(suite: Suite, tmp_path: Path) -> Callable[..., Scored]:
    """A function that scores videos in which the lamp is lit `late` frames after it should be."""

    def new(name: str, late: int, missing: int | None = None) -> Scored:
        run = runs.Run(tmp_path / name, suite, name, {})
        for number, entry in enumerate(suite.entries):
            video = np.full((25, 16, 32, 3), 20, np.uint8)
            video[3 + late + number % 2:12, 4:12, 8:20] = 240
            if number != missing:
                media.write_video(run.video(entry), video, 6.0)
        judge = Judge("bright", bright_places, Brightness(), suite)
        list(runs.score_videos(run, judge))
        return Scored(run, runs.read_scores(run, judge.name))

    return new


def test_the_report_holds_what_was_scored(new_scored: Callable[..., Scored], tmp_path: Path) -> None:
    good, late = new_scored("good", 0), new_scored("late", 4, missing=2)
    page = write_report([good, late], "bright", tmp_path / "report")

    facts = json.loads((tmp_path / "report" / "report.json").read_text())
    mean = np.mean([row["subjects"][0]["t_iou"] for row in good.rows])
    assert facts["systems"]["good"]["t_iou"]["mean"] == pytest.approx(mean)
    assert facts["systems"]["late"]["never_seen"]["mean"] == pytest.approx(1 / NUM)
    assert facts["rows"]["late"][2]["status"] == "failed"
    found = {one["metric"]: one for one in facts["comparisons"]}["t_iou"]
    assert found["difference"] > 0.3 and found["p_value"] < 0.1

    markdown = (tmp_path / "report" / "report.md").read_text()
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert len({line.count("|") for line in lines}) == 1
    assert f"| good | {mean:.3f} ±" in markdown
    assert "| always on | 0.360 ±0.000 |" in markdown

    text = page.read_text()
    assert "A &lt;b&gt;lamp&lt;/b&gt; &amp; 3 moths" in text
    assert text.count("data:image/webp;base64,") == NUM_THUMBNAILS * (2 * NUM - 1)
    assert "board-2.mp4" in text
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)


def test_the_page_is_well_formed(new_scored: Callable[..., Scored], tmp_path: Path) -> None:
    page = write_report([new_scored("good", 0)], "bright", tmp_path / "report")
    open_tags: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: Any) -> None:
            if tag not in ("meta", "img", "html"):
                open_tags.append(tag)

        def handle_startendtag(self, tag: str, attrs: Any) -> None:
            pass

        def handle_endtag(self, tag: str) -> None:
            if tag != "html":
                assert open_tags.pop() == tag

    Checker().feed(page.read_text())
    assert not open_tags


def test_runs_of_different_suites_are_not_mixed(
    new_scored: Callable[..., Scored], suite: Suite, tmp_path: Path
) -> None:
    good = new_scored("good", 0)
    rows = [{**entry.row, "id": f"other-{entry.id}"} for entry in suite.entries]
    other = write_suite(suite.folder, About(name="lamps", version=2), rows)
    with pytest.raises(ValueError, match="2 different suites"):
        write_report([good, Scored(runs.Run(tmp_path / "b", other, "b", {}), good.rows)], "bright", tmp_path / "report")
