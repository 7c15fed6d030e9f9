"""The studio's page in a real browser, served by the real command with the toy model that the package ships."""

import importlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from tests.browsers import chromium

pytest.importorskip("uvicorn", reason="uvicorn is not installed")

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = '<img src=x onerror="window.attacked=1">${window.attacked=2}'
TOY_FPS = 8
DRAFT = "JSON.parse(localStorage.getItem('alchemint.draft')).storyboard"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a studio that runs as a user runs it, in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("studio")
    log = (folder / "log.txt").open("w+")
    process = subprocess.Popen(
        [sys.executable, "-m", "alchemint", "studio", "--model", "toy", "--port", str(port), "--folder",
         str(folder / "results")], env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/api/v1/model").close()
                break
            except OSError:
                assert process.poll() is None, Path(log.name).read_text()
                time.sleep(0.25)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(30)  # longer than it takes to load the model, which cannot be interrupted
        finally:
            process.kill()
            log.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def open_page(server: str, browser: Any) -> Iterator[Callable[..., Any]]:
    """A function that opens the page in a fresh profile; requests and complaints are on the page as attributes."""
    contexts = []

    def open_it(**options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.requests, page.complaints = [], []
        page.on("request", lambda request: page.requests.append((request.method, request.url)))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
        page.goto(server)
        page.wait_for_selector(".tl-bar")
        return page

    yield open_it
    for context in contexts:
        context.close()


def posts(page: Any) -> list[str]:
    return [url for method, url in page.requests if method == "POST"]


def draft(page: Any) -> dict[str, Any]:
    return page.evaluate(DRAFT)


def times(page: Any, subject: int = 0) -> list[list[float]]:
    return draft(page)["subjects"][subject]["appears"]


def settle(page: Any) -> None:
    """Wait until the page's own check of the storyboard is answered."""
    page.wait_for_timeout(700)


def until(page: Any, condition: str, seconds: float = 20) -> Any:
    """Wait for a JavaScript expression to become true. Playwright's own way needs eval, which the page forbids."""
    end = time.monotonic() + seconds
    while not (value := page.evaluate(condition)):
        assert time.monotonic() < end, f"not within {seconds} s: {condition}"
        page.wait_for_timeout(40)
    return value


def drag(page: Any, selector: str, pixels: float) -> None:
    box = page.locator(selector).first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, 9):
        page.mouse.move(x + pixels * step / 8, y)
    page.mouse.up()


def generate(page: Any, steps: int = 4) -> dict[str, Any]:
    """Make a video and return its job when it is shown."""
    page.fill("#steps", str(steps))
    with page.expect_response(lambda answer: answer.url.endswith("/jobs") and answer.request.method == "POST") as told:
        page.click("#generate")
    job = told.value.json()["jobs"][0]
    page.wait_for_selector(f'video[src*="{job["id"]}"]', timeout=60_000)
    return job


def test_the_first_load_is_quick_and_asks_nothing_outside(server: str, open_page: Callable[..., Any]) -> None:
    page = open_page()
    seconds = until(page, "document.querySelector('.tl-tiles img')?.complete && performance.now()") / 1000
    print(f"first load, empty cache, example and its pictures included: {seconds:.2f} s")
    assert seconds < 4
    assert page.input_value("#prompt").startswith("A fox trots")
    settle(page)
    outside = [url for _, url in page.requests if not url.startswith((server, "blob:", "data:"))]
    assert outside == []
    assert page.complaints == []


def test_a_drag_moves_a_bar_with_one_request(open_page: Callable[..., Any]) -> None:
    page = open_page()
    settle(page)
    before, width = times(page)[0], page.locator(".tl-lane").first.bounding_box()["width"]
    sent = len(posts(page))
    drag(page, ".tl-bar .tl-body", width / 4)
    settle(page)
    after = times(page)[0]
    assert after[0] > before[0]
    assert after[1] - after[0] == pytest.approx(before[1] - before[0])
    assert len(posts(page)) - sent <= 1


def test_an_edge_is_dragged_undone_and_moved_by_keys(open_page: Callable[..., Any]) -> None:
    page = open_page()
    before = times(page)[0]
    drag(page, ".tl-bar .tl-end", -page.locator(".tl-lane").first.bounding_box()["width"] / 4)
    dragged = times(page)[0]
    assert dragged[0] == before[0]
    assert dragged[1] < before[1]
    page.keyboard.press("Control+z")
    assert times(page)[0] == before
    page.locator(".tl-bar .tl-start").first.focus()
    page.keyboard.press("ArrowRight")
    until(page, f"{DRAFT}.subjects[0].appears[0][0] > {before[0]}")
    assert times(page)[0][1] == before[1]


def test_a_phone_scrolls_one_way_only_and_drags_by_touch(open_page: Callable[..., Any]) -> None:
    page = open_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    small = page.evaluate("""[...document.querySelectorAll('.top button, .top select, .go button, .options input')]
        .filter(each => each.getBoundingClientRect().height < 44).map(each => each.id)""")
    assert small == []
    page.locator(".tl-bar").first.scroll_into_view_if_needed()
    before, box = times(page)[0], page.locator(".tl-bar .tl-body").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch = page.context.new_cdp_session(page)

    def send(kind: str, *points: tuple[float, float]) -> None:
        touch.send("Input.dispatchTouchEvent",
                   {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})

    send("touchStart", (x, y))
    for step in range(1, 9):
        send("touchMove", (x + 10 * step, y))
    send("touchEnd")
    until(page, f"{DRAFT}.subjects[0].appears[0][0] > {before[0]}")


def test_pictures_come_by_drop_and_by_choice(open_page: Callable[..., Any]) -> None:
    page = open_page()
    picture = (ROOT / "examples" / "robot.png").read_bytes()
    transfer = page.evaluate_handle("""bytes => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(bytes)], 'tin_robot.png', {type: 'image/png'}));
        return transfer;
    }""", list(picture))
    page.dispatch_event("#history", "dragenter", {"dataTransfer": transfer})
    assert page.is_visible("#drop")
    page.dispatch_event("#history", "drop", {"dataTransfer": transfer})
    assert page.is_hidden("#drop")
    until(page, f"{DRAFT}.subjects.length === 3")
    robot = draft(page)["subjects"][2]
    assert robot["name"] == "tin robot"
    assert re.fullmatch(r"[0-9a-f]{64}\.png", robot["images"][0])
    page.locator("#timeline input[type=file]").first.set_input_files(ROOT / "examples" / "duck.png")
    until(page, f"{DRAFT}.subjects[0].images.length === 2")


def test_a_reload_loses_nothing(open_page: Callable[..., Any]) -> None:
    page = open_page()
    page.fill("#prompt", "A fox and a balloon at night")
    drag(page, ".tl-bar .tl-body", 60)
    page.fill("#steps", "7")
    page.keyboard.press("Tab")
    before = draft(page)
    page.reload()
    page.wait_for_selector(".tl-bar")
    assert draft(page) == before
    assert page.input_value("#prompt") == "A fox and a balloon at night"
    assert page.input_value("#steps") == "7"


@pytest.mark.parametrize("kept", ["{", "[]", '{"storyboard": {"subjects": [null, 3]}}', '{"storyboard": 3}'])
def test_a_broken_draft_does_not_break_the_page(open_page: Callable[..., Any], kept: str) -> None:
    page = open_page()
    page.evaluate("kept => localStorage.setItem('alchemint.draft', kept)", kept)
    page.reload()
    page.wait_for_selector(".tl-tools")
    page.select_option("#examples", "twins")
    until(page, f"{DRAFT}.subjects?.[1]?.name === 'orange cat'")


def test_what_is_exported_is_imported_unchanged(open_page: Callable[..., Any], tmp_path: Path) -> None:
    from alchemint.storyboard import load_storyboard

    page = open_page()
    page.fill("#seed", "12")
    with page.expect_download() as download:
        page.click("#export")
    path = tmp_path / "board.zip"
    download.value.save_as(path)
    before = draft(page)
    with zipfile.ZipFile(path) as file:
        file.extractall(tmp_path / "board")
    board = load_storyboard(tmp_path / "board" / "storyboard.yaml")
    assert board.seed == 12
    assert [subject.appears for subject in board.subjects] == [((0.5, 3.0),), ((2.0, 4.0),)]

    page.click("#new")
    until(page, f"{DRAFT}.subjects.length === 0")
    page.set_input_files("#import-file", path)
    until(page, f"{DRAFT}.subjects.length === 2")
    assert draft(page) == before


@pytest.mark.slow
def test_a_video_is_made_and_plays(open_page: Callable[..., Any], server: str) -> None:
    page = open_page()
    page.fill("#seed", "5")
    job = generate(page)
    until(page, "document.querySelector('video').readyState >= 2")
    first = page.evaluate("document.querySelector('video').currentTime")
    until(page, f"document.querySelector('video').currentTime > {first} + 0.2")

    page.click("button[aria-label=Pause]")
    until(page, "document.querySelector('video').paused")
    page.fill("input[aria-label=Frame]", "17")
    until(page, f"Math.floor(document.querySelector('video').currentTime * {TOY_FPS}) === 17")
    page.click("button[aria-label='One frame on']")
    until(page, "document.querySelector('.clock').textContent.startsWith('2.25 s')")
    assert page.evaluate(f"Math.floor(document.querySelector('video').currentTime * {TOY_FPS})") == 18

    width = page.locator(".film").bounding_box()["width"]
    page.locator(".film").click(position={"x": 0.75 * width, "y": 20})
    until(page, "document.querySelector('.clock').textContent.startsWith('3.00 s')")
    bar, lane = (page.locator(where).first.bounding_box() for where in (".lane .asked span", ".lane"))
    assert (bar["x"] - lane["x"]) / lane["width"] == pytest.approx(0.5 / 4, abs=0.01)
    assert page.locator(".film").first.bounding_box()["x"] == pytest.approx(lane["x"], abs=1)
    until(page, "new Set([...document.querySelectorAll('.film canvas')].map(tile => tile.toDataURL())).size >= 3")
    assert page.locator(".told li").count() == 2
    assert page.locator(".curves .attention").count() == 2
    with urllib.request.urlopen(f"{server}/api/v1/jobs/{job['id']}/files/made.json") as made:
        assert json.load(made)["storyboard"]["seed"] == 5

    page.fill("#prompt", "Something else")
    page.click(".about >> text=Open as storyboard")
    assert page.input_value("#prompt") == job["storyboard"]["prompt"]
    assert page.complaints == []


@pytest.mark.slow
def test_a_results_zip_gives_the_same_video_from_the_command_line(
    open_page: Callable[..., Any], server: str, tmp_path: Path
) -> None:
    page = open_page()
    page.fill("#seed", "8")
    job = generate(page, steps=2)
    with page.expect_download() as download:
        page.click(".about >> text=Zip")
    download.value.save_as(tmp_path / "board.zip")
    with zipfile.ZipFile(tmp_path / "board.zip") as file:
        file.extractall(tmp_path)
    command = [sys.executable, "-m", "alchemint", "generate", "storyboard.yaml", "-o", "film.mp4", "--steps", "2",
               "--upscale", "1"]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    with urllib.request.urlopen(f"{server}/api/v1/jobs/{job['id']}/files/video.mp4") as shown:
        assert (tmp_path / "film.mp4").read_bytes() == shown.read()


def test_the_history_has_no_end(open_page: Callable[..., Any]) -> None:
    page = open_page()
    board = draft(page)
    made = [{"id": f"{number:03}", "state": "cancelled", "place": None, "step": 0, "num_steps": 4, "seed": number,
             "storyboard": board, "options": {}, "created": f"2026-01-01T00:{number:02}:00Z", "faults": []}
            for number in range(30, 0, -1)]

    def answer(route: Any) -> None:
        limit = int(re.search(r"limit=(\d+)", route.request.url)[1])
        route.fulfill(json={"jobs": made[:limit]})

    page.route("**/api/v1/jobs?limit=*", answer)
    page.reload()
    for count in (12, 24, 30):
        until(page, f"document.querySelectorAll('.card').length === {count}")
        assert page.is_visible("#more") == (count < 30)
        assert "seed 30 " in page.inner_text(".card")
        if count < 30:
            page.click("#more")


@pytest.mark.slow
def test_two_results_play_side_by_side_and_go(open_page: Callable[..., Any]) -> None:
    page = open_page()
    page.fill("#variations", "2")
    generate(page, steps=2)
    until(page, "document.querySelectorAll('.card[data-state=done]').length >= 2")
    count = page.locator(".card").count()
    for number in range(2):
        page.locator(".compare input").nth(number).check()
    until(page, "document.querySelectorAll('.screens video').length === 2")
    until(page, "[...document.querySelectorAll('video')].every(each => each.readyState >= 2)")
    page.click("button[aria-label=Pause]")
    page.fill("input[aria-label=Frame]", "9")
    until(page, "[...document.querySelectorAll('video')]"
                f".every(each => Math.floor(each.currentTime * {TOY_FPS}) === 9)")
    assert page.locator(".lanes-of").count() == 2
    page.locator(".card").first.locator("text=Delete").click()
    until(page, f"document.querySelectorAll('.card').length === {count - 1}")
    until(page, "document.querySelectorAll('video').length === 0")


@pytest.mark.slow
def test_stop_stops_within_a_second_or_so(open_page: Callable[..., Any]) -> None:
    page = open_page()
    page.fill("#steps", "100")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".job[data-state=running] progress[value]", timeout=60_000)
    assert re.search(r"[\d.]+ s a step · \d+ (s|min) left", page.inner_text(".job"))
    begun = time.perf_counter()
    page.click(".job .stop")
    until(page, "document.querySelectorAll('.job').length === 0")
    seconds = time.perf_counter() - begun
    print(f"from Stop to stopped: {seconds:.2f} s")
    assert seconds < 2  # of one second's promise, on a machine that does other things besides
    assert page.locator(".card[data-state=cancelled]").count() == 1


