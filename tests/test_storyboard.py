"""Storyboards: what is accepted, what every fault says, and that one run tells all of them."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from alchemint import timeline
from alchemint.storyboard import Defaults, Event, Storyboard, StoryboardError, Subject, load_storyboard

DEFAULTS = Defaults(fps=8.0, width=64, height=64, num_frames=33, size_multiple=16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "fox.png")
    return tmp_path


def subject(name: str = "fox", **changes: Any) -> dict[str, Any]:
    return {"name": name, "word": "fox", "images": ["fox.png"], "appears": [[0.5, 3.0]]} | changes


def document(*subjects: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"prompt": "A fox trots by.", "subjects": list(subjects) or [subject()]} | changes


def write(folder: Path, content: dict[str, Any] | str, name: str = "board.yaml") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def faults_of(folder: Path, content: dict[str, Any] | str, name: str = "board.yaml") -> tuple[str, ...]:
    with pytest.raises(StoryboardError) as caught:
        load_storyboard(write(folder, content, name), DEFAULTS)
    assert str(caught.value) == "\n".join(caught.value.faults)
    return caught.value.faults


def test_defaults_fill_what_is_left_out(folder: Path) -> None:
    path = write(folder, document())
    loaded = load_storyboard(path)
    assert (loaded.fps, loaded.num_frames) == (None, None)
    resolved = load_storyboard(path, DEFAULTS)
    assert (resolved.fps, resolved.width, resolved.height, resolved.num_frames) == (8.0, 64, 64, 33)
    assert resolved == loaded.resolve(DEFAULTS) == resolved.resolve(DEFAULTS)
    assert resolved.subjects[0].images == (folder / "fox.png",)


@pytest.mark.parametrize(("duration", "num_frames"), [(0.5, 5), (3.0, 25), (4.0, 33), (4, 33)])
def test_duration_gives_the_frame_count_whose_last_frame_it_shows(duration: float, num_frames: int) -> None:
    resolved = Storyboard(prompt="meadow", duration=duration).resolve(DEFAULTS)
    assert resolved.num_frames == num_frames
    assert resolved.duration is None


def test_json_and_yaml_say_the_same(folder: Path) -> None:
    from_yaml = load_storyboard(write(folder, document(seed=7)))
    assert load_storyboard(write(folder, json.dumps(document(seed=7)), "board.json")) == from_yaml


def test_a_storyboard_survives_its_own_json(folder: Path) -> None:
    resolved = load_storyboard(write(folder, document(events=[{"during": [0, 1], "text": "dusk"}])), DEFAULTS)
    again = load_storyboard(write(folder, resolved.model_dump_json(), "again.json"), DEFAULTS)
    assert again == resolved


def test_a_key_without_value_counts_as_left_out(folder: Path) -> None:
    loaded = load_storyboard(write(folder, "prompt: meadow\nseed:\nsubjects:\nevents:\n"))
    assert loaded == Storyboard(prompt="meadow")


def test_python_users_may_give_pictures() -> None:
    picture = Image.new("RGB", (4, 4))
    fox = Subject(name="fox", word="fox", images=[picture], appears=[(0, 1)])
    storyboard = Storyboard(prompt="fox", subjects=[fox])
    assert storyboard.resolve(DEFAULTS).subjects[0].images == (picture,)
    assert "picture of (4, 4) pixels" in storyboard.model_dump_json()


ONE_FAULT: list[tuple[dict[str, Any], str]] = [
    (document(subjcts=[]), 'unknown key "subjcts"; did you mean "subjects"?'),
    (document(music="loud"),
     'unknown key "music"; allowed are prompt, negative_prompt, duration, num_frames, fps, width, height, seed, '
     "subjects, events"),
    (document(subject(apears=[])), 'subject "fox": unknown key "apears"; did you mean "appears"?'),
    (document(prompt=" "), "prompt is empty; give text in quotes"),
    (document(prompt=3), "prompt 3 must be text in quotes"),
    (document(duration="4"), 'duration "4" must be a plain number such as 4.0'),
    (document(duration=0), "duration 0.0 must be above 0 and at most 3600; change it or leave it out"),
    (document(fps=float("nan")), "fps nan must be above 0 and at most 240; change it or leave it out"),
    (document(fps=True), "fps True must be a plain number such as 4.0"),
    (document(duration=4.0, num_frames=33),
     "duration 4.0 and num_frames 33 are both given, but each decides the other; remove one of them"),
    (document(num_frames=0), "num_frames 0 must be within 1 .. 100000; change it or leave it out"),
    (document(num_frames=32), "num_frames 32 must be of the form 4k+1; use 29 or 33"),
    (document(num_frames=33.0), "num_frames 33.0 must be a whole number"),
    (document(duration=3.9),
     "duration 3.9 s at 8 fps makes 32.2 frames, but the count must be 4k+1; use 3.5 s (29 frames) or 4 s (33 frames)"),
    (document(width=100), "width 100 must be divisible by 16, as the model needs it; use 96 or 112"),
    (document(height=8), "height 8 must be divisible by 16, as the model needs it; use 16"),
    (document(seed=-1), "seed -1 must be within 0 .. 9223372036854775807; change it or leave it out"),
    (document(subjects="fox"),
     'subjects "fox" must be a list of subjects, each with name, word, images and appears'),
    (document(subjects=["fox"]), 'subject 1 is "fox", but must be keys with values: name, word, images, appears'),
    (document(subject(name=True)), "subject 1: name True must be text in quotes"),
    (document(subject(name="")), "subject 1: name is empty; give text in quotes"),
    (document(subject(word=" ")), 'subject "fox": word is empty; give text in quotes'),
    (document(subject(), subject()), 'subject name "fox" is used 2 times, but must be used once; rename the others'),
    (document(subject(images="fox.png")),
     'subject "fox": images "fox.png" must be a list of image files such as [fox.png]'),
    (document(subject(images=[])), 'subject "fox": images is empty; give a list of image files such as [fox.png]'),
    (document(subject(appears=[])),
     'subject "fox": appears is empty; give a list of intervals in seconds such as [[0.5, 3.0]]'),
    (document(subject(appears=[0.5, 3.0])),
     'subject "fox": appears [0.5, 3.0] must be a list of intervals in seconds such as [[0.5, 3.0]]'),
    (document(subject(appears=[[1, 2, 3]])),
     'subject "fox": appears [[1, 2, 3]] must be a list of intervals in seconds such as [[0.5, 3.0]]'),
    (document(subject(appears=[[2.0, 2.0]])),
     'subject "fox": appears [2.0, 2.0] is empty; its end must be after its start'),
    (document(subject(appears=[[3.0, 0.5]])), 'subject "fox": appears [3.0, 0.5] is reversed; write [0.5, 3.0]'),
    (document(subject(appears=[[-1, 2]])),
     'subject "fox": appears [-1.0, 2.0] starts before 0.0 s; raise its start to 0.0 or more'),
    (document(subject(appears=[[0, float("inf")]])),
     'subject "fox": appears [0.0, inf] is not finite; give both ends in plain seconds'),
    (document(subject(appears=[[0.5, 6.2]])),
     'subject "fox": end 6.2 s is after the video\'s end 4.0 s; shorten it or raise duration'),
    (document(subject(appears=[[5, 6]])),
     'subject "fox": appears [5.0, 6.0] lies after the video\'s end 4.0 s; move it or raise duration'),
    (document(subject(appears=[[0.51, 0.6]])),
     'subject "fox": appears [0.51, 0.6] holds no frame at 8 fps; make it at least 0.125 s long'),
    (document(events=[{"during": [0, 9], "text": "dusk"}]),
     "event 1: end 9.0 s is after the video's end 4.0 s; shorten it or raise duration"),
    (document(events=[{"during": [0, 1], "text": ""}]), "event 1: text is empty; give text in quotes"),
    (document(events=[{"during": [[0, 1]], "text": "dusk"}]),
     "event 1: during [[0, 1]] must be one interval in seconds such as [0.5, 3.0]"),
    (document(*[subject(f"fox {number}") for number in range(18)]),
     "subjects: 18 are given, but at most 16 are allowed; remove 2"),
    (document(events=[{"during": [0, 1], "text": "dusk"}] * 65),
     "events: 65 are given, but at most 64 are allowed; remove 1"),
]


@pytest.mark.parametrize(("content", "fault"), ONE_FAULT, ids=[fault[:60] for _, fault in ONE_FAULT])
def test_a_fault_is_one_line_that_names_field_value_and_mend(folder: Path, content: dict[str, Any], fault: str) -> None:
    assert faults_of(folder, content) == (fault,)


def test_a_missing_key_is_named(folder: Path) -> None:
    assert faults_of(folder, {"subjects": [{"name": "fox"}]}) == (
        "prompt is missing; give text in quotes",
        'subject "fox": word is missing; give text in quotes',
        'subject "fox": images is missing; give a list of image files such as [fox.png]',
        'subject "fox": appears is missing; give a list of intervals in seconds such as [[0.5, 3.0]]',
    )


def test_all_faults_come_at_once(folder: Path) -> None:
    content = document(
        subject(wrod="fox", appears=[[0, 9]]),
        subject("dog", word=7, images=["dog.png"]),
        subject("cat", appears="always", images=["board.yaml"]),
        promt="A fox", height=65, events=[{"during": [3, 2]}],
    )
    found = faults_of(folder, content)
    for part in ("promt", "wrod", "end 9.0 s", "word 7", "dog.png", "appears \"always\"", "board.yaml", "height 65",
                 "during [3.0, 2.0]", "text is missing"):
        assert any(part in fault for fault in found), (part, found)
    assert len(found) == 10


@pytest.mark.parametrize("name", ["duration", "fps", "num_frames"])
def test_ends_are_not_judged_by_a_timing_that_was_refused(folder: Path, name: str) -> None:
    assert len(faults_of(folder, document(subject(appears=[[0, 9]]), **{name: "much"}))) == 1


def test_a_smaller_model_allows_fewer_subjects() -> None:
    few = replace(DEFAULTS, max_subjects=1)
    storyboard = Storyboard(**document(subject("a"), subject("b")))
    storyboard.resolve(DEFAULTS)
    with pytest.raises(StoryboardError, match="at most 1 are allowed; remove 1"):
        storyboard.resolve(few)


def test_a_model_may_take_no_events_or_only_such_as_follow_each_other() -> None:
    events = [{"during": [2, 4], "text": "b"}, {"during": [0, 1], "text": "a"}, {"during": [0.5, 2], "text": "c"}]
    storyboard = Storyboard(prompt="dusk", events=events)
    storyboard.resolve(DEFAULTS)
    with pytest.raises(StoryboardError) as caught:
        storyboard.resolve(replace(DEFAULTS, events_may_overlap=False))
    assert caught.value.faults == ("event 3: during [0.5, 2.0] overlaps event 2, [0.0, 1.0], but this model's events "
                                   "may not overlap; shorten one",)
    Storyboard(prompt="dusk", events=events[:2]).resolve(replace(DEFAULTS, events_may_overlap=False))
    with pytest.raises(StoryboardError, match="3 are given, but this model takes none; remove them"):
        storyboard.resolve(replace(DEFAULTS, takes_events=False))


@pytest.mark.parametrize(("text", "name", "fault"), [
    ('prompt: "A fox\n', "board.yaml", r"board.yaml, line 2: .*; correct the YAML there"),
    ('{"prompt": }', "board.json", r"board.json, line 1: .*; correct the JSON there"),
    ("prompt: a\nprompt: b\n", "board.yaml", r'key "prompt" is given twice, in lines 1 and 2; remove one'),
    ("{prompt: a, prompt: b}", "board.yaml", r'key "prompt" is given twice, in lines 1 and 1; remove one'),
    ('{"prompt": "a", "prompt": "b"}', "board.json", r'key "prompt" is given twice; remove one'),
    ("", "board.yaml", r".*board.yaml is empty, but must hold keys with values, as in key: value"),
    ("- prompt", "board.yaml", r'.*board.yaml holds \["prompt"\], but must .*'),
    ("[" * 5000, "board.yaml", r".*nested too deeply.*"),
    ("prompt: a\n? [b]\n: c", "board.yaml", r".*line 2: .*"),
    ("{prompt: a, events: [{during: [0, 1], text: rain, then sun}]}", "board.yaml",
     r'event 1: unknown key "then sun"; a text with a comma in it needs quotes'),
    ("prompt: a\n1: c", "board.yaml", r"unknown key 1; remove it"),
    ("prompt: a\nday: 2020-99-99", "board.yaml", r".*board.yaml cannot be read: month .*; put the value in quotes"),
    ("prompt: !!python/name:os.system a", "board.yaml", r".*line 1: could not .*"),
])
def test_a_malformed_file_is_one_line(folder: Path, text: str, name: str, fault: str) -> None:
    found = faults_of(folder, text, name)
    assert len(found) == 1
    assert re.fullmatch(f"(.*/)?{fault}", found[0]), found


def test_a_file_that_is_not_text_or_not_there(folder: Path) -> None:
    (folder / "board.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StoryboardError, match="not UTF-8"):
        load_storyboard(folder / "board.yaml")
    with pytest.raises(FileNotFoundError):
        load_storyboard(folder / "none.yaml")


def test_nested_aliases_cannot_blow_up_a_message(folder: Path) -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert all(len(fault) < 250 for fault in faults_of(folder, "\n".join([*rows, "prompt: *a11", "subjects: *a11"])))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*Subject.model_fields, "x"]), inner),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(st.sampled_from([*Storyboard.model_fields, "x"]), JUNK))
def test_nothing_but_storyboard_errors_of_whole_lines_come_out(fields: dict[str, Any]) -> None:
    try:
        Storyboard(**fields).resolve(DEFAULTS)
    except StoryboardError as error:
        assert error.faults
        assert all(fault and "\n" not in fault for fault in error.faults)


@given(st.integers(0, 31), st.integers(1, 32), st.sampled_from([7.5, 8.0, 16.0, 24.0, 30.0]))
def test_intervals_of_whole_frames_are_always_accepted(first: int, length: int, fps: float) -> None:
    last = min(32, first + length)
    interval = timeline.seconds_of((first, last), fps, 33)
    storyboard = Storyboard(prompt="dusk", fps=fps, events=[Event(during=interval, text="dusk")])
    assert storyboard.resolve(DEFAULTS).events[0].during == interval


@pytest.mark.parametrize(("prompt", "word", "known"), [
    ("A Fox trots.", "fox", True),
    ("two foxes", "fox", True),
    ("two dogs", "dog", True),
    ("a red\n balloon!", "red balloon", True),
    ("a C++ book", "c++", True),
    ("a foxglove", "fox", False),
    ("an outfox", "fox", False),
    ("a balloon, red", "red balloon", False),
])
def test_a_word_that_the_prompt_lacks_is_warned_of(prompt: str, word: str, known: bool) -> None:
    storyboard = Storyboard(**document(subject(word=word), prompt=prompt))
    assert (storyboard.warnings() == []) is known
    assert all(f'"{word}"' in line and 'subject "fox"' in line for line in storyboard.warnings())


def test_intervals_of_one_subject_that_overlap_are_warned_of() -> None:
    storyboard = Storyboard(**document(subject(appears=[[2, 4], [0, 1], [0.5, 2]])))
    assert storyboard.warnings() == [
        'subject "fox": appears [0.0, 1.0] and [0.5, 2.0] overlap; join them to [0.0, 2.0]'
    ]


def test_events_come_in_order_of_time_and_tell_their_overlaps() -> None:
    events = [Event(during=during, text=text) for during, text in [((2, 4), "c"), ((0, 1), "a"), ((0.5, 2), "b")]]
    resolved = Storyboard(prompt="dusk", events=events).resolve(DEFAULTS)
    assert [event.text for event in resolved.events] == ["a", "b", "c"]
    assert [(one.text, other.text) for one, other in resolved.overlapping_events()] == [("a", "b")]


def test_a_single_frame_can_show_a_subject() -> None:
    storyboard = Storyboard(**document(subject(appears=[[0, 0.125]]), num_frames=1))
    assert storyboard.resolve(DEFAULTS).num_frames == 1


def test_image_faults_are_told_for_every_image(folder: Path) -> None:
    Image.effect_noise((64, 64), 90).save(folder / "whole.png")
    (folder / "torn.png").write_bytes((folder / "whole.png").read_bytes()[:2000])
    (folder / "note.png").write_text("not an image")
    found = faults_of(folder, document(subject(images=["fox.png", "torn.png", "none.png", "note.png", "."])))
    assert [fault.split('"')[3].rsplit("/", 1)[-1] for fault in found[:3]] == ["torn.png", "none.png", "note.png"]
    assert len(found) == 4


def test_the_module_needs_neither_torch_nor_pillow() -> None:
    code = "import sys, alchemint.storyboard; sys.exit(any(name in sys.modules for name in ('torch', 'PIL', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
