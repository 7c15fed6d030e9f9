"""Does the model show the right subject, exactly when told? Measured on held-out toyworld storyboards.

    python benchmarks/toy_control.py [--model FOLDER] [--num 64]

Storyboards are taken from clips of the held-out split: subjects that were never seen in training. For each, the video
is made and every subject is looked for by its reference (matcher.py). Printed, for one and for two subjects a video:

    truth      the matcher on the clips themselves: what a perfect video scores, and how wrong the matcher is
    made       the model's videos
    shuffled   the model's videos, scored against another storyboard's intervals
    always     a subject that is seen in every frame
    t-IoU      |A and B| / |A or B| of asked and seen frames (first to last), 0 when never seen
    inside     share of the asked frames in which the subject is seen; outside: of the other frames
    retrieval  how often a subject's own reference is drawn more, within its interval, than those of 7 other videos
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from matcher import Matcher, Sighting, as_pixels, find, load_matcher, reference_canvas
from PIL import Image

from alchemint import media, sheet, timeline
from alchemint.cli.train import ToyworldSource
from alchemint.diffusion.guidance import Guidance
from alchemint.pipeline import AlchemintPipeline
from alchemint.s2vtime.metrics import t_iou
from alchemint.toyworld import Clip
from alchemint.training.validation import storyboard_of

NUM_STRANGERS = 7
TOY = Path(__file__).parents[1] / "src/alchemint/assets/toy"


@dataclass(frozen=True)
class Scores:
    """Means over the subjects of one kind of video; frame errors are of an interval's two ends together."""

    t_iou: float
    half_width: float
    mean_error_frames: float
    never_seen: float
    inside: float
    outside: float
    retrieval: float


def main() -> None:
    """Print the table for one and two subjects."""
    arguments = _arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    matcher = load_matcher()
    pipeline = AlchemintPipeline.from_pretrained(arguments.model)
    pipeline.set_progress_bar_config(disable=True)
    guidance = Guidance(image_scale=arguments.image_scale, text_scale=arguments.text_scale)
    defaults = pipeline.defaults
    source = ToyworldSource("heldout", defaults.width, defaults.height, defaults.num_frames, defaults.fps, seed=0)
    table = {}
    for num_subjects in (1, 2):
        clips = [source(number, num_subjects) for number in range(arguments.num)]
        started = time.perf_counter()
        videos = _generate(pipeline, clips, guidance, arguments)
        print(f"\n{arguments.num} storyboards with {num_subjects} subject{'s' * (num_subjects > 1)}, "
              f"{(time.perf_counter() - started) / arguments.num:.1f} s a video")
        rows = _score(matcher, clips, videos)
        table[num_subjects] = {name: asdict(scores) for name, scores in rows.items()}
        _print(rows)
        if arguments.out:
            for number in range(arguments.sheets):
                _sheet(arguments.out / f"{num_subjects}-subjects-{number}.png", clips[number], videos[number])
    if arguments.out:
        media.write_text(arguments.out / "scores.json", json.dumps(table, indent=1))


def _generate(pipeline: AlchemintPipeline, clips: list[Clip], guidance: Guidance,
              arguments: argparse.Namespace) -> list[np.ndarray]:
    """Make a video of each clip's storyboard, with the clip's number as its seed."""
    boards = [storyboard_of(clip, seed=number) for number, clip in enumerate(clips)]
    videos: list[np.ndarray] = []
    for first in range(0, len(boards), arguments.batch):
        made = pipeline(boards[first:first + arguments.batch], num_inference_steps=arguments.steps, guidance=guidance)
        videos += [(video * 255).round().astype(np.uint8) for video in np.asarray(made.frames)]
    return videos