def test_faults_stand_at_their_fields(open_page: Callable[..., Any]) -> None:
    page = open_page()
    page.fill("#prompt", "")
    page.click("#generate")
    page.wait_for_selector("#faults-prompt li")
    assert "prompt" in page.inner_text("#faults-prompt")
    assert page.evaluate("document.activeElement.id") == "prompt"
    assert page.get_attribute("#prompt", "aria-invalid") == "true"
    page.fill("#prompt", "A fox and a balloon")
    page.wait_for_selector("#faults-prompt", state="hidden")

    page.fill("#steps", "100000")
    page.click("#generate")
    page.wait_for_selector("#faults-steps li")
    assert page.evaluate("document.activeElement.id") == "steps"
    page.fill("#steps", "4")
    page.click(".tl-add-subject")
    page.click("#generate")
    page.wait_for_selector("#faults-timeline li")
    assert page.evaluate("document.querySelector('#timeline').contains(document.activeElement)")
    assert page.locator(".job").count() == 0


@pytest.mark.slow
def test_what_users_write_is_only_ever_text(open_page: Callable[..., Any]) -> None:
    page = open_page()
    board = draft(page)
    board["prompt"] = f"A fox {HOSTILE}"
    board["subjects"][0] |= {"name": HOSTILE, "word": HOSTILE}
    board["events"] = [{"during": [0, 1], "text": HOSTILE}]
    content = json.dumps(board).encode()
    page.set_input_files("#import-file", {"name": "board.json", "mimeType": "application/json", "buffer": content})
    until(page, f"{DRAFT}.events?.length === 1")
    generate(page, steps=1)
    page.wait_for_selector(".told li")
    page.reload()
    page.wait_for_selector(".card")
    assert HOSTILE in page.inner_text(".card .said")
    assert page.evaluate("window.attacked") is None
    assert page.locator("img[src=x]").count() == 0


