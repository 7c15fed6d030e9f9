"""Recipes: everything that decides what a training run does, as one YAML file. Unknown keys are errors.

Any value can be overridden on the command line by its dotted path: `optimizer.lr=1e-4`.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo, field_validator


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class World(_Section):
    """The toyworld that clips are streamed from."""

    split: str = "train"
    width: int = 64
    height: int = 64
    num_frames: int = 25
    fps: float = 6.0
    seed: int = 0


class Optimizer(_Section):
    """AdamW with linear warm-up, then constant, then linear decay to zero over the last `decay_share` of the steps."""

    lr: float = Field(gt=0)
    new_lr: float | None = Field(None, description="learning rate of the new modules; lr when absent")
    muon_lr: float | None = Field(None, description="learning rate of hidden matrices under Muon; AdamW when absent")
    warmup_steps: int = Field(1000, ge=0)
    decay_share: float = Field(0.0, ge=0, le=1)
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.99)
    max_grad_norm: float = Field(1.0, gt=0)


class Run(_Section):
    """How long, how often, on what."""

    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    max_minutes: float | None = Field(None, description="stop early, at a checkpoint, after this much training time")
    checkpoint_minutes: float = Field(5.0, gt=0)
    keep_checkpoints: int = Field(2, ge=1)
    log_every: int = Field(20, ge=1)
    sheet_every: int = Field(1000, ge=1)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 on a GPU, float32 on CPU. Some CPUs have bfloat16 units; try it there")
    compile: bool = False
    num_threads: int | None = Field(None, description="CPU threads of the training process; all when absent")
    num_workers: int = Field(1, ge=0, description="processes that make batches")


class VaeRecipe(_Section):
    """Train a video VAE on windows of clips."""

    kind: Literal["vae"]
    output: Path
    seed: int = 0
    world: World = World()
    model: dict[str, Any] = Field(description="arguments of AutoencoderKLWan")
    window_lengths: tuple[int, ...] = Field((5, 9), description="frames a window; run.batch_size counts frames")
    kl_weight: float = 1e-6
    edge_weight: float = 1.0
    square_weight: float = Field(0.0, description="weight of the squared error, which speeds up the beginning")
    subject_weight: float = Field(0.0, description="extra weight of pixels that show a subject")
    trained: Literal["all", "decoder"] = Field(
        "all", description="decoder: the encoder, and with it the latent space, stays as it is")
    init_from: Path | None = Field(None, validate_default=True,
                                   description="exported VAE to start from, in place of random weights")
    optimizer: Optimizer
    run: Run

    @field_validator("init_from")
    @classmethod
    def _decoder_needs_an_encoder(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is None and info.data.get("trained") == "decoder":
            raise ValueError("trained: decoder needs the exported VAE whose encoder stays as it is")
        return value


class TextEncoder(_Section):
    """The UMT5 encoder that is trained jointly with the transformer, and its tokenizer."""

    vocab_size: int = 1024
    d_model: int = 128
    num_layers: int = 2
    num_heads: int = 4
    d_ff: int = 256
    max_prompt_tokens: int = 48
    max_event_tokens: int = 12


class Dropout(_Section):
    """Shares of samples whose conditions are replaced by null conditions. Intervals are never touched."""

    image: float = 0.10
    text: float = 0.10
    both: float = 0.05


class EncodedClips(_Section):
    """The rolling pool of encoded clips (`data.encoded_clips`): a group of clips with equal numbers of subjects is
    rendered and encoded once and serves `uses` steps, with other noise, timesteps and dropout each time."""

    num_groups: int = Field(32, ge=1, description="groups in a pool")
    uses: int = Field(4, ge=1, description="steps that a group serves, in the mean")
    num_lanes: int = Field(1, ge=1, description="pools; one for each worker process")
    subject_shares: tuple[float, ...] = Field((0.04, 0.42, 0.42, 0.08, 0.04), description="share by subjects a clip")
    own_frame_share: float = Field(0.0, ge=0, le=1, description="share of the groups whose references are cut out of "
                                   "the clips' own frames: easier to copy, a first lesson for a model from scratch")
    stills_share: float = Field(0.0, ge=0, le=1, description="share of the steps that train on single latents of the "
                                "clips, as joint image and video training does: many cheap samples of what subjects "
                                "look like, none of when")
    stills_per_clip: int = Field(4, ge=1, description="latents drawn from a clip in such a step")
    event_share: float = Field(0.3, ge=0, le=1, description="share of the groups that keep their timed captions")


class TransformerRecipe(_Section):
    """Train an AlcheMinT transformer, and a tiny text encoder with it, by flow matching on a frozen VAE's latents."""

    kind: Literal["transformer"]
    output: Path
    seed: int = 0
    world: World = World()
    vae: Path
    model: dict[str, Any] = Field(description="arguments of AlchemintTransformer3DModel")
    text_encoder: TextEncoder = TextEncoder()
    clips: EncodedClips = EncodedClips()
    dropout: Dropout = Dropout()
    init_from: Path | None = Field(None, description="exported pipeline whose transformer, text encoder and tokenizer "
                                                     "to start from, in place of random weights")
    subject_weight: float = Field(1.0, description="extra loss weight of latents that show a subject")
    attention_backend: str | None = Field(None, description="one of diffusers' attention backends; theirs when absent")
    canvas_share: float = Field(0.8, gt=0, le=1, description="how much of its canvas a cut-out reference fills; best "
                                                             "about the size that subjects have in videos")
    guidance: dict[str, Any] = Field({}, description="what the exported model is sampled with unless told otherwise, "
                                                     "as in text_scale: 2.0; no part of training")
    flow_shift: float = Field(1.0, gt=0, description="shift of the training timesteps; 1: uniform")
    optimizer: Optimizer
    run: Run


Recipe = VaeRecipe | TransformerRecipe
_ADAPTER: TypeAdapter[Recipe] = TypeAdapter(Annotated[Recipe, Field(discriminator="kind")])


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply `dotted.path=value` overrides.

    Raises ValueError with one line for each fault.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such recipe file") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {error}".replace("\n", " ")) from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: a recipe is a mapping of keys to values")
    for override in overrides:
        _apply(values, override)
    try:
        return _ADAPTER.validate_python(values)
    except ValidationError as error:
        raise ValueError("\n".join(
            f"{path}: {'.'.join(str(part) for part in fault['loc'][1:]) or 'kind'}: {fault['msg']} "
            f"(given: {fault['input']!r:.80})" for fault in error.errors())) from error


def fingerprint(recipe: Recipe) -> str:
    """Return a hash of all that decides the weights: the recipe without its paths, lengths and machine settings."""
    machine = set(Run.model_fields) - {"batch_size", "ema_decay", "precision"}
    paths = {"output": True, "vae": True, "init_from": True}
    values = recipe.model_dump(mode="json", exclude={**paths, "attention_backend": True, "guidance": True,
                                                       "run": machine})
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _apply(values: dict[str, Any], override: str) -> None:
    path, separator, value = override.partition("=")
    if not separator:
        raise ValueError(f'override "{override}": write it as key.path=value')
    *parents, key = path.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ValueError(f'override "{override}": "{parent}" is not a section of the recipe')
    try:
        values[key] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f'override "{override}": "{value}" is not valid YAML; quote it') from error
