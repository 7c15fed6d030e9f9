"""The HTTP API, with a maker that makes nothing."""

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from alchemint.storyboard import load_storyboard
from alchemint.studio.server import create_app
from tests.studio_server import DEFAULTS, FakeMaker, png, settings, storyboard, wait_for

API = "/api/v1"


@pytest.fixture
def maker() -> FakeMaker:
    return FakeMaker(seen={"fox": [[0.5, 2.5]]})


@pytest.fixture
def client(tmp_path: Path, maker: FakeMaker) -> Iterator[TestClient]:
    with TestClient(create_app(settings(tmp_path / "studio", maker)), base_url="http://localhost:7860") as found:
        yield found


def upload(client: TestClient, content: bytes) -> str:
    answer = client.post(f"{API}/pictures", content=content)
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def ended(client: TestClient, job_id: str) -> dict[str, Any]:
    def job() -> dict[str, Any] | None:
        found = client.get(f"{API}/jobs/{job_id}").json()
        return found if found["state"] in ("done", "failed", "cancelled") else None

    return wait_for(job)


def test_the_model_is_told(client: TestClient) -> None:
    told = client.get(f"{API}/model").json()
    assert (told["name"], told["width"], told["num_frames"], told["duration"]) == ("fake", 64, 25, 4.0)
    assert told["latent_step_s"] == pytest.approx(4 / 6)
    assert (told["encodings"], told["sees"], told["events_may_overlap"]) == (["werope"], False, False)


def test_a_storyboard_becomes_a_video(client: TestClient, maker: FakeMaker) -> None:
    board = storyboard(upload(client, png()))
    answer = client.post(f"{API}/jobs", json={"storyboard": board, "options": {
        "seed": 7, "steps": 4, "variations": 2, "preview_every": 2, "client": "tab-1"}})
    assert answer.status_code == 200, answer.text
    jobs = answer.json()["jobs"]
    assert [job["seed"] for job in jobs] == [7, 8]
    first = ended(client, jobs[0]["id"])
    assert (first["state"], first["step"], first["num_steps"], first["place"]) == ("done", 4, 4, None)
    assert first["storyboard"] == {**board, "seed": 7}
    assert client.get(first["video"]).content == b"video of seed 7"
    assert client.get(first["video"]).headers["content-type"] == "video/mp4"
    assert client.get(first["made"]).json() == {}
    assert first["attention"] == {"fox": [0.1]}
    wait_for(lambda: client.get(f"{API}/jobs/{first['id']}").json()["seen"] == maker.seen)
    ended(client, jobs[1]["id"])
    listed = client.get(f"{API}/jobs?limit=1").json()["jobs"]
    assert [job["id"] for job in listed] == [jobs[1]["id"]], "the newest comes first"


def test_a_video_is_sent_in_parts_too(client: TestClient) -> None:
    job = client.post(f"{API}/jobs", json={"storyboard": storyboard(), "options": {"seed": 1, "steps": 1}}).json()
    url = ended(client, job["jobs"][0]["id"])["video"]
    part = client.get(url, headers={"Range": "bytes=6-7"})
    assert (part.status_code, part.content) == (206, b"of")


def test_without_a_seed_each_variation_has_a_random_one(client: TestClient) -> None:
    body = {"storyboard": storyboard(), "options": {"seed": None, "steps": 1, "variations": 8}}
    seeds = {job["seed"] for _ in range(2) for job in client.post(f"{API}/jobs", json=body).json()["jobs"]}
    assert len(seeds) > 14


def test_all_faults_of_a_storyboard_are_told_at_once(client: TestClient) -> None:
    board = storyboard("0" * 64 + ".png", prompt=" ", width=65, wide=3)
    board["subjects"][0]["appears"] = [[3.0, 1.0], [3.0, 9.0]]
    told = client.post(f"{API}/check", json=board)
    assert told.status_code == 200
    faults = "\n".join(told.json()["faults"])
    for part in ("prompt is empty", "width 65 must be divisible by 16", 'unknown key "wide"', "is reversed",
                 "end 9.0 s is after the video's end", "is no uploaded picture"):
        assert part in faults
    assert told.json()["resolved"] is None
    refused = client.post(f"{API}/jobs", json={"storyboard": board})
    assert (refused.status_code, refused.json()["faults"]) == (400, told.json()["faults"])


def test_a_sound_storyboard_is_resolved_with_its_curves(client: TestClient) -> None:
    identity = upload(client, png())
    told = client.post(f"{API}/check", json=storyboard(identity)).json()
    assert told["faults"] == []
    assert (told["resolved"]["num_frames"], told["resolved"]["fps"]) == (25, 6)
    assert told["resolved"]["subjects"][0]["images"] == [identity]
    assert told["curves"] == {"fox": [[0.5, 1.0]]}
    assert told["spans"] == {"fox": [[1.125, 4.625]]}
    warned = client.post(f"{API}/check", json=storyboard(identity, prompt="a meadow")).json()
    assert 'the prompt does not have the word "fox"' in warned["warnings"][0]


