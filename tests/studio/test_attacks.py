"""What a hostile page, file or neighbour might send: refused with a clear line, nothing run, the server still up."""

import base64
import gc
import http.client
import io
import json
import struct
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from alchemint.studio.server import create_app
from tests.studio_server import FakeMaker, image_file, png, served, settings, storyboard, wait_for

API = "/api/v1"
SECRET = "the owner's own file"


@pytest.fixture
def maker() -> FakeMaker:
    return FakeMaker()


@pytest.fixture
def client(tmp_path: Path, maker: FakeMaker) -> Iterator[TestClient]:
    (tmp_path / "secret.txt").write_text(SECRET, encoding="utf-8")
    (tmp_path / ("0" * 64 + ".png")).write_bytes(png())
    (tmp_path / "storyboard.yaml").write_text("prompt: mine\n", encoding="utf-8")
    with TestClient(create_app(settings(tmp_path / "studio", maker)), base_url="http://localhost") as found:
        yield found
        assert found.get(f"{API}/model").status_code == 200, "the server is still up"


def refused(answer: Any, status: int = 400) -> str:
    """Return the faults of an answer that refuses."""
    assert answer.status_code == status, answer.text
    faults = answer.json()["faults"]
    assert faults and all(len(fault) < 600 and "\n" not in fault for fault in faults)
    assert "Traceback" not in answer.text and "/tmp" not in answer.text
    return "\n".join(faults)


PATHS = ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/secret.txt", "/etc/passwd", "%2fetc%2fpasswd",
         "....//secret.txt", "..\\..\\secret.txt", "secret.txt%00.png", "..%c0%afsecret.txt", "~/.ssh/id_rsa",
         "C:%5csecret.txt", "%252e%252e%252fsecret.txt"]


