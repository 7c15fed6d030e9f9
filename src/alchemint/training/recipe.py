"""Recipes: everything that decides what a training run does, as one YAML file. Unknown keys are errors.

Any value can be overridden on the command line by its dotted path: `optimizer.lr=1e-4`.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from alchemint.data.augmentation import AugmentationOptions
from alchemint.data.clip_plans import SampleOptions
from alchemint.recipe_file import fault_lines, read_values


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class World(_Section):
    """The toyworld that clips are streamed from."""

    split: str = "train"
    width: int = 64
    height: int = 64
    num_frames: int = 33
    fps: float = 8.0
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
    """How long, how often, on what. What is divided among processes is told in `ranks`."""

    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0, description="samples a step, over all processes")
    accumulate: int = Field(1, ge=1, description="backward passes a step, each on its part of the batch")
    num_shards: int | Literal["all"] = Field(1, description="processes over which the weights are sharded (FSDP); 1: "
                                             "every process holds them whole")
    context_parallel: int = Field(1, ge=1, description="processes that share the tokens of each sample (Ulysses)")
    checkpoint_activations: bool = Field(False, description="compute each block's activations again in the backward "
                                         "pass, which saves memory")
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
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    max_loss_ratio: float = Field(10.0, gt=1, description="the run stops, with the batch saved, when a step's loss is "
                                  "this much above the mean of the steps before")

    @field_validator("num_shards")
    @classmethod
    def _at_least_one_shard(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("use 1 (whole weights everywhere), a divisor of the number of processes, or all")
        return value


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
    moved_share: float = Field(0.0, ge=0, le=1, description="share of the steps whose latents are turned, scaled and "
                               "shifted by fractions of a latent before they are decoded, to pictures moved alike")
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


class Data(_Section):
    """Clips on disk and the samples that are made of them; see `data.clip_plans.SampleOptions`."""

    clips: str = Field(description="folder of clip records (Parquet): a path, or a URL as s3://bucket/folder")
    cache: Path | None = Field(None, description="folder that `alchemint precompute` wrote; clips are encoded on the "
                               "way when absent")
    sizes: tuple[tuple[int, int], ...] = Field(description="width, height; a clip goes to the nearest in aspect ratio")
    num_frames: tuple[int, ...] = Field(description="4k+1; a clip goes to the longest that fits its duration")
    fps: float = Field(gt=0)
    max_subjects: int = Field(SampleOptions.max_subjects, ge=0)
    min_area: float = SampleOptions.min_area
    event_share: float = Field(SampleOptions.event_share, ge=0, le=1)
    augmentation: AugmentationOptions = AugmentationOptions()

    def sample_options(self, canvas_share: float, with_masks: bool, latent_stride: int) -> SampleOptions:
        """Return the options of samples, with what the rest of the recipe and the VAE decide; ValueError for faults."""
        return SampleOptions(self.sizes, self.num_frames, self.fps, self.max_subjects, self.min_area, canvas_share,
                             self.event_share, with_masks, latent_stride, self.augmentation)


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


class Guide(_Section):
    """Attention that is shown where in a reference to look (`model.attention_guide`), with clips of the toyworld, which
    know it: which blocks, and how much it weighs against the flow-matching loss."""

    blocks: tuple[int, ...] = Field((2, 4), min_length=1)
    weight: float = Field(0.1, gt=0)
    pairs_per_latent: int = Field(24, ge=1, description="tokens of a sample that are guided, for each latent frame")


class Lora(_Section):
    """Low-rank adapters (peft) on the attention and feed-forward layers of the base; new modules are trained whole."""

    rank: int = Field(32, ge=1)
    alpha: float | None = Field(None, gt=0, description="the adapters' scale is alpha / rank; alpha = rank when absent")
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")


class TransformerRecipe(_Section):
    """Train an AlcheMinT transformer by flow matching on a frozen VAE's latents.

    It starts from a plain Wan (`base`), whose VAE and text encoder stay as they are; from an exported model
    (`init_from`); or from random weights, with a tiny text encoder that is trained jointly. Clips are streamed from the
    toyworld (`world`) or read from records (`data`).
    """

    kind: Literal["transformer"]
    output: Path
    seed: int = 0
    base: str | None = Field(None, description="folder or hub id of a Wan pipeline in diffusers' layout")
    expert: Literal["high", "low"] | None = Field(None, description="which expert of a Wan 2.2 A14B is trained: that "
                                                  "of high or that of low noise, on timesteps of its own side")
    world: World = World()
    data: Data | None = None
    vae: Path | None = Field(None, description="folder of the VAE; when absent, that of base or init_from")
    model: dict[str, Any] = Field({}, description="arguments of AlchemintTransformer3DModel; with a base, those that "
                                  "plain Wan does not have")
    lora: Lora | None = Field(None, description="train adapters and new modules; the whole model when absent")
    text_encoder: TextEncoder | None = Field(None, description="trained along; when absent, that of base or init_from "
                                             "stays as it is")
    clips: EncodedClips = EncodedClips()
    dropout: Dropout = Dropout()
    init_from: Path | None = Field(None, description="exported pipeline whose transformer, text encoder and tokenizer "
                                                     "to start from, in place of random weights")
    validation: tuple[Path, ...] = Field((), description="storyboards that sheets show; without them, and with clips "
                                         "of the toyworld, held-out clips")
    subject_weight: float = Field(1.0, description="extra loss weight of latents that show a subject")
    attention_backend: str | None = Field(None, description="one of diffusers' attention backends; theirs when absent")
    canvas_share: float = Field(0.8, gt=0, le=1, description="how much of its canvas a cut-out reference fills; best "
                                                             "about the size that subjects have in videos")
    guide: Guide | None = Field(None, description="supervise attention to references, for models from scratch")
    guidance: dict[str, Any] = Field({}, description="what the exported model is sampled with unless told otherwise, "
                                                     "as in text_scale: 2.0; no part of training")
    flow_shift: float = Field(1.0, gt=0, description="shift of the training timesteps; 1: uniform")
    optimizer: Optimizer
    run: Run

    @model_validator(mode="after")
    def _one_start(self) -> "TransformerRecipe":
        if self.base is not None and self.init_from is not None:
            raise ValueError("base and init_from are two starts; give one of them")
        if self.base is None and self.init_from is None and self.vae is None:
            raise ValueError("vae is missing: the folder of the VAE whose latents are learned (base and init_from "
                             "bring their own)")
        if self.base is None and self.init_from is None and self.lora is not None:
            raise ValueError("lora trains adapters on a base or on init_from, and neither is given")
        if self.base is None and self.init_from is None and self.text_encoder is None:
            raise ValueError("text_encoder is missing: a model from random weights trains one along")
        if self.base is not None and self.text_encoder is not None:
            raise ValueError("text_encoder: a base's text encoder stays as it is; leave the section out")
        if self.expert is not None and self.base is None:
            raise ValueError("expert chooses one of a base's two transformers, and no base is given")
        return self

    @model_validator(mode="after")
    def _guided_where_places_are_known(self) -> "TransformerRecipe":
        if self.guide is None:
            return self
        if self.data is not None:
            raise ValueError("guide needs to know which spot of a reference each token shows; clips of the toyworld "
                             "tell it, those of data do not. Leave one of the two out")
        if self.run.context_parallel > 1:
            raise ValueError("guide works where a process holds all tokens of a sample: set run.context_parallel to 1")
        if self.clips.own_frame_share == 1:
            raise ValueError("guide has nothing to show with clips.own_frame_share 1: which spot of a cut-out a token "
                             "shows is not known. Set it below 1, or leave guide out")
        return self


Recipe = VaeRecipe | TransformerRecipe
_ADAPTER: TypeAdapter[Recipe] = TypeAdapter(Annotated[Recipe, Field(discriminator="kind")])


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply `dotted.path=value` overrides.

    Raises ValueError with one line for each fault.
    """
    values = read_values(path, overrides)
    try:
        return _ADAPTER.validate_python(values)
    except ValidationError as error:
        raise ValueError(fault_lines(path, error, num_skipped=1)) from error


def fingerprint(recipe: Recipe) -> str:
    """Return a hash of all that decides the weights: the recipe without its paths, lengths and machine settings.

    What it does not use does not count: sections that are not there, and the toyworld where it has clips on disk.
    """
    machine = set(Run.model_fields) - {"batch_size", "ema_decay", "precision"}
    paths = {"output": True, "vae": True, "init_from": True, "base": True, "validation": True}
    unused = {"world": True} if isinstance(recipe, TransformerRecipe) and recipe.data is not None else {}
    values = recipe.model_dump(mode="json", exclude_none=True, exclude={
        **paths, **unused, "attention_backend": True, "guidance": True, "run": machine, "data": {"clips", "cache"}})
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
