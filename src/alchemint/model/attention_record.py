"""What share of their attention video tokens really pay to each reference, at each latent frame.

While `observe_attention` is open, hooks on self-attention take the queries and keys that it is about to use and compute
from them once more, for a few queries of each latent frame, the softmax over all keys. The forward pass itself is left
as it is, to the last bit, and no hook is there at other times.

    share of reference n at frame t     mean over blocks, heads and sampled queries of frame t of
                                        sum_j exp(q k_j / sqrt(D)) over n's tokens / the same sum over all keys

A reference's tokens are those of its picture and of its word tag. Blocks that a step cache skips are not counted.

    B batch, T latent frames, N references, Q sampled queries, K keys, V video tokens, D head channels
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.hooks import BaseState, StateManager
from torch import nn

from alchemint.model.attention import Attending
from alchemint.model.event_attention import Rotary, rotate

if TYPE_CHECKING:
    from alchemint.model.transformer import AlchemintTransformer3DModel

Tensor = torch.Tensor

QUERIES_PER_FRAME = 64
"""Of 1,560 at 480 x 832: enough, as what is told is their mean over all heads and blocks."""

OBSERVED_STEPS = 4

_HOOK = "alchemint_attention_record"
_MOST_LOGITS = 2**24
"""How many logits are in memory at once, in float32: 64 MiB."""


class Layout(NamedTuple):
    """How the tokens of a sequence lie: T frames of `per_frame` tokens, then N pictures of as many, then word tags."""

    num_frames: int
    per_frame: int
    num_references: int

    @property
    def num_video_tokens(self) -> int:
        """V."""
        return self.num_frames * self.per_frame


class AttentionRecord:
    """The shares that were observed, as a mean over all that was, until they are taken."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, shares: Tensor) -> None:
        """Count the shares (B, T, N) of one block in; those of another shape begin a new record."""
        if self._sum is None or self._sum.shape != shares.shape:
            self._sum, self._count = torch.zeros_like(shares), 0
        self._sum += shares
        self._count += 1

    def take(self) -> Tensor | None:
        """Return the mean shares (B, T, N) on the CPU, None where nothing was observed, and begin a new record."""
        mean = None if self._sum is None else (self._sum / self._count).cpu()
        self._sum, self._count = None, 0
        return mean


@contextmanager
def observe_attention(
    transformer: "AlchemintTransformer3DModel", branch: str | None = None, num_steps: int = OBSERVED_STEPS,
    num_queries: int = QUERIES_PER_FRAME, record: AttentionRecord | None = None,
) -> Iterator[AttentionRecord]:
    """Record what video tokens pay to references in the forward passes that run meanwhile.

    branch: the samples that count, where a pass evaluates several of guidance's branches at once, by their name in the
    `cache_context`; all when None. num_steps: how many steps are observed, spread evenly over those that the context
    tells; without a context every pass is. num_queries: of each latent frame, drawn once by a fixed seed; all where
    there are no more. record: to be added to, a new one when None.

    Works with step caches, offloading and any attention backend. Raises ValueError for a transformer that several
    processes share, of which none has all tokens, and for one whose blocks are compiled, which no hook reaches.
    """
    if transformer.context_parallel is not None:
        raise ValueError("attention can't be observed while several processes share a video's tokens; "
                         "use context_parallel 1")
    if any(hasattr(block.forward, "_torchdynamo_orig_callable") for block in transformer.blocks):
        raise ValueError("attention can't be observed in compiled blocks; leave compilation out")
    found = AttentionRecord() if record is None else record
    passes = _PassHook(branch, num_steps, num_queries)
    registry = HookRegistry.check_if_exists_or_initialize(transformer)
    with ExitStack() as hooks:
        registry.register_hook(passes, _HOOK)
        hooks.callback(registry.remove_hook, _HOOK, recurse=False)
        for block in transformer.blocks:
            for handle in _BlockObserver(passes, found).hook(block.get_submodule("attn1")):
                hooks.callback(handle.remove)
        yield found