def raw_get(address: str, path: str) -> tuple[int, bytes]:
    """Ask for a path as it is: clients tidy it up."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=10)
    try:
        connection.putrequest("GET", path, skip_host=False)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_no_path_leads_out_of_what_is_served(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text(SECRET, encoding="utf-8")
    with served(create_app(settings(tmp_path / "studio"))) as address:
        for path in PATHS:
            for place in ("", "studio/", f"{API[1:]}/pictures/", f"{API[1:]}/jobs/", f"{API[1:]}/jobs/x/files/"):
                status, content = raw_get(address, f"/{place}{path}")
                assert status in (400, 404, 405), (place, path, status)
                assert SECRET.encode() not in content
                assert b"root:" not in content
        assert raw_get(address, f"{API}/model")[0] == 200


@pytest.mark.parametrize("name", ["../secret.txt", "/etc/passwd", "a\0b", "0" * 64 + ".png", "../" + "0" * 64 + ".png",
                                  "pictures/x.png", "http://169.254.169.254/", "file:///etc/passwd", "", ".",
                                  "x" * 5000])
def test_an_image_is_an_uploaded_picture_or_nothing(client: TestClient, maker: FakeMaker, name: str) -> None:
    for path in ("jobs", "storyboards/export"):
        body = storyboard(name)
        faults = refused(client.post(f"{API}/{path}", json={"storyboard": body} if path == "jobs" else body))
        assert "is no uploaded picture; upload it" in faults
    plain = refused(client.post(f"{API}/storyboards/import", content=json.dumps(storyboard(name)),
                                headers={"Content-Type": "application/json"}))
    assert "it is not in the file" in plain
    assert maker.orders == []


@pytest.mark.parametrize("text", ['{"prompt": "x", "duration": NaN}', '{"prompt": "x", "duration": Infinity}',
                                  '{"prompt": "x", "subjects": [{"appears": [[-Infinity, 1]]}]}',
                                  "[" * 100_000, '{"a":' * 100_000, '{"prompt": "x", "seed": ' + "9" * 100_000 + "}",
                                  "\ufeff{}", '"x"', "", "nul", "{'a': 1}"])
def test_json_that_is_none(client: TestClient, text: str) -> None:
    refused(client.post(f"{API}/check", content=text.encode()))


@pytest.mark.parametrize(("change", "fault"), [
    ({"duration": 1e999}, "duration inf must be above 0"),
    ({"duration": 3600.0}, "this studio makes at most 30 s"),
    ({"fps": 240.0, "duration": 4.0}, "num_frames 961 (at 240 fps) are too many"),
    ({"width": 16384, "height": 16384}, "is too large, this studio makes at most 16384 pixels"),
    ({"prompt": "x" * 4001}, "prompt has 4001 characters, but at most 4000"),
    ({"prompt": "fox \ud800"}, "prompt has half a character"),
    ({"negative_prompt": "a\x1b[31mb"}, "negative_prompt has a control character"),
    ({"prompt": {"toString": 1}}, "prompt"),
    ({"events": [{"during": [0, 1], "text": "x"}] * 65}, "events: 65 are given, but at most 64"),
    ({"subjects": "all"}, "subjects"),
    ({"subjects": [[]] * 3}, "subject 1 is []"),
    ({"subjects": [{"name": "fox", "word": "fox", "images": ["a"] * 9, "appears": [[0, 1]]}]}, "images has 9 entries"),
    ({"subjects": [{"name": "fox", "word": "fox", "images": ["a"], "appears": [[0, 1]] * 33}]}, "appears has 33"),
    ({"subjects": [{"name": f"n{n}", "word": "fox", "images": ["a"] * 8, "appears": [[0, 1]] * 16} for n in range(4)]},
     "their pictures times their intervals are 512, but at most 64"),
    ({"subjects": [{"name": "fox", "word": "fox", "images": ["a"], "appears": [[1e999, 2]]}]}, "is not finite"),
    ({"subjects": [{"name": "fox", "word": "fox", "images": ["a"], "appears": [[10**400, 2]]}]}, "appears"),
    ({"subjects": [{"name": "f" * 300, "word": "fox", "images": ["a"], "appears": [[0, 1]]}]}, "has 300 characters"),
    ({"__proto__": {"x": 1}}, 'unknown key "__proto__"'),
])
def test_storyboards_out_of_bounds(client: TestClient, maker: FakeMaker, change: dict[str, Any], fault: str) -> None:
    document = json.dumps(storyboard(**change)).replace("Infinity", "1e999")
    told = client.post(f"{API}/check", content=document)
    assert told.status_code == 200, told.text
    assert fault in "\n".join(told.json()["faults"])
    assert told.json()["resolved"] is None
    assert fault in refused(client.post(f"{API}/jobs", content=f'{{"storyboard": {document}}}'))
    assert maker.orders == []


def test_ten_thousand_subjects_are_refused_at_once(client: TestClient) -> None:
    board = storyboard(subjects=[{"name": f"fox {number}", "word": "fox"} for number in range(10_000)])
    begun = time.perf_counter()
    told = client.post(f"{API}/check", json=board).json()
    assert told["faults"] == ["subjects: 10000 are given, but at most 16 are allowed; remove 9984"]
    assert time.perf_counter() - begun < 2
    large = storyboard(prompt="x" * 2**20)
    assert "the body is larger than 1 MiB" in refused(client.post(f"{API}/check", json=large), 413)


def test_words_and_prompts_are_only_text(client: TestClient, tmp_path: Path) -> None:
    identity = client.post(f"{API}/pictures", content=png()).json()["id"]
    evil = "<img src=x onerror=alert(1)>${1+1}{{7*7}}'\"; $(touch x) !!python/object:os.system"
    board = storyboard(identity, prompt=evil)
    board["subjects"][0] |= {"name": f"../../{evil}"[:200], "word": evil[:200]}
    told = client.post(f"{API}/check", json=board)
    assert told.headers["content-type"] == "application/json"
    packed = client.post(f"{API}/storyboards/export", json=board).content
    with zipfile.ZipFile(io.BytesIO(packed)) as file:
        assert all(".." not in name and name.isascii() for name in file.namelist())
    again = client.post(f"{API}/storyboards/import", content=packed).json()["storyboard"]
    assert again == board
    job = client.post(f"{API}/jobs", json={"storyboard": board, "options": {"steps": 1}}).json()["jobs"][0]
    wait_for(lambda: client.get(f"{API}/jobs/{job['id']}").json()["state"] == "done")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0" * 64 + ".png", "secret.txt", "storyboard.yaml",
                                                                "studio"]


def huge_png(width: int, height: int) -> bytes:
    """Return the head of a PNG that says it is huge, and hardly any data."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))