def test_a_server_that_is_gone_is_told(open_page: Callable[..., Any]) -> None:
    page = open_page()
    settle(page)
    page.context.set_offline(True)
    page.click("#generate")
    page.wait_for_selector("#notice:not([hidden])")
    assert "does not answer" in page.inner_text("#notice")


def test_the_page_says_why(open_page: Callable[..., Any]) -> None:
    page = open_page()
    for seen, attention, expected in (
        ([[0.5, 3.0]], None, "on screen when asked"),
        ([[1.5, 3.0]], [0, 0, 0, 0.4, 1, 0.6, 0],
         "comes 1 s late: the frames turned to its picture only from 2.42 s on"),
        ([[1.5, 3.0]], [0, 0.9, 1, 0.4, 0, 0, 0], "comes 1 s late: the frames turned to its picture in time"),
        ([[0.5, 4.0]], None, "stays 1 s too long"),
        ([], [0, 0, 1, 0, 0, 0, 0], "not recognised at any time; the frames looked at its picture most at 1.08 s"),
        (None, None, "was not measured"),
    ):
        told = page.evaluate("""async ([seen, attention]) => {
            const {explain} = await import('/explaining.js');
            const times = {fps: 6, stride: 4, duration: 4, numFrames: 25};
            return explain('fox', [[0.5, 3]], seen ?? undefined, attention ?? undefined, times).text;
        }""", [seen, attention])
        assert expected in told


def test_colours_are_chosen_and_kept(open_page: Callable[..., Any]) -> None:
    page = open_page(color_scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.select_option("#theme", "dark")
    dark = page.evaluate(paper)
    assert dark != light
    page.reload()
    assert page.evaluate(paper) == dark


def test_shipped_examples_are_those_of_the_examples_folder() -> None:
    script = importlib.import_module("scripts.make_studio_examples")
    for name in script.NAMES:
        shipped = (script.SHIPPED / f"{name}.zip").read_bytes()
        with zipfile.ZipFile(BytesIO(shipped)) as file:
            for each in file.namelist():
                assert file.read(each) == (ROOT / "examples" / each).read_bytes(), f"{name}: {each} is another one"
        assert shipped == script.packed(name)
    listed = (script.SHIPPED.parent / "studio.js").read_text()
    assert all(re.search(rf"\b{name}: '", listed) for name in script.NAMES)
