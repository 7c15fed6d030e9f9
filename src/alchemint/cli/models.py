"""Which model a command is to use: the one that the package ships, a folder, or a name on the Hugging Face hub."""

import re
from dataclasses import dataclass
from pathlib import Path

import alchemint

TOY = "toy"
TOY_FOLDER = Path(alchemint.__file__).parent / "assets" / "toy"

MODEL_HELP = "toy (the one that the package ships), a folder, or a name on the Hugging Face hub"


@dataclass(frozen=True)
class ModelSource:
    """What `from_pretrained` takes, and a folder that holds at least the model's JSON files."""

    pretrained: str
    config_folder: Path


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
