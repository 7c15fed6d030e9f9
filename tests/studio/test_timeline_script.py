"""The timeline script alone, in a real browser: a static page under a strict Content-Security-Policy mounts it."""

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="Playwright is not installed; pip install playwright")
from playwright.sync_api import Browser, Locator, Page, expect

from alchemint.sheet import COLOURS
from alchemint.storyboard import Defaults, Storyboard
from tests.browsers import chromium

pytestmark = pytest.mark.browser

WEB = Path(__file__).parents[2] / "src" / "alchemint" / "studio" / "web"
EXAMPLES = Path(__file__).parents[2] / "examples"
SITE = "http://timeline.test/"
POLICY = "default-src 'self'; img-src 'self' blob: data:"
HTML = """<!doctype html><html lang="en"><meta charset="utf-8"><title>timeline</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="stylesheet" href="timeline.css">
<link rel="stylesheet" href="page.css"><main><div id="root"></div></main>
<script type="module" src="page.js"></script>"""
CSS = """:root { color-scheme: light dark; } :root[data-theme=light] { color-scheme: light; }
:root[data-theme=dark] { color-scheme: dark; } body { margin: 0; background: light-dark(#fff, #1b1d21); }
main { padding: 16px; } .tall { height: 3000px; }"""
JS = """import * as timeline from './timeline.js';
window.changes = [];
window.selected = [];
window.uploaded = [];
window.start = (board, options = {}) => {
  window.handle?.destroy();
  window.host = {
    storyboard: board, step: 0.5, duration: 4, pictureUrl: (id) => `pictures/${id}`,
    upload: async (file) => {
      window.uploaded.push(file.name);
      await new Promise((resolve) => setTimeout(resolve, options.uploadMs ?? 0));
      if (file.name.includes('broken')) throw new Error('it cannot be read');
      return { id: `new-${file.name}`, url: URL.createObjectURL(file) };
    },
    onChange: (changed) => window.changes.push(changed), onSelect: (name) => window.selected.push(name), ...options,
  };
  window.changes = [];
  window.selected = [];
  window.handle = timeline.mountTimeline(document.getElementById('root'), window.host);
};
window.timeline = timeline;"""

PROMPT = "A fox trots across a sunny meadow; later a red balloon drifts down beside it."
MODEL = Defaults(fps=8.0, width=64, height=64, num_frames=33, size_multiple=16)
Board = dict[str, Any]


