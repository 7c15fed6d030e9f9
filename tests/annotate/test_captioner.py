"""Captions by a vision-language model: what it is shown, and what it may answer."""

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alchemint import language_model
from alchemint.annotate.captioner import Caption, Captioner
from alchemint.annotate.recipe import Captions, Llm
from alchemint.perception.sightings import frames_to_search
from alchemint.records import TimedCaption
from tests.language_server import LanguageServer, serving

pytest.importorskip("openai")
FPS = 16.0
# Frame n is grey of level 3 n.
VIDEO = np.broadcast_to(3 * np.arange(81, dtype=np.uint8)[:, None, None, None], (81, 60, 200, 3))
SOUND = {"caption": " A fox meets a goat. ", "events": [{"start": 0.0, "end": 2.0, "text": "A fox trots."},
                                                        {"start": 2.0, "end": 5.06, "text": "A goat comes."}]}


@pytest.fixture
def server() -> Iterator[LanguageServer]:
    with serving() as running:
        yield running


def captioner_at(url: str, **options: Any) -> Captioner:
    return Captioner(language_model.connect(url, retries=0),
                     Captions(by="model", model=Llm(url=url, model="m"), num_frames=5, longest_side=100, **options))


def test_a_few_frames_are_shown_with_their_times(server: LanguageServer) -> None:
    server.answers.append(json.dumps(SOUND))
    caption = captioner_at(server.url).caption(VIDEO, FPS)
    assert caption == Caption("A fox meets a goat.", (TimedCaption(during=(0.0, 2.0), text="A fox trots."),
                                                      TimedCaption(during=(2.0, 5.06), text="A goat comes.")))
    instruction, shown = server.requests[0]["messages"]
    assert "5.06 seconds" in instruction["content"]
    times, pictures = shown["content"][::2], shown["content"][1::2]
    numbers = frames_to_search(81, 5)
    assert [part["text"] for part in times] == [f"{number / FPS:.2f} s" for number in numbers]
    for number, part in zip(numbers, pictures, strict=True):
        kind, _, data = part["image_url"]["url"].partition(",")
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        assert kind == "data:image/jpeg;base64"
        assert (picture.format, picture.size) == ("JPEG", (100, 30))
        assert np.abs(np.asarray(picture).astype(int) - 3 * number).max() <= 2


def test_events_may_be_left_out(server: LanguageServer) -> None:
    server.answers.append('{"caption": "Rain.", "events": []}')
    assert captioner_at(server.url).caption(VIDEO[:1], FPS) == Caption("Rain.")


@pytest.mark.parametrize(("changed", "told"), [
    ({"caption": "  "}, "the caption is empty"),
    ({"events": [{"start": 1, "end": 5.07, "text": "x"}]}, "event 1, 1 to 5.07 s: must begin before it ends"),
    ({"events": [{"start": -1, "end": 2, "text": "x"}]}, "lie within 0 to 5.06 s"),
    ({"events": [{"start": 2, "end": 2, "text": "x"}]}, "event 1, 2 to 2 s: must begin before"),
    ({"events": [{"start": 1, "end": 2, "text": " "}]}, "its text is empty"),
    ({"events": SOUND["events"][::-1]}, "event 2 begins at 0 s, before event 1 ends at 5.06 s"),
    ({"events": [{"start": 0, "end": 2, "text": "x"}, {"start": 1.5, "end": 3, "text": "y"}]},
     "event 2 begins at 1.5 s, before event 1 ends at 2 s"),
    ({"events": [{"start": "NaN", "end": 2, "text": "x"}]}, "event 1, nan to 2 s: must begin"),
    ({"events": None}, "events: "),
])
def test_what_is_wrong_is_told_and_asked_again(server: LanguageServer, changed: dict[str, Any], told: str) -> None:
    server.answers += [json.dumps({**SOUND, **changed}), json.dumps(SOUND)]
    assert captioner_at(server.url).caption(VIDEO, FPS).events[0].text == "A fox trots."
    assert told in server.requests[1]["messages"][-1]["content"]


def test_a_model_must_be_named() -> None:
    with pytest.raises(ValueError, match=r"captions\.model\.model"):
        Captioner(None, Captions(by="model")).caption(VIDEO, FPS)  # type: ignore[arg-type]
