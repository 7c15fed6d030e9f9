"""The optimizers of a run: AdamW for everything, or Muon for hidden matrices and AdamW for the rest.

Muon (torch.optim.Muon; Jordan et al. 2024) orthogonalises the update of a weight matrix. Tiny models that are trained
from scratch in minutes learn markedly faster with it; for fine-tuning, AdamW alone is the method's own choice.
"""

from typing import Any

import torch
from torch import nn

from alchemint.training.recipe import Optimizer

ParameterGroups = list[dict[str, Any]]


class Optimizers:
    """AdamW and, where the recipe has a `muon_lr`, Muon, stepped and scheduled as one."""

    def __init__(self, groups: ParameterGroups, matrices: list[nn.Parameter], options: Optimizer) -> None:
        """Take all parameters in `groups`, each with its learning rate, and those that Muon may have in `matrices`."""
        self._matrices = [parameter for parameter in matrices if options.muon_lr is not None]
        taken = {id(parameter) for parameter in self._matrices}
        rest = [{**group, "params": [parameter for parameter in group["params"] if id(parameter) not in taken]}
                for group in groups]
        self.members: dict[str, torch.optim.Optimizer] = {"adamw": torch.optim.AdamW(
            rest, betas=options.betas, weight_decay=options.weight_decay, fused=True)}
        # Muon takes matrices only. A convolution's weight is one, seen as (out, in * kernel); views share its memory.
        self._views = [nn.Parameter(parameter.data.view(len(parameter), -1)) for parameter in self._matrices]
        if self._matrices:
            assert options.muon_lr is not None
            self.members["muon"] = torch.optim.Muon(self._views, lr=options.muon_lr, weight_decay=0.0)
        self._rates = {name: [group["lr"] for group in member.param_groups] for name, member in self.members.items()}

    def tensors(self, names: dict[int, str]) -> dict[str, torch.Tensor]:
        """Return the state of all members as `<member>.<moment>/<parameter>`; they share the memory of the live ones.

        names: the parameters' names by their id. What has not had a gradient yet is there with moments of zero, which
        is the same.
        """
        self._begin_all()
        named = {**names, **{id(view): names[id(parameter)]
                             for view, parameter in zip(self._views, self._matrices, strict=True)}}
        return {f"{member}.{moment}/{named[id(parameter)]}": tensor
                for member, optimizer in self.members.items()
                for parameter, moments in optimizer.state.items() for moment, tensor in moments.items()}

    def _begin_all(self) -> None:
        """Let every member make the state of the parameters that have none, by a step that moves nothing.

        Between two steps, when no gradients are held; the next step sets the learning rates anew.
        """
        for optimizer in self.members.values():
            new = [parameter for group in optimizer.param_groups for parameter in group["params"]
                   if not optimizer.state[parameter]]
            if not new:
                continue
            for group in optimizer.param_groups:
                group["lr"] = 0.0
            for parameter in new:
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            for parameter in new:
                parameter.grad = None
                if "step" in optimizer.state[parameter]:
                    optimizer.state[parameter]["step"].zero_()

    def step(self, factor: float) -> None:
        """Update all parameters from their gradients, with the learning rates times `factor`; clear the gradients."""
        for view, parameter in zip(self._views, self._matrices, strict=True):
            view.grad = None if parameter.grad is None else parameter.grad.reshape(view.shape)
        for name, member in self.members.items():
            for group, rate in zip(member.param_groups, self._rates[name], strict=True):
                group["lr"] = rate * factor
            member.step()
        for group in self.members["adamw"].param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        for parameter in [*self._matrices, *self._views]:
            parameter.grad = None
