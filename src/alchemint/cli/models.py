"""Which model a command is to use: the one that the package ships, a folder, or a name on the Hugging Face hub."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import alchemint
from alchemint.wan import hub, layout

if TYPE_CHECKING:
    from alchemint.memory import MemoryOptions
    from alchemint.pipeline import AlchemintPipeline

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DeviceOption = Annotated[Device, typer.Option(help="auto is cuda where there is one.")]

TOY = "toy"
TOY_FOLDER = Path(alchemint.__file__).parent / "assets" / "toy"

_HASHED_BYTES = 2**20

MODEL_HELP = "toy (the one that the package ships), a folder, or a name on the Hugging Face hub"
BASE_HELP = ("Where --model is a transformer alone, a file or a folder: the Wan that supplies VAE, text encoder and "
             "tokenizer.")


@dataclass(frozen=True)
class ModelSource:
    """What `from_pretrained` or `from_wan` takes, and what holds at least the model's JSON files.

    config_folder: a folder, or the file of a transformer alone. base, base_folder: the same of the Wan that supplies
    the rest.
    """

    pretrained: str
    config_folder: Path
    base: str | None = None
    base_folder: Path | None = None

    @property
    def is_wan(self) -> bool:
        """Whether it is yet to be made a pipeline of ours: a plain Wan, or a transformer alone."""
        return self.base is not None or layout.is_wan(self.config_folder)

    @property
    def edition(self) -> str:
        """What tells one state of the weights from another: a hub's revision, or a hash of a folder's files.

        Of large files only the size and a MiB at either end are hashed; retrained weights differ there, too.
        """
        own = _edition(self.pretrained, self.config_folder)
        if self.base is None or self.base_folder is None:
            return own
        return f"{own} on {_edition(self.base, self.base_folder)}"


def find_model(name: str, base: str | None = None) -> ModelSource:
    """Return where the model `name`, and what it takes from `base`, lie; of the hub only JSON files are fetched.

    Raises ValueError when there is no such model.
    """
    if base is not None:
        return ModelSource(name, hub.find_here(name), base, _find(base))
    if name == TOY:
        if not (TOY_FOLDER / "model_index.json").is_file():
            raise ValueError("this installation holds no toy weights; train them as docs/toy.md tells, "
                             "and name their folder with --model")
        return ModelSource(str(TOY_FOLDER), TOY_FOLDER)
    return ModelSource(name, _find(name))


def _find(name: str) -> Path:
    if name and Path(name).exists():
        return Path(name)
    if not hub.is_name(name):
        raise ValueError(f'model "{name}" is neither {TOY} nor a folder nor a name on the hub (owner/name); correct it')
    return hub.fetch_configs(name)


def _edition(name: str, folder: Path) -> str:
    if not Path(name).exists():
        return folder.name
    digest = hashlib.sha256()
    for path in [folder] if folder.is_file() else sorted(folder.rglob("*")):
        if path.suffix not in (".json", ".safetensors", ".pth", ".pt", ".bin", ".gguf"):
            continue
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(_HASHED_BYTES))
            file.seek(max(0, size - _HASHED_BYTES))
            digest.update(file.read(_HASHED_BYTES))
    return digest.hexdigest()[:12]


def pick_device(wanted: Device) -> str:
    """Return cpu or cuda; ValueError when cuda is wanted and not there."""
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda is not there; use cpu or auto")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def pick_dtype(wanted: Dtype, device: str) -> str:
    """Return the name of the dtype; auto is bfloat16 on cuda and float32 on a CPU."""
    return ("bfloat16" if device == "cuda" else "float32") if wanted == "auto" else wanted


def load_pipeline(source: ModelSource, device: str, dtype: str,
                  memory: "MemoryOptions | None" = None) -> "AlchemintPipeline":
    """Load a model's pipeline on `device`, without progress bars.

    memory: how its weights are quantised; one that offloads is left in the host's memory for `alchemint.memory.fit`.

    Raises ValueError for files that are missing, broken or of another kind of model.
    """
    import torch

    from alchemint.cli.progress import without_loading_bars
    from alchemint.memory import MemoryOptions, loading_arguments
    from alchemint.pipeline import AlchemintPipeline

    without_loading_bars()
    memory = memory or MemoryOptions()
    if source.is_wan:
        pipeline = AlchemintPipeline.from_wan(source.pretrained, source.base, getattr(torch, dtype))
    else:
        if Path(source.pretrained).is_dir():
            _check_weights(source.config_folder)
        # Wan's VAE is run in float32: half precision shows in flat areas, and decoding is a small part of the work.
        pipeline = AlchemintPipeline.from_pretrained(
            source.pretrained, dtype={"default": getattr(torch, dtype), "vae": torch.float32},
            **loading_arguments(memory, source.config_folder, getattr(torch, dtype)))
    if memory.memory == "high":
        pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _check_weights(folder: Path) -> None:
    """Raise ValueError for files of a pipeline folder that diffusers would tell of in many lines."""
    from alchemint.wan.tensors import open_tensors

    for name in ("transformer", "transformer_2", "vae", "text_encoder"):
        if list((folder / name).glob("*.safetensors*")):
            open_tensors(folder / name)
