"""The timeline as a node's widget, in a real browser: a page that offers what ComfyUI's does, and the real timeline.

What is asked of the server is answered by the routes that the node package has registered, and by ComfyUI's own for
pictures: /upload/image and /view.
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

pytest.importorskip("playwright", reason="Playwright is not installed; pip install playwright")
from playwright.sync_api import Browser, Locator, Page, Route, expect

from alchemint.storyboard import Storyboard
from tests.browsers import chromium
from tests.comfyui.comfy_fakes import PACKAGE, FakeComfy

pytestmark = pytest.mark.browser

SITE = "http://comfy.test"
PAGE = Path(__file__).parent / "page"
EXAMPLE = PACKAGE / "example_workflows" / "timeline.json"
KINDS = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


class Comfy:
    """A page of ComfyUI's, and the requests that it has made."""

    def __init__(self, page: Page, comfy: FakeComfy, scripts: dict[str, Any]) -> None:
        self.page, self.comfy, self.scripts = page, comfy, scripts
        self.asked: list[str] = []
        self.uploads: list[bytes] = []
        self.troubles: list[str] = []
        page.set_default_timeout(5000)
        page.route("**/*", self.answer)
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("dialog", lambda dialog: self.troubles.append(dialog.message))

    def answer(self, route: Route) -> None:
        url = urlsplit(route.request.url)
        self.asked.append(route.request.url)
        if f"{url.scheme}://{url.netloc}" != SITE:
            route.abort()
            return
        files = {"/": PAGE / "index.html", "/page.css": PAGE / "page.css", "/scripts/app.js": PAGE / "app.js",
                 "/scripts/api.js": PAGE / "api.js"}
        files |= {f"/extensions/alchemint-comfyui/{path.name}": path for path in (PACKAGE / "web").iterdir()}
        if url.path in files:
            path = files[url.path]
            route.fulfill(body=path.read_bytes(), content_type=KINDS[path.suffix])
        elif url.path.removeprefix("/api") in self.scripts:
            given = self.scripts[url.path.removeprefix("/api")]
            route.fulfill(body=given["body"], content_type=given["content_type"], headers=given["headers"])
        elif url.path == "/api/view":
            place = {name: values[0] for name, values in parse_qs(url.query).items()}
            path = self.comfy.folder("input") / place.get("subfolder", "") / place["filename"]
            route.fulfill(path=path) if path.is_file() else route.fulfill(status=404)
        elif url.path == "/api/upload/image":
            body = route.request.post_data_buffer or b""
            self.uploads.append(body)
            target = self.comfy.folder("input") / "alchemint" / "dropped.png"
            target.parent.mkdir(exist_ok=True)
            target.write_bytes((self.comfy.folder("input") / "duck.png").read_bytes())
            route.fulfill(json={"name": "dropped.png", "subfolder": "alchemint", "type": "input"})
        else:
            route.fulfill(status=404)

    def open(self, dark: bool = False, zoom: float = 1.0) -> None:
        """Open the page; its canvas may be zoomed, by which ComfyUI scales every widget."""
        self.page.goto(f"{SITE}/")
        self.page.wait_for_function("window.app?.extensions.length === 1")
        self.page.evaluate("""([dark, zoom]) => {
            document.body.classList.toggle('dark-theme', dark);
            document.getElementById('canvas').style.transform = `scale(${zoom})`;
        }""", [dark, zoom])

    def load(self, text: str, properties: dict[str, Any] | None = None) -> None:
        """Add the node and configure it, as the page does when it opens a workflow."""
        self.page.evaluate("""([text, properties]) => {
            window.node = window.addNode('AlchemintTimeline', 'storyboard', '{"prompt": "A meadow."}');
            window.node.configure({ widgets_values: [text], properties });
        }""", [text, properties or {}])

    def value(self) -> Any:
        """Return what the node would send to be run."""
        inputs = self.page.evaluate("window.node.inputs()")
        assert list(inputs) == ["storyboard"]
        return json.loads(inputs["storyboard"])

    @property
    def root(self) -> Locator:
        """The widget."""
        return self.page.locator(".alchemint-node")


@pytest.fixture
def page(browser: Browser, comfy: FakeComfy, package: ModuleType) -> Iterator[Comfy]:
    given = {}
    for route, handler in comfy.routes.items():
        coroutine = handler(None)
        try:  # not asyncio.run, which refuses beside the loop of Playwright
            coroutine.send(None)
        except StopIteration as stopped:
            given[route] = stopped.value.values
    context = browser.new_context(viewport={"width": 960, "height": 900})
    opened = Comfy(context.new_page(), comfy, given)
    yield opened
    context.close()
    assert opened.troubles == []
    assert all(url.startswith((f"{SITE}/", "blob:", "data:")) for url in opened.asked)


@pytest.fixture
def example() -> tuple[str, dict[str, Any]]:
    nodes = json.loads(EXAMPLE.read_text(encoding="utf-8"))["nodes"]
    (node,) = (node for node in nodes if node["type"] == "AlchemintTimeline")
    return node["widgets_values"][0], node["properties"]


