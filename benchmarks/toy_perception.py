"""How right is the toy perception, by which S2VTime judges toyworld videos? Judged on clips whose truth is known.

    python benchmarks/toy_perception.py [--num 100] [--suites toy-single …] [--json out/perception.json]

The clips are those of the shipped suites: as they are, through the toy model's VAE, and lightly blurred. Printed for
each suite and way:

    right     share of subjects whose interval begins and ends less than half a latent frame (2 frames) off
    as shown  the same of what is left of the truth in the clip: how right perception itself is. Toy's VAE keeps of each
              latent's four frames the third, and shows it four times (`as_single_frames`)
    error     mean of the errors of both ends, in frames
    t-IoU     of the true and the seen interval
    absent    share of never-shown subjects (another storyboard's, looked for in a subject's place) that are not seen
    swap      share of frames in which what was found for a subject looks more like another of the clip
    16        how often what was seen is most like the subject's own reference, among it and its 15 nearest look-alikes
    all, word how often a crop of the clip (by its true mask) is most like its own reference among those of the whole
              suite, and its own word among all the suite's words: the tiny CLIP's held-out retrieval accuracy
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from alchemint import media, timeline
from alchemint.cli import perceptions
from alchemint.cli.systems import DECODED_TRUTH, clip_of, find_system
from alchemint.perception.sightings import MIN_SHARE, Sought, as_crop, bounding_box, crop
from alchemint.perception.watcher import Watcher
from alchemint.s2vtime import metrics
from alchemint.s2vtime.scoring import Embedder, Judge, Row
from alchemint.s2vtime.suite import Entry, Suite, load_suite
from alchemint.toyworld import WorldConfig

SUITES = ("toy-single", "toy-dual", "toy-quad", "toy-similar")
HALF_LATENT = timeline.TEMPORAL_STRIDE / 2
BLUR_PX = 0.7


@dataclass(frozen=True)
class Accuracy:
    """See the head of this file."""

    right: float
    right_as_shown: float
    error: float
    t_iou: float
    absent: float
    swap: float
    own_of_16: float
    own_of_all: float
    word: float
    subjects: int


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=100, help="storyboards of each suite")
    parser.add_argument("--suites", nargs="+", default=SUITES)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    watcher, clip = perceptions.load_toy()
    decoded = find_system(DECODED_TRUTH, None, None, "cpu")
    ways = {"as it is": lambda entry: clip_of(entry).frames, "through the VAE": lambda entry: decoded.make(entry)[0],
            "blurred": lambda entry: np.stack([blurred(frame) for frame in clip_of(entry).frames])}
    print(f"toy perception {perceptions.toy_edition()}\n"
          f"{'':28}  right  as shown  error  t-IoU  absent   swap     16    all   word")
    table = {}
    for name in arguments.suites:
        suite = load_suite(name)
        judge = Judge("toy", lambda video, sought: watcher.look(video, sought).masks, clip, suite)
        for way, show in ways.items():
            shown = [(entry, show(entry)) for entry in suite.entries[:arguments.num]]
            accuracy = measure(judge, watcher, suite, shown, as_held if show is ways["through the VAE"] else np.asarray)
            table[f"{name}, {way}"] = asdict(accuracy)
            print(f"{name + ', ' + way:28} {accuracy.right:6.1%} {accuracy.right_as_shown:9.1%} {accuracy.error:6.2f} "
                  f"{accuracy.t_iou:6.3f} {accuracy.absent:7.1%} {accuracy.swap:6.1%} {accuracy.own_of_16:6.1%} "
                  f"{accuracy.own_of_all:6.1%} {accuracy.word:6.1%}", flush=True)
    if arguments.json:
        media.write_text(arguments.json, json.dumps(table, indent=1))


def blurred(frame: np.ndarray) -> np.ndarray:
    """Return a frame with a light Gaussian blur."""
    return np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(BLUR_PX)))


def as_held(present: np.ndarray) -> np.ndarray:
    """Return the frames (F) bool in which toy's VAE shows what is present in frames (F)."""
    kept = [frames[0] if frames[0] == frames[1] else frames[0] + 2
            for frames in map(timeline.frames_of_latent, range(timeline.num_latents(len(present))))]
    return np.concatenate([present[kept[:1]], np.repeat(present[kept[1:]], timeline.TEMPORAL_STRIDE)])


