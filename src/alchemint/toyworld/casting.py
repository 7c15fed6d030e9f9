"""Who is in a clip and when: subjects, their names in captions, and the frames of their stay."""

import numpy as np

from alchemint import timeline
from alchemint.toyworld import sprites

Rng = np.random.Generator

MAX_SUBJECTS = 4
_COUNT_ODDS = (0.05, 0.45, 0.38, 0.08, 0.04)
_SIMILAR_SHARE = 0.25
"""Share of clips with two or more subjects in which two are alike: the same word or the same kind."""

_EDGE_SHARE = 0.32
"""Share of stays that begin with the video, and of those that end with it."""

_SHORTEST = 0.2
_LONGEST = 0.8


def draw_count(rng: Rng) -> int:
    """Draw the number of subjects of a clip."""
    return int(rng.choice(MAX_SUBJECTS + 1, p=_COUNT_ODDS))


def draw_cast(rng: Rng, split: str, count: int) -> list[sprites.Subject]:
    """Draw `count` subjects of a split; in a share of clips two of them are alike on purpose, otherwise all differ."""
    everyone = sprites.subjects(split)
    cast = [everyone[rng.integers(len(everyone))]] if count else []
    if count > 1 and rng.random() < _SIMILAR_SHARE:
        alike = [other for other in sprites.subjects_of_kind(split, cast[0].kind) if _can_join(other.word, cast)]
        cast.append(cast[0] if not alike or rng.random() < 0.5 else alike[rng.integers(len(alike))])
    while len(cast) < count:
        other = everyone[rng.integers(len(everyone))]
        if _can_join(other.word, cast):
            cast.append(other)
    return cast


def _can_join(word: str, cast: list[sprites.Subject]) -> bool:
    """Tell whether `word` shares no noun with a word of the cast ("car" and "racing car" do)."""
    return not any(set(word.split()) & set(member.word.split()) for member in cast)


def draw_stays(rng: Rng, count: int, num_frames: int) -> list[timeline.Frames]:
    """Draw the first and last frame of each subject's stay; two subjects share some time in half of the clips."""
    stays = [_draw_stay(rng, num_frames) for _ in range(count)]
    if count == 2:
        together = rng.random() < 0.5
        for _ in range(40):
            if (max(stays[0][0], stays[1][0]) <= min(stays[0][1], stays[1][1])) == together:
                break
            stays = [_draw_stay(rng, num_frames) for _ in range(count)]
    return stays


def _draw_stay(rng: Rng, num_frames: int) -> timeline.Frames:
    """Draw one stay; it does not end one frame before the video does, which seconds cannot tell from its end."""
    shortest, longest = max(5, round(_SHORTEST * num_frames)), round(_LONGEST * num_frames)
    from_start, to_end = rng.random(2) < _EDGE_SHARE
    if from_start and to_end:
        return 0, num_frames - 1
    length = int(rng.integers(shortest, longest + 1))
    if from_start:
        return 0, length - 1
    if to_end:
        return num_frames - length, num_frames - 1
    length = min(length, num_frames - 4)
    first = int(rng.integers(1, num_frames - 2 - length))
    return first, first + length - 1