def gif_bomb() -> bytes:
    """Return a GIF whose screen says 65,535 x 65,535 pixels."""
    small = bytearray(image_file(Image.new("P", (4, 4)), "GIF"))
    small[6:10] = struct.pack("<HH", 65535, 65535)
    return bytes(small)


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><image href="file:///etc/passwd"/></svg>'


@pytest.mark.parametrize(("content", "fault"), [
    (huge_png(8125, 8000), "has 65.0 megapixels, but at most 64 are allowed"),
    (huge_png(60_000, 60_000), "megapixels"),
    (gif_bomb(), "megapixels"),
    (SVG, "the image is no readable image; allowed are PNG"),
    (b"<!doctype html><script>alert(1)</script>", "is no readable image"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n", "is no readable image"),
    (b"%PDF-1.7\n", "is no readable image"),
    (b"", "is no readable image"),
    (png((64, 64))[:-40], "cannot be decoded"),
    (huge_png(64, 64), "cannot be decoded"),
    (png(mode="RGBA", colour="#00000000"), "is transparent all over"),
    (b"PK\x03\x04" + bytes(100), "is no readable image"),
])
def test_hostile_pictures(client: TestClient, tmp_path: Path, content: bytes, fault: str) -> None:
    assert fault in refused(client.post(f"{API}/pictures", content=content))
    assert list((tmp_path / "studio" / "pictures").iterdir()) == [], "nothing is left of it"


def test_what_a_picture_carries_beside_its_pixels_is_not_kept(client: TestClient) -> None:
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    exif[0x0112] = 6
    image = Image.fromarray(np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3))
    told = client.post(f"{API}/pictures", content=image_file(image, "JPEG", exif=exif)).json()
    assert (told["width"], told["height"]) == (2, 3), "it is upright"
    kept = client.get(told["url"])
    assert b"taken at home" not in kept.content
    assert kept.headers["content-type"] == "image/png"


def test_a_picture_of_too_many_bytes(tmp_path: Path) -> None:
    limited = settings(tmp_path, limits={"picture_bytes": 1000})
    with TestClient(create_app(limited), base_url="http://localhost") as client:
        assert "larger than 1000 bytes" in refused(client.post(f"{API}/pictures", content=bytes(1001)), 413)
        assert "larger than 1000 bytes" in refused(client.post(f"{API}/pictures", content=bytes(10**6)), 413)
        untold = (bytes(500) for _ in range(1000))  # no Content-Length
        assert "larger than 1000 bytes" in refused(client.post(f"{API}/pictures", content=untold), 413)


