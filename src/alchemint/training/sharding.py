"""Weights in shards over processes (torch FSDP2), and tokens over processes (Ulysses).

With shards, each process keeps a part of every weight, its gradient and its moments; a block's weights come together
for the time they are needed. Shards are float32; what comes together is bfloat16 where the run says so.
"""

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from alchemint.training.ranks import Ranks

Tensor = torch.Tensor


def shard(module: nn.Module, ranks: Ranks, device: torch.device, bfloat16: bool) -> None:
    """Shard the weights of `module` in place, each repeated block (its `_no_split_modules`) by itself.

    Inputs are not cast: rotary tables and timesteps stay float32.
    """
    mesh = weight_mesh(ranks, device)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16 if bfloat16 else None, reduce_dtype=torch.float32,
                                  cast_forward_inputs=False)
    names: Any = module._no_split_modules
    for part in module.modules():
        if type(part).__name__ in (names or ()):
            fully_shard(part, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy)
    # Nothing is done in place to what a model returns.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")


def weight_mesh(ranks: Ranks, device: torch.device) -> DeviceMesh:
    """Return the mesh over which weights lie: one row of shards, or several copies of such rows."""
    copies = ranks.count // ranks.num_shards
    if copies == 1:
        return init_device_mesh(device.type, (ranks.num_shards,), mesh_dim_names=("shard",))
    return init_device_mesh(device.type, (copies, ranks.num_shards), mesh_dim_names=("copy", "shard"))


def context_group(ranks: Ranks, device: torch.device) -> ProcessGroup | None:
    """Return the processes that share samples with this one, or None where each has its own."""
    if ranks.context_size == 1:
        return None
    mesh = init_device_mesh(device.type, (ranks.count // ranks.context_size, ranks.context_size),
                            mesh_dim_names=("data", "context"))
    return mesh.get_group("context")


def set_gradient_sync(modules: Iterable[nn.Module], wanted: bool) -> None:
    """Tell sharded modules whether the coming backward pass is to average the gradients over the processes."""
    for module in modules:
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(wanted)


def local(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor; the same memory, without history."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(part: Tensor, whole: Tensor) -> Tensor:
    """Return this process's part of a tensor as a tensor that is distributed as `whole` is."""
    if not isinstance(whole, DTensor):
        return part
    return DTensor.from_local(part, whole.device_mesh, whole.placements, run_check=False, shape=whole.shape,
                              stride=whole.stride())


def full(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor, in every process."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def fill(target: Tensor, whole: Tensor) -> None:
    """Copy a whole tensor, which every process has, into a target of which each may hold a part."""
    if isinstance(target, DTensor):
        whole = distribute_tensor(whole.to(target.device), target.device_mesh, target.placements, src_data_rank=None)
    with torch.no_grad():
        target.copy_(whole)


def named_trained(modules: dict[str, nn.Module]) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters that are trained, named `<module>.<name in it>`."""
    for name, module in modules.items():
        for path, parameter in module.named_parameters():
            if parameter.requires_grad:
                yield f"{name}.{path}", parameter
