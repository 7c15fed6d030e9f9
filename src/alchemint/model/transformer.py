"""The AlcheMinT transformer: Wan's, with timed reference images as further tokens (arXiv 2512.10943).

A reference image is one latent frame of the video VAE; it is patchified by the video's own patch embedding and its
tokens are appended to the video's. All tokens run through every block; only video tokens are projected out. When a
reference counts is told by its rotary table alone (`rotary`, `encodings`). New parameters: an embedding for each
subject index, a small MLP for the subjects' words, and the event branch's cross-attention (`event_attention`).

Without references and events this is Wan, to the last bit of its arithmetic.

    sequence   [ video: T h w | references: N h w | word tags: N L ]
    B batch, C latent channels, T x H x W latents, h = H/2, w = W/2 (patches 1 x 2 x 2), N references, L word tokens,
    E events, M text tokens an event, S prompt tokens, dim model width
"""

from collections import deque
from os import PathLike
from typing import Any, NamedTuple

import torch
from diffusers import ModelMixin, WanTransformer3DModel  # noqa: F401 - see the note at the end
from diffusers.configuration_utils import register_to_config
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_wan import WanAttention, WanTransformerBlock
from diffusers.utils import apply_lora_scale
from einops import rearrange
from torch import nn

from alchemint.model import step_caches
from alchemint.model.attention import REFERENCE_ATTENTIONS, AlchemintAttnProcessor, Attending, KeysValues
from alchemint.model.attention_guide import AttentionGuide
from alchemint.model.conditions import Events, References, WordTags
from alchemint.model.context_parallel import ContextParallel, SegmentLengths
from alchemint.model.encodings import WeropeWeights
from alchemint.model.event_attention import EVENT_ENCODINGS, EventAttnProcessor, Rotary, event_rotary
from alchemint.model.interval_gate import IntervalGate, interval_gate
from alchemint.model.rotary import AlchemintRotaryPosEmbed

Tensor = torch.Tensor

CONDITION_TIMESTEPS = ("clean", "shared")


class Segments(NamedTuple):
    """The modulation of the tokens after the video's: their own (B, 6, dim), and how many video tokens come first."""

    condition_temb: Tensor
    num_video_tokens: int


class EventText(NamedTuple):
    """Projected event captions (B, E * M, dim), their mask (B, 1, 1, E * M), which samples have any (B, 1, 1) as 0 or
    1, and the rotary tables for both sides."""

    hidden_states: Tensor
    mask: Tensor
    present: Tensor
    rotary: tuple[Rotary, Rotary]


class EncodedReferences(NamedTuple):
    """The references of one evaluation, as every block's self-attention sees them, and their spans (B, N, 2)."""

    blocks: tuple[KeysValues, ...]
    spans: Tensor


