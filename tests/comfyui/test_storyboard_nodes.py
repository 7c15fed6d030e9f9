"""The nodes that make storyboards: what they take is what `alchemint generate` takes, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from alchemint.storyboard import Storyboard
from tests.comfyui.comfy_fakes import FakeComfy, LoadImage

FOX = {"name": "fox", "word": "fox", "images": ["fox.png"], "appears": [[0.5, 3.0]]}
BOARD = {"prompt": "A fox trots.", "duration": 4.0, "subjects": [FOX],
         "events": [{"during": [0, 1], "text": "it sits"}], "negative_prompt": "blurry", "seed": 3}


def text(**changes: Any) -> str:
    return json.dumps({**BOARD, **changes})


@pytest.fixture
def timeline(nodes: dict[str, type]) -> Any:
    return nodes["AlchemintTimeline"]


@pytest.fixture
def subject(nodes: dict[str, type]) -> Any:
    """A function that makes a subject of the node's inputs, wired to those before it."""
    return lambda word, when="0-1", **inputs: nodes["AlchemintSubject"]().run(
        word, *LoadImage().run("balloon.png")[:1], when, **inputs)[0]


def test_the_timelines_json_is_the_storyboards_schema(timeline: Any, comfy: FakeComfy) -> None:
    board, written = timeline().run(storyboard=text())
    own = Storyboard(**BOARD)
    assert board.model_dump(exclude={"subjects"}) == own.model_dump(exclude={"subjects"})
    assert board.subjects[0].images == (comfy.folder("input").resolve() / "fox.png",)
    assert json.loads(written) == json.loads(json.dumps(own.model_dump(mode="json", exclude_unset=True)))
    assert timeline().run(storyboard=written)[0] == board


@pytest.mark.parametrize("name", ["AlchemintTimeline", "AlchemintStoryboardFromJSON"])
def test_a_new_node_holds_a_storyboard_that_can_be_made(nodes: dict[str, type], name: str) -> None:
    node = nodes[name]
    default = node.INPUT_TYPES()["required"][node.TEXT][1]["default"]
    assert node.VALIDATE_INPUTS(default) is True
    assert node().run(**{node.TEXT: default})[0].prompt


@pytest.mark.parametrize(("changes", "fault"), [
    ({"subjects": [{**FOX, "appears": [[3, 1]]}]}, 'subject "fox": appears [3.0, 1.0] is reversed; write [1.0, 3.0]'),
    ({"subjects": [{**FOX, "images": []}]}, 'subject "fox": images is empty'),
    ({"subjects": [{**FOX, "images": ["wolf.png"]}]}, "does not exist; correct its path"),
    ({"subjects": [FOX, FOX]}, 'subject name "fox" is used 2 times'),
    ({"subjects": "fox"}, 'subjects "fox" must be a list of subjects'),
    ({"subjects": [FOX] * 10_000}, "10000 are given, but at most 16 are allowed"),
    ({"subjects": [{**FOX, "on_load": "alert(1)"}]}, 'unknown key "on_load"'),
    ({"__class__": "os.system"}, 'unknown key "__class__"'),
    ({"duration": "4"}, "duration"),
    ({"prompt": ""}, "prompt is empty"),
])
def test_faults_are_told_at_the_node(timeline: Any, changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError) as caught:
        timeline().run(storyboard=text(**changes))
    assert fault in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 21


@pytest.mark.parametrize(("given", "fault"), [
    ("", "is no JSON: line 1"),
    ("{", "is no JSON: line 1"),
    ("[1, 2]", "must hold keys with values"),
    ("null", "must hold keys with values"),
    ('{"prompt": "a", "prompt": "b"}', 'key "prompt" is given twice'),
    ('{"prompt": "a", "duration": NaN}', "has NaN for a number"),
    ('{"prompt": "a", "duration": -Infinity}', "has -Infinity for a number"),
    ('{"a":' * 20_000, "nested too deeply"),
    (json.dumps({"prompt": "a" * 1_000_001}), "at most 1,000,000 are allowed"),
    (text(subjects=[{**FOX, "images": ["../../etc/passwd", "/etc/shadow"]}]), '"/etc/shadow" is no file of ComfyUI'),
])
@pytest.mark.parametrize("name", ["AlchemintTimeline", "AlchemintStoryboardFromJSON"])
def test_hostile_text_is_refused_before_anything_runs(nodes: dict[str, type], name: str, given: str, fault: str
                                                      ) -> None:
    node = nodes[name]
    assert fault in node.VALIDATE_INPUTS(given)
    assert isinstance(node.IS_CHANGED(**{node.TEXT: given}), str)
    with pytest.raises(ValueError) as caught:
        node().run(**{node.TEXT: given})
    assert fault in str(caught.value)