def packed(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", compression) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return written.getvalue()


BOARD = b"prompt: a fox\nsubjects: [{name: fox, word: fox, images: [%s], appears: [[0, 1]]}]\n"


def symlinked() -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as file:
        link = zipfile.ZipInfo("fox.png")
        link.external_attr = 0o120777 << 16
        file.writestr(link, "/etc/passwd")
        file.writestr("storyboard.yaml", BOARD % b"fox.png")
    return written.getvalue()


def lying() -> bytes:
    """Return a zip whose table says that a file of 3 MiB has 10 bytes."""
    whole = packed({"storyboard.yaml": BOARD % b"fox.png", "fox.png": bytes(3 * 2**20)})
    return whole.replace(struct.pack("<I", 3 * 2**20), struct.pack("<I", 10))


@pytest.mark.parametrize(("content", "fault"), [
    (packed({"storyboard.yaml": BOARD % b"../secret.png", "../secret.png": png()}), "lies outside of it"),
    (packed({"storyboard.yaml": b"prompt: x", "/etc/cron.d/x": b"x"}), "lies outside of it"),
    (packed({"storyboard.yaml": b"prompt: x", "..\\x.png": b"x"}), "lies outside of it"),
    (packed({"storyboard.yaml": b"prompt: x", "C:/x.png": b"x"}), "lies outside of it"),
    (packed({"storyboard.yaml": BOARD % b"../../../../etc/passwd"}), "it is not in the file"),
    (packed({"storyboard.yaml": BOARD % b"/etc/passwd"}), "it is not in the file"),
    (packed({"a/storyboard.yaml": BOARD % b"../../secret.png", "fox.png": png()}), "it is not in the file"),
    (symlinked(), "is a link"),
    (packed({"storyboard.yaml": b"prompt: x", "bomb.png": bytes(50 * 2**20)}), "more than 200 times"),
    (packed({"storyboard.yaml": b"prompt: x"} | {f"{n}.png": b"" for n in range(600)}), "holds 601 files"),
    (packed({f"{n}.yaml": b"prompt: x" for n in range(3)}), "several storyboards"),
    (packed({"fox.png": png()}), "holds no storyboard"),
    (packed({"storyboard.yaml": b"x" * (2**20 + 1)}, zipfile.ZIP_STORED), "at most 1 MiB"),
    (packed({"storyboard.yaml": b"prompt: x"}, zipfile.ZIP_LZMA), "packed in a way that is not taken"),
    (packed({"storyboard.yaml": BOARD % b"fox.png", "fox.png": SVG}), "is no readable image"),
    (lying(), "cannot be read"),
    (packed({"storyboard.yaml": b"prompt: x"})[:60], "cannot be read"),
    (b"PK\x03\x04" + bytes(1000), "cannot be read"),
    (b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
        b"%c: &%c [%s]\n" % (98 + n, 98 + n, b", ".join([b"*%c" % (97 + n)] * 9)) for n in range(9))
     + b"prompt: *j\nsubjects: *j\n", "prompt"),
    (b"!!python/object/apply:os.system ['touch pwned']", "could not determine a constructor"),
    (b"prompt: [\n", "correct the YAML"),
    (b"\xff\xfe\x00", "is not UTF-8"),
])
def test_hostile_bundles(client: TestClient, tmp_path: Path, content: bytes, fault: str) -> None:
    begun = time.perf_counter()
    status = client.post(f"{API}/storyboards/import", content=content)
    assert fault in refused(status, 413 if status.status_code == 413 else 400)
    assert time.perf_counter() - begun < 3
    assert list((tmp_path / "studio" / "pictures").iterdir()) == []
    assert not Path("pwned").exists()


def test_a_hundred_jobs_are_bounded(client: TestClient, maker: FakeMaker) -> None:
    maker.held.set()
    answers = [client.post(f"{API}/jobs", json={"storyboard": storyboard()}) for _ in range(100)]
    wait_for(lambda: maker.orders)
    taken = [answer.json()["jobs"][0] for answer in answers if answer.status_code == 200]
    assert len(taken) in (32, 33), "32 wait, and one may run already"
    faults = refused(answers[-1], 429)
    assert faults == ("the queue holds 32 jobs and 1 more are asked for, but at most 32 may wait; wait for one to end, "
                      "or cancel one")
    assert len(client.get(f"{API}/jobs?limit=1000").json()["jobs"]) == len(taken), "nothing is left of the others"
    eight = client.post(f"{API}/jobs", json={"storyboard": storyboard(), "options": {"variations": 8}})
    assert "8 more are asked for" in refused(eight, 429)
    for job in reversed(taken):
        client.delete(f"{API}/jobs/{job['id']}")
    assert len(maker.orders) == 1