def measure(judge: Judge, watcher: Watcher, suite: Suite, shown: list[tuple[Entry, np.ndarray]],
            left: Callable[[np.ndarray], np.ndarray]) -> Accuracy:
    """Judge videos that show exactly what was asked for; `left`: what is left to see of where somebody is present."""
    subjects: list[Row] = []
    errors, errors_as_shown, absent = [], [], []
    for number, (entry, video) in enumerate(shown):
        row = judge.score(video, WorldConfig().fps, entry)
        for subject in row["subjects"]:
            subjects.append(subject)
            asked, seen = (metrics.presence([tuple(run) for run in subject[which]], len(video))
                           for which in ("asked", "seen"))
            errors.append(errors_of_ends(asked, seen))
            errors_as_shown.append(max(errors_of_ends(left(asked), seen)))
        absent.append(never_seen(watcher, video, entry, suite.entries[(number + 7) % len(suite.entries)]))
    ends = np.array(errors, float)
    found = ends.max(1) < max(len(video) for _, video in shown)
    mean = partial(_mean, subjects)
    return Accuracy(float((ends.max(1) < HALF_LATENT).mean()),
                    float((np.array(errors_as_shown) < HALF_LATENT).mean()), float(ends[found].mean()), mean("t_iou"),
                    float(np.mean(absent)), mean("swap_rate"),
                    float(np.mean([subject["retrieval_rank"] == 0 for subject in subjects])),
                    *retrieval(judge.embedder, shown), len(subjects))


def errors_of_ends(asked: np.ndarray, seen: np.ndarray) -> list[int]:
    """Return by how many frames the seen begin and end elsewhere; the video's length when either is nowhere."""
    due, found = metrics.span(asked), metrics.span(seen)
    if due is None or found is None:
        return [0 if due is found else len(asked)] * 2
    return [abs(due[end] - found[end]) for end in (0, 1)]


def never_seen(watcher: Watcher, video: np.ndarray, entry: Entry, other: Entry) -> bool:
    """Tell whether another storyboard's subject, looked for in place of the first one, is not seen."""
    boards = [other.storyboard.subjects[0], *entry.storyboard.subjects[1:]]
    sought = [Sought(subject.word, (np.asarray(media.open_image(subject.images[0])),)) for subject in boards]
    return not (watcher.look(video, sought).masks[0].mean((1, 2)) >= MIN_SHARE).any()


def retrieval(embedder: Embedder, shown: list[tuple[Entry, np.ndarray]]) -> tuple[float, float]:
    """Return how often crops by the true masks are nearest to their own reference, and to their own word."""
    crops, references, words = [], [], []
    for entry, video in shown:
        clip = clip_of(entry)
        for subject, masks in zip(entry.storyboard.subjects, clip.masks, strict=True):
            frame = int(masks.sum((1, 2)).argmax())
            crops.append(crop(video[frame], bounding_box(masks[frame])))
            references.append(as_crop(np.asarray(media.open_image(subject.images[0]))))
            words.append(subject.word)
    embeds = embedder.embed_pictures(crops)
    vocabulary = sorted(set(words))
    nearest = (embeds @ embedder.embed_pictures(references).T).argmax(1)
    named = (embeds @ embedder.embed_words(vocabulary).T).argmax(1)
    return (float((nearest == np.arange(len(crops))).mean()),
            float(np.mean([vocabulary[index] == word for index, word in zip(named, words, strict=True)])))


def _mean(rows: list[Row], name: str) -> float:
    known = [row[name] for row in rows if row[name] is not None]
    return float(np.mean(known)) if known else float("nan")


if __name__ == "__main__":
    main()
