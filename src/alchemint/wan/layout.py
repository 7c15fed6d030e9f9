"""Where the parts of a Wan lie, and how it is sampled: told by names and JSON files alone, without torch or weights.

A Wan comes in two layouts. In diffusers' a model_index.json names a folder for each part. As it was released, a folder
holds config.json in Wan's own terms beside diffusion_pytorch_model*.safetensors, Wan2.1_VAE.pth or Wan2.2_VAE.pth,
models_t5_umt5-xxl-enc-bf16.pth and google/umt5-xxl; Wan 2.2 A14B has folders for high and low noise. A transformer
alone, a file or a folder, takes the rest from another Wan, its base.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

Config = dict[str, Any]

ALCHEMINT_TRANSFORMER = "AlchemintTransformer3DModel"
WAN_PIPELINE = "WanPipeline"
NEEDED = "a text-to-video Wan is needed, such as Wan-AI/Wan2.1-T2V-1.3B"

SHIFT = 5.66
"""The paper's shift of the sampling times, where a Wan names none."""
EXPERTS_SHIFT = 12.0
"""What Wan's own code samples its two experts with: the boundary between them is laid out for it."""
BOUNDARY_RATIO = 0.875
"""Where the experts of Wan 2.2 T2V-A14B meet; the files as released do not say it."""

NEW_OPTIONS: Config = {
    "interval_encoding": "werope", "werope_inside": 1.67, "werope_outside": -0.33, "num_word_tokens": 8,
    "num_subject_indices": 16, "condition_timestep": "clean", "event_encoding": "rerope", "rope_theta": 10000.0,
    "reference_attention": "full",
}
"""What the config of an AlchemintTransformer3DModel has beyond Wan's, with its defaults."""

PHANTOM_OPTIONS: Config = {"interval_encoding": "untimed", "condition_timestep": "shared", "num_word_tokens": 0,
                           "event_encoding": None}
PHANTOM_GUIDANCE: Config = {"image_scale": 5.0, "text_scale": 7.5}
"""Phantom's references are latent frames after the video's, which share its timestep, and nothing else."""

EXPERTS = ("high_noise_model", "low_noise_model")
TOKENIZER = "google/umt5-xxl"

_WAN_KINDS = {"i2v": "an image-to-video Wan", "flf2v": "a first-and-last-frame Wan", "vace": "a Wan VACE",
              "s2v": "a speech-to-video Wan", "animate": "a Wan Animate"}


@dataclass(frozen=True)
class Part:
    """The weights of a transformer: a file or a folder, and its config in diffusers' terms where one lies beside it."""

    path: Path
    config: Config | None

    @property
    def is_trained(self) -> bool:
        """Whether it has AlcheMinT's new modules."""
        return self.config is not None and self.config.get("_class_name") == ALCHEMINT_TRANSFORMER


@dataclass(frozen=True)
class Layout:
    """The parts of a Wan and its settings.

    transformers: from the highest timesteps down. released: whether VAE and text encoder are files as released, named
    by `vae` and `text_encoder`, which may lack their ending. vae_stride: pixels to a latent, 8, or 16 in Wan 2.2 5B.
    shift: None where the Wan names none. options: arguments of the AlchemintTransformer3DModel to be built around it.
    guidance: values of `Guidance` that suit it.
    """

    transformers: tuple[Part, ...]
    vae: Path
    text_encoder: Path
    tokenizer: Path
    released: bool
    vae_stride: int
    expand_timesteps: bool = False
    boundary_ratio: float | None = None
    shift: float | None = None
    options: Config = field(default_factory=dict)
    guidance: Config = field(default_factory=dict)

    @property
    def is_phantom(self) -> bool:
        """Whether references have been trained in it, without times."""
        return self.options == PHANTOM_OPTIONS

    @property
    def sampling_shift(self) -> float:
        """The shift of the sampling times: the Wan's own where it names one."""
        return self.shift or (SHIFT if self.boundary_ratio is None else EXPERTS_SHIFT)

    @property
    def pipeline_config(self) -> Config:
        """What an AlchemintPipeline is to make when a storyboard does not say, by the names of its arguments."""
        if self.vae_stride == 16:
            return {"width": 1280, "height": 704, "num_frames": 121, "fps": 24.0}
        return {"width": 832, "height": 480, "num_frames": 81, "fps": 16.0}

    @property
    def transformer_config(self) -> Config:
        """The config of the AlchemintTransformer3DModel that is built of it."""
        return {**NEW_OPTIONS, **self.options, **(_plain(self.transformers[0].config) or {})}


def find(source: Path, base: Path | None = None) -> Layout:
    """Return the parts of the Wan in `source`, or of the transformer in `source` and the rest of `base`.

    Raises ValueError where there is none, or another kind of model.
    """
    if base is None:
        return _find_whole(source)
    rest = _find_whole(base)
    transformers = _find_transformers(source)
    if len(transformers) != len(rest.transformers):
        counts = ("one transformer", "two transformers")
        raise ValueError(f"{source} holds {counts[len(transformers) - 1]}, but the base {base} has "
                         f"{counts[len(rest.transformers) - 1]}; both must be of one geometry")
    found = tuple(Part(part.path, part.config or _plain(like.config))
                  for part, like in zip(transformers, rest.transformers, strict=True))
    is_phantom = "phantom" in source.name.lower() and not any(part.is_trained for part in found)
    return replace(rest, transformers=found, options=PHANTOM_OPTIONS if is_phantom else {},
                   guidance=PHANTOM_GUIDANCE if is_phantom else {})


def is_wan(folder: Path) -> bool:
    """Whether a folder is anything but a pipeline in diffusers' layout of another class than Wan's."""
    return _index_of(folder).get("_class_name", WAN_PIPELINE) == WAN_PIPELINE


