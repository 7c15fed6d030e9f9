"""The nodes' contract: what ComfyUI reads of their classes, and what saved workflows rely on."""

import ast
import inspect
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

import alchemint
from alchemint.cli import memory, models
from alchemint.diffusion.guidance import MODES, Guidance
from tests.comfyui.comfy_fakes import PACKAGE, FakeComfy, load_package
from tests.comfyui.workflow_runner import inputs_of

INPUTS_OF_VERSION_1 = {
    "AlchemintTimeline": ["storyboard", "subjects", "prompt"],
    "AlchemintSubject": ["word", "images", "when", "after", "mask", "mask_shows", "name"],
    "AlchemintStoryboard": ["prompt", "duration", "subjects", "negative_prompt", "events", "width", "height", "fps"],
    "AlchemintStoryboardFromJSON": ["json", "subjects"],
    "AlchemintLoadModel": ["model", "device", "dtype", "memory", "quantize", "base"],
    "AlchemintGuidance": ["mode", "image_scale", "text_scale", "joint_scale", "start", "end"],
    "AlchemintGenerate": ["model", "storyboard", "seed", "steps", "guidance", "preview_every", "batch_branches"],
}
OUTPUTS_OF_VERSION_1 = {
    "AlchemintTimeline": ["ALCHEMINT_STORYBOARD", "STRING"],
    "AlchemintSubject": ["ALCHEMINT_SUBJECTS"],
    "AlchemintStoryboard": ["ALCHEMINT_STORYBOARD", "STRING"],
    "AlchemintStoryboardFromJSON": ["ALCHEMINT_STORYBOARD", "STRING"],
    "AlchemintLoadModel": ["ALCHEMINT_MODEL"],
    "AlchemintGuidance": ["ALCHEMINT_GUIDANCE"],
    "AlchemintGenerate": ["VIDEO", "IMAGE", "STRING", "IMAGE"],
}

HEAVY = {"alchemint", "torch", "numpy", "PIL", "comfy", "comfy_api", "server", "aiohttp", "folder_paths"}


def test_inputs_and_outputs_are_only_appended(package: ModuleType) -> None:
    assert package.NODE_CLASS_MAPPINGS.keys() >= INPUTS_OF_VERSION_1.keys()
    for name, inputs in INPUTS_OF_VERSION_1.items():
        node = package.NODE_CLASS_MAPPINGS[name]
        assert list(inputs_of(node))[:len(inputs)] == inputs
        assert list(node.RETURN_TYPES)[:len(OUTPUTS_OF_VERSION_1[name])] == OUTPUTS_OF_VERSION_1[name]
        # An input that old workflows lack must not be required.
        assert set(node.INPUT_TYPES()["required"]) <= set(inputs)


def test_nodes_are_as_comfyui_wants_them(package: ModuleType) -> None:
    assert package.NODE_CLASS_MAPPINGS.keys() == package.NODE_DISPLAY_NAME_MAPPINGS.keys()
    for node in package.NODE_CLASS_MAPPINGS.values():
        assert node.CATEGORY == "alchemint"
        assert node.DESCRIPTION.endswith(".")
        assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
        run = inspect.signature(getattr(node, node.FUNCTION))
        hidden = node.INPUT_TYPES().get("hidden", {})
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in run.parameters.values()):
            continue
        assert set(run.parameters) - {"self"} == set(inputs_of(node)) | set(hidden)
        for name, (kind, options) in inputs_of(node).items():
            parameter = run.parameters[name]
            is_required = name in node.INPUT_TYPES()["required"]
            assert is_required == (parameter.default is parameter.empty), name
            if not is_required and "default" in options:
                assert parameter.default == options["default"], name
            if isinstance(kind, list):
                assert options["default"] in kind


def test_choices_are_those_of_the_command_line(package: ModuleType) -> None:
    inputs = inputs_of(package.NODE_CLASS_MAPPINGS["AlchemintLoadModel"])
    assert tuple(inputs["device"][0]) == get_args(models.Device)
    assert tuple(inputs["dtype"][0]) == get_args(models.Dtype)
    assert tuple(inputs["memory"][0]) == get_args(memory.Memory)
    assert tuple(inputs["quantize"][0]) == ("none", *get_args(memory.Quantize))
    guidance = inputs_of(package.NODE_CLASS_MAPPINGS["AlchemintGuidance"])
    assert tuple(guidance["mode"][0]) == MODES
    assert all(guidance[name][1]["default"] == getattr(Guidance(), name)
               for name in ("image_scale", "text_scale", "joint_scale"))


def test_guidance_is_checked_at_its_node(package: ModuleType) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        package.NODE_CLASS_MAPPINGS["AlchemintGuidance"]().run("chained", 3.0, 4.0, 0.0, 0.8, 0.2)


def test_loading_the_nodes_imports_nothing_heavy() -> None:
    for path in PACKAGE.glob("*.py"):
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.Import | ast.ImportFrom) and not getattr(statement, "level", 0):
                names = [statement.module] if isinstance(statement, ast.ImportFrom) else [
                    alias.name for alias in statement.names]
                tops = {str(name).partition(".")[0] for name in names}
                assert not tops & HEAVY, path


def test_without_alchemint_the_import_says_what_to_do(package: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"alchemint is not installed in ComfyUI's Python; run: .* -m pip install"):
        exec(compile((PACKAGE / "__init__.py").read_text(encoding="utf-8"), "__init__.py", "exec"), {})


def test_without_a_server_the_nodes_load_all_the_same(comfy: FakeComfy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "server", None)
    assert load_package().NODE_CLASS_MAPPINGS


def test_what_the_registry_reads() -> None:
    described = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))
    assert described["project"]["name"] == "alchemint-comfyui"
    assert described["tool"]["comfy"].keys() >= {"PublisherId", "DisplayName"}
    requirements = (PACKAGE / "requirements.txt").read_text(encoding="utf-8").split()
    assert described["project"]["dependencies"] == requirements == [f"alchemint>={alchemint.__version__}"]


def test_every_node_is_told_of_in_the_readme(package: ModuleType) -> None:
    readme = (PACKAGE / "README.md").read_text(encoding="utf-8")
    assert all(name in readme for name in package.NODE_DISPLAY_NAME_MAPPINGS.values())


@pytest.mark.parametrize("name", ["fox.png", "balloon.png"])
def test_the_examples_pictures_are_the_projects(name: str) -> None:
    examples = Path(PACKAGE).parent / "examples"
    assert (PACKAGE / "example_workflows" / name).read_bytes() == (examples / name).read_bytes()
