"""The toyworld: clip number i of split s is always the same clip, with everything in it known exactly."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

from alchemint import timeline
from alchemint.records import TimedCaption
from alchemint.toyworld import captions, casting, compositing, looks, motion, references, sprites
from alchemint.toyworld.backgrounds import Background, draw_background
from alchemint.toyworld.camera import Camera, draw_camera

Rng = np.random.Generator

_ATTEMPTS = 60
_MIN_SEEN_FRAMES = 4
_MIN_SEEN_SHARE = 0.6
"""Share of a subject's pixels that must be seen, on average over its stay, for a clip to be kept."""


@dataclass(frozen=True)
class WorldConfig:
    """The size of clips (pixels, frames, frames per second) and of their references (pixels, number per subject)."""

    width: int = 64
    height: int = 64
    num_frames: int = 33
    fps: float = 8.0
    reference_size: int = 64
    num_references: int = 1

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 32 or max(self.width, self.height) > 4 * min(self.width, self.height):
            raise ValueError(f"size {self.width}x{self.height}: both sides must be at least 32 pixels and neither more "
                             "than 4 times the other")
        if not timeline.is_valid_num_frames(self.num_frames) or self.num_frames < 13:
            raise ValueError(f"num_frames {self.num_frames}: must be 4k+1 and at least 13")
        if self.fps <= 0 or self.reference_size < 16 or self.num_references < 1:
            raise ValueError(f"fps {self.fps:g}, reference_size {self.reference_size}, num_references "
                             f"{self.num_references}: must be above 0, at least 16, and at least 1")


