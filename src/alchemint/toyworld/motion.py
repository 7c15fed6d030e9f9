"""How subjects move: the manners of moving, entering and leaving, and the poses frame by frame they amount to.

Distances are in pixels, times in seconds, angles in radians. Sprites face left, so a subject that heads right is drawn
with a negative horizontal scale.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from alchemint import timeline

Rng = np.random.Generator


@dataclass(frozen=True, eq=False)
class Wobble:
    """What a manner of moving adds to a path, over time: lift in sprite heights, angle, and two scales."""

    lift: np.ndarray | float = 0.0
    angle: np.ndarray | float = 0.0
    scale_x: np.ndarray | float = 1.0
    scale_y: np.ndarray | float = 1.0


@dataclass(frozen=True)
class Motion:
    """A manner of moving: its verbs, whether it covers ground, whether it is in the air, and its wobble over time."""

    verbs: tuple[str, ...]
    travels: bool
    airborne: bool
    wobble: Callable[[np.ndarray], Wobble]


@dataclass(frozen=True, eq=False)
class Poses:
    """Centre, scales, angle, opacity and height above the ground (NaN in the air), each float (frames of the stay,)."""

    x: np.ndarray
    y: np.ndarray
    scale_x: np.ndarray
    scale_y: np.ndarray
    angle: np.ndarray
    opacity: np.ndarray
    lift: np.ndarray


@dataclass(frozen=True, eq=False)
class Act:
    """What one subject does during its stay: the frames first .. last, and the words' ingredients.

    `entry` is one of ENTRIES or "" (there from the start), `exit` one of EXITS or "" (there to the end); `heading` is
    -1 for left and 1 for right at the start; `returns` tells that it turns back half way; `rise` is 1 for a path that
    leads up, -1 down, 0 level.
    """

    frames: timeline.Frames
    motion: str
    verb: str
    entry: str
    exit: str
    heading: int
    returns: bool
    rise: int
    poses: Poses


@dataclass(frozen=True)
class Stand:
    """Where a subject may act: the frame's size in pixels, fps, the sprite's size, its lane and level.

    `lane` is the x around which it moves; `nearness` in 0..1 says how low in the picture it is: its feet within the
    place's ground, its centre in the air.
    """

    frame_width: int
    frame_height: int
    fps: float
    width: float
    height: float
    lane: float
    nearness: float
    ground: tuple[float, float] | None


MOTIONS: dict[str, Motion] = {
    "walk": Motion(("walks", "strolls", "trots", "wanders"), True, False, lambda t: Wobble(
        lift=0.06 * np.abs(np.sin(np.pi * 1.5 * t)), angle=0.08 * np.sin(np.pi * 1.5 * t))),
    "hop": Motion(("hops", "bounces", "jumps"), True, False, lambda t: Wobble(
        lift=0.32 * np.abs(np.sin(np.pi * 0.9 * t)), scale_y=1 - 0.14 * (1 - np.abs(np.sin(np.pi * 0.9 * t))) ** 3)),
    "drive": Motion(("drives", "rolls", "rides"), True, False, lambda t: Wobble(
        lift=0.02 * np.abs(np.sin(np.pi * 2.3 * t)))),
    "slide": Motion(("slides", "glides"), True, False, lambda t: Wobble(angle=0.05 * np.sin(2 * np.pi * 0.4 * t))),
    "crawl": Motion(("crawls", "creeps"), True, False, lambda t: Wobble(
        scale_x=1 + 0.12 * np.sin(2 * np.pi * 0.8 * t), scale_y=1 - 0.06 * np.sin(2 * np.pi * 0.8 * t))),
    "fly": Motion(("flies", "flutters", "soars"), True, True, lambda t: Wobble(
        lift=0.14 * np.sin(2 * np.pi * 0.6 * t), angle=0.13 * np.sin(2 * np.pi * 0.6 * t + 1))),
    "swim": Motion(("swims", "glides"), True, True, lambda t: Wobble(
        lift=0.07 * np.sin(2 * np.pi * 0.5 * t), scale_x=1 + 0.07 * np.sin(2 * np.pi * 1.1 * t),
        angle=0.09 * np.sin(2 * np.pi * 0.5 * t))),
    "drift": Motion(("drifts", "floats"), True, True, lambda t: Wobble(
        lift=0.05 * np.sin(2 * np.pi * 0.4 * t), angle=0.14 * np.sin(2 * np.pi * 0.35 * t))),
    "sway": Motion(("sways", "rocks", "wobbles"), False, False, lambda t: Wobble(
        angle=0.17 * np.sin(2 * np.pi * 0.45 * t))),
    "turn": Motion(("turns around", "twirls", "spins"), False, False, lambda t: Wobble(
        scale_x=_turning(np.cos(2 * np.pi * 0.22 * t)))),
    "hover": Motion(("hovers", "floats", "bobs"), False, True, lambda t: Wobble(
        lift=0.12 * np.sin(2 * np.pi * 0.5 * t), angle=0.08 * np.sin(2 * np.pi * 0.3 * t))),
}

_THING = ("hop", "drift", "sway", "turn", "slide", "hover")
_MOTIONS_OF_KIND: dict[str, tuple[str, ...]] = {
    "beast": ("walk", "walk", "hop", "turn"),
    "person": ("walk", "walk", "hop", "turn"),
    "bird": ("fly", "fly", "walk", "hop"),
    "insect": ("fly", "fly", "hover", "crawl"),
    "crawler": ("crawl",),
    "sea": ("swim", "swim", "hover", "turn"),
    "vehicle": ("drive", "drive", "drive", "turn"),
    "boat": ("slide", "sway", "drift"),
    "aircraft": ("drift", "fly", "hover"),
    "plant": ("sway", "turn", "hop", "drift"),
}
_AFLOAT = {"walk": "drift", "hop": "drift", "drive": "drift", "slide": "drift", "crawl": "drift", "sway": "hover"}

ENTRIES = ("edge", "above", "below", "pop", "fade")
EXITS = ("edge", "above", "below", "shrink", "fade")
_TRAVELLER_ODDS = (0.46, 0.14, 0.12, 0.15, 0.13)
_STAYER_ODDS = (0.0, 0.28, 0.22, 0.28, 0.22)

_ENTRY_S = 0.75
"""How long entering or leaving takes, in seconds: short, so that the interval has crisp ends, but no jump."""

_TOP_SPEED = 0.3
"""Frame widths a second beyond which a subject would seem to jump at the toy model's frame rates."""


