"""From noise to latents: the steps of one batch, and what guidance has evaluated at each of them.

An evaluation, or branch, is one pass of the transformer with or without images and text. Branches of a step run as one
batch, one after the other, or each on a device of its own. Where references are blind to the video their work is done
once for each branch, before its first step.

Wan 2.2 A14B has two transformers: the first for timesteps from `boundary` up, the second for those below.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import distributed
from torch.distributed import ProcessGroup

from alchemint.diffusion import flow
from alchemint.diffusion.guidance import Branch, Guidance, combine
from alchemint.model.conditions import Events, References
from alchemint.model.interval_gate import check_strength
from alchemint.model.transformer import AlchemintTransformer3DModel, EncodedReferences

Tensor = torch.Tensor


@dataclass(frozen=True)
class Conditions:
    """The conditions of a batch of storyboards, for one evaluation or for several stacked ones."""

    prompt_embeds: Tensor
    references: References | None
    events: Events | None


class Expert(NamedTuple):
    """A transformer, the guidance that it is run with, and the lowest timestep (0..1000) that it is for."""

    transformer: AlchemintTransformer3DModel
    guidance: Guidance
    from_timestep: float


class Moment(NamedTuple):
    """Which step it is, from 0, and of how many."""

    number: int
    num_steps: int

    @property
    def fraction(self) -> float:
        """The part of the steps that is done."""
        return self.number / self.num_steps


@dataclass(frozen=True)
class Evaluating:
    """How a step's evaluations are run.

    batched: as one batch, instead of one after the other. group: processes that divide the evaluations among
    themselves. expand_timesteps: a timestep for each token (Wan 2.2 5B), so that known latents are clean ones.
    reference_gate: how much references are weakened outside of their intervals (`interval_gate`).
    """

    batched: bool = True
    group: ProcessGroup | None = None
    expand_timesteps: bool = False
    attention_kwargs: dict[str, Any] | None = None
    reference_gate: float | None = None

    def __post_init__(self) -> None:
        if self.reference_gate is not None:
            check_strength(self.reference_gate)


class GuidedVelocity:
    """The guided velocity of one batch of storyboards at any step.

    experts: from the highest timesteps down. conditions: of every branch.
    """

    def __init__(self, experts: Sequence[Expert], conditions: dict[Branch, Conditions], evaluating: Evaluating) -> None:
        self._experts = experts
        self._conditions = conditions
        self._evaluating = evaluating
        self._encoded: dict[tuple[Branch, ...], EncodedReferences] = {}
        self._last: tuple[Expert, list[Branch]] | None = None

    @property
    def expand_timesteps(self) -> bool:
        """Whether each token has a timestep of its own."""
        return self._evaluating.expand_timesteps

    def expert_for(self, timestep: float) -> Expert:
        """Return the transformer that a timestep (0..1000) is for."""
        return next(expert for expert in self._experts if timestep >= expert.from_timestep)

    def __call__(self, sample: Tensor, timestep: Tensor, moment: Moment, num_known: int = 0) -> Tensor:
        """Evaluate the branches that guidance needs now, and combine them, in float32.

        sample: (batch, C, T, H, W), of which the first `num_known` latent frames are known. timestep: a scalar,
        0..1000. moment: which of the steps it is.
        """
        expert = self.expert_for(float(timestep))
        weights = expert.guidance.weights(moment.fraction, self._conditions[True, True].references is not None)
        self._begin(expert, list(weights))
        timestep = self._expanded(sample, timestep, num_known)
        group = self._evaluating.group
        if group is None:
            return combine(self._velocities(expert.transformer, list(weights), sample, timestep, moment), weights)
        mine = list(weights)[distributed.get_rank(group)::distributed.get_world_size(group)]
        velocities = self._velocities(expert.transformer, mine, sample, timestep, moment)
        total = combine(velocities, {branch: weights[branch] for branch in mine}) if mine else torch.zeros_like(
            sample, dtype=torch.float32)
        distributed.all_reduce(total, group=group)
        return total

    def _begin(self, expert: Expert, branches: list[Branch]) -> None:
        """Forget what was kept of steps with another transformer or other branches.

        Step caches hold what a branch was at the last step; one that pauses and returns must not find what it was long
        ago. Encoded references take room.
        """
        if self._last != (expert, branches):
            # One by one, a branch's references serve it in any company; those of a batch serve that batch alone.
            if self._evaluating.batched or (self._last is not None and self._last[0] is not expert):
                self._encoded.clear()
            for each in self._experts:
                each.transformer._reset_stateful_cache()
        self._last = expert, branches

    def _velocities(self, transformer: AlchemintTransformer3DModel, branches: list[Branch], sample: Tensor,
                    timestep: Tensor, moment: Moment) -> dict[Branch, Tensor]:
        if not self._evaluating.batched:
            return {branch: self._evaluate(transformer, (branch,), sample, timestep, moment) for branch in branches}
        if not branches:
            return {}
        times = torch.cat([timestep] * len(branches))
        velocity = self._evaluate(transformer, tuple(branches), torch.cat([sample] * len(branches)), times,
                                  moment)
        return dict(zip(branches, velocity.chunk(len(branches)), strict=True))

    def _evaluate(self, transformer: AlchemintTransformer3DModel, branches: tuple[Branch, ...], sample: Tensor,
                  timestep: Tensor, moment: Moment) -> Tensor:
        """Evaluate the transformer once; the branches' names keep step caches of different ones apart."""
        conditions = _stack([self._conditions[branch] for branch in branches])
        name = ", ".join(map(branch_name, branches))
        sample, kwargs = sample.to(transformer.dtype), self._evaluating.attention_kwargs
        references: References | EncodedReferences | None = conditions.references
        if conditions.references is not None and transformer.config.reference_attention == "one_way":
            if branches not in self._encoded:
                with transformer.cache_context(f"{name}, references"):
                    self._encoded[branches] = transformer.encode_references(
                        sample, conditions.prompt_embeds, conditions.references, kwargs)
            references = self._encoded[branches]
        with transformer.cache_context(name, step_index=moment.number, num_inference_steps=moment.num_steps):
            return transformer(sample, timestep, conditions.prompt_embeds, references, conditions.events,
                               attention_kwargs=kwargs, return_dict=False,
                               reference_gate=self._evaluating.reference_gate)[0].float()

    def _expanded(self, sample: Tensor, timestep: Tensor, num_known: int) -> Tensor:
        """Return the timestep of each sample, or of each of its tokens."""
        timestep = timestep.expand(len(sample))
        if not self._evaluating.expand_timesteps:
            return timestep
        patches = self._experts[0].transformer.config.patch_size
        num_frames, height, width = (size // patch for size, patch in zip(sample.shape[2:], patches, strict=True))
        times = timestep.view(-1, 1, 1).repeat(1, num_frames, height * width)
        times[:, :num_known // patches[0]] = 0
        return times.flatten(1)


def branch_name(branch: Branch) -> str:
    """Return what a branch is called in the transformer's cache context; those of a batch are joined by ", "."""
    images, text = branch
    return f"images={images} text={text}"


def steps(scheduler: FlowMatchEulerDiscreteScheduler, velocity: GuidedVelocity, noise: Tensor, num_steps: int,
          known: Tensor | None = None) -> Iterator["Step"]:
    """Yield each Euler step after it is made; what is set as its `sample` is what the next begins with.

    known: clean latents (batch, C, K, H, W) of the first latent frames. They take part in every step as noisy as the
    others, or clean where each token has its own timestep; the last step's sample holds them as they are.
    """
    scheduler.set_timesteps(sigmas=flow.sampling_sigmas(num_steps), device=noise.device)
    sample = noise
    num_known = 0 if known is None else known.shape[2]
    for number, timestep in enumerate(scheduler.timesteps):
        if known is not None:
            sigma = 0.0 if velocity.expand_timesteps else float(scheduler.sigmas[number])
            sample = _with_known(sample, known, noise, sigma)
        predicted = velocity(sample, timestep, Moment(number, num_steps), num_known)
        sample = scheduler.step(predicted, timestep, sample, return_dict=False)[0]
        if known is not None and number == num_steps - 1:
            sample = _with_known(sample, known, noise, 0.0)
        step = Step(number, sample, timestep, predicted, scheduler.sigmas[number + 1], known)
        yield step
        sample = step.sample


@dataclass
class Step:
    """A step that was made: its number, the sample after it, and its timestep (0..1000).

    velocity: what was predicted for it. sigma: the noise level of the sample, a scalar. known: as `steps` was given.
    """

    number: int
    sample: Tensor
    timestep: Tensor
    velocity: Tensor
    sigma: Tensor
    known: Tensor | None = None

    @property
    def denoised(self) -> Tensor:
        """The clean latents (batch, C, T, H, W) that the step foretells: z_t - t v, and the known ones as they are."""
        clean = self.sample - self.sigma * self.velocity
        return clean if self.known is None else torch.cat([self.known, clean[:, :, self.known.shape[2]:]], dim=2)


def _with_known(sample: Tensor, known: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """Return the sample with its first latent frames as the known ones are at noise level `sigma`."""
    num_known = known.shape[2]
    first = flow.interpolate(known, noise[:, :, :num_known], torch.full((len(noise),), sigma).to(noise))
    return torch.cat([first, sample[:, :, num_known:]], dim=2)


def _stack(conditions: list[Conditions]) -> Conditions:
    """Concatenate conditions along the batch axis."""
    if len(conditions) == 1:
        return conditions[0]

    def cat(parts: Sequence[Any]) -> Any:
        if parts[0] is None:
            return None
        return type(parts[0])(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    return Conditions(torch.cat([part.prompt_embeds for part in conditions]),
                      cat([part.references for part in conditions]), cat([part.events for part in conditions]))