@dataclass(frozen=True, eq=False)
class ClipSubject:
    """A subject of a clip: a name unique in it, the word that names it in the caption, its pictures and its interval.

    `references` are uint8 RGBA (reference_size, reference_size, 4), transparent around the subject, in another pose and
    light than in the clip, but facing as in most of it. `interval` is the span of the frames in which it is seen, in
    seconds. `to_reference` (frames, 2, 3) maps a point of each frame, in pixels, to the point of the first reference
    that shows the same spot of the subject; NaN where it is not there.
    """

    name: str
    word: str
    references: tuple[np.ndarray, ...]
    interval: timeline.Seconds
    to_reference: np.ndarray


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip: frames uint8 (frames, height, width, 3), masks bool (subjects, frames, height, width), and its words.

    A mask holds the pixels where a subject is more than half opaque and nothing in front of it is. Events are in order
    of time and do not overlap.
    """

    split: str
    index: int
    fps: float
    background: str
    frames: np.ndarray
    masks: np.ndarray
    caption: str
    events: tuple[TimedCaption, ...]
    subjects: tuple[ClipSubject, ...]


@dataclass(frozen=True, eq=False)
class _Player:
    """A member of the cast in its look, with its size in the clip."""

    subject: sprites.Subject
    word: str
    dressed: np.ndarray
    width: float
    height: float


def render_clip(split: str, index: int, config: WorldConfig, num_subjects: int | None = None, seed: int = 0) -> Clip:
    """Render clip number `index` of a split.

    Args:
        split: "train", "validation" (the same subjects, other clips) or "heldout" (subjects never seen in training).
        index: 0 or more.
        config: the sizes.
        num_subjects: 0 to 4, or None to draw it.
        seed: 0 or more; another seed makes another world.

    Returns:
        The clip, which depends on the arguments alone.
    """
    if split not in sprites.SPLITS:
        raise ValueError(f'split "{split}": there is no such split; use one of {", ".join(sprites.SPLITS)}')
    if index < 0 or seed < 0:
        raise ValueError(f"index {index}, seed {seed}: must not be negative")
    if num_subjects is not None and not 0 <= num_subjects <= casting.MAX_SUBJECTS:
        raise ValueError(f"num_subjects {num_subjects}: must be 0 to {casting.MAX_SUBJECTS}, or None to draw it")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, sprites.SPLITS.index(split), index))))

    # 1. The scene: a camera and the background it looks at.
    camera = draw_camera(rng, config.num_frames, config.width)
    background = draw_background(rng, config.width, config.height, camera.margin)
    empty = camera.shoot(background.image, config.width)

    # 2. The players: who, in what look, how large.
    drawn = casting.draw_count(rng)
    players = _draw_players(rng, split, drawn if num_subjects is None else num_subjects, background, config)

    # 3. The play: when each is there and what it does, drawn again where one would hide another for too long.
    frames, masks, roles, actors = _perform(rng, players, background, camera, empty, config)

    # 4. The words and the pictures that go with it.
    caption = captions.global_caption(rng, background, roles, camera.move)
    events = captions.timed_captions(background, roles, config.num_frames, config.fps)
    subjects = tuple(_subject(rng, player, role, mask, actor, config)
                     for player, role, mask, actor in zip(players, roles, masks, actors, strict=True))
    return Clip(split, index, config.fps, background.name, frames, masks, caption, events, subjects)


def stream_clips(split: str, config: WorldConfig, first: int = 0, step: int = 1, num_subjects: int | None = None,
                 seed: int = 0) -> Iterator[Clip]:
    """Yield the clips first, first + step, first + 2 step ... of a split without end and without touching the disk."""
    for index in count(first, step):
        yield render_clip(split, index, config, num_subjects, seed)


def seen_frames(masks: np.ndarray) -> timeline.Frames | None:
    """Return the first and last frame in which a subject is seen, None if it never is.

    Args:
        masks: bool (frames, height, width). A few pixels, 1 in 500 of the frame, do not count as seen.
    """
    areas = masks.sum((1, 2))
    seen = np.flatnonzero(areas > masks[0].size / 500)
    return (int(seen[0]), int(seen[-1])) if len(seen) else None


def _draw_players(rng: Rng, split: str, number: int, background: Background, config: WorldConfig) -> list[_Player]:
    cast = casting.draw_cast(rng, split, number)
    lower = background.image[background.image.shape[0] // 3:].mean((0, 1))
    players: list[_Player] = []
    taken: dict[str, list[str]] = {}
    for subject in cast:
        twins = sum(other.word == subject.word for other in cast) > 1
        look = looks.draw_look(rng, lower, tuple(taken.get(subject.word, ())), plain=twins)
        taken.setdefault(subject.word, []).append(look.colour)
        word = f"{look.colour} {subject.word}" if twins else subject.word
        share = rng.uniform(0.46, 0.6) if number <= 2 else rng.uniform(0.3, 0.38)
        scale = share * min(config.width, config.height) / max(subject.width, subject.height)
        players.append(_Player(subject, word, looks.dress(sprites.sprite(subject), look), subject.width * scale,
                               subject.height * scale))
    return players


def _perform(rng: Rng, players: list[_Player], background: Background, camera: Camera, empty: np.ndarray,
             config: WorldConfig) -> tuple[np.ndarray, np.ndarray, list[captions.Role], list[compositing.Actor]]:
    """Return frames, masks, roles and actors of a play in which every player is well seen."""
    pictures = [compositing.picture_at(player.dressed, player.width, player.height) for player in players]
    for _ in range(_ATTEMPTS):
        acts, levels = _draw_acts(rng, players, background, config)
        order = np.argsort(levels, kind="stable")
        actors = [compositing.Actor(pictures[who], camera.follow(acts[who].poses, acts[who].frames[0], config.width,
                                                                 config.height), acts[who].frames[0]) for who in order]
        frames = empty.copy()
        masks, full = compositing.composite(frames, actors)
        back = np.argsort(order)
        masks, full = masks[back], full[back]
        roles = [_role(player, act, mask, whole) for player, act, mask, whole
                 in zip(players, acts, masks, full, strict=True)]
        if all(roles):
            return frames, masks, [role for role in roles if role], [actors[place] for place in back]
    raise RuntimeError(f"no play was found in which all of {', '.join(player.word for player in players)} are seen")


def _subject(rng: Rng, player: _Player, role: captions.Role, mask: np.ndarray, actor: compositing.Actor,
             config: WorldConfig) -> ClipSubject:
    """Take a player's pictures: they face as it does in most of what is seen of it."""
    first = actor.first
    facing = np.sign(actor.poses.scale_x) @ mask.sum((1, 2))[first:first + len(actor.poses.x)]
    pictures = [references.draw_reference(rng, player.dressed, config.reference_size, mirrored=bool(facing < 0))
                for _ in range(config.num_references)]
    height, width = player.dressed.shape[:2]
    sprite_maps = compositing.to_sprite(actor, (width, height), len(mask))
    turn, shift = np.split(pictures[0][1], [2], axis=1)
    to_reference = turn @ sprite_maps
    to_reference[:, :, 2:] += shift
    return ClipSubject(role.word.replace(" ", "-"), role.word, tuple(picture for picture, _ in pictures),
                       timeline.seconds_of(role.seen, config.fps, config.num_frames), to_reference)


def _draw_acts(rng: Rng, players: list[_Player], background: Background,
               config: WorldConfig) -> tuple[list[motion.Act], list[float]]:
    """Draw what each player does, and how near it is (larger is nearer)."""
    stays = casting.draw_stays(rng, len(players), config.num_frames)
    lanes = (rng.permutation(len(players)) + 0.5 + rng.uniform(-0.3, 0.3, len(players))) / max(len(players), 1)
    acts, levels = [], []
    for player, stay, lane in zip(players, stays, lanes, strict=True):
        near = float(rng.uniform())
        stand = motion.Stand(config.width, config.height, config.fps, player.width, player.height,
                             float(lane) * config.width, near, background.place.ground)
        acts.append(motion.draw_act(rng, stay, config.num_frames, player.subject.kind, stand))
        levels.append(near)
    return acts, levels


def _role(player: _Player, act: motion.Act, mask: np.ndarray, full: np.ndarray) -> captions.Role | None:
    """Return the player's role when it is seen well enough and about as long as planned, otherwise None."""
    seen = seen_frames(mask)
    if seen is None:
        return None
    areas = mask.sum((1, 2))
    late = seen[0] - act.frames[0] + act.frames[1] - seen[1]
    well_seen = (areas > 0).sum() >= _MIN_SEEN_FRAMES and areas.sum() >= _MIN_SEEN_SHARE * full.sum()
    tells_end = seen[1] != len(mask) - 2
    return captions.Role(player.word, act, seen) if well_seen and late <= 3 and tells_end else None