def board_of(**changes: Any) -> Board:
    return {
        "prompt": PROMPT,
        "duration": 4.0,
        "subjects": [
            {"name": "fox", "word": "fox", "images": ["fox.png"], "appears": [[0.5, 1.5], [2.5, 3.5]]},
            {"name": "balloon", "word": "balloon", "images": ["balloon.png"], "appears": [[2.0, 4.0]]},
        ],
        **changes,
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def opened(browser: Browser, **options: Any) -> Page:
    """A page whose only files are the script, its style and the examples' pictures; anything else is noted."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    page = context.new_page()
    page.set_default_timeout(5000)
    strays: list[str] = []
    files = {"": HTML, "page.css": CSS, "page.js": JS}

    def answer(route: Any) -> None:
        name = route.request.url.removeprefix(SITE)
        kind = {"js": "text/javascript", "css": "text/css", "png": "image/png"}.get(name.split(".")[-1], "text/html")
        path = EXAMPLES / name.removeprefix("pictures/") if name.startswith("pictures/") else WEB / name
        if name in files or path.is_file():
            body = files[name].encode() if name in files else path.read_bytes()
            route.fulfill(body=body, headers={"content-type": kind, "content-security-policy": POLICY})
        elif "favicon" in name:
            route.fulfill(status=404)
        else:
            strays.append(route.request.url)
            route.fulfill(status=404)

    page.route("**/*", answer)
    page.on("pageerror", lambda error: strays.append(f"error: {error}"))
    page.on("console", lambda line: strays.append(f"console: {line.text}")
            if line.type == "error" and "favicon" not in line.text else None)
    page.goto(SITE)
    page.strays = strays
    return page


@pytest.fixture(scope="module")
def desktop(browser: Browser) -> Iterator[Page]:
    found = opened(browser)
    yield found
    found.context.close()


@pytest.fixture
def page(desktop: Page) -> Iterator[Page]:
    """A desktop page; in the end it has asked for nothing strange and broken no rule of the policy."""
    desktop.strays.clear()
    desktop.evaluate("window.uploaded = []")
    yield desktop
    assert desktop.strays == []


def start(page: Page, board: Board | None = None, **options: Any) -> None:
    page.evaluate("([board, options]) => start(board, options)", [board or board_of(), options])


def board_in(page: Page) -> Board:
    return page.evaluate("handle.get()")


def changes(page: Page) -> list[Board]:
    return page.evaluate("changes")


def appears(page: Page, row: int = 0) -> list[list[float]]:
    return board_in(page)["subjects"][row]["appears"]


def part(page: Page, row: int, number: int, name: str = "body") -> Locator:
    return page.locator(".tl-subject").nth(row).locator(".tl-bar").nth(number).locator(f".tl-{name}")


def pixels_per_s(page: Page) -> float:
    return page.locator(".tl-ruler").bounding_box()["width"] / page.evaluate("handle.get().duration")


def press_at(page: Page, target: Locator) -> tuple[float, float]:
    box = target.bounding_box()
    assert box is not None
    place = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*place)
    page.mouse.down()
    return place


def drag(page: Page, target: Locator, seconds: float) -> None:
    x, y = press_at(page, target)
    page.mouse.move(x + seconds * pixels_per_s(page) / 2, y, steps=3)
    page.mouse.move(x + seconds * pixels_per_s(page), y + 4, steps=3)
    page.mouse.up()


def told(page: Page) -> str:
    return page.locator(".tl-status").inner_text().replace("\xa0", " ").strip()


def dropped(page: Page, selector: str, names: list[str], event: str = "drop") -> None:
    """Drop (or paste) small pictures with these names; one whose name ends in .txt is a text."""
    page.evaluate("""([selector, names, type]) => {
      const data = new DataTransfer();
      const kind = (name) => (name.endsWith('.txt') ? 'text/plain' : 'image/png');
      for (const name of names) data.items.add(new File(['x'], name, {type: kind(name)}));
      const options = {bubbles: true, cancelable: true};
      const event = type === 'paste' ? new ClipboardEvent('paste', {clipboardData: data, ...options})
        : new DragEvent(type, {dataTransfer: data, ...options});
      document.querySelector(selector).dispatchEvent(event);
    }""", [selector, names, event])


# ---- bars by pointer ----


def test_a_dragged_bar_snaps_and_is_told_once(page: Page) -> None:
    start(page)
    x, y = press_at(page, part(page, 0, 0))
    for move in range(1, 20):
        page.mouse.move(x + move * 0.037 * pixels_per_s(page), y)
    assert part(page, 0, 0).get_attribute("aria-valuetext") == "1 to 2 seconds"  # 0.5 + 19 * 0.037 = 1.203
    assert changes(page) == []
    assert appears(page) == [[0.5, 1.5], [2.5, 3.5]], "the document changes when the gesture ends"
    page.mouse.up()
    assert [change["subjects"][0]["appears"] for change in changes(page)] == [[[1, 2], [2.5, 3.5]]]
    assert told(page) == "fox: 1 to 2 s"


def test_alt_is_free_of_the_grid(page: Page) -> None:
    start(page)
    page.keyboard.down("Alt")
    drag(page, part(page, 0, 0), 0.33)
    page.keyboard.up("Alt")
    assert appears(page)[0] == pytest.approx([0.83, 1.83], abs=0.011)
    assert appears(page)[0][0] % 0.5 != 0


def test_ends_resize_and_clamp(page: Page) -> None:
    start(page)
    drag(page, part(page, 0, 0, "end"), 1.0)
    assert appears(page)[0] == [0.5, 2.5]
    drag(page, part(page, 0, 0, "start"), -3)
    assert appears(page)[0] == [0, 2.5]
    drag(page, part(page, 0, 0, "start"), 3.9)
    assert appears(page)[0] == [2, 2.5], "a bar keeps one step"
    drag(page, part(page, 1, 0), 2)
    assert appears(page, 1) == [[2, 4]], "a bar stays within the video"
    drag(page, part(page, 1, 0), -9)
    assert appears(page, 1) == [[0, 2]]


def test_a_click_changes_nothing(page: Page) -> None:
    start(page, board_of(subjects=[{"name": "fox", "word": "fox", "images": ["fox.png"], "appears": [[0.13, 1.37]]}]))
    part(page, 0, 0).click()
    assert changes(page) == []
    assert page.evaluate("selected") == ["fox"]


@pytest.mark.parametrize("how", ["escape", "pointercancel"])
def test_a_drag_can_be_called_off(page: Page, how: str) -> None:
    start(page)
    x, y = press_at(page, part(page, 0, 0))
    page.mouse.move(x + 200, y, steps=4)
    assert part(page, 0, 0).get_attribute("aria-valuetext") != "0.5 to 1.5 seconds"
    if how == "escape":
        page.keyboard.press("Escape")
    else:
        part(page, 0, 0).dispatch_event("pointercancel", {"bubbles": True})
    assert part(page, 0, 0).get_attribute("aria-valuetext") == "0.5 to 1.5 seconds"
    page.mouse.move(x + 300, y)
    page.mouse.up()
    assert changes(page) == []
    assert appears(page)[0] == [0.5, 1.5]


def test_an_interval_is_drawn_on_an_empty_place(page: Page) -> None:
    start(page)
    lane = page.locator(".tl-subject .tl-bars").nth(1).bounding_box()
    scale = pixels_per_s(page)
    page.mouse.move(lane["x"] + 0.5 * scale, lane["y"] + 20)
    page.mouse.down()
    page.mouse.move(lane["x"] + 1.55 * scale, lane["y"] + 20, steps=5)
    page.mouse.up()
    assert appears(page, 1) == [[2, 4], [0.5, 1.5]]
    assert len(changes(page)) == 1
    page.mouse.dblclick(lane["x"] + 1.75 * scale, lane["y"] + 20)
    assert appears(page, 1)[2:] == [[1.5, 2]], "it takes the room that is there"


def test_drawing_can_be_called_off(page: Page) -> None:
    start(page)
    lane = page.locator(".tl-subject .tl-bars").nth(1).bounding_box()
    page.mouse.move(lane["x"] + 20, lane["y"] + 20)
    page.mouse.down()
    page.mouse.move(lane["x"] + 220, lane["y"] + 20, steps=3)
    expect(page.locator(".tl-subject").nth(1).locator(".tl-bar")).to_have_count(2)
    page.keyboard.press("Escape")
    expect(page.locator(".tl-subject").nth(1).locator(".tl-bar")).to_have_count(1)
    page.mouse.up()
    assert changes(page) == []
    assert appears(page, 1) == [[2, 4]]


def test_times_on_the_grid_name_the_frames_that_the_model_means(page: Page) -> None:
    from alchemint.timeline import frames_in

    start(page, board_of(subjects=[{"name": "fox", "word": "fox", "images": ["fox.png"], "appears": [[0.0, 4.0]]}]),
          step=4 / 6)
    part(page, 0, 0, "start").focus()
    for step in range(1, 6):
        page.keyboard.press("ArrowRight")
        [interval] = appears(page)
        assert len(f"{interval[0]:g}") <= 5, "short enough to be read in a file"
        assert frames_in((interval[0], interval[1]), 6.0, 25) == (4 * step, 24)
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    part(page, 0, 0, "end").focus()
    for step in range(5, 1, -1):
        page.keyboard.press("ArrowLeft")
        [interval] = appears(page)
        assert frames_in((interval[0], interval[1]), 6.0, 25) == (4, 4 * step - 1)


# ---- exact entry ----


def enter(page: Page, begin: str | None, end: str | None) -> None:
    if begin is not None:
        page.get_by_label("Start", exact=True).fill(begin)
    if end is not None:
        page.get_by_label("End", exact=True).fill(end)
    page.keyboard.press("Enter")


def test_exact_times_are_taken_exactly(page: Page) -> None:
    start(page)
    part(page, 0, 0).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Start", exact=True)).to_be_focused()
    page.keyboard.type("1.25")
    page.keyboard.press("Enter")
    assert appears(page)[0] == [1.25, 1.5]
    expect(part(page, 0, 0)).to_be_focused()
    part(page, 0, 1).click()
    enter(page, "2,625 s", "3.3333333333")
    assert appears(page)[1] == [2.625, 3.3333333333]
    assert len(changes(page)) == 2 + 1, "each field is a gesture of its own"


@pytest.mark.parametrize(("begin", "end", "fault"), [
    ("soon", None, "“soon” is not a time"), ("-1", None, "before 0 s"), (None, "9", "the end of the video, 4 s"),
    ("1.4", "1.2", "must be after the start"), ("1e999", None, "is not a time"), ("NaN", None, "is not a time"),
    ("1.26", "1.3", "No frame falls in"),
])
def test_wrong_times_are_refused_with_the_reason(page: Page, begin: str | None, end: str | None, fault: str) -> None:
    start(page)
    part(page, 0, 0).click()
    enter(page, begin, end)
    expect(page.get_by_role("alert")).to_contain_text(fault)
    expect(page.locator("[aria-invalid=true]").first).to_be_visible()
    if begin != "1.26" and begin != "1.4":
        assert changes(page) == []
    page.keyboard.press("Escape")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_both_ends_may_be_typed_before_either_fits(page: Page) -> None:
    start(page)
    part(page, 0, 0).click()
    enter(page, "3", "3.75")
    assert appears(page)[0] == [3, 3.75]
    assert len(changes(page)) == 1


# ---- keyboard ----


def test_arrows_move_bars_and_ends(page: Page) -> None:
    start(page)
    part(page, 0, 0).focus()
    for key, expected in [("ArrowRight", [1, 2]), ("Shift+ArrowRight", [2, 3]), ("End", [3, 4]), ("Home", [0, 1]),
                          ("Alt+ArrowRight", [0.01, 1.01]), ("ArrowRight", [0.5, 1.5])]:
        page.keyboard.press(key)
        assert appears(page)[0] == expected, key
    assert len(changes(page)) == 6
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")
    assert appears(page)[0] == [0, 1.5]
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowUp")
    assert appears(page)[0] == [0, 2]
    page.keyboard.press("Home")
    assert appears(page)[0] == [0, 0.5]


def test_a_key_held_down_is_one_gesture(page: Page) -> None:
    start(page)
    part(page, 0, 0).focus()
    for _ in range(4):
        page.keyboard.down("ArrowRight")
    assert changes(page) == []
    page.keyboard.up("ArrowRight")
    assert [change["subjects"][0]["appears"][0] for change in changes(page)] == [[2.5, 3.5]]
    page.keyboard.press("Control+z")
    assert appears(page)[0] == [0.5, 1.5]


def test_focus_roves_among_bars_and_rows(page: Page) -> None:
    start(page, board_of(events=[{"during": [0.0, 1.0], "text": "dawn"}]))
    part(page, 0, 0).focus()
    page.keyboard.press("PageDown")
    expect(part(page, 0, 1)).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(part(page, 1, 0)).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.locator(".tl-events .tl-body")).to_be_focused()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    expect(part(page, 0, 1)).to_be_focused()
    stops = page.locator(".tl-subject").first.locator(".tl-bar [tabindex='0']")
    assert stops.count() == 3, "one bar of a lane and its ends can be reached by Tab"
    assert changes(page) == []


def test_delete_and_duplicate_by_key(page: Page) -> None:
    start(page)
    part(page, 0, 0).focus()
    page.keyboard.press("Control+d")
    assert appears(page) == [[0.5, 1.5], [2.5, 3.5], [1.5, 2.5]]
    expect(part(page, 0, 2)).to_be_focused()
    page.keyboard.press("Delete")
    assert appears(page) == [[0.5, 1.5], [2.5, 3.5]]
    page.keyboard.press("Backspace")
    page.keyboard.press("Delete")
    assert appears(page) == [[0.5, 1.5]], "the last one stays"
    assert "needs at least one interval" in told(page)


# ---- undo ----


def test_a_hundred_steps_can_be_undone_and_redone(page: Page) -> None:
    start(page)
    part(page, 0, 0).focus()
    states = [board_in(page)]
    for number in range(110):
        page.keyboard.press(["ArrowRight", "ArrowRight", "ArrowLeft"][number % 3] if number < 9 else
                            ["ArrowLeft", "ArrowRight"][number % 2])
        states.append(board_in(page))
    assert len(changes(page)) == sum(one != two for one, two in pairwise(states)) >= 100
    distinct = [states[0], *(two for one, two in pairwise(states) if one != two)]
    for expected in reversed(distinct[:-1]):
        page.keyboard.press("Control+z")
        assert board_in(page) == expected
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()
    for expected in distinct[1:4]:
        page.get_by_role("button", name="Redo").click()
        assert board_in(page) == expected
    page.keyboard.press("Control+Shift+Z")
    assert board_in(page) == distinct[4]
    for _ in range(4):
        page.get_by_role("button", name="Undo").click()
    page.keyboard.press("Control+y")
    assert board_in(page) == distinct[1], "keys work on when the button has come to its end"
    assert told(page).startswith("Redone: fox")


def test_undo_leaves_the_rest_of_the_document_alone(page: Page) -> None:
    start(page, board_of(seed=7, negative_prompt="blur", notes={"of": "another tool"}))
    drag(page, part(page, 0, 0), 1)
    page.evaluate("handle.set({...handle.get(), prompt: 'A new prompt with a fox.'})")
    page.evaluate("handle.undo()")
    assert board_in(page) == board_of(
        seed=7, negative_prompt="blur", notes={"of": "another tool"}, prompt="A new prompt with a fox.", events=[])
    page.evaluate("handle.redo()")
    assert appears(page)[0] == [1.5, 2.5]
    assert len(changes(page)) == 3, "set itself tells nothing"


def test_opening_another_storyboard_can_be_undone(page: Page) -> None:
    start(page, {})
    page.evaluate("board => handle.set(board)", board_of(events=[]))
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()
    other = {"prompt": "A duck swims.", "subjects": [], "events": [], "seed": 3}
    page.evaluate("board => handle.set(board)", other)
    page.evaluate("handle.undo()")
    assert board_in(page) == board_of(events=[])
    page.evaluate("handle.redo()")
    assert board_in(page) == other
    assert len(changes(page)) == 2


def test_undo_in_a_text_field_first_undoes_the_typing(page: Page) -> None:
    start(page)
    drag(page, part(page, 0, 0), 1)
    name = page.get_by_label("Name of subject 1")
    name.press_sequentially("y")
    name.press("Control+z")
    assert name.input_value() == "fox"
    assert appears(page)[0] == [1.5, 2.5]
    name.press("Control+z")
    assert appears(page)[0] == [0.5, 1.5]


# ---- subjects ----


def test_subjects_are_added_named_duplicated_moved_and_removed(page: Page) -> None:
    start(page)
    page.get_by_role("button", name="Add a subject").click()
    word = page.get_by_label("Word of subject in the prompt")
    expect(word).to_be_focused()
    page.keyboard.type("meadow")
    page.keyboard.press("Tab")
    assert board_in(page)["subjects"][2] == {"name": "meadow", "word": "meadow", "images": [], "appears": [[0, 4]]}
    page.get_by_label("Name of subject 3").fill("fox")
    page.keyboard.press("Enter")
    assert board_in(page)["subjects"][2]["name"] == "fox 2", "no two subjects share a name"
    assert told(page) == "The name is taken, so it became fox 2"
    page.get_by_role("button", name="Duplicate fox", exact=True).click()
    assert [subject["name"] for subject in board_in(page)["subjects"]] == ["fox", "fox 3", "balloon", "fox 2"]
    page.get_by_role("button", name="Move fox,").press("ArrowDown")
    assert [subject["name"] for subject in board_in(page)["subjects"]] == ["fox 3", "fox", "balloon", "fox 2"]
    expect(page.get_by_role("button", name="Move fox,")).to_be_focused()
    page.get_by_role("button", name="Remove fox 3").click()
    page.get_by_label("Name of subject 1").fill("  ")
    page.keyboard.press("Enter")
    assert page.get_by_label("Name of subject 1").input_value() == "fox"
    assert [subject["name"] for subject in board_in(page)["subjects"]] == ["fox", "balloon", "fox 2"]
    assert len(changes(page)) == 6


def test_rows_are_sorted_by_their_grip(page: Page) -> None:
    start(page)
    x, y = press_at(page, page.locator(".tl-grip").first)
    page.mouse.move(x, y + 130, steps=5)
    assert changes(page) == []
    page.mouse.up()
    assert [subject["name"] for subject in board_in(page)["subjects"]] == ["balloon", "fox"]
    assert len(changes(page)) == 1


def test_a_click_right_after_typing_is_not_lost(page: Page) -> None:
    start(page)
    page.get_by_label("Name of subject 1").fill("vixen")
    page.get_by_role("button", name="Add an interval for balloon").click()
    assert board_in(page)["subjects"][0]["name"] == "vixen"
    assert appears(page, 1) == [[2, 4], [0, 1]]


def test_sixteen_subjects_are_the_most(page: Page) -> None:
    start(page)
    for _ in range(14):
        page.get_by_role("button", name="Add a subject").click()
    expect(page.get_by_role("button", name="Add a subject")).to_be_disabled()
    dropped(page, ".tl-ruler", ["a.png", "b.png"])
    expect(page.locator(".tl-busy")).to_have_count(0)
    assert len(board_in(page)["subjects"]) == 16


def test_hints_are_gentle(page: Page) -> None:
    board = board_of()
    board["subjects"][0] |= {"word": "wolf", "appears": [[0.0, 2.0], [1.0, 3.0]]}
    board["subjects"][1] |= {"images": [], "appears": [[2.0, 6.0]]}
    start(page, board)
    hints = page.locator(".tl-hint").all_inner_texts()
    assert "does not say “wolf”" in hints[0]
    assert "overlap" in hints[0]
    assert "Needs a picture" in hints[1]
    assert "beyond the end of the video, 4 s" in hints[1]
    page.evaluate("handle.set({...handle.get(), prompt: 'Two  WOLFS'})")
    assert "wolf" not in page.locator(".tl-hint").first.inner_text()
    assert changes(page) == []


# ---- pictures ----


def images(page: Page, row: int = 0) -> list[str]:
    return board_in(page)["subjects"][row]["images"]


def test_pictures_come_by_file_drop_and_paste(page: Page) -> None:
    start(page)
    page.locator("input[type=file]").first.set_input_files([EXAMPLES / "duck.png", EXAMPLES / "robot.png"])
    expect(page.locator(".tl-subject").first.locator(".tl-picture")).to_have_count(3)
    assert images(page) == ["fox.png", "new-duck.png", "new-robot.png"]
    assert len(changes(page)) == 1, "one drop is one gesture"
    dropped(page, ".tl-subject:nth-child(2) .tl-lane", ["view.png"])
    expect(page.locator(".tl-subject").nth(1).locator(".tl-picture")).to_have_count(2)
    part(page, 0, 0).focus()
    dropped(page, ".tl-subject .tl-body", ["pasted.png"], "paste")
    expect(page.locator(".tl-subject").first.locator(".tl-picture")).to_have_count(4)
    dropped(page, ".tl-ruler", ["red_kite.png", "fox.png"])
    expect(page.locator(".tl-subject")).to_have_count(4)
    made = board_in(page)["subjects"][2:]
    assert [(subject["name"], subject["word"], subject["images"]) for subject in made] == [
        ("red kite", "red kite", ["new-red_kite.png"]), ("fox 2", "fox", ["new-fox.png"])]
    assert len(changes(page)) == 4
    page.evaluate("handle.undo()")
    assert len(board_in(page)["subjects"]) == 2


def test_refused_pictures_are_told_and_the_rest_is_taken(page: Page) -> None:
    start(page)
    dropped(page, ".tl-subject", ["broken.png"])
    expect(page.locator(".tl-status")).to_have_text("“broken.png” was not taken: it cannot be read")
    dropped(page, ".tl-subject", ["notes.txt"])
    expect(page.locator(".tl-status")).to_have_text("“notes.txt” is not a picture")
    assert page.evaluate("uploaded") == ["broken.png"]
    dropped(page, ".tl-subject", ["broken.png", "good.png"])
    expect(page.locator(".tl-subject").first.locator(".tl-picture")).to_have_count(2)
    dropped(page, ".tl-subject", ["good.png"])
    expect(page.locator(".tl-status")).to_have_text("fox already has this picture")
    assert len(changes(page)) == 1
    expect(page.locator(".tl-busy")).to_have_count(0)


def test_a_picture_reaches_its_subject_whatever_happens_meanwhile(page: Page) -> None:
    start(page, uploadMs=400)
    dropped(page, ".tl-subject", ["late.png"])
    page.evaluate("handle.set({...handle.get(), subjects: handle.get().subjects.reverse()})")
    expect(page.locator(".tl-subject").nth(1).locator(".tl-picture")).to_have_count(2)
    assert images(page, 0) == ["balloon.png"]
    dropped(page, ".tl-subject", ["later.png"])
    page.get_by_role("button", name="Remove balloon").click()
    expect(page.locator(".tl-status")).to_contain_text("Its subject was removed")
    assert [subject["images"] for subject in board_in(page)["subjects"]] == [["fox.png", "new-late.png"]]


def test_a_picture_that_arrives_disturbs_no_typing(page: Page) -> None:
    start(page, uploadMs=400)
    dropped(page, ".tl-subject", ["late.png"])
    page.get_by_label("Name of subject 1").fill("vixen")
    page.keyboard.press("Enter")
    page.get_by_label("Name of subject 2").fill("half a na")
    expect(page.locator(".tl-subject").first.locator(".tl-picture")).to_have_count(2)
    assert board_in(page)["subjects"][0] | {"appears": []} == {
        "name": "vixen", "word": "fox", "images": ["fox.png", "new-late.png"], "appears": []}
    expect(page.get_by_label("Name of subject 2")).to_be_focused()
    assert page.get_by_label("Name of subject 2").input_value() == "half a na"


def test_pictures_are_sorted_and_removed(page: Page) -> None:
    board = board_of()
    board["subjects"][0]["images"] = ["fox.png", "duck.png", "robot.png"]
    start(page, board)
    tiles = page.locator(".tl-subject").first.locator(".tl-picture")
    tiles.nth(0).press("Shift+ArrowRight")
    assert images(page) == ["duck.png", "fox.png", "robot.png"]
    expect(tiles.nth(1)).to_be_focused()
    x, y = press_at(page, tiles.nth(2))
    page.mouse.move(x - 95, y, steps=4)
    page.mouse.up()
    assert images(page) == ["robot.png", "duck.png", "fox.png"]
    page.get_by_role("button", name="Move right").click()
    assert images(page) == ["duck.png", "robot.png", "fox.png"]
    tiles.nth(1).press("Delete")
    assert images(page) == ["duck.png", "fox.png"]
    expect(tiles.nth(1)).to_be_focused()
    assert tiles.nth(1).get_attribute("aria-label") == "Picture 2 of 2 of fox"
    assert tiles.nth(1).evaluate("tile => tile.firstChild.naturalWidth") > 0
    assert len(changes(page)) == 4


# ---- events ----


def test_events_have_texts_and_may_overlap_where_the_model_allows(page: Page) -> None:
    start(page)
    page.get_by_role("button", name="Add an event").click()
    expect(page.get_by_label("Text", exact=True)).to_be_focused()
    page.keyboard.type("the fox looks up")
    page.keyboard.press("Enter")
    assert board_in(page)["events"] == [{"during": [0, 1], "text": "the fox looks up"}]
    page.get_by_role("button", name="Duplicate", exact=True).click()
    page.keyboard.press("Escape")
    assert [event["during"] for event in board_in(page)["events"]] == [[0, 1], [1, 2]]
    page.keyboard.press("ArrowLeft")
    assert [event["during"] for event in board_in(page)["events"]] == [[0, 1], [0.5, 1.5]]
    tops = [page.locator(".tl-events .tl-body").nth(number).bounding_box()["y"] for number in (0, 1)]
    assert tops[0] + 30 < tops[1], "one lies under the other"


def test_events_keep_apart_where_the_model_needs_it(page: Page) -> None:
    events = [{"during": [0.5, 1.0], "text": "dawn"}, {"during": [2.0, 3.0], "text": "dusk"}]
    start(page, board_of(events=events), eventsMayOverlap=False)
    bars = page.locator(".tl-events .tl-body")
    drag(page, bars.first, 3)
    assert board_in(page)["events"][0]["during"] == [1.5, 2]
    drag(page, page.locator(".tl-events .tl-end").first, 1)
    assert len(changes(page)) == 1
    bars.first.focus()
    page.keyboard.press("End")
    assert board_in(page)["events"][0]["during"] == [1.5, 2]
    enter(page, None, "2.25")
    expect(page.get_by_role("alert")).to_contain_text("It would overlap the event 2 to 3 s")
    page.keyboard.press("Escape")
    for _ in range(6):
        page.get_by_role("button", name="Add an event").click()
    assert told(page).startswith("No room for another event")
    board = board_in(page)
    Storyboard(**board).resolve(Defaults(fps=8.0, width=64, height=64, num_frames=33, size_multiple=16,
                                         events_may_overlap=False))


# ---- duration ----


def test_a_shorter_video_trims_and_tells(page: Page) -> None:
    start(page, board_of(events=[{"during": [0.0, 4.0], "text": "a meadow"}]))
    page.get_by_label("Duration").fill("2")
    page.keyboard.press("Enter")
    board = board_in(page)
    assert (board["duration"], board["events"][0]["during"]) == (2, [0, 2])
    assert [subject["appears"] for subject in board["subjects"]] == [[[0.5, 1.5]], [[0, 2]]]
    assert told(page) == "Duration 2 s; 1 shortened; 1 moved to the end; 1 removed"
    page.get_by_label("Duration").press("Control+z")
    assert board_in(page) == board_of(events=[{"during": [0.0, 4.0], "text": "a meadow"}])
    assert len(changes(page)) == 2


def test_a_duration_is_whole_latent_frames(page: Page) -> None:
    start(page, board_of(duration=None, num_frames=25), step=4 / 6)
    assert page.get_by_label("Duration").input_value() == "4"
    page.get_by_label("Duration").fill("5")
    page.keyboard.press("Enter")
    assert page.get_by_label("Duration").input_value() == "5.33333333333"
    assert told(page) == "5 s would end within a latent frame of 0.667 s; set to 5.33333333333 s"
    board = board_in(page)
    assert "num_frames" not in board, "duration and num_frames exclude each other"
    assert Storyboard(**board).resolve(Defaults(6.0, 64, 64, 25, 16)).num_frames == 33
    part(page, 1, 0, "end").press("End")
    assert appears(page, 1) == [[2, board["duration"]]]
    for wrong in ("0", "-3", "forever", "1e9", "99999"):
        page.get_by_label("Duration").fill(wrong)
        page.keyboard.press("Enter")
        assert "is not a duration" in told(page)
    assert board_in(page)["duration"] == board["duration"]


# ---- touch and small screens ----


@pytest.fixture
def phone(browser: Browser) -> Iterator[Page]:
    found = opened(browser, viewport={"width": 390, "height": 700}, has_touch=True, is_mobile=True)
    yield found
    assert found.strays == []
    found.context.close()


def swipe(page: Page, target: Locator, across: float, down: float) -> None:
    box = target.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    client = page.context.new_cdp_session(page)
    touch = "Input.dispatchTouchEvent"
    client.send(touch, {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    for step in range(1, 13):
        point = {"x": x + across * step / 12, "y": y + down * step / 12}
        client.send(touch, {"type": "touchMove", "touchPoints": [point]})
    client.send(touch, {"type": "touchEnd", "touchPoints": []})


def test_a_finger_drags_bars_and_ends(phone: Page) -> None:
    start(phone)
    swipe(phone, part(phone, 0, 0), 1.5 * pixels_per_s(phone), 3)
    assert appears(phone)[0] == [2, 3]
    swipe(phone, part(phone, 1, 0, "start"), -1 * pixels_per_s(phone), 0)
    assert appears(phone, 1) == [[1, 4]]
    assert len(changes(phone)) == 2
    for handle in phone.locator(".tl-start").all():
        assert handle.bounding_box()["width"] >= 28


def test_a_finger_on_a_bar_still_scrolls_the_page(phone: Page) -> None:
    start(phone)
    phone.evaluate("document.querySelector('main').classList.add('tall')")
    swipe(phone, part(phone, 0, 0), 4, -200)
    phone.wait_for_timeout(200)
    assert phone.evaluate("scrollY") > 80
    assert changes(phone) == []
    assert appears(phone)[0] == [0.5, 1.5]


@pytest.mark.parametrize("width", [320, 390, 700, 1280, 2200])
def test_nothing_is_wider_than_the_page(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    board = board_of(events=[{"during": [0.0, 4.0], "text": "w" * 400}])
    board["subjects"][0] |= {"name": "n" * 200, "word": "w" * 200, "images": [f"{number}.png" for number in range(12)]}
    start(page, board)
    part(page, 0, 0).click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    lane = page.locator(".tl-lane").first.bounding_box()
    assert lane["x"] >= 0
    assert lane["x"] + lane["width"] <= width
    assert lane["width"] > 0.55 * width
    labels = [label.bounding_box() for label in page.locator(".tl-tick").all()]
    assert len(labels) >= 3
    assert all(one["x"] + one["width"] <= two["x"] + 1 for one, two in pairwise(labels))
    page.set_viewport_size({"width": 1280, "height": 800})
    page.wait_for_load_state("networkidle")
    page.strays[:] = [stray for stray in page.strays if not is_refused_picture(stray)]


def test_light_and_dark(browser: Browser) -> None:
    def ink(page: Page) -> str:
        return page.locator(".alchemint-timeline").evaluate("node => getComputedStyle(node).color")

    page = opened(browser, color_scheme="dark")
    start(page)
    dark = ink(page)
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    light = ink(page)
    assert dark == "rgb(233, 234, 236)"
    assert light == "rgb(34, 37, 42)"
    page.emulate_media(color_scheme="light")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert ink(page) == dark
    page.context.close()


# ---- for screen readers, against attacks ----


def test_everything_has_a_role_and_a_name(page: Page) -> None:
    start(page, board_of(events=[{"during": [0.0, 1.0], "text": "dawn"}]))
    expect(page.get_by_role("group", name="Storyboard timeline")).to_be_visible()
    body = page.get_by_role("slider", name="fox, interval 1 of 2", exact=True)
    assert body.get_attribute("aria-valuetext") == "0.5 to 1.5 seconds"
    end = page.get_by_role("slider", name="fox, interval 1 of 2, end")
    assert [end.get_attribute(f"aria-{name}") for name in ("valuemin", "valuemax", "valuenow", "valuetext")] == [
        "0", "4", "1.5", "1.5 seconds"]
    assert page.get_by_role("slider", name="Event 1 of 1: dawn", exact=True).count() == 1
    assert page.get_by_role("status").get_attribute("aria-live") == "polite"
    assert page.locator(f"#{body.get_attribute('aria-describedby')}").count() == 1
    unnamed = page.evaluate("""[...document.querySelectorAll('button, input, [role=slider]')].filter((element) =>
      element.checkVisibility() && !element.getAttribute('aria-label') && !element.labels?.length).map(e => e.outerHTML)
    """)
    assert unnamed == []


HOSTILE = ["<img src=x onerror=alert(1)>", "${1+1}", "{name}", "$&", "javascript:alert(1)",
           '"><script>alert(1)</script>']


def test_hostile_words_are_text(page: Page) -> None:
    subjects = [{"name": word, "word": word, "images": [word], "appears": [[0.0, 2.0]]} for word in HOSTILE]
    events = [{"during": [number / 2, number / 2 + 0.5], "text": word} for number, word in enumerate(HOSTILE)]
    page.on("dialog", lambda dialog: page.strays.append("dialog"))
    start(page, board_of(subjects=subjects, events=events), marks={word: {"seen": [[0, 1]]} for word in HOSTILE})
    assert [page.get_by_label(f"Name of subject {number}").input_value()
            for number in range(1, len(HOSTILE) + 1)] == HOSTILE
    assert [text.text_content() for text in page.locator(".tl-events .tl-bar-text").all()] == HOSTILE
    for number, word in enumerate(HOSTILE):
        part(page, number, 0).press("ArrowRight")
        assert told(page) == f"{word}: 0.5 to 2.5 s"
    page.wait_for_load_state("networkidle")
    assert page.locator("#root script, #root img[src=x]").count() == 0
    assert board_in(page)["subjects"][0]["word"] == HOSTILE[0]
    page.strays[:] = [stray for stray in page.strays if not is_refused_picture(stray)]


def is_refused_picture(stray: str) -> bool:
    """Pictures of these names are asked for below pictures/ and refused."""
    return stray.startswith(f"{SITE}pictures/") or "404" in stray


def test_a_hand_made_document_that_cannot_be_shown_is_refused(page: Page) -> None:
    for broken in ({"subjects": "fox"}, {"subjects": [{"name": "fox", "appears": [[0, None]]}]},
                   {"events": [{"text": "no time"}]}, {"subjects": [{"name": "fox", "appears": [[1]]}]}):
        message = page.evaluate("board => { try { start(board); } catch (error) { return error.message; } }", broken)
        assert re.match(r"storyboard: .* must be", message), broken
    start(page, {"prompt": "A still view."})
    assert page.get_by_label("Duration").input_value() == "4"
    expect(page.get_by_text("Drop pictures here")).to_be_visible()


# ---- what the page around it relies on ----


def test_marks_are_drawn_under_the_bars(page: Page) -> None:
    curve = [[second / 4, second / 16] for second in range(17)]
    start(page, marks={"fox": {"seen": [[1, 2]], "curve": curve, "attention": curve}, "stranger": {"seen": [[0, 1]]}})
    seen = page.locator(".tl-seen-piece")
    lane = page.locator(".tl-lane").first.bounding_box()
    assert seen.count() == 1
    assert seen.bounding_box()["x"] == pytest.approx(lane["x"] + lane["width"] / 4, abs=1)
    assert seen.bounding_box()["width"] == pytest.approx(lane["width"] / 4, abs=1)
    points = page.locator(".tl-curve").get_attribute("points").split(" ")
    assert (points[0], points[8], points[16]) == ("0,100", "50,50", "100,0")
    assert "fox: seen 1 to 2 seconds; attention paid highest at 4 seconds" in page.locator(
        ".tl-marks").first.text_content()
    assert page.locator(".tl-legend-entry:visible").count() == 3
    page.evaluate("host.marks = undefined; handle.refresh()")
    assert page.locator(".tl-seen-piece, .tl-plot, .tl-legend-entry:visible").count() == 0


def test_readonly_shows_and_changes_nothing(page: Page) -> None:
    start(page, readonly=True)
    drag(page, part(page, 0, 0), 1)
    part(page, 0, 0).press("ArrowRight")
    part(page, 0, 0).press("Delete")
    dropped(page, ".tl-subject", ["a.png"])
    page.evaluate("handle.undo()")
    assert page.get_by_label("Name of subject 1").get_attribute("readonly") is not None
    assert board_in(page) == board_of(events=[])
    assert changes(page) == []
    assert page.evaluate("uploaded") == []


def test_the_handle_focuses_takes_files_and_goes_away(page: Page) -> None:
    start(page)
    page.evaluate("handle.focusSubject('balloon')")
    expect(page.get_by_label("Name of subject 2")).to_be_focused()
    page.evaluate("handle.addFiles([new File(['x'], 'new.png', {type: 'image/png'})], 'balloon')")
    assert images(page, 1) == ["balloon.png", "new-new.png"]
    before = page.evaluate("(start({}), document.querySelectorAll('.alchemint-timeline').length)")
    assert before == 1
    page.evaluate("handle.destroy()")
    assert page.locator("#root > *").count() == 0


def test_the_colours_are_those_of_the_contact_sheet(page: Page) -> None:
    assert tuple(page.evaluate("timeline.COLOURS")) == COLOURS


@pytest.mark.parametrize("phrase", ["fox", "red balloon", "ox", "Foxes", "meadow", "a+b", "(kite", "balloons", "löwe"])
def test_words_are_found_in_prompts_as_the_storyboard_finds_them(page: Page, phrase: str) -> None:
    from alchemint.storyboard import _has_phrase

    for prompt in (PROMPT, "FOXES run", "a Red\n  balloon", "foxy a+b (kite", "ein Löwe", ""):
        assert page.evaluate("([prompt, phrase]) => timeline.saysPhrase(prompt, phrase)", [prompt, phrase]) == (
            _has_phrase(prompt, phrase)), (prompt, phrase)


def test_ruler_ticks_are_round_and_have_room(page: Page) -> None:
    for end in (0.125, 0.5, 4, 5, 12.5, 61, 3600):
        for width in (200, 358, 930, 4000):
            ticks = page.evaluate("([end, width]) => timeline.niceTicks(end, width)", [end, width])
            assert ticks[0] == 0
            assert ticks[-1] <= end + 1e-6
            assert len(ticks) < 2 or ticks[1] / end * width >= 52


def test_what_hands_made_of_it_can_be_generated(page: Page) -> None:
    """A long walk of gestures, drawn at random; the storyboard's own model takes every document that was told."""
    import random

    draw = random.Random(7)
    start(page, board_of(events=[{"during": [0.0, 1.0], "text": "dawn"}]))
    keys = ["ArrowLeft", "ArrowRight", "Shift+ArrowLeft", "Shift+ArrowRight", "Home", "End", "Alt+ArrowRight",
            "Control+d", "Delete", "Control+z", "Control+Shift+Z", "PageDown", "ArrowUp", "ArrowDown"]
    for _ in range(150):
        sliders = page.locator("[role=slider]")
        sliders.nth(draw.randrange(sliders.count())).press(draw.choice(keys))
        if draw.random() < 0.1:
            page.get_by_label("Duration").fill(str(draw.choice([1, 2.5, 4, 6])))
            page.keyboard.press("Enter")
    told_boards = changes(page)
    assert len(told_boards) > 60
    assert len({json.dumps(board) for board in told_boards}) > 30
    for board in told_boards:
        Storyboard(**board).resolve(MODEL)