def test_what_is_exported_loads_and_comes_back_the_same(client: TestClient, tmp_path: Path) -> None:
    images = [upload(client, png(colour=colour)) for colour in ("red", "blue")]
    board = storyboard(*images, events=[{"during": [0.0, 1.25], "text": "yes: it's \"morning\" # really"}],
                       duration=4.0, negative_prompt="blur", seed=3)
    board["subjects"].append({"name": "con/../ ünï", "word": "on", "images": [images[0]], "appears": [[0.1, 0.7]]})
    packed = client.post(f"{API}/storyboards/export", json=board)
    assert packed.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(packed.content)) as file:
        assert file.namelist() == ["storyboard.yaml", "pictures/fox-1.png", "pictures/fox-2.png"]
        file.extractall(tmp_path / "unpacked")
    loaded = load_storyboard(tmp_path / "unpacked" / "storyboard.yaml", DEFAULTS)
    assert loaded.subjects[1].appears == ((0.1, 0.7),)
    again = client.post(f"{API}/storyboards/import", content=packed.content)
    assert again.json()["storyboard"] == board
    assert {picture["id"] for picture in again.json()["pictures"]} == set(images)
    assert client.post(f"{API}/storyboards/export", json=board).content == packed.content


@pytest.mark.parametrize(("options", "fault"), [
    ({"steps": 101}, "steps 101 must be a whole number within 1 .. 100"),
    ({"steps": 0}, "steps 0 must"),
    ({"steps": True}, "steps True must"),
    ({"variations": 9}, "variations 9 must be a whole number within 1 .. 8"),
    ({"seed": -1}, "seed -1 must"),
    ({"seed": 2**63}, "seed 9223372036854775808 must"),
    ({"seed": 1.5}, "seed 1.5 must"),
    ({"client": "a/b"}, 'client "a/b" must be up to 64 letters and digits'),
    ({"keep": "yes"}, 'keep "yes" must be true or false'),
    ({"stepz": 1}, 'unknown key "stepz"'),
    ([], "options [] must be an object"),
])
def test_wrong_options_are_refused(client: TestClient, options: Any, fault: str) -> None:
    answer = client.post(f"{API}/jobs", json={"storyboard": storyboard(), "options": options})
    assert answer.status_code == 400
    assert fault in answer.json()["faults"][0]


def test_a_job_is_cancelled_then_removed(client: TestClient, maker: FakeMaker, tmp_path: Path) -> None:
    maker.held.set()
    running, waiting = (client.post(f"{API}/jobs", json={"storyboard": storyboard()}).json()["jobs"][0]["id"]
                        for _ in range(2))
    wait_for(lambda: client.get(f"{API}/jobs/{running}").json()["state"] == "running")
    assert client.get(f"{API}/jobs/{waiting}").json()["place"] == 1
    for name in (waiting, running):
        assert client.delete(f"{API}/jobs/{name}").json()["state"] == "cancelled"
        assert client.delete(f"{API}/jobs/{name}").json()["state"] == "removed"
        assert client.delete(f"{API}/jobs/{name}").status_code == 404
        assert not (tmp_path / "studio" / name).exists()


def test_a_job_that_fails_says_why(client: TestClient, maker: FakeMaker) -> None:
    for fault, line in ((ValueError("the memory does not suffice; use less"), "the memory does not suffice; use less"),
                        (RuntimeError("boom"), "the video could not be made: RuntimeError: boom")):
        maker.fault = fault
        job = client.post(f"{API}/jobs", json={"storyboard": storyboard()}).json()["jobs"][0]
        assert ended(client, job["id"])["faults"] == [line]
    maker.fault = None
    job = client.post(f"{API}/jobs", json={"storyboard": storyboard()}).json()["jobs"][0]
    assert ended(client, job["id"])["state"] == "done", "the worker lives on"


def test_a_multipart_form_gives_its_file(client: TestClient) -> None:
    content = png() + b"\r\n--not the boundary\r\n"
    alone = upload(client, png())
    form = client.post(f"{API}/pictures", files={"name": (None, "x"), "file": ("../../fox.png", content, "image/png")})
    assert form.json()["id"] == alone
    wrong = client.post(f"{API}/pictures", files={"picture": ("fox.png", content, "image/png")})
    assert 'has no part called "file"' in wrong.json()["faults"][0]


def test_every_fault_has_one_form(client: TestClient) -> None:
    for answer, status in ((client.get("/nothing.html"), 404), (client.get(f"{API}/nothing"), 404),
                           (client.get(f"{API}/jobs/x"), 404), (client.get(f"{API}/jobs?limit=many"), 400),
                           (client.put(f"{API}/jobs", json={}), 405), (client.post(f"{API}/jobs", content=b"{"), 400),
                           (client.post(f"{API}/check", json=[1]), 400)):
        assert answer.status_code == status, answer.text
        assert all(isinstance(fault, str) and fault for fault in answer.json()["faults"])
        assert len(answer.json()["faults"]) == 1


def test_the_page_can_do_nothing_but_talk_to_its_own_server(client: TestClient) -> None:
    for path in ("/", f"{API}/model", "/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy and "http" not in policy
        assert "frame-ancestors 'self'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_a_full_disk_refuses_jobs(tmp_path: Path) -> None:
    with TestClient(create_app(settings(tmp_path, limits={"free_bytes": 2**60})), base_url="http://localhost") as found:
        answer = found.post(f"{API}/jobs", json={"storyboard": storyboard()})
        assert answer.status_code == 503
        assert "the disk has only" in answer.json()["faults"][0]


def test_json_of_a_record_opens_as_its_storyboard(client: TestClient) -> None:
    identity = upload(client, png())
    record = json.dumps({"storyboard": storyboard(identity), "model": "toy"})
    answer = client.post(f"{API}/storyboards/import", content=record, headers={"Content-Type": "application/json"})
    assert answer.json()["storyboard"] == storyboard(identity)
