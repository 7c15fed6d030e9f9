"""Write the S2VTime suites that the package ships, from clips of the toyworld's held-out split.

    python scripts/make_toy_suites.py

Every storyboard asks for what one clip shows; `source` in its line names the clip, so that the clip itself, ground
truth, can be scored beside what systems make.
"""

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from alchemint import media, timeline
from alchemint.s2vtime.suite import SHIPPED, About, write_suite
from alchemint.toyworld import Clip, WorldConfig, stream_clips

SIZE = 100
WORLD = WorldConfig()
DURATION_S = timeline.duration_s(WORLD.num_frames, WORLD.fps)


@dataclass(frozen=True)
class Plan:
    """A suite: its name, what it says of itself, how many subjects its clips have, and whether they are look-alikes."""

    name: str
    description: str
    num_subjects: int
    alike: bool = False


PLANS = (
    Plan("toy-single", "One never-seen toyworld subject a storyboard, there for a part of 4 seconds.", 1),
    Plan("toy-dual", "Two never-seen toyworld subjects a storyboard, each with its own interval in 4 seconds.", 2),
    Plan("toy-quad", "Four never-seen toyworld subjects a storyboard, each with its own interval in 4 seconds.", 4),
    Plan("toy-similar", "Two subjects of the same kind and shape that differ in their colours only.", 2, alike=True),
)


def write(plan: Plan, folder: Path) -> None:
    """Write a suite into `folder`, in place of what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    rows = []
    for number, clip in zip(range(SIZE), _clips(plan), strict=False):
        name = f"{plan.name}-{number:03d}"
        for subject in clip.subjects:
            media.write_image(folder / _picture(name, subject.name), Image.fromarray(subject.references[0]))
        rows.append(_row(name, clip, plan))
    write_suite(folder, About(name=plan.name, version=2, description=plan.description), rows)


def _clips(plan: Plan) -> Iterator[Clip]:
    for clip in stream_clips("heldout", WORLD, num_subjects=plan.num_subjects):
        nouns = [subject.word.split()[-1] for subject in clip.subjects]
        if not plan.alike or len(set(nouns)) < len(nouns):
            yield clip


def _row(name: str, clip: Clip, plan: Plan) -> dict[str, Any]:
    return {
        "id": name,
        "storyboard": {
            "prompt": clip.caption, "duration": DURATION_S, "seed": clip.index,
            "subjects": [{"name": subject.name, "word": subject.word, "images": [_picture(name, subject.name)],
                          "appears": [[_floor(moment) for moment in subject.interval]]}
                         for subject in clip.subjects]},
        "source": {"world": "toyworld", "split": clip.split, "index": clip.index, "num_subjects": plan.num_subjects},
    }


def _floor(moment: float) -> float:
    """Round seconds down, so that an interval that begins or ends with a frame holds the same frames as before."""
    return math.floor(moment * 1e4) / 1e4


def _picture(name: str, subject: str) -> str:
    return f"images/{name}-{subject}.png"


if __name__ == "__main__":
    for each in PLANS:
        write(each, SHIPPED / each.name)
        print(f"{each.name}: {SIZE} storyboards, "
              f"{sum(path.stat().st_size for path in (SHIPPED / each.name).rglob('*') if path.is_file()) / 1e6:.1f} MB")
