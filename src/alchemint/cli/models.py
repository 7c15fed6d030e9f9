"""Which model a command is to use: the one that the package ships, a folder, or a name on the Hugging Face hub."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import alchemint

if TYPE_CHECKING:
    from alchemint.pipeline import AlchemintPipeline

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DeviceOption = Annotated[Device, typer.Option(help="auto is cuda where there is one.")]

TOY = "toy"
TOY_FOLDER = Path(alchemint.__file__).parent / "assets" / "toy"

_HASHED_BYTES = 2**20

MODEL_HELP = "toy (the one that the package ships), a folder, or a name on the Hugging Face hub"


@dataclass(frozen=True)
class ModelSource:
    """What `from_pretrained` takes, and a folder that holds at least the model's JSON files."""

    pretrained: str
    config_folder: Path

    @property
    def edition(self) -> str:
        """What tells one state of the weights from another: a hub's revision, or a hash of a folder's files.

        Of large files only the size and a MiB at either end are hashed; retrained weights differ there, too.
        """
        if not Path(self.pretrained).is_dir():
            return self.config_folder.name
        digest = hashlib.sha256()
        for path in sorted(self.config_folder.rglob("*")):
            if path.suffix not in (".json", ".safetensors"):
                continue
            size = path.stat().st_size
            digest.update(f"{path.relative_to(self.config_folder)} {size}".encode())
            with path.open("rb") as file:
                digest.update(file.read(_HASHED_BYTES))
                file.seek(max(0, size - _HASHED_BYTES))
                digest.update(file.read(_HASHED_BYTES))
        return digest.hexdigest()[:12]


def find_model(name: str) -> ModelSource:
    """Return where the model `name` lies; of one on the hub only the JSON files are fetched.

    Raises ValueError when there is no such model.
    """
    if name == TOY:
        if not (TOY_FOLDER / "model_index.json").is_file():
            raise ValueError("this installation holds no toy weights; train them as docs/toy.md tells, "
                             "and name their folder with --model")
        return ModelSource(str(TOY_FOLDER), TOY_FOLDER)
    if name and Path(name).is_dir():
        return ModelSource(name, Path(name))
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        raise ValueError(f'model "{name}" is neither {TOY} nor a folder nor a name on the hub (owner/name); correct it')
    return ModelSource(name, _fetch_configs(name))


def _fetch_configs(name: str) -> Path:
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns="*.json"))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f'model "{name}" is no folder, and cannot be had from the hub: {reason}') from error


def pick_device(wanted: Device) -> str:
    """Return cpu or cuda; ValueError when cuda is wanted and not there."""
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda is not there; use cpu or auto")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def pick_dtype(wanted: Dtype, device: str) -> str:
    """Return the name of the dtype; auto is bfloat16 on cuda and float32 on a CPU."""
    return ("bfloat16" if device == "cuda" else "float32") if wanted == "auto" else wanted


def load_pipeline(source: ModelSource, device: str, dtype: str) -> "AlchemintPipeline":
    """Load a model's pipeline on `device`, without progress bars."""
    import torch

    from alchemint.cli.progress import without_loading_bars
    from alchemint.pipeline import AlchemintPipeline

    without_loading_bars()
    # Wan's VAE is run in float32: half precision shows in flat areas, and decoding is a small part of the work.
    pipeline = AlchemintPipeline.from_pretrained(
        source.pretrained, dtype={"default": getattr(torch, dtype), "vae": torch.float32})
    pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