def draw_act(rng: Rng, frames: timeline.Frames, num_frames: int, kind: str, stand: Stand) -> Act:
    """Draw what a subject of `kind` does from the first to the last of `frames`; without ground everything floats."""
    motions = _MOTIONS_OF_KIND.get(kind, _THING)
    name = motions[rng.integers(len(motions))]
    if stand.ground is None:
        name = _AFLOAT.get(name, name)
    motion = MOTIONS[name]
    odds = _TRAVELLER_ODDS if motion.travels else _STAYER_ODDS
    entry = "" if frames[0] == 0 else str(rng.choice(ENTRIES, p=odds))
    leaving = "" if frames[1] == num_frames - 1 else str(rng.choice(EXITS, p=odds))
    num_shown = frames[1] - frames[0] + 1
    returns = motion.travels and name != "drift" and num_shown >= 2.2 * stand.fps and rng.random() < 0.3
    heading = 1 if rng.random() < 0.5 else -1
    start, stop = _path_x(rng, motion, stand, num_shown / stand.fps, heading, entry == "edge",
                          leaving == "edge" and not returns)
    if motion.travels and abs(stop - start) > _TOP_SPEED * stand.frame_width * num_shown / stand.fps:
        leaving = "fade" if leaving else ""
        stop = start + heading * 0.5 * _TOP_SPEED * stand.frame_width * num_shown / stand.fps
    rise = int(rng.integers(-1, 2)) if name == "drift" else 0
    poses = _poses(motion, stand, num_shown, (start, stop), heading, returns, rise)
    poses = _with_entry(poses, stand, entry, heading, early=True)
    poses = _with_entry(poses, stand, leaving, -heading if returns else heading, early=False)
    verb = motion.verbs[rng.integers(len(motion.verbs))]
    return Act(frames, name, verb, entry, leaving, heading, returns, rise, poses)