def _find_whole(folder: Path) -> Layout:
    if folder.is_file():
        raise ValueError(f"{folder} is a file, a transformer alone at best; say with --base (base=) which Wan is to "
                         "supply VAE, text encoder and tokenizer")
    if (folder / "model_index.json").is_file():
        return _find_diffusers(folder)
    transformers = _find_transformers(folder)
    configs = [part.config for part in transformers]
    if any(part.is_trained for part in transformers):
        raise ValueError(f"{folder} holds a transformer that was trained, without its base: name the base with --base "
                         "(base=), or write a whole model with `alchemint export RUN --out FOLDER`")
    if configs[0] is None:
        raise ValueError(f"{folder} is no model folder: it has neither model_index.json nor config.json; a transformer "
                         "alone needs --base (base=)")
    is_5b = configs[0]["in_channels"] == 48
    return Layout(transformers, folder / ("Wan2.2_VAE" if is_5b else "Wan2.1_VAE"),
                  folder / "models_t5_umt5-xxl-enc-bf16", folder / TOKENIZER, True, 16 if is_5b else 8, is_5b,
                  BOUNDARY_RATIO if len(transformers) == 2 else None)


def _find_diffusers(folder: Path) -> Layout:
    index = _index_of(folder)
    if index.get("_class_name") != WAN_PIPELINE:
        raise ValueError(f'{folder} holds a {index.get("_class_name", "pipeline of unknown kind")}, but {NEEDED}')
    boundary = index.get("boundary_ratio")
    names = ["transformer"] if boundary is None else ["transformer", "transformer_2"]
    transformers = tuple(Part(folder / name, _diffusers_config(folder / name)) for name in names)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    settings = _read_json(scheduler) if scheduler.is_file() else {}
    return Layout(transformers, folder / "vae", folder / "text_encoder", folder / "tokenizer", False,
                  _read_json(folder / "vae" / "config.json").get("scale_factor_spatial", 8),
                  bool(index.get("expand_timesteps", False)), boundary,
                  settings.get("flow_shift", settings.get("shift")))


def _find_transformers(source: Path) -> tuple[Part, ...]:
    """Return the transformers of a file or folder, as released or in diffusers' layout."""
    if source.is_file():
        return (Part(source, None),)
    if (source / "model_index.json").is_file():
        return _find_diffusers(source).transformers
    if any((source / name).exists() for name in ("lora", "new_modules.safetensors", "recipe.yaml")):
        raise ValueError(f"{source} is what a training run wrote beside its base; put a whole model together with "
                         "`alchemint export RUN --out FOLDER`, RUN being the run's output folder, and name that")
    if (source / "transformer" / "config.json").is_file():
        return (Part(source / "transformer", _diffusers_config(source / "transformer")),)
    if (source / EXPERTS[0]).is_dir() and (source / EXPERTS[1]).is_dir():
        return tuple(part for name in EXPERTS for part in _find_transformers(source / name))
    if not (source / "config.json").is_file():
        return (Part(source, None),)
    config = _read_json(source / "config.json")
    return (Part(source, _converted(config, source) if "dim" in config else _diffusers_config(source)),)


def _diffusers_config(folder: Path) -> Config:
    """Return a transformer's config in diffusers' layout, after making sure that it is a text-to-video Wan's."""
    config = _read_json(folder / "config.json")
    if (name := config.get("_class_name")) not in ("WanTransformer3DModel", ALCHEMINT_TRANSFORMER):
        raise ValueError(f'{folder} holds a {name or config.get("model_type", "model of unknown kind")}, but {NEEDED}')
    check_channels(config, folder)
    return config


def _converted(config: Config, folder: Path) -> Config:
    """Return Wan's own config in diffusers' terms; what release files leave out is as in all of Wan's."""
    kind = config.get("model_type", "t2v")
    if kind not in ("t2v", "ti2v"):
        raise ValueError(f'{folder} holds {_WAN_KINDS.get(kind, f"a model of type {kind}")}, but {NEEDED}')
    try:
        converted = {
            "patch_size": config.get("patch_size", [1, 2, 2]), "num_attention_heads": config["num_heads"],
            "attention_head_dim": config["dim"] // config["num_heads"], "in_channels": config["in_dim"],
            "out_channels": config["out_dim"], "text_dim": config.get("text_dim", 4096),
            "freq_dim": config["freq_dim"], "ffn_dim": config["ffn_dim"], "num_layers": config["num_layers"],
            "eps": config.get("eps", 1e-6),
        }
    except KeyError as error:
        raise ValueError(f"{folder / 'config.json'} has no {error}; {NEEDED}") from error
    check_channels(converted, folder)
    return converted


def check_channels(config: Config, source: Path) -> None:
    """Raise ValueError for a transformer that takes more than noisy latents and text."""
    if config.get("image_dim") or config.get("added_kv_proj_dim") or config["in_channels"] != config["out_channels"]:
        raise ValueError(f"{source} holds an image-to-video Wan (it takes {config['in_channels']} channels and gives "
                         f"{config['out_channels']}), but {NEEDED}")


def _plain(config: Config | None) -> Config | None:
    """Return a config without its class, whose options another transformer need not share."""
    return config and {name: value for name, value in config.items() if not name.startswith("_")}


def _index_of(folder: Path) -> Config:
    path = folder / "model_index.json"
    return _read_json(path) if path.is_file() else {}


def _read_json(path: Path) -> Config:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{path.parent} is no model folder: {path.name} can't be read ({reason}); fetch it again"
                         ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{path.parent} is no model folder: {path.name} holds no settings; fetch it again")
    return found
