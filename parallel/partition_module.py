"""Where a module's parameters lie in the whole model."""

from dataclasses import dataclass

import torch
from torch import nn

from .partition import ShardSpec


@dataclass(frozen=True)
class Placed:
    """One parameter of this rank.

    Args:
        name: its name in the whole model, the same under every layout.
        parameter: the local tensor.
        shard: which part of the whole tensor it is.
        copy: another rank's equal tensor is counted and saved instead (a tied head on the last stage, a repeated kv head).
        expert: it belongs to one expert, so its replicas are those of the expert axis, not of the data axis.
    """

    name: str
    parameter: nn.Parameter
    shard: ShardSpec
    copy: bool
    expert: bool


def placed_parameters(model: nn.Module) -> list[Placed]:
    """Every parameter of this rank, in the order of `named_parameters` (a shared one once, by its first name).

    A layer tells what is special about its own parameters in attributes, each by own parameter name; whatever it does not name lies here
    whole under its own name:
    `shards` (name -> spec), `aliases` (name -> its name in the whole model: beside the layer's others, or from the root after a "/"),
    `copies` (names of copies), `expert_parameters` (names of parameters that belong to experts).
    """
    modules = dict(model.named_modules())
    found = []
    for full_name, parameter in model.named_parameters():
        path, _, own = full_name.rpartition(".")
        module = modules[path]
        alias: str = getattr(module, "aliases", {}).get(own, own)
        name = alias[1:] if alias.startswith("/") else f"{path}.{alias}" if path else alias
        shard = getattr(module, "shards", {}).get(own) or ShardSpec.whole(parameter.shape)
        found.append(Placed(name, parameter, shard, copy=own in getattr(module, "copies", ()),
                            expert=own in getattr(module, "expert_parameters", ())))
    return found


def placed_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """Persistent buffers by full name: state that no optimizer updates, alike on every rank that holds its layer."""
    kept = set(model.state_dict(keep_vars=True)) - {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {name: buffer for name, buffer in model.named_buffers() if name in kept}
