"""Whole workflows: those that are shipped, and those that an older version of the nodes has saved.

They run by ComfyUI's rules for V1 nodes, with the toy that the package ships, to real videos.
"""

import functools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alchemint.cli import models
from alchemint.media import open_image, read_video
from tests.comfyui import workflow_runner
from tests.comfyui.comfy_fakes import FakeComfy, InterruptProcessingException

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "comfyui" / "example_workflows"
NAMES = ("timeline", "wired")
STEPS = 4

Nodes = dict[str, type]

load_once = functools.cache(models.load_pipeline)


@pytest.fixture(autouse=True)
def _one_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load toy once for all tests of this module."""
    monkeypatch.setattr(models, "load_pipeline", load_once)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def prompt_of(name: str, **inputs: Any) -> tuple[workflow_runner.Prompt, str]:
    """Return an example in the API's form with other inputs of its generating node, and that node's number."""
    prompt = read(EXAMPLES / "api" / f"{name}.json")
    key = next(key for key, entry in prompt.items() if entry["class_type"] == "AlchemintGenerate")
    prompt[key]["inputs"] |= {"steps": STEPS, "preview_every": 0, **inputs}
    return prompt, key


@pytest.fixture(scope="module")
def by_command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The video of examples/park.yaml as the command line makes it."""
    from alchemint.cli import generate

    target = tmp_path_factory.mktemp("command") / "park.mp4"
    patch = pytest.MonkeyPatch()
    with patch.context() as patched:
        patched.setattr(generate, "load_pipeline", load_once)
        generate.generate(ROOT / "examples" / "park.yaml", target, steps=STEPS)
    return target


@pytest.mark.parametrize("name", NAMES)
def test_examples_say_the_same_in_both_forms(nodes: Nodes, name: str) -> None:
    prompt = workflow_runner.api_form(read(EXAMPLES / f"{name}.json"), nodes)
    assert prompt == read(EXAMPLES / "api" / f"{name}.json")
    workflow_runner.check(prompt, nodes)


@pytest.mark.parametrize("name", NAMES)
def test_workflows_of_version_1_keep_loading(nodes: Nodes, name: str) -> None:
    saved = Path(__file__).parent / "workflows"
    by_page = workflow_runner.api_form(read(saved / f"version_1_{name}.json"), nodes)
    by_api = read(saved / f"version_1_{name}_api.json")
    for key, entry in by_api.items():
        # Newer inputs come with their defaults; what was saved means what it meant.
        assert entry["inputs"].items() <= by_page[key]["inputs"].items()
    for prompt in (by_page, by_api):
        workflow_runner.check(prompt, nodes)


def test_the_runner_refuses_what_comfyui_refuses(nodes: Nodes) -> None:
    def fault(change: str, value: Any) -> str:
        prompt, key = prompt_of("timeline")
        if value is None:
            del prompt[key]["inputs"][change]
        else:
            prompt[key]["inputs"][change] = value
        with pytest.raises(workflow_runner.InvalidWorkflowError) as caught:
            workflow_runner.check(prompt, nodes)
        return str(caught.value)

    assert "Required input is missing: seed" in fault("seed", None)
    assert "Value 0 of steps is out of its bounds" in fault("steps", 0)
    assert "Return type mismatch: model, ALCHEMINT_STORYBOARD != ALCHEMINT_MODEL" in fault("model", ["2", 0])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_examples_make_the_video_of_the_command_line(nodes: Nodes, comfy: FakeComfy, by_command: Path, name: str
                                                     ) -> None:
    prompt, key = prompt_of(name)
    results = workflow_runner.run(prompt, nodes)
    (saved,) = (comfy.folder("output") / "video").glob("*.mp4")
    assert saved.read_bytes() == by_command.read_bytes()

    video, frames, made, sheet = results[key]
    decoded = read_video(video.file)[0]
    assert frames.dtype == torch.float32
    assert tuple(frames.shape) == decoded.shape == (33, 64, 64, 3)
    assert 0 <= float(frames.min()) < float(frames.max()) <= 1
    assert np.abs(frames.numpy() * 255 - decoded).mean() < 4  # H.264 is lossy
    assert sheet.shape[0] == 1
    assert sheet.shape[-1] == 3

    facts = json.loads(made)
    assert facts["storyboard"]["seed"] == 2
    assert facts["options"]["steps"] == STEPS
    assert facts["model"] == "toy"
    for subject in facts["storyboard"]["subjects"]:  # the record's names lead to the pictures from where it lies
        for image in subject["images"]:
            assert open_image(Path(video.file).parent / image).mode == "RGBA"
    assert len(facts["image_sha256"]) == 2
    assert comfy.progress == [(step, STEPS, key) for step in range(1, STEPS + 1)]
    assert comfy.unloaded == 0  # on a CPU nothing of other nodes is in the way


