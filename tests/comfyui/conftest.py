"""A fake ComfyUI in which the node package is loaded as ComfyUI loads it."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.comfyui.comfy_fakes import CORE_NODES, FakeComfy, load_package

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def comfy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeComfy:
    """A ComfyUI that has the pictures of the examples in its input folder."""
    fake = FakeComfy(tmp_path)
    for name, module in fake.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    for picture in ("fox.png", "balloon.png", "duck.png"):
        shutil.copy(EXAMPLES / picture, fake.folder("input"))
    return fake


@pytest.fixture
def package(comfy: FakeComfy) -> Iterator[ModuleType]:
    """The node package, imported by its path."""
    module = load_package()
    yield module
    for name in [key for key in sys.modules if key.startswith(module.__name__)]:
        del sys.modules[name]


@pytest.fixture
def nodes(package: ModuleType) -> dict[str, type]:
    """All nodes by the names that workflows have: the package's, and as much of ComfyUI's own as they meet."""
    return {**package.NODE_CLASS_MAPPINGS, **CORE_NODES}