@pytest.mark.parametrize(("host", "status"), [
    ("localhost", 200), ("localhost:7860", 200), ("127.0.0.1:7860", 200), ("[::1]:7860", 200), ("192.168.1.5", 200),
    ("studio.example", 200), ("STUDIO.example:443", 200), ("evil.example", 400), ("localhost.evil.example", 400),
    ("127.0.0.1.evil.example", 400), ("evil.example:7860", 400), ("", 400), ("localhost@evil.example", 400),
    ("localhost:7860:1", 400),
])
def test_the_server_answers_to_its_own_names_alone(tmp_path: Path, host: str, status: int) -> None:
    with TestClient(create_app(settings(tmp_path, hosts=("studio.example",))), base_url="http://localhost") as client:
        answer = client.get(f"{API}/model", headers={"Host": host})
        assert answer.status_code == status
        if status == 400:
            assert "--allow-host" in refused(answer)


def test_pages_of_other_sites_change_nothing(client: TestClient, maker: FakeMaker) -> None:
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://localhost:81"},
                    {"Origin": "http://localhost.evil.example"}, {"Sec-Fetch-Site": "cross-site"},
                    {"Sec-Fetch-Site": "same-site"}):
        for method, path in (("POST", "jobs"), ("POST", "check"), ("POST", "pictures"), ("DELETE", "jobs/x")):
            answer = client.request(method, f"{API}/{path}", headers=headers)
            assert "may not change anything here" in refused(answer)
    assert maker.orders == []
    own = client.post(f"{API}/check", json=storyboard(), headers={"Origin": "http://localhost"})
    assert own.status_code == 200
    assert "access-control-allow-origin" not in own.headers


def basic(password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"me:{password}".encode()).decode()}


def test_nothing_is_shown_without_the_password(tmp_path: Path) -> None:
    app = create_app(settings(tmp_path, password="schlüssel:8"))
    with TestClient(app, base_url="http://localhost") as client:
        for path in ("/", f"{API}/model", f"{API}/events", f"{API}/jobs", "/studio.js", f"{API}/pictures/x"):
            answer = client.get(path)
            assert "a password is needed" in refused(answer, 401)
            assert answer.headers["www-authenticate"].startswith("Basic ")
        for headers in (basic("schlüssel"), basic(""), {"Authorization": "Basic ?"}, {"Authorization": "Bearer x"}):
            begun = time.perf_counter()
            assert client.get(f"{API}/model", headers=headers).status_code == 401
            assert time.perf_counter() - begun > 0.4, "guesses are slow"
        assert client.get(f"{API}/model", headers=basic("schlüssel:8")).status_code == 200


def test_guesses_wait_for_each_other(tmp_path: Path) -> None:
    """However many come at once, they are tried one after the other."""
    app = create_app(settings(tmp_path, password="schlüssel:8"))
    with served(app) as address, ThreadPoolExecutor(4) as threads:
        begun = time.perf_counter()
        tried = threads.map(lambda guess: httpx2.get(f"{address}{API}/model", headers=basic(guess)), "abcd")
        assert [answer.status_code for answer in tried] == [401] * 4
        assert time.perf_counter() - begun > 1.8


def test_a_zip_with_a_long_table_is_refused_unread(client: TestClient) -> None:
    table = b"PK\x01\x02" + bytes(42)
    begun = time.perf_counter()
    answer = client.post(f"{API}/storyboards/import", content=b"PK\x03\x04" + table * 300_000)
    assert "far more than" in refused(answer, 413)
    assert time.perf_counter() - begun < 3


def test_memory_is_steady_over_fifty_generations(
    client: TestClient, maker: FakeMaker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")  # what pytest keeps of the client's log is not the server's
    identity = client.post(f"{API}/pictures", content=png((64, 64))).json()["id"]

    def generate(count: int) -> None:
        for _ in range(count):
            body = {"storyboard": storyboard(identity), "options": {"steps": 4, "preview_every": 1}}
            job = client.post(f"{API}/jobs", json=body).json()["jobs"][0]
            wait_for(lambda name=job["id"]: client.get(f"{API}/jobs/{name}").json()["state"] == "done")
            client.delete(f"{API}/jobs/{job['id']}")
        maker.orders.clear()
        gc.collect()

    generate(10)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        generate(50)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    print(f"grown by {grown} bytes in 50 generations")
    assert grown < 300_000, grown
