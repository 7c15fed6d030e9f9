"""The AlcheMinT transformer's objective: flow matching on the latents of a frozen VAE, with condition dropout.

    z_t = (1 - t) z + t eps      loss = w |v(z_t, t, text, references) - (eps - z)|^2      on video tokens only

Images and text are dropped independently of each other, and both together in a further share. A dropped image is a
zero latent with an empty word; a dropped text is the empty prompt and empty captions. Intervals are never touched.
A tiny text encoder is trained jointly: nothing pretrained stands behind the toy.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
from torch import nn
from torch.utils.data import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase, UMT5Config, UMT5EncoderModel

from alchemint.data.clips import ClipSource
from alchemint.data.encoded_clips import ClipBatch, EncodedClips, PoolOptions
from alchemint.diffusion import flow
from alchemint.model import text
from alchemint.model.conditions import Events, References, pad_events
from alchemint.model.latents import as_pixels, encode_video
from alchemint.model.transformer import AlchemintTransformer3DModel
from alchemint.training import precision, ranks, validation
from alchemint.training.recipe import Dropout, Optimizer, TransformerRecipe
from alchemint.training.tokenizer import load_or_train

Tensor = torch.Tensor

_TOKENIZER_CLIPS = 2000


@dataclass
class LatentEncoder:
    """Encodes uint8 videos with the VAE in `folder`, on any device, and returns latents on the CPU.

    The VAE is loaded where it is first called, so that the encoder can be sent to the processes that load data.
    """

    folder: Path
    device: str
    bfloat16: bool
    _vae: AutoencoderKLWan | None = None

    @torch.no_grad()
    def __call__(self, videos: Tensor) -> Tensor:
        """Return the normalised latents (batch, C, T, H, W) of videos (batch, 3, frames, height, width) uint8."""
        if self._vae is None:
            self._vae = AutoencoderKLWan.from_pretrained(self.folder).eval().to(self.device)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.bfloat16):
            return encode_video(self._vae, as_pixels(videos.to(self.device))).cpu()


class TransformerObjective:
    """Trains the transformer and its text encoder on clips of `source`."""

    def __init__(self, recipe: TransformerRecipe, source: ClipSource, heldout: ClipSource) -> None:
        torch.manual_seed(recipe.seed)
        options = recipe.text_encoder
        self.tokenizer: PreTrainedTokenizerBase = (
            AutoTokenizer.from_pretrained(recipe.init_from / "tokenizer") if recipe.init_from is not None
            else load_or_train(recipe.output / "tokenizer", _texts(source), options.vocab_size))
        self.text_encoder = UMT5EncoderModel(UMT5Config(
            vocab_size=len(self.tokenizer), d_model=options.d_model, d_kv=options.d_model // options.num_heads,
            d_ff=options.d_ff, num_layers=options.num_layers, num_heads=options.num_heads, dropout_rate=0.0,
            pad_token_id=self.tokenizer.pad_token_id, eos_token_id=self.tokenizer.eos_token_id))
        self.transformer = AlchemintTransformer3DModel(text_dim=options.d_model, **recipe.model)
        nn.init.zeros_(self.transformer.proj_out.weight)
        nn.init.zeros_(self.transformer.proj_out.bias)
        if recipe.init_from is not None:
            for module in (self.transformer, self.text_encoder):
                folder = recipe.init_from / ("transformer" if module is self.transformer else "text_encoder")
                module.load_state_dict(type(module).from_pretrained(folder).state_dict())
        self.modules: dict[str, nn.Module] = {"transformer": self.transformer, "text_encoder": self.text_encoder}
        self._recipe = recipe
        self._source = source
        self._heldout = heldout
        if recipe.attention_backend is not None:
            self.transformer.set_attention_backend(recipe.attention_backend)
        if recipe.run.compile:
            # One graph for each mix of references and events; their numbers become dynamic sizes.
            torch._dynamo.config.recompile_limit = 32
            for block in self.transformer.blocks:
                block.compile()

    def parameter_groups(self, optimizer: Optimizer) -> list[dict[str, Any]]:
        """Return the base's and the new modules' parameters, each with their learning rate."""
        new = {id(parameter) for name in self.transformer.new_module_names()
               for parameter in self.transformer.get_submodule(name).parameters()}
        parameters = [*self.transformer.parameters(), *self.text_encoder.parameters()]
        return [{"params": [parameter for parameter in parameters if id(parameter) not in new], "lr": optimizer.lr},
                {"params": [parameter for parameter in parameters if id(parameter) in new],
                 "lr": optimizer.new_lr or optimizer.lr}]

    def matrices(self) -> list[nn.Parameter]:
        """Return the weight matrices of the transformer's blocks."""
        return [parameter for parameter in self.transformer.blocks.parameters()
                if parameter.ndim == 2 and min(parameter.shape) > 1]

    def batches(self, num_steps: int) -> Dataset[ClipBatch]:
        """Return the dataset of encoded clips."""
        clips, run = self._recipe.clips, self._recipe.run
        ranks.share_of(run.batch_size)
        options = PoolOptions(run.batch_size, clips.num_groups, clips.uses, clips.subject_shares, clips.event_share,
                              num_lanes=clips.num_lanes, canvas_share=self._recipe.canvas_share,
                              own_frame_share=clips.own_frame_share, stills_share=clips.stills_share,
                              stills_per_clip=clips.stills_per_clip,
                              share=ranks.share())
        device = precision.pick_device(run)
        encoder = LatentEncoder(self._recipe.vae, str(device), precision.uses_bfloat16(device, run))
        return EncodedClips(self._source, encoder, options, self._recipe.seed, num_steps)

    def loss(self, batch: ClipBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted flow-matching loss of a batch."""
        latents = batch.latents
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        t = torch.rand(len(latents), generator=generator, device=latents.device)
        t = flow.shift_time(t, self._recipe.flow_shift)
        keep_images, keep_text = draw_kept(len(latents), self._recipe.dropout, generator)
        prompt_embeds, references, events = self._conditions(batch, keep_images, keep_text)
        prediction = self.transformer(flow.interpolate(latents, noise, t), t * flow.NUM_TRAIN_TIMESTEPS, prompt_embeds,
                                      references, events).sample
        target = flow.velocity(latents, noise)
        loss = flow.flow_loss(prediction, target, 1 + self._recipe.subject_weight * batch.subject_mask)
        on_subjects = flow.flow_loss(prediction.detach(), target, batch.subject_mask + 1e-6)
        return loss, {"plain_loss": (prediction.detach() - target).square().mean(), "subject_loss": on_subjects}

    def _conditions(self, batch: ClipBatch, keep_images: Tensor,
                    keep_text: Tensor) -> tuple[Tensor, References, Events | None]:
        """Return prompt embeddings, references and events, with null conditions where they are not kept."""
        options = self._recipe.text_encoder
        num_subjects = batch.spans.shape[1]
        prompts = [prompt if kept else "" for prompt, kept in zip(batch.prompts, keep_text.tolist(), strict=True)]
        words = [word if kept else "" for row, kept in zip(batch.words, keep_images.tolist(), strict=True)
                 for word in row]
        prompt_embeds, _ = self._embed(prompts, options.max_prompt_tokens)
        word_embeds, word_mask = self._embed(words, self.transformer.config.num_word_tokens)
        references = References(
            latents=batch.reference_latents * keep_images.view(-1, 1, 1, 1, 1),
            spans=batch.spans,
            indices=torch.arange(num_subjects, device=batch.spans.device).expand(len(prompts), -1),
            word_embeds=word_embeds.unflatten(0, (len(prompts), num_subjects)),
            word_mask=word_mask.unflatten(0, (len(prompts), num_subjects)))
        return prompt_embeds, references, self._events(batch, keep_text)

    def _events(self, batch: ClipBatch, keep_text: Tensor) -> Events | None:
        """Return the timed captions, padded to the batch's largest number of them; padding lies after the video."""
        if batch.events is None or not any(batch.events):
            return None
        kept = [[(span, caption if keep else "") for span, caption in events]
                for events, keep in zip(batch.events, keep_text.tolist(), strict=True)]
        texts, spans, present = pad_events(kept, batch.latents.shape[2])
        embeds, mask = self._embed(texts, self._recipe.text_encoder.max_event_tokens)
        groups, device = tuple(present.shape), embeds.device
        return Events(embeds.unflatten(0, groups), mask.unflatten(0, groups) & present.unsqueeze(-1).to(device),
                      spans.to(device))

    def _embed(self, texts: list[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        device = self.text_encoder.device
        if not texts:
            empty = torch.zeros(0, max_tokens, self.text_encoder.config.d_model, device=device)
            return empty, empty[..., 0].bool()
        ids, mask = text.tokenize(self.tokenizer, texts, max_tokens, device)
        return text.embed(self.text_encoder, ids, mask), mask

    @torch.no_grad()
    def write_sheet(self, path: Path) -> None:
        """Sample fixed held-out storyboards with the averaged weights, beside the clips that they were taken from."""
        with torch.compiler.set_stance("force_eager"):
            validation.write_sheet(self._pipeline(), self._heldout, path)

    def export(self, folder: Path) -> None:
        """Write a pipeline folder that `generate --model` takes."""
        self._pipeline().save_pretrained(folder)

    def _pipeline(self) -> Any:
        """Return the pipeline of the modules as they are."""
        from alchemint.pipeline import AlchemintPipeline

        world, options = self._recipe.world, self._recipe.text_encoder
        vae = AutoencoderKLWan.from_pretrained(self._recipe.vae).to(self.transformer.device)
        return AlchemintPipeline(
            tokenizer=self.tokenizer, text_encoder=self.text_encoder, vae=vae, transformer=self.transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=5.66), width=world.width, height=world.height,
            num_frames=world.num_frames, fps=world.fps, max_prompt_tokens=options.max_prompt_tokens,
            max_event_tokens=options.max_event_tokens, canvas_share=self._recipe.canvas_share,
            guidance=self._recipe.guidance)


def draw_kept(batch_size: int, dropout: Dropout, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw which samples keep their images, and which their text: two (batch,) bool."""
    draws = torch.rand(3, batch_size, generator=generator, device=generator.device)
    both = draws[2] >= dropout.both
    return (draws[0] >= dropout.image) & both, (draws[1] >= dropout.text) & both


def _texts(source: ClipSource) -> Iterator[str]:
    """Yield the captions, timed captions and entity words of the first clips."""
    for index in range(_TOKENIZER_CLIPS):
        clip = source(index, None)
        yield clip.caption
        yield from (event.text for event in clip.events)
        yield from (subject.word for subject in clip.subjects)