class AlchemintTransformerBlock(WanTransformerBlock):
    """Wan's block, with a second modulation for condition tokens and the event branch beside the cross-attention."""

    def __init__(self, dim: int, ffn_dim: int, num_heads: int, qk_norm: str | None, cross_attn_norm: bool, eps: float,
                 added_kv_proj_dim: int | None, has_events: bool) -> None:
        super().__init__(dim, ffn_dim, num_heads, qk_norm, cross_attn_norm, eps, added_kv_proj_dim)
        self.attn1.set_processor(AlchemintAttnProcessor())
        self.event_attn: WanAttention | None = None
        if has_events:
            head_dim = dim // num_heads
            self.event_attn = WanAttention(dim, num_heads, head_dim, eps, cross_attention_dim_head=head_dim,
                                           processor=EventAttnProcessor())

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, rotary_emb: Rotary,
                segments: Segments | None = None, events: EventText | None = None,
                attending: Attending | None = None) -> Tensor:
        """Run the block on (B, tokens, dim). temb: (B, 6, dim), or (B, video tokens, 6, dim) for Wan 2.2 5B."""
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = self._modulation(temb, segments)

        # 1. Self-attention over the whole sequence
        normed = scale.scale_and_shift(self.norm1(hidden_states.float()), shift).type_as(hidden_states)
        if attending is None or attending.is_plain:
            attended = self.attn1(normed, None, None, rotary_emb)
        else:
            attended = self.attn1(normed, None, None, rotary_emb, attending=attending)
        hidden_states = (hidden_states.float() + gate.multiply(attended)).type_as(hidden_states)

        # 2. Cross-attention to the prompt, and of video tokens to the events
        normed = self.norm2(hidden_states.float()).type_as(hidden_states)
        attended = self.attn2(normed, encoder_hidden_states, None, None)
        if events is not None:
            assert self.event_attn is not None
            num_video_tokens = segments.num_video_tokens if segments else hidden_states.shape[1]
            timed = self.event_attn(normed[:, :num_video_tokens], events.hidden_states, events.mask, events.rotary)
            timed = timed * events.present.type_as(timed)
            attended = torch.cat([attended[:, :num_video_tokens] + timed, attended[:, num_video_tokens:]], dim=1)
        hidden_states = hidden_states + attended

        # 3. Feed-forward
        normed = ffn_scale.scale_and_shift(self.norm3(hidden_states.float()), ffn_shift)
        fed = self.ffn(normed.type_as(hidden_states))
        return (hidden_states.float() + ffn_gate.multiply(fed.float())).type_as(hidden_states)

    def _modulation(self, temb: Tensor, segments: Segments | None) -> list["_Modulation"]:
        table = self.scale_shift_table
        video = (table.unsqueeze(0) + temb.float()).unbind(2) if temb.ndim == 4 else (
            table + temb.float()).split(1, dim=1)
        if segments is None:
            return [_Modulation(part) for part in video]
        condition = (table + segments.condition_temb.float()).split(1, dim=1)
        return [_Modulation(*parts, segments.num_video_tokens) for parts in zip(video, condition, strict=True)]


class _Modulation(NamedTuple):
    """One of a block's six modulations: (B, 1 or tokens, dim) for video tokens, (B, 1, dim) for those after them."""

    video: Tensor
    condition: Tensor | None = None
    num_video_tokens: int = 0

    def multiply(self, hidden_states: Tensor) -> Tensor:
        """Scale each segment of (B, tokens, dim) by its own modulation."""
        if self.condition is None:
            return hidden_states * self.video
        return torch.cat([hidden_states[:, :self.num_video_tokens] * self.video,
                          hidden_states[:, self.num_video_tokens:] * self.condition], dim=1)

    def scale_and_shift(self, hidden_states: Tensor, shift: "_Modulation") -> Tensor:
        """Scale each segment of (B, tokens, dim) by one plus its own modulation, and shift it by its own `shift`."""
        if self.condition is None or shift.condition is None:
            return hidden_states * (1 + self.video) + shift.video
        return torch.cat([hidden_states[:, :self.num_video_tokens] * (1 + self.video) + shift.video,
                          hidden_states[:, self.num_video_tokens:] * (1 + self.condition) + shift.condition], dim=1)


