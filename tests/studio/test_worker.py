"""Jobs with the model that the package ships, over the API: the command line's own video, and an early end."""

import io
import statistics
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from alchemint.cli.models import TOY_FOLDER, find_model
from alchemint.cli.studio import settings_of
from alchemint.memory import MemoryOptions
from alchemint.studio.server import create_app
from tests.cli.conftest import alchemint as alchemint
from tests.studio_server import wait_for

API = "/api/v1"
EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (TOY_FOLDER / "model_index.json").is_file(), reason="the toy model is not there"),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    settings = settings_of("toy", find_model("toy"), tmp_path_factory.mktemp("studio"), "cpu", "auto", MemoryOptions(),
                           "auto", 30.0, "127.0.0.1", (), None)
    with TestClient(create_app(settings), base_url="http://localhost") as found:
        yield found


@pytest.fixture(scope="module")
def park(client: TestClient) -> dict[str, Any]:
    """The storyboard that the examples begin with, brought in as a zip made by hand."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name in ("park.yaml", "fox.png", "balloon.png"):
            file.write(EXAMPLES / name, f"my park/{name}")
    answer = client.post(f"{API}/storyboards/import", content=packed.getvalue())
    assert answer.status_code == 200, answer.text
    return answer.json()["storyboard"]


def submit(client: TestClient, storyboard: dict[str, Any], **options: Any) -> str:
    answer = client.post(f"{API}/jobs", json={"storyboard": storyboard, "options": options})
    assert answer.status_code == 200, answer.text
    return answer.json()["jobs"][0]["id"]


def job(client: TestClient, name: str, **wanted: Any) -> dict[str, Any]:
    """Wait until a job has what is wanted; return it."""
    def found() -> dict[str, Any] | None:
        told = client.get(f"{API}/jobs/{name}").json()
        assert told["state"] != "failed", told["faults"]
        return told if all(told[key] == value for key, value in wanted.items()) else None

    return wait_for(found, 60, 0.1)


def seen(client: TestClient, name: str) -> dict[str, Any]:
    """Wait until somebody has looked at the video of a job; return what was seen."""
    return wait_for(lambda: client.get(f"{API}/jobs/{name}").json()["seen"], 60, 0.1)


def test_the_exported_storyboard_gives_the_same_video_byte_for_byte(
    client: TestClient, park: dict[str, Any], alchemint: Callable[..., Any], tmp_path: Path
) -> None:
    name = submit(client, park, seed=11, steps=4, preview_every=2)
    done = job(client, name, state="done")
    seen(client, name)  # what follows loads a model in this process, and no two may be loaded at once
    packed = client.post(f"{API}/storyboards/export", json=done["storyboard"]).content
    with zipfile.ZipFile(io.BytesIO(packed)) as file:
        file.extractall(tmp_path)
    outcome = alchemint("generate", tmp_path / "storyboard.yaml", "-o", tmp_path / "again.mp4", "--steps", 4, "--sheet")
    assert outcome.status == 0, outcome.err
    assert client.get(done["video"]).content == (tmp_path / "again.mp4").read_bytes()
    assert client.get(done["sheet"]).content == (tmp_path / "again.png").read_bytes()
    made = client.get(done["made"]).json()
    assert (made["storyboard"]["seed"], made["options"]["steps"], made["model"]) == (11, 4, "toy")
    assert (done["step"], done["num_steps"]) == (4, 4)
    assert client.get(done["preview"]).headers["content-type"] == "image/png"


def test_what_was_seen_and_attended_to_comes_with_it(client: TestClient, park: dict[str, Any]) -> None:
    name = submit(client, park, seed=2, steps=4)
    job(client, name, state="done")
    found = seen(client, name)
    done = client.get(f"{API}/jobs/{name}").json()
    assert found.keys() == done["attention"].keys() == {"fox", "balloon"}
    assert all(len(shares) == 9 for shares in done["attention"].values())
    assert client.get(done["film"]).headers["content-type"] == "image/jpeg"


def test_a_running_generation_stops_within_a_second(client: TestClient, park: dict[str, Any]) -> None:
    job(client, submit(client, park, steps=1), state="done")  # the model is loaded
    taken = []
    for step in (0, 1, 2):
        name = submit(client, park, seed=1, steps=100)
        wait_for(lambda name=name, step=step: (told := client.get(f"{API}/jobs/{name}").json())["state"] == "running"
                 and told["step"] >= step, 60, 0.05)
        begun = time.perf_counter()
        told = client.delete(f"{API}/jobs/{name}").json()
        taken.append(time.perf_counter() - begun)
        assert told["state"] == "cancelled"
        assert told["video"] is None
    print(f"stopped after {', '.join(f'{seconds:.3f}' for seconds in taken)} s")
    assert statistics.median(taken) < 1.0
    again = job(client, submit(client, park, seed=11, steps=1), state="done")
    assert again["video"], "the next one is made as ever"


def test_an_early_end_leaves_the_pipeline_as_it_was() -> None:
    from alchemint.cli.models import load_pipeline
    from alchemint.storyboard import load_storyboard
    from alchemint.studio.interruption import interruptible

    pipeline = load_pipeline(find_model("toy"), "cpu", "float32")
    board = load_storyboard(EXAMPLES / "park.yaml", pipeline.defaults)
    alone = pipeline(board, num_inference_steps=2).frames
    calls = 0

    class Enough(Exception):  # noqa: N818
        pass

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise Enough

    stop_at = -1
    with interruptible(pipeline, check):
        assert (pipeline(board, num_inference_steps=2).frames == alone).all(), "it has no effect on what is made"
    everything = calls
    assert everything > 20, "in every block, every layer and every latent"
    for stop_at in (1, everything // 2, everything - 1):
        calls = 0
        with pytest.raises(Enough), interruptible(pipeline, check):
            pipeline(board, num_inference_steps=2)
        assert calls == stop_at, "nothing more is computed"
    assert (pipeline(board, num_inference_steps=2).frames == alone).all()


def test_a_broken_model_is_told_by_its_jobs(tmp_path: Path) -> None:
    from dataclasses import replace

    from alchemint.studio.worker import PipelineMaker
    from tests.studio_server import settings, storyboard

    def load() -> Any:
        raise ValueError("transformer/model.safetensors is cut short; fetch it anew")

    base = settings(tmp_path)
    broken = replace(base, make=PipelineMaker("toy", load, lambda: None))  # type: ignore[arg-type,return-value]
    with TestClient(create_app(broken), base_url="http://localhost") as client:
        assert client.get(f"{API}/model").status_code == 200
        name = submit(client, storyboard(), steps=1)
        told = wait_for(lambda: (found := client.get(f"{API}/jobs/{name}").json())["state"] == "failed" and found)
        assert told["faults"] == ["transformer/model.safetensors is cut short; fetch it anew"]


def test_no_two_models_are_loaded_at_once() -> None:
    from alchemint.studio.worker import PipelineMaker

    begun, end, second = threading.Event(), threading.Event(), threading.Event()

    def load() -> Any:
        begun.set()
        end.wait(20)

    def load_watcher() -> Any:
        second.set()
        raise ValueError("that is all")

    first = threading.Thread(target=PipelineMaker("toy", load, lambda: None).prepare)  # type: ignore[arg-type,return-value]
    looking = PipelineMaker("toy", load, lambda: None, load_watcher)  # type: ignore[arg-type,return-value]
    first.start()
    assert begun.wait(20)
    with ThreadPoolExecutor() as executor:
        told = executor.submit(looking.look, None)  # type: ignore[arg-type]
        assert not second.wait(0.3), "who watches is loaded once the model is"
        end.set()
        assert second.wait(20)
        assert str(told.exception(20)) == "that is all"
    first.join()


def test_real_generations_leave_memory_steady(client: TestClient, park: dict[str, Any]) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    if not Path("/proc/self/statm").exists():
        pytest.skip("the process's memory is read from Linux's /proc")

    def generate(count: int) -> None:
        for number in range(count):
            name = submit(client, park, seed=number, steps=1)
            job(client, name, state="done")
            seen(client, name)

    generate(2)
    before, threads = resident(), threading.active_count()
    generate(4)
    print(f"grown by {(resident() - before) / 2**20:.1f} MiB in 4 generations")
    assert resident() - before < 100 * 2**20
    assert threading.active_count() <= threads