def _score(matcher: Matcher, clips: list[Clip], videos: list[np.ndarray]) -> dict[str, Scores]:
    subjects = [(row, number) for row, clip in enumerate(clips) for number in range(len(clip.subjects))]
    asked = [_frames_of(clips[row], number) for row, number in subjects]
    shuffled = [_frames_of(clips[(row + 1) % len(clips)], number) for row, number in subjects]
    whole = [(0, len(clips[row].frames) - 1) for row, _ in subjects]
    rows = {}
    for name, shown in (("truth", [clip.frames for clip in clips]), ("made", videos)):
        sightings = [find(matcher, shown[row], clips[row].subjects[number].references[0]) for row, number in subjects]
        retrieved = [_retrieved(matcher, shown[row], clips, row, number) for row, number in subjects]
        rows[name] = _means(asked, sightings, retrieved)
    rows["shuffled"] = _means(shuffled, sightings, retrieved)
    always = [Sighting(np.ones(last + 1, bool), (0, last)) for _, last in whole]
    rows["always"] = _means(asked, always, [False] * len(asked))
    return rows


def _frames_of(clip: Clip, number: int) -> timeline.Frames:
    frames = timeline.frames_in(clip.subjects[number].interval, clip.fps, len(clip.frames))
    assert frames is not None
    return frames


def _means(asked: list[timeline.Frames], sightings: list[Sighting], retrieved: list[bool]) -> Scores:
    overlaps = np.array([t_iou(frames, sighting.span) for frames, sighting in zip(asked, sightings, strict=True)])
    errors = [(abs(frames[0] - sighting.span[0]) + abs(frames[1] - sighting.span[1])) / 2
              for frames, sighting in zip(asked, sightings, strict=True) if sighting.span]
    inside = [sighting.present[frames[0]:frames[1] + 1].mean()
              for frames, sighting in zip(asked, sightings, strict=True)]
    outside = np.concatenate([np.delete(sighting.present, np.arange(frames[0], frames[1] + 1))
                              for frames, sighting in zip(asked, sightings, strict=True)])
    resampled = np.random.default_rng(0).choice(overlaps, (2000, len(overlaps))).mean(1)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Scores(float(overlaps.mean()), float((high - low) / 2), float(np.mean(errors)) if errors else float("nan"),
                  float(np.mean([sighting.span is None for sighting in sightings])), float(np.mean(inside)),
                  float(outside.mean()), float(np.mean(retrieved)))


@torch.no_grad()
def _retrieved(matcher: Matcher, frames: np.ndarray, clips: list[Clip], row: int, number: int) -> bool:
    """Tell whether the subject's own reference is drawn more within its interval than those of other clips."""
    first, last = _frames_of(clips[row], number)
    candidates = [clips[row].subjects[number].references[0],
                  *(clips[(row + 1 + other) % len(clips)].subjects[number].references[0]
                    for other in range(NUM_STRANGERS))]
    canvases = as_pixels(np.stack([reference_canvas(candidate) for candidate in candidates]))
    shown = as_pixels(frames[first:last + 1])
    drawn = [matcher(shown, canvas.expand(len(shown), -1, -1, -1)).sigmoid().mean().item()
             for canvas in canvases.split(1)]
    return int(np.argmax(drawn)) == 0


def _print(rows: dict[str, Scores]) -> None:
    print(f"{'':9}{'t-IoU':>14}{'error':>9}{'never':>8}{'inside':>8}{'outside':>9}{'retrieval':>11}")
    for name, scores in rows.items():
        print(f"{name:9}{scores.t_iou:8.3f} ±{scores.half_width:.3f}{scores.mean_error_frames:7.2f} f"
              f"{scores.never_seen:8.1%}{scores.inside:8.1%}{scores.outside:9.1%}{scores.retrieval:11.1%}")


def _sheet(path: Path, clip: Clip, video: np.ndarray) -> None:
    bars = [sheet.Bar(subject.word, [subject.interval], Image.fromarray(subject.references[0]))
            for subject in clip.subjects]
    media.write_image(path, sheet.contact_sheet(video, clip.fps, bars, clip.caption))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=TOY)
    parser.add_argument("--num", type=int, default=64)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--image-scale", type=float, default=Guidance.image_scale)
    parser.add_argument("--text-scale", type=float, default=Guidance.text_scale)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--sheets", type=int, default=2, help="contact sheets of the first storyboards, with --out")
    parser.add_argument("--out", type=Path, help="folder for scores.json and contact sheets")
    return parser.parse_args()


if __name__ == "__main__":
    main()
