"""Storyboard to video: a diffusers pipeline around the AlcheMinT transformer.

    pipe = AlchemintPipeline.from_pretrained(folder)
    video = pipe(load_storyboard("park.yaml")).frames[0]

Saving, loading, device moves, offloading and LoRA are diffusers' own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from os import PathLike
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.loaders import WanLoraLoaderMixin
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from diffusers.utils import BaseOutput, logging
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor
from PIL import Image
from torch import distributed
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import init_device_mesh
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from alchemint import media, timeline
from alchemint.denoising import Conditions, Evaluating, Expert, GuidedVelocity, steps
from alchemint.diffusion.flow import NUM_TRAIN_TIMESTEPS
from alchemint.diffusion.guidance import Branch, Guidance
from alchemint.model import text
from alchemint.model.conditions import Events, References, pad_events
from alchemint.model.context_parallel import ContextParallel
from alchemint.model.latents import as_pixels, decode_video, encode_images
from alchemint.model.transformer import AlchemintTransformer3DModel
from alchemint.model_folder import defaults_of
from alchemint.storyboard import Defaults, Storyboard

logger = logging.get_logger(__name__)

Tensor = torch.Tensor
Generators = torch.Generator | list[torch.Generator] | None
StepCallback = Callable[["AlchemintPipeline", int, Tensor, dict[str, Tensor]], dict[str, Tensor]]

_OUTPUT_TYPES = ("np", "pt", "pil", "latent")


@dataclass
class AlchemintPipelineOutput(BaseOutput):
    """The videos, in the order of the storyboards.

    np: (batch, frames, height, width, 3) float 0..1; pt: (batch, frames, 3, height, width) likewise; pil: a list of
    frames for each video; latent: (batch, C, T, H, W), normalised as the transformer has them.
    """

    frames: np.ndarray | Tensor | list[list[Image.Image]]


class AlchemintPipeline(DiffusionPipeline, WanLoraLoaderMixin):
    """Makes videos from storyboards.

    width, height, num_frames and fps are what the model makes when a storyboard does not say; max_prompt_tokens and
    max_event_tokens are the lengths to which texts are cut and padded, canvas_share how much of its canvas a cut-out
    reference fills, as in training; guidance holds the values of `Guidance` that suit the model better than its own.

    Wan 2.2 A14B has a second transformer for the timesteps below boundary_ratio, guided by guidance_2. Wan 2.2 5B takes
    a timestep for each token: expand_timesteps.
    """

    model_cpu_offload_seq = "text_encoder->transformer->transformer_2->vae"
    _optional_components = ["transformer_2"]  # noqa: RUF012 - diffusers reads it from the class
    _callback_tensor_inputs = ["latents", "denoised"]  # noqa: RUF012 - diffusers reads it from the class

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text_encoder: UMT5EncoderModel,
        vae: AutoencoderKLWan,
        transformer: AlchemintTransformer3DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        transformer_2: AlchemintTransformer3DModel | None = None,
        width: int = 832,
        height: int = 480,
        num_frames: int = 81,
        fps: float = 16.0,
        max_prompt_tokens: int = 512,
        max_event_tokens: int = 128,
        canvas_share: float = media.CANVAS_SHARE,
        guidance: dict[str, Any] | None = None,
        guidance_2: dict[str, Any] | None = None,
        boundary_ratio: float | None = None,
        expand_timesteps: bool = False,
    ) -> None:
        super().__init__()
        if (transformer_2 is None) != (boundary_ratio is None):
            raise ValueError("transformer_2 and boundary_ratio belong together: give both (Wan 2.2 A14B) or neither")
        self.register_modules(tokenizer=tokenizer, text_encoder=text_encoder, vae=vae, transformer=transformer,
                              scheduler=scheduler, transformer_2=transformer_2)
        self.register_to_config(width=width, height=height, num_frames=num_frames, fps=fps,
                                max_prompt_tokens=max_prompt_tokens, max_event_tokens=max_event_tokens,
                                canvas_share=canvas_share, guidance=guidance or {}, guidance_2=guidance_2 or {},
                                boundary_ratio=boundary_ratio, expand_timesteps=expand_timesteps)
        self._interrupt = False
        self._num_timesteps = 0
        self._guidance = Guidance(**self.config.guidance)
        self._is_parallel = False
        self._branch_group: ProcessGroup | None = None

    @classmethod
    def from_wan(cls, source: str | PathLike[str], base: str | PathLike[str] | None = None,
                 dtype: torch.dtype = torch.float32, shift: float | None = None,
                 **transformer_options: Any) -> "AlchemintPipeline":
        """Build a pipeline of a plain Wan, text-to-video, 2.1 or 2.2; its new modules are untrained, of which it warns.

        source: a folder or a name on the hub, in diffusers' layout or as released; or a transformer alone, a file or a
        folder, Wan's, Phantom's or a trained one of ours, with `base`, the Wan that supplies the rest. dtype: of
        transformer and text encoder; the VAE is float32. shift: of the sampling times, the Wan's own when None. The
        other options are an AlchemintTransformer3DModel's.

        Raises ValueError for what is missing, broken or of another kind.
        """
        from alchemint.wan.loading import load_parts

        return cls(**load_parts(source, base, dtype, shift, transformer_options))

    @property
    def defaults(self) -> Defaults:
        """What the model makes when a storyboard does not say, and what sizes it takes."""
        return defaults_of(self.config, self.vae.config, self.transformer.config)

    @property
    def guidance(self) -> Guidance:
        """The guidance of the call in progress, or of the last one."""
        return self._guidance

    @property
    def num_timesteps(self) -> int:
        """The number of denoising steps of the call in progress, or of the last one."""
        return self._num_timesteps

    @property
    def transformers(self) -> list[AlchemintTransformer3DModel]:
        """The transformers, from the highest timesteps down: one, or two experts."""
        return [self.transformer] if self.transformer_2 is None else [self.transformer, self.transformer_2]

    @property
    def interrupt(self) -> bool:
        """Whether the call in progress is to skip its remaining steps; a callback may set `_interrupt`."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        storyboard: Storyboard | Sequence[Storyboard],
        num_inference_steps: int = 40,
        guidance: Guidance | None = None,
        guidance_2: Guidance | None = None,
        batch_branches: bool = True,
        generator: Generators = None,
        latents: Tensor | None = None,
        known_latents: Tensor | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        attention_kwargs: dict[str, Any] | None = None,
        reference_gate: float | None = None,
    ) -> AlchemintPipelineOutput | tuple[Any]:
        """Make a video of each storyboard.

        Storyboards of a list must agree in size and number of frames. Those with equal numbers of references run as
        one batch; each video is the same as if it were made alone.

        num_inference_steps: Euler steps. guidance: the model's own when None; guidance_2 of its second transformer, if
        it has one, and like guidance when None. batch_branches: run guidance's evaluations as one batch, or one after
        the other with less memory. generator: one, or one for each storyboard; without it each storyboard's seed
        decides. latents: the noise to start from, (batch, C, T, H, W). known_latents: clean, normalised latents (batch,
        C, K, H, W) that the videos begin with, such as the end of another video, encoded anew. output_type: np, pt, pil
        or latent. callback_on_step_end(pipe, step, timestep, tensors) may return changed `latents`; its tensors are
        `latents` and, where callback_on_step_end_tensor_inputs names it, `denoised`: the clean latents that the step
        foretells, (batch, C, T, H, W). attention_kwargs: passed on to the transformer ("scale" weighs its LoRA).
        reference_gate (experimental): how much attention's logits for references sink outside their intervals, for a
        transformer that was trained with untimed references; None and 0 are no gate.

        Raises StoryboardError for what the model cannot make, and ValueError for other faults of the arguments.
        """
        boards = [storyboard] if isinstance(storyboard, Storyboard) else list(storyboard)
        boards = [board.resolve(self.defaults) for board in boards]
        self._check(boards, num_inference_steps, output_type, callback_on_step_end_tensor_inputs)
        self._guidance = guidance or Guidance(**self.config.guidance)
        experts = self._experts(guidance_2 or guidance or Guidance(**self.config.guidance | self.config.guidance_2))
        evaluating = Evaluating(batch_branches, self._branch_group, self.config.expand_timesteps, attention_kwargs,
                                reference_gate)
        self._interrupt = False
        batches = _batches_of_equal_shape(boards)
        self._num_timesteps = num_inference_steps * len(batches)
        noise = self._noise(boards, generator, latents)
        if self._is_parallel:
            distributed.broadcast(noise, src=0)
        known = self._known(known_latents, noise)
        if self._is_parallel and known is not None:
            distributed.broadcast(known, src=0)
        denoised = noise.clone()
        # All at once, so that what offloads has to bring the text encoder and the transformers to the device only once.
        encoded = [self._encode([boards[row] for row in rows]) for rows in batches]

        with self.progress_bar(total=self._num_timesteps) as progress:
            for number, (rows, conditions) in enumerate(zip(batches, encoded, strict=True)):
                if self.interrupt:
                    break
                beginning = None if known is None else known[rows]
                # Nothing else holds the velocity, whose encoded references may be large: decoding needs the memory.
                for step in steps(self.scheduler, GuidedVelocity(experts, conditions, evaluating), noise[rows],
                                  num_inference_steps, beginning):
                    if callback_on_step_end is not None:
                        tensors = {"latents": step.sample}
                        if "denoised" in callback_on_step_end_tensor_inputs:
                            tensors["denoised"] = step.denoised
                        changed = callback_on_step_end(self, number * num_inference_steps + step.number, step.timestep,
                                                       tensors)
                        step.sample = (changed or {}).get("latents", step.sample)
                    denoised[rows] = step.sample
                    progress.update()
                    if self._interrupt_all():
                        break

        frames: Any = denoised
        if output_type != "latent":
            video = self._decode(denoised)
            frames = self._video_processor.postprocess_video(video.float(), output_type=output_type)
        self.maybe_free_model_hooks()
        return AlchemintPipelineOutput(frames=frames) if return_dict else (frames,)

    def parallelise(self, context: int = 1, branches: int = 1) -> None:
        """Make each video together with the other processes of torch.distributed, all of which make the same calls.

        context: processes that share the tokens of one evaluation. branches: such groups that divide guidance's
        evaluations among themselves. Noise and known latents are the first process's. All have the latents in the
        end, but only the first decodes them: the frames of the others are grey. What callbacks change, they have to
        change in all alike; one that sets `_interrupt` in any process ends the call in all.

        Raises ValueError when there are not context x branches processes, or the heads can't be shared.
        """
        count = distributed.get_world_size() if distributed.is_initialized() else 1
        if count != context * branches:
            raise ValueError(f"{branches} x {context} processes (branches x context) are needed, but there "
                             f"{'is' if count == 1 else 'are'} {count}; start as many with torchrun --nproc-per-node")
        self._is_parallel = count > 1
        self._branch_group = None
        if not self._is_parallel:
            return
        mesh = init_device_mesh(self._execution_device.type, (branches, context),
                                mesh_dim_names=("branches", "context"))
        if branches > 1:
            self._branch_group = mesh.get_group("branches")
        if context > 1:
            for transformer in self.transformers:
                transformer.parallelise(ContextParallel(mesh.get_group("context")))

    # The steps of a call, in order.

    def _interrupt_all(self) -> bool:
        """Return whether the call is to end, which one process decides for all."""
        if self._is_parallel:
            wish = torch.tensor(float(self._interrupt), device=self._execution_device)
            distributed.all_reduce(wish)
            self._interrupt = bool(wish)
        return self._interrupt

    def _experts(self, guidance_2: Guidance) -> list[Expert]:
        """Return the transformers with their guidance, from the highest timesteps down."""
        if self.transformer_2 is None:
            return [Expert(self.transformer, self._guidance, 0.0)]
        return [Expert(self.transformer, self._guidance, self.config.boundary_ratio * NUM_TRAIN_TIMESTEPS),
                Expert(self.transformer_2, guidance_2, 0.0)]

    def _check(self, boards: list[Storyboard], num_inference_steps: int, output_type: str,
               tensor_inputs: Sequence[str]) -> None:
        if not boards:
            raise ValueError("there is no storyboard in the list; give at least one")
        if len({(board.width, board.height, board.num_frames) for board in boards}) > 1:
            sizes = ", ".join(f"{board.width} x {board.height} x {board.num_frames} frames" for board in boards)
            raise ValueError(f"storyboards of one call must agree in size and number of frames, but are {sizes}; "
                             "make a call for each")
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps is {num_inference_steps}; use at least 1")
        if output_type not in _OUTPUT_TYPES:
            raise ValueError(f'output_type "{output_type}" is unknown; use one of {", ".join(_OUTPUT_TYPES)}')
        if unknown := set(tensor_inputs) - set(self._callback_tensor_inputs):
            raise ValueError(f"callback_on_step_end_tensor_inputs has {sorted(unknown)}; "
                             f"allowed are {self._callback_tensor_inputs}")

    def _noise(self, boards: list[Storyboard], generator: Generators, latents: Tensor | None) -> Tensor:
        """Return the starting noise, (batch, C, T, H, W) float32, the same for a storyboard alone and in a batch."""
        board = boards[0]
        assert board.num_frames and board.width and board.height
        ratio = self.vae.config.scale_factor_spatial
        shape = (len(boards), self.transformer.config.in_channels, timeline.num_latents(board.num_frames),
                 board.height // ratio, board.width // ratio)
        if latents is not None:
            if latents.shape != shape:
                raise ValueError(f"latents are {tuple(latents.shape)}, but these storyboards need {shape}")
            return latents.to(self._execution_device, torch.float32)
        if isinstance(generator, list) and len(generator) != len(boards):
            raise ValueError(f"there are {len(generator)} generators for {len(boards)} storyboards; give one for each")
        if generator is None:
            generator = [_seeded(board.seed) for board in boards]
        return randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)

    def _known(self, latents: Tensor | None, noise: Tensor) -> Tensor | None:
        """Return what the videos begin with, checked against the noise of all of them."""
        if latents is None:
            return None
        batch, channels, num_latents, height, width = noise.shape
        if (latents.ndim != 5 or (latents.shape[0], latents.shape[1], *latents.shape[3:]) != (
                batch, channels, height, width) or not 0 < latents.shape[2] < num_latents):
            raise ValueError(f"known_latents are {tuple(latents.shape)}, but these storyboards take ({batch}, "
                             f"{channels}, 1 to {num_latents - 1}, {height}, {width})")
        return latents.to(noise)

    def _encode(self, boards: list[Storyboard]) -> dict[Branch, Conditions]:
        """Return the conditions of each branch of guidance."""
        prompts = {True: self._embed([board.prompt for board in boards], self.config.max_prompt_tokens)[0],
                   False: self._embed([board.negative_prompt for board in boards], self.config.max_prompt_tokens)[0]}
        references = {True: self._references(boards), False: None}
        references[False] = self._without_images(references[True])
        events = {kept: self._events(boards, kept) for kept in (True, False)}
        return {(images, with_text): Conditions(prompts[with_text], references[images], events[with_text])
                for images in (False, True) for with_text in (False, True)}

    def _references(self, boards: list[Storyboard]) -> References | None:
        """Encode the reference images: a group of tokens for each subject's view and interval."""
        first = boards[0]
        if not any(subject.appears for subject in first.subjects):
            return None
        assert first.width and first.height and first.fps and first.num_frames
        latents, spans, indices, words = [], [], [], []
        for board in boards:
            for index, subject in enumerate(board.subjects):
                if not subject.appears:  # in a window of a long video in which it is not on screen
                    continue
                canvases = [media.reference_canvas(media.open_image(image), first.width, first.height,
                                                   self.config.canvas_share)
                            for image in subject.images]
                pixels = as_pixels(torch.from_numpy(np.stack(canvases)).permute(0, 3, 1, 2))
                for view in encode_images(self.vae, pixels.to(self._execution_device)):
                    for interval in subject.appears:
                        latents.append(view)
                        spans.append(timeline.latent_span_of(interval, board.fps or first.fps, first.num_frames))
                        indices.append(index)
                        words.append(subject.word)
        embeds, mask = self._embed(words, self.transformer.config.num_word_tokens)
        groups, device = (len(boards), len(words) // len(boards)), self._execution_device
        return References(torch.stack(latents).unflatten(0, groups),
                          torch.tensor(spans, dtype=torch.float32, device=device).unflatten(0, groups),
                          torch.tensor(indices, device=device).unflatten(0, groups),
                          embeds.unflatten(0, groups), mask.unflatten(0, groups))

    def _without_images(self, references: References | None) -> References | None:
        """Return the null condition of images: zero latents and empty words at the same intervals."""
        if references is None:
            return None
        embeds, mask = self._embed([""], self.transformer.config.num_word_tokens)
        return references._replace(latents=torch.zeros_like(references.latents),
                                   word_embeds=embeds.expand_as(references.word_embeds),
                                   word_mask=mask.expand_as(references.word_mask))

    def _events(self, boards: list[Storyboard], kept: bool) -> Events | None:
        """Encode the timed captions, or empty ones at the same spans; fewer events are padded and masked."""
        if not boards[0].events:
            return None
        first = boards[0]
        assert first.num_frames
        events = [[(timeline.latent_span_of(event.during, board.fps or self.config.fps, first.num_frames),
                    event.text if kept else "") for event in board.events] for board in boards]
        texts, spans, present = pad_events(events, timeline.num_latents(first.num_frames))
        embeds, mask = self._embed(texts, self.config.max_event_tokens)
        groups, device = tuple(present.shape), self._execution_device
        return Events(embeds.unflatten(0, groups), mask.unflatten(0, groups) & present.unsqueeze(-1).to(device),
                      spans.to(device))

    def _embed(self, texts: list[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """Return embeddings (texts, max_tokens, text_dim) and mask; a text that has to be cut is warned of."""
        if not max_tokens:  # a model without word tags
            empty = torch.zeros(len(texts), 0, self.transformer.config.text_dim, device=self._execution_device)
            return empty.to(self.transformer.dtype), empty[..., 0].bool()
        texts = [prompt_clean(part) for part in texts]
        for part in dict.fromkeys(texts):
            if (length := len(self.tokenizer(part).input_ids)) > max_tokens:
                logger.warning(f'"{part}" has {length} tokens, of which the model reads {max_tokens}: its end is cut')
        ids, mask = text.tokenize(self.tokenizer, texts, max_tokens, self._execution_device)
        return text.embed(self.text_encoder, ids, mask).to(self.transformer.dtype), mask

    def _decode(self, latents: Tensor) -> Tensor:
        """Return videos (batch, 3, frames, height, width) in -1..1; grey ones where another process decodes them."""
        if self._is_parallel and distributed.get_rank() > 0:
            ratio = self.vae.config.scale_factor_spatial
            num_frames = 1 + (latents.shape[2] - 1) * timeline.TEMPORAL_STRIDE
            height, width = (size * ratio for size in latents.shape[3:])
            return latents.new_zeros(1).expand(len(latents), 3, num_frames, height, width)
        return torch.cat([decode_video(self.vae, latent) for latent in latents.split(1)])

    @cached_property
    def _video_processor(self) -> VideoProcessor:
        return VideoProcessor(vae_scale_factor=self.vae.config.scale_factor_spatial)


def _batches_of_equal_shape(boards: list[Storyboard]) -> list[list[int]]:
    """Group storyboards that make equally long sequences; return their numbers."""
    def shape(row: int) -> tuple[int, bool]:
        groups = sum(len(subject.images) * len(subject.appears) for subject in boards[row].subjects)
        return groups, bool(boards[row].events)

    return [list(rows) for _, rows in groupby(sorted(range(len(boards)), key=shape), key=shape)]


def _seeded(seed: int | None) -> torch.Generator:
    """Return a CPU generator, so that a seed gives the same noise on every device; without a seed a random one."""
    generator = torch.Generator("cpu")
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator
