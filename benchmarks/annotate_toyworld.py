"""How right is annotation? The same pipeline as for real clips, on toyworld clips, whose truth is known.

    python benchmarks/annotate_toyworld.py [--num 200] [--json out/annotation.json] [--words truth]

Clips with one to four subjects, as many of each, other clips than any weights were trained on, are written as mp4 with
a captions file, annotated from there by `alchemint annotate` with the recipe configs/annotate-toy.yaml (rules name the
entities; the toy perception finds and follows them), and the records compared with the truth. Printed for each number
of subjects:

    precision  share of the records' entities that are in the clip by that very word
    recall     share of the clips' subjects that have an entity of their word
    within 1   share of the found subjects whose interval, from the first to the last frame seen, is at most one frame
               off at both ends (a subject counts as seen where it fills 1/500 of the frame, in truth as in the recipe)
    error      mean error of both ends, in frames
    all        share of all subjects, never found included, whose interval is at most one frame off
    IoU        mean over found subjects of the masks' intersection over union, all frames together

`--words truth` takes the true words in place of named ones, to tell perception's errors from the words'.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from alchemint import masks, media
from alchemint.cli.allocator import keep_memory
from alchemint.cli.annotate import annotate_clips
from alchemint.perception.sightings import is_seen
from alchemint.record_files import read_rows
from alchemint.records import ClipRecord, FailedClip
from alchemint.toyworld import Clip, WorldConfig, render_clip

RECIPE = Path(__file__).parents[1] / "configs" / "annotate-toy.yaml"
FIRST_CLIP = 3_000_000
SIDE = 128


@dataclass(frozen=True)
class Accuracy:
    """See the head of this file."""

    precision: float
    recall: float
    within_1: float
    error: float
    all_within_1: float
    mask_iou: float
    subjects: int


@dataclass(frozen=True)
class Match:
    """A true subject and, where it was found, the error of both ends of its interval in frames and its masks' IoU."""

    errors: tuple[int, int] | None
    iou: float


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=200, help="clips, a quarter each with 1, 2, 3 and 4 subjects")
    parser.add_argument("--out", type=Path, help="keep clips and records in this folder")
    parser.add_argument("--words", choices=("rules", "truth"), default="rules")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    keep_memory()
    with tempfile.TemporaryDirectory() as temporary:
        out = arguments.out or Path(temporary)
        clips = {f"{number:04d}": render_clip("train" if number % 8 else "heldout", FIRST_CLIP + number,
                                              WorldConfig(width=SIDE, height=SIDE), num_subjects=1 + number % 4)
                 for number in range(arguments.num)}
        write_videos(out / "clips", clips, arguments.words == "truth")
        began = time.perf_counter()
        annotate_clips(str(out / "clips"), out=str(out / "records"), captions=str(out / "captions.jsonl"),
                       recipe=RECIPE)
        taken = time.perf_counter() - began
        rows = {Path(row.video).stem: row for row in read_rows(out / "records")}
    assert set(rows) == set(clips), "every clip has its row"
    print(f"{len(clips) / taken:.2f} clips a second, words by {arguments.words}\n"
          f"{'subjects':10} precision  recall  within 1  error     all    IoU")
    table = {}
    for count in (1, 2, 3, 4, None):
        chosen = [name for name, clip in clips.items() if count in (None, len(clip.subjects))]
        accuracy = measure([(clips[name], rows[name]) for name in chosen])
        label = "all" if count is None else str(count)
        table[label] = asdict(accuracy)
        print(f"{label:10} {accuracy.precision:9.1%} {accuracy.recall:7.1%} {accuracy.within_1:9.1%} "
              f"{accuracy.error:6.2f} {accuracy.all_within_1:7.1%} {accuracy.mask_iou:6.3f}")
    if arguments.json:
        media.write_text(arguments.json, json.dumps(table, indent=1))


def write_videos(folder: Path, clips: dict[str, Clip], with_words: bool) -> None:
    """Write clips as mp4, and their captions beside the folder; `with_words`: the true words as a list of nouns."""
    rows = []
    for name, clip in clips.items():
        media.write_video(folder / f"{name}.mp4", clip.frames, clip.fps)
        caption = clip.caption
        if with_words:
            caption = "A view of " + " and ".join(f"a {subject.word}" for subject in clip.subjects) + "."
        rows.append(json.dumps({"video": f"{name}.mp4", "caption": caption}))
    media.write_text(folder.parent / "captions.jsonl", "\n".join(rows) + "\n")


def measure(pairs: list[tuple[Clip, ClipRecord | FailedClip]]) -> Accuracy:
    """Compare records with the truth."""
    matches: list[Match] = []
    num_named = num_right = 0
    for clip, row in pairs:
        entities = {entity.word: entity for entity in row.entities} if isinstance(row, ClipRecord) else {}
        num_named += len(entities)
        for subject, truth in zip(clip.subjects, clip.masks, strict=True):
            entity = entities.get(subject.word)
            if entity is None:
                matches.append(Match(None, 0.0))
                continue
            num_right += 1
            seen = np.stack([masks.decoded_mask(text, (SIDE, SIDE)) for text in entity.track.masks])
            matches.append(Match(_errors(truth, seen), float((truth & seen).sum() / (truth | seen).sum())))
    found = [match for match in matches if match.errors is not None]
    exact = [max(match.errors) <= 1 for match in found if match.errors]
    return Accuracy(num_right / max(num_named, 1), num_right / len(matches), float(np.mean(exact)),
                    float(np.mean([match.errors for match in found])), sum(exact) / len(matches),
                    float(np.mean([match.iou for match in found])), len(matches))


def _errors(truth: np.ndarray, seen: np.ndarray) -> tuple[int, int]:
    """Return how many frames both ends of the interval are off."""
    theirs, ours = (np.flatnonzero(is_seen(masks)) for masks in (truth, seen))
    return abs(int(ours[0] - theirs[0])), abs(int(ours[-1] - theirs[-1]))


if __name__ == "__main__":
    main()