def attention_shares(query: Tensor, key: Tensor, layout: Layout, bias: Tensor | None = None) -> Tensor:
    """Return what share of each query's attention goes to each reference, as a mean over heads (B, Q, N).

    query: (B, Q, heads, D). key: (B, K, heads, D), the layout's. bias: (B, Q, K), added to the logits. Computed in
    float32, for a few heads and queries at a time.
    """
    batch, num_queries, num_heads, dim = query.shape
    at_once = max(1, _MOST_LOGITS // (batch * key.shape[1]))
    num_rows = min(num_queries, at_once)
    per_part = max(1, at_once // num_rows)
    shares = query.new_zeros(batch, num_queries, layout.num_references, dtype=torch.float32)
    for head in range(0, num_heads, per_part):
        part = slice(head, head + per_part)
        keys = key[:, :, part].float().permute(0, 2, 3, 1)
        for first in range(0, num_queries, num_rows):
            rows = slice(first, first + num_rows)
            logits = query[:, rows, part].float().transpose(1, 2) @ keys / dim ** 0.5
            if bias is not None:
                logits = logits + bias[:, None, rows]
            shares[:, rows] += _of_references(logits, layout).sum(1)
    return shares / num_heads


def _of_references(logits: Tensor, layout: Layout) -> Tensor:
    """Return the softmax of logits (..., K), summed over the tokens of each reference (..., N)."""
    paid = (logits[..., layout.num_video_tokens:] - logits.logsumexp(-1, keepdim=True)).exp()
    num_pictures = layout.num_references * layout.per_frame
    pictures, words = paid[..., :num_pictures], paid[..., num_pictures:]
    shares = pictures.unflatten(-1, (layout.num_references, -1)).sum(-1)
    return shares + words.unflatten(-1, (layout.num_references, -1)).sum(-1) if words.shape[-1] else shares


def sampled_tokens(layout: Layout, num_queries: int) -> Tensor:
    """Return the video tokens whose queries are looked at: the same places of each frame, in order."""
    places = torch.arange(layout.per_frame)
    if num_queries < layout.per_frame:
        places = torch.randperm(layout.per_frame, generator=torch.Generator().manual_seed(0))[:num_queries].sort()[0]
    return (torch.arange(layout.num_frames).unsqueeze(1) * layout.per_frame + places).flatten()


class _Pass(NamedTuple):
    """A forward pass that is observed: how its tokens lie, which samples count, and the tokens whose queries do."""

    layout: Layout
    samples: slice
    tokens: Tensor


class _NoState(BaseState):
    def reset(self, *args: Any, **kwargs: Any) -> None:
        """There is nothing to forget."""


class _PassHook(ModelHook):
    """Knows of the transformer's forward pass in progress whether it is observed; diffusers tells it the context."""

    _is_stateful = True

    def __init__(self, branch: str | None, num_steps: int, num_queries: int) -> None:
        super().__init__()
        self._branch = branch
        self._num_steps = num_steps
        self._num_queries = num_queries
        self._contexts = StateManager(_NoState)
        self.current: _Pass | None = None

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = dict(zip(("hidden_states", "timestep", "encoder_hidden_states", "references"), args, strict=False))
        self.current = self._pass(module, **given, **kwargs)
        return args, kwargs

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        self.current = None
        return output

    def reset_state(self, module: nn.Module) -> nn.Module:
        return module

    def _pass(self, module: Any, hidden_states: Tensor, references: Any = None, encode_only: bool = False,
              **_: Any) -> _Pass | None:
        """Return what is to be observed of a pass, None for nothing."""
        if references is None or encode_only or not references.spans.shape[1]:
            return None
        samples = slice(0, len(hidden_states))
        context = self._contexts._context
        if context is not None:
            step, num_steps = context.step_index, context.num_inference_steps
            if step is not None and num_steps is not None and step not in self._steps(num_steps):
                return None
            branches = context.name.split(", ")
            if self._branch is not None:
                if self._branch not in branches:
                    return None
                count = len(hidden_states) // len(branches)
                first = branches.index(self._branch) * count
                samples = slice(first, first + count)
        grid = [size // patch for size, patch in zip(hidden_states.shape[2:], module.config.patch_size, strict=True)]
        layout = Layout(grid[0], grid[1] * grid[2], references.spans.shape[1])
        return _Pass(layout, samples, sampled_tokens(layout, self._num_queries).to(hidden_states.device))

    def _steps(self, num_inference_steps: int) -> set[int]:
        count = min(self._num_steps, num_inference_steps)
        return {(2 * number + 1) * num_inference_steps // (2 * count) for number in range(count)}


class _BlockObserver:
    """Takes a block's queries and keys out of its self-attention."""

    def __init__(self, passes: _PassHook, record: AttentionRecord) -> None:
        self._passes = passes
        self._record = record
        self._num_heads = 1
        self._rotary: Rotary | None = None
        self._attending: Attending | None = None
        self._query: Tensor | None = None

    def hook(self, attention: nn.Module) -> list[Any]:
        """Set the hooks on a block's self-attention and return their handles."""
        norm_q, norm_k = attention.get_submodule("norm_q"), attention.get_submodule("norm_k")
        return [attention.register_forward_pre_hook(self._begin, with_kwargs=True),
                norm_q.register_forward_hook(self._see_queries), norm_k.register_forward_hook(self._see_keys),
                attention.register_forward_hook(self._end, always_call=True)]

    def _begin(self, attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._num_heads = attention.heads
        self._rotary, self._attending = args[3], kwargs.get("attending")

    def _end(self, *_: Any) -> None:
        self._rotary = self._attending = self._query = None

    @torch.no_grad()
    def _see_queries(self, norm: nn.Module, args: tuple[Any, ...], query: Tensor) -> None:
        if (seen := self._passes.current) is not None:
            self._query = self._turned(query[seen.samples][:, seen.tokens], seen.samples, seen.tokens)

    @torch.no_grad()
    def _see_keys(self, norm: nn.Module, args: tuple[Any, ...], key: Tensor) -> None:
        seen, query = self._passes.current, self._query
        if seen is None or query is None:
            return
        turned = self._turned(key[seen.samples], seen.samples)
        if self._attending is not None and self._attending.kept is not None:
            turned = torch.cat([turned, self._attending.kept.keys[seen.samples]], 1)
        shares = attention_shares(query, turned, seen.layout, self._bias(seen))
        self._record.add(shares.unflatten(1, (seen.layout.num_frames, -1)).mean(2))

    def _turned(self, part: Tensor, samples: slice, tokens: Tensor | None = None) -> Tensor:
        """Return (B, tokens, dim) as heads, turned by the rotary tables of `tokens`, all when None."""
        assert self._rotary is not None
        tables = [table if len(table) == 1 else table[samples] for table in self._rotary]
        cos, sin = ((table if tokens is None else table[:, tokens])[..., 0::2] for table in tables)
        return rotate(part.unflatten(2, (self._num_heads, -1)), cos, sin)

    def _bias(self, seen: _Pass) -> Tensor | None:
        """Return what the gate on references adds to the logits of the sampled queries, None without a gate."""
        gate = None if self._attending is None else self._attending.gate
        if gate is None:
            return None
        starts = torch.tensor([run.start for run in gate.runs], device=seen.tokens.device)
        return gate.bias[seen.samples][:, torch.searchsorted(starts, seen.tokens, right=True) - 1]
