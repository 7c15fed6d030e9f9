"""Times that are typed into nodes."""

from types import ModuleType

import pytest


@pytest.fixture
def timed_text(package: ModuleType) -> ModuleType:
    return package.timed_text


@pytest.mark.parametrize(("text", "intervals"), [
    ("0.5-3", ((0.5, 3.0),)),
    ("0.5-3, 4-5", ((0.5, 3.0), (4.0, 5.0))),
    (" 1.25 s – 2.5s ;\n 3 to 4 ", ((1.25, 2.5), (3.0, 4.0))),
    (".1-0.30000000000000004", ((0.1, 0.30000000000000004),)),
    ("3-1", ((3.0, 1.0),)),  # reversed: told of by the storyboard, with the subject's name
])
def test_intervals_are_taken_exactly(timed_text: ModuleType, text: str, intervals: tuple) -> None:
    assert timed_text.parse_intervals(text) == intervals


@pytest.mark.parametrize("text", ["3", "0,5-3", "-1-2", "1e3-2", "nan-2", "1-2-3", "0-inf", "<b>0-1</b>", "one-two"])
def test_what_is_no_interval_is_named(timed_text: ModuleType, text: str) -> None:
    with pytest.raises(ValueError, match="is no interval; write start and end in seconds"):
        timed_text.parse_intervals(text)


def test_all_faults_are_told_at_once(timed_text: ModuleType) -> None:
    with pytest.raises(ValueError) as caught:
        timed_text.parse_intervals("0-1, x, 2-3, y")
    assert [line.split(" ")[0] for line in str(caught.value).splitlines()] == ['"x"', '"y"']
    with pytest.raises(ValueError, match="there is no interval"):
        timed_text.parse_intervals(" , ")


def test_events_are_lines(timed_text: ModuleType) -> None:
    text = "0-1.5: the fox sits: it waits\n\n1.5-4:it runs"
    assert timed_text.parse_events(text) == [((0.0, 1.5), "the fox sits: it waits"), ((1.5, 4.0), "it runs")]
    assert timed_text.parse_events(" \n") == []
    with pytest.raises(ValueError) as caught:
        timed_text.parse_events("0-1: rain\nsnow\n2-3:")
    assert [line.split(",")[0] for line in str(caught.value).splitlines()] == ["line 2", "line 3"]