@pytest.mark.slow
def test_nothing_runs_twice_until_something_changes(nodes: Nodes, comfy: FakeComfy) -> None:
    cache: dict[str, Any] = {}
    prompt, key = prompt_of("timeline", steps=1)
    first = workflow_runner.run(prompt, nodes, cache)
    assert workflow_runner.run(prompt, nodes, cache)[key] is first[key]
    shutil.copy(comfy.folder("input") / "duck.png", comfy.folder("input") / "fox.png")
    changed = workflow_runner.run(prompt, nodes, cache)
    assert changed["1"] is first["1"], "the model was loaded anew"
    assert not torch.equal(changed[key][1], first[key][1])


@pytest.mark.slow
def test_cancel_stops_within_a_step(nodes: Nodes, comfy: FakeComfy) -> None:
    comfy.interrupt_at = 2
    prompt, _ = prompt_of("timeline", steps=200)
    with pytest.raises(InterruptProcessingException):
        workflow_runner.run(prompt, nodes)
    assert [step for step, _, _ in comfy.progress] == [1, 2]
    assert list(comfy.folder("temp").iterdir()) == []
    assert not list(comfy.folder("output").rglob("*.mp4"))

    comfy.interrupt_at = None  # and the same pipeline goes on
    prompt, key = prompt_of("timeline", steps=1)
    assert workflow_runner.run(prompt, nodes)[key][1].shape[0] == 33


@pytest.mark.slow
def test_previews_change_nothing_but_the_screen(nodes: Nodes, comfy: FakeComfy, by_command: Path) -> None:
    prompt, key = prompt_of("timeline", preview_every=2)
    video = workflow_runner.run(prompt, nodes)[key][0]
    assert Path(video.file).read_bytes() == by_command.read_bytes()
    assert [(kind, longest) for kind, _, longest in comfy.previews] == [("JPEG", 1024)] * 2
    assert all(picture.mode == "RGB" and picture.width > picture.height for _, picture, _ in comfy.previews)


@pytest.mark.slow
def test_guidance_is_the_models_own_but_for_what_is_wired(nodes: Nodes) -> None:
    def made(guidance: dict[str, Any] | None) -> dict[str, Any]:
        prompt, key = prompt_of("timeline", steps=1)
        if guidance is not None:
            prompt["9"] = {"class_type": "AlchemintGuidance", "inputs": guidance}
            prompt[key]["inputs"]["guidance"] = ["9", 0]
        return json.loads(workflow_runner.run(prompt, nodes)[key][2])["options"]["guidance"]

    own = made(None)
    wired = made({"mode": "joint", "image_scale": 1.5, "text_scale": 0.0, "joint_scale": 2.0})
    assert (own["mode"], own["text_scale"]) == ("chained", 1.5)  # toy's own
    assert wired == own | {"mode": "joint", "image_scale": 1.5, "text_scale": 0.0, "joint_scale": 2.0}


@pytest.mark.slow
def test_weights_are_ordinary_tensors(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []

    def load(*arguments: Any) -> Any:
        modes.append(torch.is_inference_mode_enabled())
        return load_once(*arguments)

    monkeypatch.setattr(models, "load_pipeline", load)
    with torch.inference_mode():
        model = nodes["AlchemintLoadModel"]().run("toy")[0]
    assert modes == [False]
    assert not any(weight.is_inference() for weight in model.pipeline.transformer.parameters())


@pytest.mark.parametrize(("board", "fault"), [
    ({"duration": 4.1}, "the count must be 4k+1; use 4 s (33 frames)"),
    ({"width": 100}, "width 100 must be divisible by 8"),
    ({"events": [{"during": [0, 2], "text": "a"}, {"during": [1, 3], "text": "b"}]}, "events may not overlap"),
])
def test_what_the_model_cannot_make_is_told_before_it_runs(nodes: Nodes, comfy: FakeComfy, board: dict[str, Any],
                                                           fault: str) -> None:
    prompt, _ = prompt_of("timeline")
    prompt["2"]["inputs"]["storyboard"] = json.dumps(json.loads(prompt["2"]["inputs"]["storyboard"]) | board)
    with pytest.raises(ValueError, match=re.escape(fault)):
        workflow_runner.run(prompt, nodes)
    assert comfy.progress == []
    assert list(comfy.folder("temp").iterdir()) == []


@pytest.mark.parametrize(("inputs", "fault"), [
    ({"model": "no-such-model"}, "is neither toy nor a folder nor a name on the hub"),
    ({"device": "cuda"}, "device cuda is not there"),
    ({"memory": "balanced", "device": "cpu"}, "on a CPU use high or low"),
])
def test_a_model_that_cannot_be_loaded_is_told(nodes: Nodes, inputs: dict[str, str], fault: str) -> None:
    if inputs.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ValueError, match=fault):
        nodes["AlchemintLoadModel"]().run(**{"model": "toy", **inputs})
