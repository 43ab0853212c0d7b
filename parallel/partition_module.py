"""The shard specs of a module's parameters."""

from torch import nn

from .partition import ShardSpec


def parameter_shards(model: nn.Module) -> dict[str, ShardSpec]:
    """Full name -> spec of every parameter, in the order of `named_parameters` (a shared one once, by its first name).

    A layer that owns sharded parameters says so in its attribute `shards` (own parameter name -> spec); all others lie here whole.
    """
    modules = dict(model.named_modules())
    specs: dict[str, ShardSpec] = {}
    for full_name, parameter in model.named_parameters():
        path, _, name = full_name.rpartition(".")
        shards: dict[str, ShardSpec] = getattr(modules[path], "shards", {})
        specs[full_name] = shards.get(name) or ShardSpec.whole(parameter.shape)
    return specs