class AlchemintTransformer3DModel(WanTransformer3DModel):
    """A WanTransformer3DModel with timed references, word tags and events.

    The arguments up to `pos_embed_seq_len` are Wan's. New ones:
        interval_encoding: a name of `encodings.ENCODINGS`.
        werope_inside, werope_outside: w_p and w_n.
        num_word_tokens: L; longer words are cut, shorter ones padded.
        num_subject_indices: size of the index embedding.
        condition_timestep: "clean" modulates condition tokens as at t = 0, "shared" as the video.
        event_encoding: a name of `EVENT_ENCODINGS`, or None for no event branch.
        rope_theta: base of all rotary frequencies; Wan's is 10000.
        reference_attention: "full", or "one_way" for references that are blind to the video, so that
            `encode_references` does their work once for all steps; to be trained so (`attention`).
    """

    _no_split_modules = ["AlchemintTransformerBlock"]  # noqa: RUF012 - diffusers reads it from the class
    _repeated_blocks = ["AlchemintTransformerBlock"]  # noqa: RUF012 - as above
    # Wan's plan for diffusers' own context parallel shares out the rotary tables of a video alone; see `parallelise`.
    _cp_plan = None

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, ...] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        interval_encoding: str = "werope",
        werope_inside: float = 1.67,
        werope_outside: float = -0.33,
        num_word_tokens: int = 8,
        num_subject_indices: int = 16,
        condition_timestep: str = "clean",
        event_encoding: str | None = "rerope",
        rope_theta: float = 10000.0,
        reference_attention: str = "full",
    ) -> None:
        if condition_timestep not in CONDITION_TIMESTEPS:
            raise ValueError(f'condition_timestep "{condition_timestep}" is unknown; use one of '
                             f'{", ".join(CONDITION_TIMESTEPS)}')
        if event_encoding is not None and event_encoding not in EVENT_ENCODINGS:
            raise ValueError(f'event_encoding "{event_encoding}" is unknown; use one of '
                             f'{", ".join(EVENT_ENCODINGS)}, or null for no event branch')
        if reference_attention not in REFERENCE_ATTENTIONS:
            raise ValueError(f'reference_attention "{reference_attention}" is unknown; use one of '
                             f'{", ".join(REFERENCE_ATTENTIONS)}')
        if reference_attention == "one_way" and condition_timestep != "clean":
            raise ValueError('reference_attention "one_way" needs condition_timestep "clean": what references are must '
                             "not depend on the video's timestep")
        super().__init__(
            patch_size, num_attention_heads, attention_head_dim, in_channels, out_channels, text_dim, freq_dim,
            ffn_dim, num_layers=0, cross_attn_norm=cross_attn_norm, qk_norm=qk_norm, eps=eps, image_dim=image_dim,
            added_kv_proj_dim=added_kv_proj_dim, rope_max_seq_len=rope_max_seq_len,
            pos_embed_seq_len=pos_embed_seq_len)
        self.register_to_config(num_layers=num_layers)
        dim = num_attention_heads * attention_head_dim
        self.rope = AlchemintRotaryPosEmbed(
            attention_head_dim, tuple(patch_size), interval_encoding, WeropeWeights(werope_inside, werope_outside),
            num_word_tokens, rope_theta)
        self.blocks = nn.ModuleList(
            AlchemintTransformerBlock(dim, ffn_dim, num_attention_heads, qk_norm, cross_attn_norm, eps,
                                      added_kv_proj_dim, has_events=event_encoding is not None)
            for _ in range(num_layers))
        self.subject_index = nn.Embedding(num_subject_indices, dim)
        self.word_tags = WordTags(text_dim, dim)
        self.context_parallel: ContextParallel | None = None
        self.initialise_new_modules()

    @classmethod
    def from_wan(cls, wan: WanTransformer3DModel | str | PathLike[str], subfolder: str | None = None,
                 dtype: torch.dtype | None = None, torch_dtype: torch.dtype | None = None,
                 **options: Any) -> "AlchemintTransformer3DModel":
        """Build the model around the weights of a plain Wan, given live or as a folder or hub id; options are ours.

        subfolder: where in the folder it lies, such as "transformer_2". dtype, or torch_dtype: of the weights; a live
        Wan's own when None, and float32 of a folder's. A live Wan shares its weights.

        The new modules are freshly initialised: timed control is untrained until the model is fine-tuned.
        """
        dtype = dtype or torch_dtype
        if not isinstance(wan, WanTransformer3DModel):
            wan = WanTransformer3DModel.from_pretrained(wan, subfolder=subfolder, dtype=dtype or torch.float32)
        config = {name: value for name, value in wan.config.items() if not name.startswith("_")}
        with torch.device("meta"):
            model = cls(**{**config, **options})
        missing, unexpected = model.load_state_dict(wan.state_dict(), strict=False, assign=True)
        assert not unexpected, unexpected
        assert all(any(key.startswith(f"{new}.") for new in model.new_module_names()) for key in missing), missing
        # Drawn in float32 and cast one after the other: in Wan 14B they have 4.2 B weights.
        for name in model.new_module_names():
            model.get_submodule(name).to_empty(device=wan.device)
            model._initialise(name)
            model.get_submodule(name).to(wan.dtype)
        return model if dtype is None else model.to(dtype)

    def new_module_names(self) -> list[str]:
        """Return the names of the modules that plain Wan does not have."""
        events = [f"blocks.{number}.event_attn" for number, block in enumerate(self.blocks)
                  if block.event_attn is not None]
        return ["subject_index", "word_tags", *events]

    def initialise_new_modules(self) -> None:
        """Draw the new modules' first weights; the event branch's output projection is zero, so it adds nothing."""
        if self.subject_index.weight.is_meta:
            return
        for name in self.new_module_names():
            self._initialise(name)

    def _initialise(self, name: str) -> None:
        """Draw the first weights of a new module."""
        for module in self.get_submodule(name).modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, nn.RMSNorm):
                nn.init.ones_(module.weight)
        if name.endswith("event_attn"):
            nn.init.zeros_(self.get_submodule(f"{name}.to_out.0").weight)

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        references: References | EncodedReferences | None = None,
        events: Events | None = None,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        encode_only: bool = False,
        reference_gate: float | None = None,
        guide: AttentionGuide | None = None,
    ) -> Transformer2DModelOutput | tuple[Tensor] | EncodedReferences:
        """Predict the velocity of noisy video latents.

        hidden_states: (B, C, T, H, W). timestep: (B,), or (B, T h w) for models with a timestep a token (Wan 2.2 5B),
        0..1000. encoder_hidden_states: (B, S, text_dim), the prompt. reference_gate: how much video tokens' logits for
        references sink outside of the references' intervals (`interval_gate`). guide: what attention is trained to look
        up, on one process alone; it takes the losses (`attention_guide`). Returns (B, C, T, H, W); with
        `encode_only` what `encode_references` returns.

        Raises ValueError for events where there is no event branch, and for a reference_gate that is none.
        """
        grid = [size // patch for size, patch in zip(hidden_states.shape[2:], self.config.patch_size, strict=True)]
        num_video_tokens = 0 if encode_only else grid[0] * grid[1] * grid[2]
        encoded = references if isinstance(references, EncodedReferences) else None
        if isinstance(references, EncodedReferences) or (references is not None and not references.latents.shape[1]):
            references = None

        # 1. Rotary tables of all tokens, from where and when they are
        rotary_emb = (self.rope(hidden_states) if references is None
                      else self.rope(hidden_states, references.spans, references.indices))

        # 2. Tokens: video, then references and word tags, each with its subject's index
        if encode_only:
            assert references is not None
            tokens = self._condition_tokens(references)
            cos, sin = (table[:, -tokens.shape[1]:] for table in rotary_emb)
            rotary_emb = cos, sin
        else:
            tokens = self.patch_embedding(hidden_states).flatten(2).transpose(1, 2).contiguous()
            if references is not None:
                tokens = torch.cat([tokens, self._condition_tokens(references).type_as(tokens)], dim=1)

        # 3. Modulation of the video by its timestep, of the conditions as clean; texts through one projection
        per_token = timestep.shape[1] if timestep.ndim == 2 else None
        temb, modulation, prompt, _ = self.condition_embedder(
            timestep.flatten(), encoder_hidden_states, timestep_seq_len=per_token)
        modulation = modulation.unflatten(-1, (6, -1))
        segments = self._segments(timestep, modulation, num_video_tokens) if references is not None else None
        event_text = self._event_text(events, grid) if events is not None else None

        gate = self._gate(encoded or references, grid, reference_gate) if num_video_tokens else None

        # 4. Transformer blocks; where several processes make one video, each on its share of the tokens
        lengths = SegmentLengths(num_video_tokens, tokens.shape[1] - num_video_tokens)
        if self.context_parallel is not None:
            tokens, rotary_emb, modulation, segments, event_text = self._shares(
                self.context_parallel, num_video_tokens, tokens, rotary_emb, modulation, segments, event_text)
        kept: list[KeysValues] = []
        for number, block in enumerate(self.blocks):
            keep: deque[KeysValues] | None = deque() if encode_only else None
            attending = Attending(lengths, self.config.reference_attention == "one_way",
                                  encoded.blocks[number] if encoded else None, keep, self.context_parallel,
                                  gate, guide if guide and number in guide.blocks else None)
            arguments = (tokens, prompt, modulation, rotary_emb, segments, event_text, attending)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                tokens = self._gradient_checkpointing_func(block, *arguments)
            else:
                tokens = block(*arguments)
            kept.extend(keep or ())
        if encode_only:
            assert references is not None
            assert len(kept) == len(self.blocks), "a step cache has skipped blocks"
            return EncodedReferences(tuple(kept), references.spans)

        # 5. Project the video tokens out, and put the patches back in their places
        if self.context_parallel is None:
            tokens = tokens[:, :num_video_tokens]
        else:
            share = self.context_parallel.share_of(num_video_tokens)
            tokens = self.context_parallel.gather(tokens[:, :share], num_video_tokens)
        shift, scale = (self.scale_shift_table + temb.unsqueeze(-2)).unbind(-2)
        if per_token is None:
            shift, scale = shift.unsqueeze(1), scale.unsqueeze(1)
        tokens = (self.norm_out(tokens.float()) * (1 + scale) + shift).type_as(tokens)
        p_t, p_h, p_w = self.config.patch_size
        sample = rearrange(self.proj_out(tokens), "b (t h w) (pt ph pw c) -> b c (t pt) (h ph) (w pw)",
                           t=grid[0], h=grid[1], w=grid[2], pt=p_t, ph=p_h, pw=p_w)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def encode_references(self, hidden_states: Tensor, encoder_hidden_states: Tensor, references: References,
                          attention_kwargs: dict[str, Any] | None = None) -> EncodedReferences:
        """Do the references' work of all steps: return what `forward` takes in place of them, at any timestep.

        hidden_states: video latents of the size to come, of which only the shape counts. encoder_hidden_states: the
        prompt of the evaluation. Raises ValueError where references see the video (reference_attention "full").
        """
        if self.config.reference_attention != "one_way":
            raise ValueError('references are the same at every step with reference_attention "one_way" only; this '
                             f'model was trained with "{self.config.reference_attention}"')
        encoded: EncodedReferences = self(hidden_states, torch.zeros_like(hidden_states[:, 0, 0, 0, 0]),
                                          encoder_hidden_states, references, attention_kwargs=attention_kwargs,
                                          encode_only=True)
        return encoded

    def _condition_tokens(self, references: References) -> Tensor:
        """Return [references | word tags] as (B, N h w + N L, dim)."""
        images = rearrange(references.latents, "b n c h w -> (b n) c 1 h w").to(self.patch_embedding.weight.dtype)
        images = rearrange(self.patch_embedding(images), "(b n) dim 1 h w -> b n (h w) dim",
                           n=references.latents.shape[1])
        words = self.word_tags(references.word_embeds, references.word_mask)
        index = self.subject_index(references.indices).unsqueeze(2)
        return torch.cat([(images + index).flatten(1, 2), (words + index).flatten(1, 2)], dim=1)

    def parallelise(self, context_parallel: ContextParallel) -> None:
        """Run each forward pass together with the other processes of `context_parallel`, on the same inputs."""
        if self.config.num_attention_heads % context_parallel.size:
            raise ValueError(f"{self.config.num_attention_heads} attention heads can't be shared by "
                             f"{context_parallel.size} processes; choose a divisor")
        self.context_parallel = context_parallel

    def enable_cache(self, config: Any) -> None:
        """Let a step cache of diffusers skip blocks; it finds its place by `cache_context` (see `step_caches`)."""
        super().enable_cache(config)
        step_caches.adapt(self, config)

    def _shares(self, context: ContextParallel, num_video_tokens: int, tokens: Tensor, rotary_emb: Rotary,
                modulation: Tensor, segments: Segments | None, event_text: EventText | None
                ) -> tuple[Tensor, Rotary, Tensor, Segments | None, EventText | None]:
        """Return this process's share of all that goes by tokens."""
        if modulation.ndim == 4:
            modulation = context.share(modulation, num_video_tokens)
        if segments is not None:
            segments = segments._replace(num_video_tokens=context.share_of(num_video_tokens))
        if event_text is not None:
            (cos, sin), keys = event_text.rotary
            queries = context.share(cos, num_video_tokens), context.share(sin, num_video_tokens)
            event_text = event_text._replace(rotary=(queries, keys))
        cos, sin = (context.share(table, num_video_tokens) for table in rotary_emb)
        return context.share(tokens, num_video_tokens), (cos, sin), modulation, segments, event_text

    def _segments(self, timestep: Tensor, modulation: Tensor, num_video_tokens: int) -> Segments:
        """Return the modulation of condition tokens: that of t = 0, or the video's own (of its latest token)."""
        if self.config.condition_timestep == "clean":
            embedder = self.condition_embedder
            zero = embedder.timesteps_proj(torch.zeros_like(timestep.flatten()[:1]))
            # Often float32 in a bfloat16 model; quantised weights take what comes.
            weights = next(embedder.time_embedder.parameters()).dtype
            if weights.is_floating_point:
                zero = zero.to(weights)
            embedded = embedder.time_embedder(zero).type_as(modulation)
            shared = embedder.time_proj(embedder.act_fn(embedded)).unflatten(-1, (6, -1))
            return Segments(shared.expand(modulation.shape[0], -1, -1), num_video_tokens)
        return Segments(modulation if modulation.ndim == 3 else modulation[:, -1], num_video_tokens)

    def _gate(self, references: References | EncodedReferences | None, grid: list[int],
              strength: float | None) -> IntervalGate | None:
        """Return the gate on references outside their intervals, None where nothing is to be gated."""
        if references is None or not strength:
            return None
        return interval_gate(references.spans, (grid[0], grid[1], grid[2]), self.config.num_word_tokens, strength)

    def _event_text(self, events: Events, grid: list[int]) -> EventText:
        """Project the events' captions and place them on the time axis."""
        if self.config.event_encoding is None:
            raise ValueError("this model has no event branch (event_encoding is null); leave the events out")
        num_event_tokens = events.embeds.shape[2]
        rotary = event_rotary(self.config.event_encoding, events.spans, grid[0], grid[1] * grid[2], num_event_tokens,
                              self.config.attention_head_dim, self.config.rope_theta)
        text = self.condition_embedder.text_embedder(events.embeds.flatten(1, 2))
        mask = events.mask.flatten(1)
        return EventText(text, mask.view(len(mask), 1, 1, -1), mask.any(1).float().view(-1, 1, 1), rotary)


# Step caches find blocks by their exact class. And a pipeline loads a component whose class lives outside diffusers
# only if the class's module has the name ModelMixin, too.
TransformerBlockRegistry.register(
    AlchemintTransformerBlock,
    TransformerBlockMetadata(return_hidden_states_index=0, return_encoder_hidden_states_index=None))
