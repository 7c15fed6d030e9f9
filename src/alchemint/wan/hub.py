"""Models on the Hugging Face hub: their JSON files first, their weights when they are loaded, and nothing else."""

import re
from pathlib import Path
from typing import Any

_BESIDE_TRANSFORMERS = ("*.json", "tokenizer/*", "google/*", "vae/*.safetensors", "text_encoder/*.safetensors",
                        "Wan2.*_VAE.*", "models_t5_*")
_TRANSFORMERS = ("transformer/*.safetensors", "transformer_2/*.safetensors", "diffusion_pytorch_model*.safetensors",
                 "high_noise_model/*.safetensors", "low_noise_model/*.safetensors")


def is_name(name: str) -> bool:
    """Whether it has the form of a name on the hub, owner/name."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None


def find(name: str, is_base: bool = False) -> Path:
    """Return a file or folder as it is, or the folder to which a model on the hub was fetched; of a base all but the
    transformers."""
    if Path(name).exists():
        return Path(name)
    return fetch(name, _BESIDE_TRANSFORMERS if is_base else _BESIDE_TRANSFORMERS + _TRANSFORMERS)


def find_here(name: str) -> Path:
    """Return the file or folder of a transformer that a base completes.

    Raises ValueError when it is not here: on the hub such files have names of their own, by which they would have to be
    picked.
    """
    if not Path(name).exists():
        raise ValueError(f'"{name}" is no file or folder; a transformer that is to be used with a base has to be here: '
                         "download its file, and name that")
    return Path(name)


def fetch_configs(name: str) -> Path:
    """Return the folder to which the JSON files of a model on the hub were fetched."""
    return fetch(name, ("*.json",))


def fetch(name: str, patterns: tuple[str, ...]) -> Path:
    """Return the folder to which those files of a model on the hub were fetched; ValueError when there is none."""
    if not is_name(name):
        raise ValueError(f'model "{name}" is neither a folder or file nor a name on the hub (owner/name); correct it')
    return snapshot("model", name, allow_patterns=list(patterns))


def snapshot(what: str, name: str, **patterns: Any) -> Path:
    """Return the folder to which files of a repository on the hub were fetched.

    what: what it is to be, for the error. patterns: allow_patterns or ignore_patterns of
    `huggingface_hub.snapshot_download`. Raises ValueError when it can't be had.
    """
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(name, **patterns))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f'{what} "{name}" is no folder, and cannot be had from the hub: {reason}') from error
