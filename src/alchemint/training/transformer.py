"""The AlcheMinT transformer's objective: flow matching on the latents of a frozen VAE, with condition dropout.

    z_t = (1 - t) z + t eps      loss = w |v(z_t, t, text, references) - (eps - z)|^2      on video tokens only

Images and text are dropped independently of each other, and both together in a further share. A dropped image is a
zero latent with an empty word; a dropped text is the empty prompt and empty captions. Intervals are never touched.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from einops import reduce
from torch import nn
from torch.utils.data import Dataset

from alchemint.data.annotated_clips import AnnotatedClips
from alchemint.data.clips import ClipSource
from alchemint.data.encoded_clips import ClipBatch, EncodedClips, PoolOptions
from alchemint.data.latent_cache import LatentCache
from alchemint.data.record_clips import ClipFolder
from alchemint.data.samples import SampleBatch
from alchemint.diffusion import flow
from alchemint.model.attention_guide import AttentionGuide, pairs_of
from alchemint.model.conditions import Events, References, pad_events
from alchemint.model.context_parallel import ContextParallel
from alchemint.model.flops import training_flops
from alchemint.storyboard import Storyboard
from alchemint.training import export, lora, sharding, start, validation
from alchemint.training.draws import Draws
from alchemint.training.encoders import LatentEncoder, find_encoders, open_clips
from alchemint.training.precision import autocast, pick_device, uses_bfloat16
from alchemint.training.ranks import ALONE, Ranks
from alchemint.training.recipe import Dropout, Optimizer, TransformerRecipe
from alchemint.training.texts import EncodedTexts, StoredTexts, Texts

logger = logging.getLogger(__name__)

Tensor = torch.Tensor

Judge = Callable[[Storyboard, np.ndarray], float]
"""A storyboard and a video of it (frames, height, width, 3) uint8 -> temporal IoU, the mean over its subjects."""

_TOKENIZER_CLIPS = 2000


class TransformerObjective:
    """Trains a transformer, and where the recipe says so its text encoder, on clips.

    `source` and `heldout` stream clips where the recipe names none on disk. `judge` measures what sheets show.
    """

    def __init__(self, recipe: TransformerRecipe, source: ClipSource, heldout: ClipSource, ranks: Ranks = ALONE,
                 judge: Judge | None = None) -> None:
        self._recipe, self._ranks, self._judge = recipe, ranks, judge
        self._source, self._heldout = source, heldout
        self._start = start.begin(recipe, ranks, lambda: _texts(source))
        self.transformer = self._start.transformer
        absent = set(recipe.guide.blocks if recipe.guide else ()) - set(range(len(self.transformer.blocks)))
        if absent:
            raise ValueError(f"guide.blocks: there is no block {', '.join(map(str, sorted(absent)))}; the "
                             f"transformer's are 0 to {len(self.transformer.blocks) - 1}")
        self.modules: dict[str, nn.Module] = {"transformer": self.transformer}
        if recipe.text_encoder is not None:
            self.modules["text_encoder"] = self._start.load_text_encoder()
        if recipe.lora is not None:
            lora.add_lora(self.transformer, recipe.lora)
        if recipe.attention_backend is not None:
            self.transformer.set_attention_backend(recipe.attention_backend)
        if recipe.run.checkpoint_activations:
            self.transformer.enable_gradient_checkpointing()
        if recipe.run.compile:
            # One graph for each mix of references and events; their numbers become dynamic sizes.
            torch._dynamo.config.recompile_limit = 32
            for block in self.transformer.blocks:
                block.compile()
        device = pick_device(recipe.run)
        self._encoder = LatentEncoder(self._start.vae, str(device), uses_bfloat16(device, recipe.run))
        self._folder: ClipFolder | None = None
        self._cache: LatentCache | None = None
        self._embed: Texts

    def place(self, device: torch.device, ranks: Ranks, bfloat16: bool) -> None:
        """Bring the model to the device, in shards where `ranks` says so, and read what is still to be read."""
        self._open_data()
        if self._recipe.lora is not None and not ranks.is_sharded and bfloat16:
            lora.freeze_in_bfloat16(self.transformer)
        for module in self.modules.values():
            if ranks.is_sharded:
                sharding.shard(module, ranks, device, bfloat16)
            if next(module.parameters()).is_meta:
                module.to_empty(device=device)
            else:
                module.to(device)
        if self._start.weights is not None:
            start.read_weights(self.transformer, self._start.weights, ranks)
        if self._recipe.base is not None:
            start.draw_new(self.transformer, self._recipe.seed)
        if self._recipe.lora is not None:
            lora.initialise_lora(self.transformer, torch.Generator().manual_seed(self._recipe.seed))
        group = sharding.context_group(ranks, device)
        if group is not None:
            self.transformer.parallelise(ContextParallel(group))
        if self._cache is not None:
            self._embed = StoredTexts(self._cache.embedding, device)
        else:
            text_encoder = self._start.load_text_encoder().to(device)
            self._embed = EncodedTexts(self._start.tokenizer, text_encoder, "text_encoder" in self.modules)

    def parameter_groups(self, optimizer: Optimizer) -> list[dict[str, Any]]:
        """Return the base's and the new modules' parameters, each with their learning rate."""
        new = {id(parameter) for name in self.transformer.new_module_names()
               for parameter in self.transformer.get_submodule(name).parameters()}
        parameters = [parameter for _, parameter in sharding.named_trained(self.modules)]
        return [{"params": [parameter for parameter in parameters if id(parameter) not in new], "lr": optimizer.lr},
                {"params": [parameter for parameter in parameters if id(parameter) in new],
                 "lr": optimizer.new_lr or optimizer.lr}]

    def matrices(self) -> list[nn.Parameter]:
        """Return the weight matrices of the transformer's blocks."""
        return [parameter for parameter in self.transformer.blocks.parameters()
                if parameter.requires_grad and parameter.ndim == 2 and min(parameter.shape) > 1]

    def batches(self, num_steps: int, share: tuple[int, int]) -> Dataset[Any]:
        """Return the dataset of clips: those on disk, or a pool of streamed and encoded ones."""
        clips, recipe = self._recipe.clips, self._recipe
        if self._folder is not None:
            return AnnotatedClips(self._folder, recipe.run.batch_size, recipe.seed, share, self._cache)
        options = PoolOptions(recipe.run.batch_size, clips.num_groups, clips.uses, clips.subject_shares,
                              clips.event_share, num_lanes=clips.num_lanes, canvas_share=recipe.canvas_share,
                              own_frame_share=clips.own_frame_share, stills_share=clips.stills_share,
                              stills_per_clip=clips.stills_per_clip, with_places=recipe.guide is not None, share=share)
        return EncodedClips(self._source, self._encoder, options, recipe.seed, num_steps)

    def loss(self, batch: ClipBatch | SampleBatch, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted flow-matching loss of a part of a batch."""
        details: dict[str, Tensor] = {}
        if isinstance(batch, SampleBatch):
            for reason in batch.broken:
                logger.warning("a clip can't be read, another stands in: %s", reason)
            counts = {"broken_clips": len(batch.broken), "references_from_inside": batch.inside}
            details = {name: torch.tensor(float(count), device=batch.spans.device) for name, count in counts.items()}
            batch = self._encoded(batch)
        latents = batch.latents
        generators = draws.of_samples(len(latents))
        noise = torch.stack([torch.randn(latents.shape[1:], generator=one, device=latents.device)
                             for one in generators])
        t = self._draw_times(generators, latents.device)
        keep_images, keep_text = draw_kept(self._recipe.dropout, generators, latents.device)
        prompt_embeds, references, events = self._conditions(batch, keep_images, keep_text)
        guide = self._guide(batch, keep_images, generators)
        prediction = self.transformer(flow.interpolate(latents, noise, t), t * flow.NUM_TRAIN_TIMESTEPS, prompt_embeds,
                                      references, events, guide=guide).sample
        target = flow.velocity(latents, noise)
        loss = flow.flow_loss(prediction, target, 1 + self._recipe.subject_weight * batch.subject_mask).mean()
        details["plain_loss"] = (prediction.detach() - target).square().mean()
        if self._recipe.subject_weight:
            details["subject_loss"] = flow.flow_loss(prediction.detach(), target, batch.subject_mask + 1e-6).mean()
        if guide is not None:
            assert self._recipe.guide is not None
            details["guide_loss"] = torch.stack(list(guide.losses)).mean()
            loss = loss + self._recipe.guide.weight * details["guide_loss"]
        return loss, details

    def flops(self, batch: ClipBatch | SampleBatch) -> float:
        """Return the operations of forward and backward pass of a batch by this process, each counted once even where
        activations are computed again: what of the machine's work is the model's."""
        shape = self._latent_shape(batch)
        num_events = max((len(events) for events in batch.events or []), default=0)
        count = training_flops(
            self.transformer.config, shape, batch.spans.shape[1], self._start.max_prompt_tokens, num_events,
            self._start.max_event_tokens if num_events else 0,
            lora_rank=self._recipe.lora.rank if self._recipe.lora else None)
        return len(batch.spans) * count / self._ranks.context_size

    @torch.no_grad()
    def write_sheet(self, path: Path) -> dict[str, float]:
        """Sample storyboards with the averaged weights; measure those whose subjects a judge can find."""
        boards = self._recipe.validation
        if self._recipe.data is not None and not boards:
            return {}
        pipeline = export.pipeline_of(self._start, self._recipe)
        shown = []
        # Shards, and matrices that are frozen beside adapters, may be bfloat16 among float32.
        with torch.compiler.set_stance("force_eager"), autocast(self.transformer.device, self._recipe.run):
            if boards:
                validation.write_storyboards(pipeline, boards, path, self._ranks.is_first)
            else:
                shown = validation.write_sheet(pipeline, self._heldout, path, self._ranks.is_first)
        if self._cache is not None:
            pipeline.text_encoder.to("cpu")         # texts are looked up; beside the model it would but take room
        if self._judge is None or not shown:
            return {}
        return {"t_iou": float(np.mean([self._judge(board, video) for board, video in shown]))}

    def export(self, folder: Path) -> None:
        """Write what was trained: a pipeline folder, or beside a base only what is not the base's own."""
        weights = {name: sharding.full(parameter).cpu() for name, parameter in sharding.named_trained(self.modules)}
        if self._ranks.is_first:
            export.write_trained(self._start, self._recipe, weights, folder)

    def assemble(self, found: Path, folder: Path, averaged: bool, dtype: torch.dtype,
                 other: Path | None = None) -> None:
        """Write a pipeline folder of a checkpoint; see `export.assemble`."""
        export.assemble(self._start, self._recipe, self.modules, found, folder, averaged, dtype, other)

    # Parts of the above, in order.

    def _open_data(self) -> None:
        """Open the clips on disk, and what is computed of them, where the recipe names them."""
        data = self._recipe.data
        if data is None:
            return
        self._folder = open_clips(self._recipe, self._start.vae)
        stride, patch = self._folder.options.latent_stride, self.transformer.config.patch_size[-1]
        for width, height in data.sizes:
            if width % (stride * patch) or height % (stride * patch):
                raise ValueError(f"data.sizes: {width} x {height}: both sides must be multiples of {stride * patch} "
                                 f"({stride} pixels to a latent, {patch} latents to a token)")
        if self._ranks.is_first:
            for reason, count in self._folder.left_out.items():
                logger.warning("%s: %d clips are left out: each %s", data.clips, count, reason)
        if data.cache is not None:
            self._cache = LatentCache(data.cache, self._folder, find_encoders(self._recipe).identity())

    def _encoded(self, batch: SampleBatch) -> ClipBatch:
        """Encode what a batch holds in pixels: one video after the other, references together."""
        latents, references = batch.latents, batch.reference_latents
        if latents is None:
            assert batch.videos is not None
            latents = torch.cat([self._encoder(video) for video in batch.videos.split(1)])
        if references is None:
            assert batch.references is not None
            references = latents.new_zeros(*batch.spans.shape[:2], latents.shape[1], *latents.shape[3:])
            for row, views in enumerate(batch.references):
                if len(views):
                    references[row] = self._encoder(views.unsqueeze(2)).squeeze(2)
        mask = batch.subject_mask
        return ClipBatch(latents, references, batch.spans, latents.new_zeros(
            len(latents), *latents.shape[2:]) if mask is None else mask, batch.prompts, batch.words, batch.events)

    def _latent_shape(self, batch: ClipBatch | SampleBatch) -> tuple[int, int, int]:
        if batch.latents is not None:
            shape = batch.latents.shape[2:]
        else:
            assert isinstance(batch, SampleBatch) and batch.videos is not None
            _, _, num_frames, height, width = batch.videos.shape
            temporal, spatial = self._strides
            return 1 + (num_frames - 1) // temporal, height // spatial, width // spatial
        return shape[0], shape[1], shape[2]

    @cached_property
    def _strides(self) -> tuple[int, int]:
        """Frames and pixels to a latent."""
        config = AutoencoderKLWan.load_config(self._start.vae)
        return config["scale_factor_temporal"], config["scale_factor_spatial"]

    def _guide(self, batch: ClipBatch, keep_images: Tensor, generators: list[torch.Generator]
               ) -> AttentionGuide | None:
        """Return what attention is to look up in this batch, None where that is not known or not wanted."""
        options = self._recipe.guide
        if options is None or batch.places is None or not batch.places.shape[1]:
            return None
        patch = self.transformer.config.patch_size[-1]
        places = reduce(batch.places, "b n t (h ph) (w pw) yx -> b n t h w yx", "mean", ph=patch, pw=patch) / patch
        num_frames, height, width = places.shape[2:5]
        queries, keys, weights = pairs_of(places, height * width, width, options.pairs_per_latent * num_frames,
                                          generators)
        return AttentionGuide(options.blocks, queries, keys, weights * keep_images.unsqueeze(1), deque())

    def _draw_times(self, generators: list[torch.Generator], device: torch.device) -> Tensor:
        """Draw a timestep for each sample, within the range that is trained."""
        shift = self._recipe.flow_shift
        u = torch.cat([torch.rand(1, generator=one, device=device) for one in generators])
        low, high = flow.shift_time(torch.tensor(self._start.timestep_range), 1 / shift).tolist()
        return flow.shift_time(low + (high - low) * u, shift)

    def _conditions(self, batch: ClipBatch, keep_images: Tensor,
                    keep_text: Tensor) -> tuple[Tensor, References, Events | None]:
        """Return prompt embeddings, references and events, with null conditions where they are not kept."""
        num_subjects = batch.spans.shape[1]
        prompts = [prompt if kept else "" for prompt, kept in zip(batch.prompts, keep_text.tolist(), strict=True)]
        words = [word if kept else "" for row, kept in zip(batch.words, keep_images.tolist(), strict=True)
                 for word in row]
        prompt_embeds, _ = self._embed(prompts, self._start.max_prompt_tokens)
        word_embeds, word_mask = self._embed(words, self.transformer.config.num_word_tokens)
        references = References(
            latents=batch.reference_latents * keep_images.view(-1, 1, 1, 1, 1),
            spans=batch.spans,
            indices=torch.arange(num_subjects, device=batch.spans.device).expand(len(prompts), -1),
            word_embeds=word_embeds.unflatten(0, (len(prompts), num_subjects)),
            word_mask=word_mask.unflatten(0, (len(prompts), num_subjects)))
        return prompt_embeds, references, self._events(batch, keep_text)

    def _events(self, batch: ClipBatch, keep_text: Tensor) -> Events | None:
        """Return the timed captions, padded to the batch's largest number of them; padding lies after the video.

        A batch that may have some has the event branch run even where this part of it has none: all processes must
        agree on which weights get gradients.
        """
        if batch.events is None:
            return None
        kept = [[(span, caption if keep else "") for span, caption in events]
                for events, keep in zip(batch.events, keep_text.tolist(), strict=True)]
        texts, spans, present = pad_events(kept, batch.latents.shape[2])
        embeds, mask = self._embed(texts, self._start.max_event_tokens)
        groups, device = tuple(present.shape), embeds.device
        return Events(embeds.unflatten(0, groups), mask.unflatten(0, groups) & present.unsqueeze(-1).to(device),
                      spans.to(device))


def draw_kept(dropout: Dropout, generators: list[torch.Generator], device: torch.device) -> tuple[Tensor, Tensor]:
    """Draw which samples keep their images, and which their text: two (batch,) bool."""
    draws = torch.stack([torch.rand(3, generator=one, device=device) for one in generators], dim=1)
    both = draws[2] >= dropout.both
    return (draws[0] >= dropout.image) & both, (draws[1] >= dropout.text) & both


def _texts(source: ClipSource) -> Iterator[str]:
    """Yield the captions, timed captions and entity words of the first clips."""
    for index in range(_TOKENIZER_CLIPS):
        clip = source(index, None)
        yield clip.caption
        yield from (event.text for event in clip.events)
        yield from (subject.word for subject in clip.subjects)
