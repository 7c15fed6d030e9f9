"""What is said of a clip: one caption for all of it, and a timed caption for each of a few events."""

from dataclasses import dataclass

import numpy as np

from alchemint import timeline
from alchemint.records import TimedCaption
from alchemint.toyworld.backgrounds import Background
from alchemint.toyworld.motion import MOTIONS, Act

Rng = np.random.Generator

MAX_EVENTS = 4
_MIN_EVENT_FRAMES = 4
_SIDES = {-1: "left", 1: "right"}
_ENTERING = {"above": "drops in from above", "below": "comes up from below", "pop": "pops up", "fade": "fades in",
             "": "appears"}
_LEAVING = {"above": "rises out of view", "below": "sinks out of view", "shrink": "shrinks away", "fade": "fades away",
            "": "disappears"}
_EMPTY = ("An empty view of {place}.", "Nothing moves in this view of {place}.", "A still view of {place}.",
          "Only {place}, with nobody around.")
_SCENES = ("{first} {where} while {others}.", "{first} {where}, and {others}.", "A view of {place} where {clauses}.",
           "A cartoon of {place}: {clauses}.")


@dataclass(frozen=True, eq=False)
class Role:
    """A subject as captions speak of it: its word, what it does, and the frames in which it is really seen."""

    word: str
    act: Act
    seen: timeline.Frames


def with_article(word: str) -> str:
    """Return the word after "a" or "an"."""
    sounds_open = word[0] in "aeiou" and not word.startswith(("uni", "ukul"))
    return f"{'an' if sounds_open else 'a'} {word}"


def global_caption(rng: Rng, background: Background, roles: list[Role], camera_move: str) -> str:
    """Return a caption that names every subject, what it does, the place and sometimes the camera's move."""
    place = background.phrase
    if not roles:
        caption = _EMPTY[rng.integers(len(_EMPTY))].format(place=place)
    else:
        clauses = [f"{with_article(role.word)} {_doing(role.act)}" for role in roles]
        where = _where(background, roles[0].act)
        scene = _SCENES[rng.integers(len(_SCENES))] if len(roles) > 1 else "{first} {where}."
        caption = scene.format(place=place, where=where, first=clauses[0], others=_joined(clauses[1:]),
                               clauses=_joined(clauses))
    caption = caption[0].upper() + caption[1:]
    if camera_move != "still" and rng.random() < 0.5:
        caption += f" The view slowly {camera_move}."
    return caption


def timed_captions(background: Background, roles: list[Role], num_frames: int, fps: float) -> tuple[TimedCaption, ...]:
    """Return 1 to 4 captions in order of time, none overlapping another, cut where subjects come and go."""
    cuts = {0, num_frames}
    for role in roles:
        cuts |= {role.seen[0], role.seen[1] + 1}
    spans = _merged([(start, stop - 1) for start, stop in zip(sorted(cuts), sorted(cuts)[1:], strict=False)])
    events, known = [], set[str]()
    for first, last in spans:
        present = [role for role in roles if role.seen[0] <= last and role.seen[1] >= first]
        text = _joined([_happening(role, first, last, num_frames, role.word in known) for role in present])
        known |= {role.word for role in present}
        events.append(TimedCaption(during=timeline.seconds_of((first, last), fps, num_frames),
                                   text=text or f"{background.phrase} lies empty"))
    return tuple(events)


def _doing(act: Act) -> str:
    verb = act.verb
    if act.returns:
        return f"{verb} back and forth"
    if act.rise:
        return f"{verb} {'up' if act.rise > 0 else 'down'}"
    return verb


def _where(background: Background, act: Act) -> str:
    place = background.place
    if MOTIONS[act.motion].airborne and place.ground is not None:
        return f"{place.over} {background.phrase}"
    crosses = MOTIONS[act.motion].travels and not act.returns and not act.rise
    return f"{place.cross if crosses else place.stand} {background.phrase}"


def _happening(role: Role, first: int, last: int, num_frames: int, known: bool) -> str:
    """Return what a subject does within the frames first .. last: comes, moves, goes."""
    act = role.act
    comes = role.seen[0] >= first and role.seen[0] > 0
    goes = role.seen[1] <= last and role.seen[1] < num_frames - 1
    parts = []
    if comes:
        parts.append(_ENTERING.get(act.entry, f"enters from the {_SIDES[-act.heading]}"))
    if not (comes and goes) or last - first > 2 * _MIN_EVENT_FRAMES:
        parts.append(_doing(act))
    if goes:
        heading = -act.heading if act.returns else act.heading
        parts.append(_LEAVING.get(act.exit, f"leaves to the {_SIDES[heading]}"))
    return f"{'the ' + role.word if known else with_article(role.word)} {_joined(parts)}"


def _merged(spans: list[timeline.Frames]) -> list[timeline.Frames]:
    """Join neighbouring spans, shortest first, until there are few enough and each is long enough."""
    spans = list(spans)
    while len(spans) > 1:
        lengths = [last - first + 1 for first, last in spans]
        shortest = int(np.argmin(lengths))
        if len(spans) <= MAX_EVENTS and lengths[shortest] >= _MIN_EVENT_FRAMES:
            break
        beside = [at for at in (shortest - 1, shortest + 1) if 0 <= at < len(spans)]
        other = min(beside, key=lambda at: lengths[at])
        low, high = sorted((shortest, other))
        spans[low:high + 1] = [(spans[low][0], spans[high][1])]
    return spans


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1] if parts else ""
