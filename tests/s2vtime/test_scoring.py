"""A video drawn by hand, a perception that knows where everything is, and embeddings that are colours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alchemint import media
from alchemint.perception.sightings import Sought
from alchemint.s2vtime.scoring import Judge
from alchemint.s2vtime.suite import About, Suite, write_suite

COLOURS = {"fox": (220, 60, 20), "duck": (240, 220, 40), "frog": (40, 200, 60)}
FPS, NUM_FRAMES = 6.0, 25


class ColourEmbedder:
    """A picture's or word's embedding is its mean colour, seen from mid-grey."""

    def embed_words(self, words: Sequence[str]) -> np.ndarray:
        return self._unit([np.array(COLOURS[word], float) for word in words])

    def embed_pictures(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        return self._unit([picture.reshape(-1, 3).mean(0) for picture in pictures])

    def _unit(self, colours: list[Any]) -> np.ndarray:
        centred = np.array(colours, float).reshape(-1, 3) - 127
        return centred / np.linalg.norm(centred, axis=1, keepdims=True)


def look(video: np.ndarray, sought: Sequence[Sought]) -> np.ndarray:
    """Find each subject where the left (first sought) or right half (second) is not dark."""
    masks = np.zeros((len(sought), *video.shape[:3]), bool)
    middle = video.shape[2] // 2
    for number, half in zip(range(len(sought)), (slice(0, middle), slice(middle, None)), strict=False):
        masks[number, :, :, half] = video[:, :, half].max(-1) > 90
    return masks


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    (tmp_path / "images").mkdir()
    for word, colour in COLOURS.items():
        picture = np.zeros((12, 12, 4), np.uint8)
        picture[2:10, 3:9] = (*colour, 255)
        Image.fromarray(picture).save(tmp_path / "images" / f"{word}.png")
    subjects = [{"name": word, "word": word, "images": [f"images/{word}.png"], "appears": appears}
                for word, appears in (("fox", [[1.0, 2.0]]), ("duck", [[0.0, 1.0], [3.0, 4.0]]))]
    rows = [{"id": "a", "storyboard": {"prompt": "a fox and a duck", "subjects": subjects}},
            {"id": "b", "storyboard": {"prompt": "a frog", "subjects": [
                {"name": "frog", "word": "frog", "images": ["images/frog.png"], "appears": [[0.0, 4.0]]}]}}]
    return write_suite(tmp_path, About(name="drawn", version=1), rows)


@pytest.fixture
def judge(suite: Suite) -> Judge:
    return Judge("drawn", look, ColourEmbedder(), suite)


def drawn(left: dict[str, list[int]], right: dict[str, list[int]]) -> np.ndarray:
    """A dark video with a patch of a subject's colour in the left or right half of the named frames."""
    video = np.full((NUM_FRAMES, 24, 48, 3), 10, np.uint8)
    for offset, shown in ((6, left), (30, right)):
        for word, frames in shown.items():
            video[frames, 8:16, offset:offset + 10] = COLOURS[word]
    return video


FOX_FRAMES, DUCK_FRAMES = list(range(6, 12)), [*range(0, 6), *range(18, 25)]


def test_a_video_that_shows_what_was_asked(judge: Judge) -> None:
    row = judge.score(drawn({"fox": FOX_FRAMES}, {"duck": DUCK_FRAMES}), FPS, judge.suite.entries[0])
    assert row["status"] == "ok" and row["id"] == "a"
    fox, duck = row["subjects"]
    assert fox["asked"] == fox["seen"] == [[6, 11]]
    assert duck["asked"] == duck["seen"] == [[0, 5], [18, 24]]
    for subject in (fox, duck):
        assert (subject["t_iou"], subject["t_l2"], subject["presence_f1"]) == (1, 0, 1)
        assert (subject["leak_rate"], subject["swap_rate"], subject["retrieval_rank"]) == (0, 0, 0)
        assert (subject["onset_error_s"], subject["offset_error_s"], subject["never_seen"]) == (0, 0, False)
        assert subject["clip_ref"] == pytest.approx(1, abs=0.02)
        assert subject["clip_text"] == pytest.approx(1, abs=0.02)


def test_a_subject_that_is_late_and_leaks(judge: Judge) -> None:
    row = judge.score(drawn({"fox": list(range(8, 20))}, {"duck": DUCK_FRAMES}), FPS, judge.suite.entries[0])
    fox = row["subjects"][0]
    assert fox["seen"] == [[8, 19]]
    assert fox["t_iou"] == pytest.approx(4 / 14)
    assert fox["onset_error_s"] == pytest.approx(2 / 6)
    assert fox["offset_error_s"] == pytest.approx(8 / 6)
    assert fox["leak_rate"] == pytest.approx(8 / 19)


def test_gaps_are_asked_for_and_missed(judge: Judge) -> None:
    """The duck is to be away between its visits; t-IoU, of first and last frame, can't see that it is not."""
    row = judge.score(drawn({"fox": FOX_FRAMES}, {"duck": list(range(25))}), FPS, judge.suite.entries[0])
    duck = row["subjects"][1]
    assert duck["t_iou"] == 1.0
    assert duck["leak_rate"] == 1.0
    assert duck["presence_f1"] == pytest.approx(2 * 13 / (13 + 25))


def test_a_swap_is_seen_by_its_likeness(judge: Judge) -> None:
    """A duck walks where the fox was due for half of the time, and a frog for all of the duck's."""
    video = drawn({"fox": FOX_FRAMES[:3], "duck": FOX_FRAMES[3:]}, {"frog": DUCK_FRAMES})
    fox, duck = judge.score(video, FPS, judge.suite.entries[0])["subjects"]
    assert fox["swap_rate"] == pytest.approx(0.5)
    assert duck["retrieval_rank"] == 1
    assert duck["clip_ref"] < 0.9


def test_one_that_is_never_seen(judge: Judge) -> None:
    row = judge.score(drawn({}, {"duck": DUCK_FRAMES}), FPS, judge.suite.entries[0])
    fox = row["subjects"][0]
    assert fox["never_seen"] and fox["seen"] == []
    assert (fox["t_iou"], fox["t_l2"], fox["presence_f1"], fox["leak_rate"]) == (0, 1, 0, 0)
    assert all(fox[name] is None for name in (
        "swap_rate", "onset_error_s", "offset_error_s", "clip_text", "clip_ref", "retrieval_rank"))


def test_a_file_that_cannot_be_scored_is_a_row(judge: Judge, tmp_path: Path) -> None:
    entry = judge.suite.entries[0]
    whole = tmp_path / "whole.mp4"
    media.write_video(whole, drawn({"fox": FOX_FRAMES}, {"duck": DUCK_FRAMES}), FPS)
    assert judge.score_file(whole, entry)["status"] == "ok"
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:200])
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name in ("missing.mp4", "text.mp4", "cut.mp4", "empty.mp4"):
        row = judge.score_file(tmp_path / name, entry)
        assert (row["id"], row["status"]) == ("a", "failed")
        assert name in row["reason"]
    media.write_video(whole, drawn({}, {})[:5], FPS)
    row = judge.score_file(whole, entry)
    assert row["status"] == "failed" and 'none lies in the intervals of subject "fox"' in row["reason"]