def drag(page: Page, handle: Locator, pixels: float) -> None:
    box = handle.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + pixels / 2, y, steps=3)
    page.mouse.move(x + pixels, y, steps=3)
    page.mouse.up()


def test_the_scripts_come_from_the_installed_package(comfy: FakeComfy, package: ModuleType) -> None:
    import alchemint

    web = Path(alchemint.__file__).parent / "studio" / "web"
    assert set(comfy.routes) == {"/alchemint/timeline.js", "/alchemint/timeline.css"}
    for route, handler in comfy.routes.items():
        given = asyncio.run(handler(None)).values
        assert given["body"] == (web / route.rpartition("/")[2]).read_bytes()
        assert given["headers"]["Cache-Control"] == "no-cache"
    # ComfyUI imports every .js of this folder as an extension, so there is but the one.
    assert [path.name for path in (PACKAGE / package.WEB_DIRECTORY).rglob("*.js")] == ["alchemint.js"]


def test_an_older_package_without_the_script_is_told(comfy: FakeComfy, package: ModuleType,
                                                     monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(package.script_routes, "web_file", lambda name: tmp_path / name)
    with pytest.raises(Exception, match=r"this installation of alchemint has no timeline.js; install a newer one"):
        asyncio.run(comfy.routes["/alchemint/timeline.js"](None))


@pytest.mark.parametrize("zoom", [1.0, 0.6])
def test_a_drag_writes_the_storyboard_once(page: Comfy, nodes: dict[str, type], example: tuple[str, dict[str, Any]],
                                           zoom: float) -> None:
    page.open(zoom=zoom)
    page.load(*example)
    bars = page.root.get_by_role("slider", name="fox, interval 1 of 1")
    expect(bars.first).to_be_visible()
    expect(page.page.locator(".comfy-multiline-input")).to_be_hidden()
    page.page.evaluate("""() => { window.writes = []; const text = window.node.widgets[0]; const first = text.callback;
        text.callback = (value) => { window.writes.push(value); first.call(text, value); }; }""")
    lane = page.root.locator(".tl-bars").first.bounding_box()
    assert lane is not None
    drag(page.page, page.root.locator(".tl-bar .tl-body").first, lane["width"] / 4)  # a second of four
    board = page.value()
    start, end = board["subjects"][0]["appears"][0]
    assert start == pytest.approx(1.5, abs=0.2)
    assert end - start == pytest.approx(2.5, abs=0.2)
    assert len(page.page.evaluate("window.writes")) == 1
    assert page.page.evaluate("window.node.graph.dirty") >= 1
    Storyboard(**board)
    node = nodes["AlchemintTimeline"]
    assert node.VALIDATE_INPUTS(json.dumps(board)) is True
    assert node().run(storyboard=json.dumps(board))[0].subjects[0].appears == ((start, end),)


def test_a_workflow_saves_the_text_alone_and_opens_again(page: Comfy, example: tuple[str, dict[str, Any]]) -> None:
    page.open()
    page.load(*example)
    expect(page.root.locator(".tl-bar")).to_have_count(2)
    page.page.keyboard.press("Tab")
    page.root.get_by_role("slider", name="fox, interval 1 of 1").first.focus()
    page.page.keyboard.press("ArrowRight")
    moved = page.value()["subjects"][0]["appears"]
    saved = page.page.evaluate("window.node.serialize()")
    assert [json.loads(value)["subjects"][0]["appears"] for value in saved["widgets_values"]] == [moved]
    assert saved["properties"]["snap_s"] == 0.5
    page.page.evaluate("window.node.remove()")
    expect(page.root).to_have_count(0)
    page.load(saved["widgets_values"][0], saved["properties"])
    expect(page.root.locator(".tl-bar")).to_have_count(2)
    assert page.value()["subjects"][0]["appears"] == moved


def test_the_timeline_follows_who_else_sets_the_text(page: Comfy, example: tuple[str, dict[str, Any]]) -> None:
    page.open()
    page.load(*example)
    expect(page.root.locator(".tl-bar")).to_have_count(2)
    fewer = json.loads(example[0])
    fewer["subjects"].pop()
    page.page.evaluate("""(text) => { const widget = window.node.widgets[0]; widget.value = text;
        widget.callback(text); }""", json.dumps(fewer))
    expect(page.root.locator(".tl-bar")).to_have_count(1)
    page.page.evaluate("(text) => window.node.configure({ widgets_values: [text] })", example[0])
    expect(page.root.locator(".tl-bar")).to_have_count(2)


def test_keys_and_wheel_stay_in_the_timeline(page: Comfy, example: tuple[str, dict[str, Any]]) -> None:
    page.open()
    page.load(*example)
    page.root.get_by_role("slider", name="balloon, interval 1 of 1").first.focus()
    for key in ("ArrowLeft", "Control+z", "Control+c", "Escape"):
        page.page.keyboard.press(key)
    page.root.hover()
    page.page.mouse.wheel(0, 40)
    assert page.page.evaluate("window.seen") == []
    page.page.locator("body").evaluate("(body) => { document.activeElement.blur(); }")
    page.page.keyboard.press("Escape")
    assert page.page.evaluate("window.seen") == ["Escape"], "the page did not listen"


def test_a_picture_goes_to_comfyuis_input_folder(page: Comfy, comfy: FakeComfy, nodes: dict[str, type],
                                                 example: tuple[str, dict[str, Any]]) -> None:
    page.open()
    page.load(*example)
    page.root.locator("input[type=file]").first.set_input_files(comfy.folder("input") / "duck.png")
    page.page.wait_for_function("window.node.widgets[0].value.includes('alchemint/dropped.png')")
    (body,) = page.uploads
    assert b'name="image"; filename="duck.png"' in body
    assert b'name="subfolder"\r\n\r\nalchemint\r\n' in body
    board = page.value()
    assert board["subjects"][0]["images"] == ["fox.png", "alchemint/dropped.png"]
    shown = f"{SITE}/api/view?filename=dropped.png&subfolder=alchemint&type=input"
    page.page.wait_for_function(
        "(url) => [...document.images].some((image) => image.src === url && image.naturalWidth)", arg=shown)
    made = nodes["AlchemintTimeline"]().run(storyboard=json.dumps(board))[0]
    assert [path.name for path in made.subjects[0].images] == ["fox.png", "dropped.png"]


def test_text_that_is_no_storyboard_can_be_mended(page: Comfy) -> None:
    page.open()
    page.load('{"prompt": "A fox"')
    expect(page.root.get_by_role("alert")).to_contain_text("This is no storyboard")
    raw = page.root.get_by_label("storyboard as JSON")
    expect(raw).to_have_value('{"prompt": "A fox"')
    raw.fill('{"prompt": "A fox", "duration": 2.0, "subjects": [], "events": []}')
    raw.blur()
    expect(page.root.get_by_role("alert")).to_have_text("")
    assert page.value()["duration"] == 2.0
    page.root.get_by_role("button", name="Show timeline").click()
    expect(page.root.locator(".alchemint-timeline")).to_be_visible()


def test_without_the_script_the_text_is_left(page: Comfy, example: tuple[str, dict[str, Any]]) -> None:
    page.scripts.clear()
    page.open()
    page.load(*example)
    expect(page.root.get_by_role("alert")).to_contain_text("The timeline cannot be shown")
    expect(page.root.get_by_label("storyboard as JSON")).to_have_value(example[0])
    assert page.value() == json.loads(example[0])


HOSTILE = "<img src=x onerror=alert(1)>${alert(1)}"


def test_a_strangers_workflow_runs_no_script(page: Comfy) -> None:
    page.open()
    subject = {"name": HOSTILE, "word": HOSTILE, "images": ["https://evil.test/a.png", "javascript:alert(1)", HOSTILE],
               "appears": [[0, 1]]}
    page.load(json.dumps({"prompt": HOSTILE, "duration": 4.0, "subjects": [subject],
                          "events": [{"during": [0, 1], "text": HOSTILE}]}))
    expect(page.root.locator(".tl-bar")).to_have_count(2)
    page.page.wait_for_timeout(200)
    assert page.root.locator("img[onerror], script").count() == 0
    assert all(url.startswith(f"{SITE}/") for url in page.asked)


def test_the_node_grows_with_its_rows(page: Comfy, example: tuple[str, dict[str, Any]]) -> None:
    page.open()
    page.load(*example)
    expect(page.root.locator(".tl-bar")).to_have_count(2)
    fits = "() => { const place = document.querySelector('.alchemint-node-place'); " \
           "return place.scrollHeight <= place.clientHeight; }"
    page.page.wait_for_function(fits)
    before = page.page.evaluate("window.node.size")
    for _ in range(3):
        page.root.get_by_role("button", name="Add a subject").click()
    page.page.wait_for_function(fits)
    after = page.page.evaluate("window.node.size")
    assert after[0] == before[0]
    assert after[1] > before[1] + 150
    box, switch = page.root.bounding_box(), page.root.get_by_role("button", name="Show JSON").bounding_box()
    assert box is not None
    assert switch is not None
    assert switch["y"] + switch["height"] <= box["y"] + box["height"]


def test_what_is_no_storyboard_node_is_left_alone(page: Comfy) -> None:
    page.open()
    page.page.evaluate("window.addNode('KSampler', 'storyboard', '{}')")
    expect(page.root).to_have_count(0)


@pytest.mark.parametrize("dark", [False, True])
def test_colours_follow_comfyuis(page: Comfy, example: tuple[str, dict[str, Any]], dark: bool) -> None:
    page.open(dark=dark)
    page.load(*example)
    expect(page.root.locator(".tl-bar")).to_have_count(2)
    page.page.wait_for_function("""() => getComputedStyle(document.querySelector('.alchemint-timeline')).display
        === 'flex'""")
    colours = page.page.evaluate("""() => ['.alchemint-node', '.alchemint-timeline'].map((name) =>
        getComputedStyle(document.querySelector(name)).backgroundColor)""")
    assert colours == (["rgb(27, 29, 33)"] * 2 if dark else ["rgb(255, 255, 255)"] * 2)
