"""diffusers' step caches, which skip blocks in steps that change little, made right for what is done here.

    FirstBlockCache   skips a step's other blocks when the first one's residual is nearly what it was at the last step
                      that was computed. Where processes share one video's tokens, they decide as one: each for itself,
                      some would wait for ever in a block that the others skip.
    MagCache          skips steps by a table of how much the residual's size changes from step to step, which is
                      measured once for a model (`calibrate`). Its place in the table is the step of the call, as
                      `cache_context(name, step_index=, num_inference_steps=)` tells; diffusers counts the calls of each
                      branch instead, which is wrong for a second expert and where guidance begins or ends on the way.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from diffusers.hooks import FirstBlockCacheConfig, HookRegistry, MagCacheConfig
from diffusers.hooks.first_block_cache import _FBC_LEADER_BLOCK_HOOK, FBCHeadBlockHook
from diffusers.hooks.hooks import StateManager
from diffusers.hooks.mag_cache import (
    _MAG_CACHE_BLOCK_HOOK,
    _MAG_CACHE_LEADER_BLOCK_HOOK,
    MagCacheState,
    nearest_interp,
)

if TYPE_CHECKING:
    from alchemint.model.transformer import AlchemintTransformer3DModel

Tensor = torch.Tensor


def adapt(transformer: "AlchemintTransformer3DModel", config: Any) -> None:
    """Change the hooks that diffusers has just set for `config`; those of other caches stay as they are."""
    if isinstance(config, FirstBlockCacheConfig):
        registry = HookRegistry.check_if_exists_or_initialize(transformer.blocks[0])
        states = registry.get_hook(_FBC_LEADER_BLOCK_HOOK).state_manager
        registry.remove_hook(_FBC_LEADER_BLOCK_HOOK, recurse=False)
        registry.register_hook(FirstBlockHook(states, config.threshold, transformer), _FBC_LEADER_BLOCK_HOOK)
    elif isinstance(config, MagCacheConfig):
        states = StatesByStep(config)
        for block in transformer.blocks:
            for name in (_MAG_CACHE_LEADER_BLOCK_HOOK, _MAG_CACHE_BLOCK_HOOK):
                if hook := HookRegistry.check_if_exists_or_initialize(block).get_hook(name):
                    hook.state_manager = states


class FirstBlockHook(FBCHeadBlockHook):
    """FirstBlockCache's hook of the first block, with one decision for all who make the same video."""

    def __init__(self, states: StateManager, threshold: float, transformer: "AlchemintTransformer3DModel") -> None:
        super().__init__(states, threshold)
        self._transformer = transformer

    @torch.compiler.disable
    def _should_compute_remaining_blocks(self, hidden_states_residual: Tensor) -> bool:
        before = self.state_manager.get_state().head_block_residual
        if before is None:
            return True
        change = torch.stack([(hidden_states_residual - before).abs().mean(), before.abs().mean()]).float()
        if self._transformer.context_parallel is not None:
            change = self._transformer.context_parallel.sum(change)
        return bool(change[0] / change[1] > self.threshold)


class StatesByStep(StateManager):
    """MagCache's states, at the step that the cache context names, with the table stretched to the call's steps."""

    def __init__(self, config: MagCacheConfig) -> None:
        super().__init__(MagCacheState)
        self._config = config
        self._table = config.mag_ratios
        self.measured: dict[int, list[float]] = {}
        """When calibrating, the ratios of all branches at each step."""

    def get_state(self) -> MagCacheState:
        """Return the state of the context's branch."""
        state, context = super().get_state(), self.context
        if context.step_index is None:
            return state
        state.step_index = context.step_index
        if self._config.calibrate:
            # One more than there are, so that diffusers never finds the end, where it prints and forgets.
            self._config.num_inference_steps = context.num_inference_steps + 1
            state.calibration_ratios = self.measured.setdefault(context.step_index, [])
        elif self._config.num_inference_steps != context.num_inference_steps or len(
                self._config.mag_ratios) != context.num_inference_steps:
            self._config.num_inference_steps = context.num_inference_steps
            self._config.mag_ratios = nearest_interp(self._table, context.num_inference_steps)
        return state


def measured_ratios(transformers: "Sequence[AlchemintTransformer3DModel]") -> list[float]:
    """Return the table of a call that was made with MagCacheConfig(calibrate=True): for each step the mean over
    branches, and 1 where there was no step before."""
    measured: dict[int, list[float]] = {}
    for transformer in transformers:
        hook = HookRegistry.check_if_exists_or_initialize(transformer.blocks[0]).get_hook(_MAG_CACHE_LEADER_BLOCK_HOOK)
        measured |= hook.state_manager.measured
    return [sum(measured[step]) / len(measured[step]) for step in sorted(measured)]
