"""Times that are typed: "0.5-3, 4-5" is two intervals in seconds, "0-2: it rains" a timed caption."""

import re

Interval = tuple[float, float]

_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_INTERVAL = re.compile(rf"\s*({_NUMBER})\s*s?\s*(?:-|–|to)\s*({_NUMBER})\s*s?\s*", re.IGNORECASE)


def parse_intervals(text: str) -> tuple[Interval, ...]:
    """Return the intervals (start, end) in seconds of a text such as "0.5-3, 4-5"; commas or new lines part them.

    The numbers are taken exactly as they stand. Raises ValueError, with a line for each part that is no interval.
    """
    parts = [part for part in re.split(r"[,;\n]", text) if part.strip()]
    if not parts:
        raise ValueError('there is no interval; give at least one in seconds, such as "0.5-3"')
    found = [_INTERVAL.fullmatch(part) for part in parts]
    if faults := [f'"{part.strip()}" is no interval; write start and end in seconds, such as "0.5-3, 4-5"'
                  for part, match in zip(parts, found, strict=True) if match is None]:
        raise ValueError("\n".join(faults))
    return tuple((float(match[1]), float(match[2])) for match in found if match is not None)


def parse_events(text: str) -> list[tuple[Interval, str]]:
    """Return the timed captions of a text, each a line such as "0.5-2: the fox sits down"; empty lines are passed over.

    Raises ValueError with a line for each line that is none.
    """
    events, faults = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        times, _, caption = line.partition(":")
        match = _INTERVAL.fullmatch(times)
        if match is None or not caption.strip():
            faults.append(f'line {number}, "{line.strip()}", is no event; write "0.5-2: what happens"')
        else:
            events.append(((float(match[1]), float(match[2])), caption.strip()))
    if faults:
        raise ValueError("\n".join(faults))
    return events
