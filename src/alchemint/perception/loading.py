"""Perception models from a folder or from the Hugging Face hub, or one clear line why one can't be had.

All sizes of a kind are loaded alike: `facebook/sam2.1-hiera-tiny` as well as `-large`, Grounding DINO's tiny and base.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from alchemint.perception.watcher import Watcher

if TYPE_CHECKING:
    from alchemint.perception.clip import ClipComparer
    from alchemint.perception.grounding_dino import GroundingDinoFinder
    from alchemint.perception.sam2 import Sam2Follower
    from alchemint.perception.sam3 import Sam3Spotter

DETECTOR, COMPARER, TRACKER, SAM3 = (
    "IDEA-Research/grounding-dino-base", "openai/clip-vit-large-patch14", "facebook/sam2.1-hiera-large",
    "facebook/sam3")

_SIGLIP_PROMPT = "this is a photo of {}."

Name = str | Path
"""A folder as `save_pretrained` writes it, or a name on the hub."""


def load_detector(name: Name = DETECTOR, device: str = "cpu", dtype: torch.dtype = torch.float32,
                  box_threshold: float = 0.25) -> "GroundingDinoFinder":
    """Load a Grounding DINO. Raises ValueError when it can't be had or is something else, as all of these do."""
    from transformers import AutoTokenizer, GroundingDinoForObjectDetection, GroundingDinoImageProcessorPil

    from alchemint.perception.grounding_dino import GroundingDinoFinder

    _model_type("detector", name, ("grounding-dino",))
    return GroundingDinoFinder(
        _model("detector", name, GroundingDinoForObjectDetection, device, dtype),
        _part("detector", name, AutoTokenizer), _part("detector", name, GroundingDinoImageProcessorPil), box_threshold)


def load_comparer(name: Name = COMPARER, device: str = "cpu", dtype: torch.dtype = torch.float32) -> "ClipComparer":
    """Load a CLIP, SigLIP or SigLIP 2, whichever it is."""
    import transformers
    from transformers import AutoTokenizer

    from alchemint.perception.clip import ClipComparer

    classes = {"clip": ("CLIPModel", "CLIPImageProcessorPil"), "siglip": ("SiglipModel", "SiglipImageProcessorPil"),
               "siglip2": ("Siglip2Model", "Siglip2ImageProcessorPil")}
    kind = _model_type("comparer", name, tuple(classes))
    model, processor = (getattr(transformers, part) for part in classes[kind])
    parts = (_model("comparer", name, model, device, dtype), _part("comparer", name, AutoTokenizer),
             _part("comparer", name, processor))
    return ClipComparer(*parts) if kind == "clip" else ClipComparer(*parts, prompt=_SIGLIP_PROMPT)


def load_tracker(name: Name = TRACKER, device: str = "cpu", dtype: torch.dtype = torch.float32) -> "Sam2Follower":
    """Load a SAM 2."""
    from transformers import Sam2VideoModel

    from alchemint.perception.sam2 import Sam2Follower

    _model_type("tracker", name, ("sam2_video", "sam2"))
    return Sam2Follower(_model("tracker", name, Sam2VideoModel, device, dtype))


def load_sam3(name: Name = SAM3, device: str = "cpu", dtype: torch.dtype = torch.float32) -> "Sam3Spotter":
    """Load a SAM 3."""
    from transformers import AutoTokenizer, Sam3VideoModel

    from alchemint.perception.sam3 import Sam3Spotter

    _model_type("SAM 3", name, ("sam3_video",))
    return Sam3Spotter(_model("SAM 3", name, Sam3VideoModel, device, dtype), _part("SAM 3", name, AutoTokenizer))


def load_grounded_sam2(detector: Name = DETECTOR, comparer: Name = COMPARER, tracker: Name = TRACKER,
                       device: str = "cpu") -> Watcher:
    """Load the paper's three models, at full precision."""
    return Watcher(load_detector(detector, device), load_tracker(tracker, device), load_comparer(comparer, device))


def _model_type(what: str, name: Name, allowed: tuple[str, ...]) -> str:
    """Return the kind of model that the config of a folder or hub name tells; it must be one of `allowed`."""
    path = _config_file(what, str(name))
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise ValueError(f'{what} "{name}": its config.json is damaged ({error}); fetch it anew') from error
    if kind not in allowed:
        raise ValueError(f'{what} "{name}" is a model of type {kind or "unknown"}, but must be '
                         f"{' or '.join(allowed)}; name another model")
    return str(kind)


def _config_file(what: str, name: str) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise ValueError(f'{what} "{name}" is a folder without config.json; name one as save_pretrained writes it')
        return Path(name) / "config.json"
    try:
        return Path(huggingface_hub.hf_hub_download(name, "config.json"))
    except errors.HFValidationError as error:
        reason = "is neither a folder nor of the form owner/name that the hub's names have; correct it"
        raise ValueError(f'{what} "{name}" {reason}') from error
    except errors.GatedRepoError as error:
        reason = f"is gated: ask for access at https://huggingface.co/{name}, then log in with `hf auth login`"
        raise ValueError(f'{what} "{name}" {reason}') from error
    except errors.RepositoryNotFoundError as error:
        reason = "is no folder and is not on the hub, or is private; correct it, or log in with `hf auth login`"
        raise ValueError(f'{what} "{name}" {reason}') from error
    except errors.RemoteEntryNotFoundError as error:
        raise ValueError(f'{what} "{name}" has no config.json on the hub; name a model of transformers') from error
    except OSError as error:
        reason = "is no folder, is not in the hub's cache, and the hub cannot be reached; fetch it where there is a " \
                 "network, or name a folder"
        raise ValueError(f'{what} "{name}" {reason}') from error


def _model(what: str, name: Name, kind: Any, device: str, dtype: torch.dtype) -> Any:
    try:
        model, told = kind.from_pretrained(name, dtype=dtype, output_loading_info=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f'the weights of {what} "{name}" cannot be loaded: {_first_line(error)}') from error
    missing = sorted(told["missing_keys"])
    if missing:
        # transformers would go on with random numbers in their place.
        raise ValueError(f'{what} "{name}" lacks {len(missing)} of its weights, such as {missing[0]}; fetch it anew')
    return model.to(device).eval()


def _part(what: str, name: Name, kind: Any) -> Any:
    """Return a tokenizer or an image processor."""
    try:
        return kind.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(f'{what} "{name}" has no tokenizer or preprocessing beside its weights: '
                         f"{_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