def test_text_that_is_wired_is_checked_when_it_comes(nodes: dict[str, type]) -> None:
    assert nodes["AlchemintStoryboardFromJSON"].VALIDATE_INPUTS() is True


def test_no_file_outside_is_opened(timeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    opened = []
    monkeypatch.setattr("alchemint.media.open_image", lambda source: opened.append(source))
    with pytest.raises(ValueError, match="is no file of ComfyUI's input folder"):
        timeline().run(storyboard=text(subjects=[{**FOX, "images": ["../secret.png"]}]))
    assert opened == []


def test_a_changed_picture_is_a_change(timeline: Any, comfy: FakeComfy) -> None:
    before = timeline.IS_CHANGED(storyboard=text())
    assert timeline.IS_CHANGED(storyboard=text(), prompt=None) == before
    Image.new("RGB", (8, 8)).save(comfy.folder("input") / "fox.png")
    assert timeline.IS_CHANGED(storyboard=text()) != before
    (comfy.folder("input") / "fox.png").unlink()
    assert timeline.IS_CHANGED(storyboard=text()) != before


def test_wired_subjects_bring_pictures_to_bars_and_the_others_are_added(timeline: Any, subject: Any) -> None:
    wired = subject("duck", "3-4", after=subject("fox", "0-1"))
    drawn = text(subjects=[{**FOX, "images": []}])
    board, written = timeline().run(storyboard=drawn, subjects=wired, prompt="A fox and a duck.")
    assert board.prompt == "A fox and a duck."
    assert [(each.name, each.appears) for each in board.subjects] == [("fox", ((0.5, 3.0),)), ("duck", ((3.0, 4.0),))]
    assert [each.images for each in board.subjects] == [each.images for each in wired]
    # What was written names no files for wired pictures, and still comes back with the same wires.
    assert timeline().run(storyboard=written, subjects=wired, prompt="A fox and a duck.")[0] == board


def test_subjects_are_chained_and_named_by_their_words(subject: Any) -> None:
    chained = subject("fox", after=subject("fox", after=subject("fox", name="Reynard")))
    assert [each.name for each in chained] == ["Reynard", "fox", "fox 2"]
    assert all(each.word == "fox" for each in chained)


def test_each_picture_of_a_batch_is_a_view(nodes: dict[str, type]) -> None:
    (subjects,) = nodes["AlchemintSubject"]().run("fox", torch.rand(3, 8, 8, 3), "0-1")
    assert len(subjects[0].images) == 3


@pytest.mark.parametrize(("inputs", "fault"), [
    ({"when": "3-1"}, 'subject "fox": appears [3.0, 1.0] is reversed'),
    ({"when": "soon"}, '"soon" is no interval'),
    ({"word": " "}, "word is empty"),
])
def test_what_is_wrong_with_a_subject_is_told_at_its_own_node(subject: Any, inputs: dict[str, str], fault: str) -> None:
    with pytest.raises(ValueError) as caught:
        subject(**{"word": "fox", **inputs})
    assert fault in str(caught.value)


def test_the_subjects_times_are_checked_before_anything_runs(nodes: dict[str, type]) -> None:
    check = nodes["AlchemintSubject"].VALIDATE_INPUTS
    assert check("0.5-3, 4-5") is True
    assert check() is True
    assert '"soon" is no interval' in check("soon")
    check = nodes["AlchemintStoryboard"].VALIDATE_INPUTS
    assert check("0-1: rain") is True
    assert check("") is True
    assert "is no event" in check("rain")


def test_a_storyboard_of_subjects(nodes: dict[str, type], subject: Any) -> None:
    wired = subject("fox", "0.5-3, 3.5-4")
    board, _ = nodes["AlchemintStoryboard"]().run("A fox.", 4.0, wired, "blurry", "0-1: it sits", 128, 0, 0.0)
    assert (board.duration, board.width, board.height, board.fps) == (4.0, 128, None, None)
    assert board.negative_prompt == "blurry"
    assert [(event.during, event.text) for event in board.events] == [((0.0, 1.0), "it sits")]
    assert board.subjects[0].appears == ((0.5, 3.0), (3.5, 4.0))
    assert nodes["AlchemintStoryboard"]().run("A meadow.", 0.0)[0].duration is None
