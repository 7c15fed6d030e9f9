"""As much of ComfyUI as the nodes ask of it, and what they asked: thin modules that record.

Their names and signatures are ComfyUI's (folder_paths, server, comfy.model_management, comfy.utils, comfy_api.latest)
and aiohttp's, on which its server is built.
"""

import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

PACKAGE = Path(__file__).parents[2] / "comfyui"


class InterruptProcessingException(Exception):  # noqa: N818 - ComfyUI's name
    """What ComfyUI raises in a node when the user cancels."""


@dataclass
class FakeComfy:
    """A ComfyUI with its folders; `interrupt_at` is the step in which the user presses Cancel."""

    root: Path
    interrupt_at: int | None = None
    progress: list[tuple[int, int, str | None]] = field(default_factory=list)
    previews: list[tuple[str, Image.Image, int | None]] = field(default_factory=list)
    routes: dict[str, Any] = field(default_factory=dict)
    unloaded: int = 0

    def folder(self, name: str) -> Path:
        """Return one of its folders: input, temp or output."""
        path = self.root / name
        path.mkdir(exist_ok=True)
        return path

    def modules(self) -> dict[str, ModuleType]:
        """Return the modules that nodes import, by name."""
        comfy = self

        def throw() -> None:
            if comfy.interrupt_at is not None and len(comfy.progress) >= comfy.interrupt_at:
                raise InterruptProcessingException

        def unload() -> None:
            comfy.unloaded += 1

        class ProgressBar:
            def __init__(self, total: int, node_id: str | None = None) -> None:
                self.total, self.node_id = total, node_id

            def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
                if preview is None:
                    comfy.progress.append((value, total or self.total, self.node_id))
                else:
                    comfy.previews.append(preview)

        class VideoFromFile:
            def __init__(self, file: str) -> None:
                self.file = file

        class Routes:
            def get(self, path: str) -> Any:
                return lambda handler: comfy.routes.setdefault(path, handler)

        class Response:
            def __init__(self, **values: Any) -> None:
                self.values = values

        class HTTPNotFound(Exception):  # noqa: N818 - aiohttp's name
            def __init__(self, text: str) -> None:
                super().__init__(text)

        contents = {
            "folder_paths": {f"get_{name}_directory": lambda name=name: str(self.folder(name))
                             for name in ("input", "temp", "output")},
            "comfy": {},
            "comfy.model_management": {"throw_exception_if_processing_interrupted": throw, "unload_all_models": unload,
                                       "InterruptProcessingException": InterruptProcessingException},
            "comfy.utils": {"ProgressBar": ProgressBar},
            "comfy_api": {},
            "comfy_api.latest": {"InputImpl": SimpleNamespace(VideoFromFile=VideoFromFile)},
            "server": {"PromptServer": SimpleNamespace(instance=SimpleNamespace(routes=Routes()))},
            "aiohttp": {"web": SimpleNamespace(Response=Response, HTTPNotFound=HTTPNotFound)},
        }
        found = {}
        for name, values in contents.items():
            found[name] = ModuleType(name)
            vars(found[name]).update(values)
        for name in ("model_management", "utils"):
            setattr(found["comfy"], name, found[f"comfy.{name}"])
        return found


def load_package() -> ModuleType:
    """Import the node package as ComfyUI does: by its path, under a name that is no package's."""
    name = str(PACKAGE).replace(".", "_x_")
    for loaded in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
        del sys.modules[loaded]
    spec = importlib.util.spec_from_file_location(name, PACKAGE / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class LoadImage:
    """ComfyUI's own node: an input file as IMAGE, and as MASK what is transparent in it."""

    RETURN_TYPES, RETURN_NAMES, FUNCTION = ("IMAGE", "MASK"), ("IMAGE", "MASK"), "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        files = sorted(path.name for path in Path(sys.modules["folder_paths"].get_input_directory()).glob("*.*"))
        return {"required": {"image": (files, {"image_upload": True})}}

    def run(self, image: str) -> tuple[torch.Tensor, torch.Tensor]:
        with Image.open(Path(sys.modules["folder_paths"].get_input_directory()) / image) as opened:
            rgb = torch.from_numpy(np.array(opened.convert("RGB")).astype(np.float32) / 255)[None]
            if "A" not in opened.getbands():
                return rgb, torch.zeros(1, 64, 64)
            return rgb, 1 - torch.from_numpy(np.array(opened.getchannel("A")).astype(np.float32) / 255)[None]


class SaveVideo:
    """ComfyUI's own node, which has a place in the output folder for every video."""

    RETURN_TYPES, FUNCTION, OUTPUT_NODE = (), "run", True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"video": ("VIDEO",), "filename_prefix": ("STRING", {"default": "video/ComfyUI"}),
                             "format": (["auto", "mp4"], {"default": "auto"}),
                             "codec": (["auto", "h264"], {"default": "auto"})}}

    def run(self, video: Any, filename_prefix: str, **_: Any) -> dict[str, Any]:
        target = Path(sys.modules["folder_paths"].get_output_directory()) / f"{filename_prefix}_00001_.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(Path(video.file).read_bytes())
        return {"ui": {"images": [target]}}


class PreviewImage:
    """ComfyUI's own node, of which nothing is asked here."""

    RETURN_TYPES, FUNCTION, OUTPUT_NODE = (), "run", True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"images": ("IMAGE",)}}

    def run(self, images: torch.Tensor) -> dict[str, Any]:
        return {"ui": {"images": [images.shape]}}


CORE_NODES = {"LoadImage": LoadImage, "SaveVideo": SaveVideo, "PreviewImage": PreviewImage}