def _path_x(rng: Rng, motion: Motion, stand: Stand, shown_s: float, heading: int, from_edge: bool,
            to_edge: bool) -> tuple[float, float]:
    """Return the x of the start and the end of a path, in pixels."""
    width = stand.frame_width
    low, high = min(stand.width / 2, width / 2), max(width - stand.width / 2, width / 2)
    if not motion.travels:
        x = float(np.clip(stand.lane, low, high))
        return x, x
    length = float(rng.uniform(0.15, 0.5)) * width
    length = heading * min(length, 0.16 * width * shown_s)
    start = stand.lane - length / 2
    stop = stand.lane + length / 2
    back, front = (low, high) if heading > 0 else (high, low)
    if from_edge:
        start, stop = back, back + length
    if to_edge:
        stop = front
        start = start if from_edge else front - length
    return float(np.clip(start, low, high)), float(np.clip(stop, low, high))


def _poses(motion: Motion, stand: Stand, num_shown: int, path: tuple[float, float], heading: int, returns: bool,
           rise: int) -> Poses:
    time = np.arange(num_shown) / stand.fps
    share = np.arange(num_shown) / max(num_shown - 1, 1)
    wobble = motion.wobble(time)
    along = 1 - np.abs(2 * share - 1) if returns else share
    facing = _turning(np.clip((0.5 - share) * (num_shown - 1) / 2, -1, 1)) if returns else 1.0
    scale_y = np.broadcast_to(np.asarray(wobble.scale_y, float), (num_shown,))
    lift = np.broadcast_to(np.asarray(wobble.lift, float), (num_shown,)) * stand.height
    airborne = motion.airborne or stand.ground is None
    if airborne or stand.ground is None:
        low, high = (0.26, 0.56) if stand.ground else (0.3, 0.7)
        level = (low + (high - low) * stand.nearness) * stand.frame_height
        base = level - rise * (share - 0.5) * 0.3 * stand.frame_height
    else:
        level = (stand.ground[0] + (stand.ground[1] - stand.ground[0]) * stand.nearness) * stand.frame_height
        base = level - stand.height * scale_y / 2
    return Poses(
        x=path[0] + (path[1] - path[0]) * along,
        y=base - lift,
        scale_x=-heading * facing * np.broadcast_to(np.asarray(wobble.scale_x, float), (num_shown,)),
        scale_y=scale_y.copy(),
        angle=np.broadcast_to(np.asarray(wobble.angle, float), (num_shown,)).copy(),
        opacity=np.ones(num_shown),
        lift=np.full(num_shown, np.nan) if airborne else lift.copy(),
    )


def _with_entry(poses: Poses, stand: Stand, manner: str, heading: int, early: bool) -> Poses:
    """Return the poses with the entry (early) or the exit in `manner` worked into their first or last frames."""
    if not manner:
        return poses
    count = min(max(2, round(_ENTRY_S * stand.fps)), len(poses.x) // 2)
    shown = np.ones(len(poses.x))
    ramp = np.arange(1, count + 1) / (count + 1)
    if early:
        shown[:count] = ramp
    else:
        shown[-count:] = ramp[::-1]
    away = 1 - shown
    x, y, scale_x, scale_y, opacity, lift = (poses.x, poses.y, poses.scale_x, poses.scale_y, poses.opacity, poses.lift)
    if manner == "edge":
        toward = -heading if early else heading
        outside = -stand.width / 2 if toward < 0 else stand.frame_width + stand.width / 2
        x = x + away * (outside - x)
    elif manner == "above":
        y = y - away * (y + stand.height / 2)
        lift = lift + away * stand.frame_height
    elif manner == "below":
        y = y + away * (stand.frame_height + stand.height / 2 - y)
        lift = lift + away * stand.frame_height
    elif manner in ("pop", "shrink"):
        size = np.interp(shown, (0, 0.25, 0.75, 1), (0, 0.45, 1.1, 1)) if manner == "pop" else 0.12 + 0.88 * shown
        y = y + (1 - size) * stand.height / 2
        scale_x, scale_y = scale_x * size, scale_y * size
    else:
        opacity = np.interp(shown, (0, 1), (0.15, 1))
    return Poses(x, y, scale_x, scale_y, poses.angle, opacity, lift)


def _turning(wave: np.ndarray) -> np.ndarray:
    """Return horizontal scales for a turn: like `wave` in -1..1, but never thinner than a third."""
    return np.where(wave < 0, -1.0, 1.0) * np.maximum(np.abs(wave) ** 0.6, 0.34)
