"""What one forward pass leaves alive for its backward pass, counted on the real stages: two countings that know nothing of each other."""

import gc
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from hexareme.conf.schema import Config
from hexareme.core.inputs import MicroBatch, cut_to_context
from hexareme.core.loss import token_losses
from hexareme.core.model.build import build_model
from hexareme.core.model.input import ModelInput
from hexareme.core.model.precision import autocast
from hexareme.core.model.transformer import Transformer
from hexareme.core.stage_plan import held_stages
from hexareme.parallel.context import ParallelContext
from hexareme.parallel.topology import Topology
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Storage(NamedTuple):
    """One piece of memory: its bytes, who made it, and the shape and dtype that it had first."""

    nbytes: int
    maker: str
    shape: tuple[int, ...]
    dtype: str


class Kept(NamedTuple):
    """Of one stage and one micro-batch.

    Args:
        stage: its number.
        alive: storages that operators made in the forward pass and that live after it.
        saved: bytes of the storages that autograd's own hooks saw saved; what selective recomputation keeps, they do not see.
    """

    stage: int
    alive: list[Storage]
    saved: int

    @property
    def nbytes(self) -> int:
        """Of all of them."""
        return sum(each.nbytes for each in self.alive)


class Watch(TorchDispatchMode):
    """Follows every storage that an operator makes.

    Args:
        known: tensors that were there before: their storages do not count.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self._known = {each.untyped_storage()._cdata for each in known}
        self._made: dict[int, tuple[StorageWeakRef, Storage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operator, and notes what it made."""
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                storage = each.untyped_storage()
                if storage._cdata not in self._known and storage._cdata not in self._made:  # a dead one's number is not used again
                    made = Storage(storage.nbytes(), str(func), tuple(each.shape), str(each.dtype))
                    self._made[storage._cdata] = StorageWeakRef(storage), made
        return result

    def left(self) -> list[Storage]:
        """Those that live."""
        gc.collect()
        return [made for reference, made in self._made.values() if not reference.expired()]


def random_micro_batch(config: Config) -> MicroBatch:
    """Random tokens in documents of odd lengths."""
    B, S = config.batch.micro_size, config.model.sequence_length
    generator = torch.Generator().manual_seed(0)
    tokens_BS, targets_BS = (torch.randint(config.model.vocab_size, (B, S), generator=generator) for _ in range(2))
    documents_BS = (torch.rand(B, S, generator=generator) < 0.1).cumsum(dim=1).int() if config.data.document_mask else None
    inputs = ModelInput(tokens_BS, torch.arange(S).expand(B, S).contiguous(), documents_BS, torch.arange(B), torch.tensor(3))
    return MicroBatch(inputs, targets_BS, torch.ones(B, S))


def kept_by_stages(rank: int, config: Config, world_size: int) -> list[Kept]:
    """What each stage of this rank keeps of one micro-batch.

    Args:
        rank: of this process; torch.distributed is started.
        config: of a run.
        world_size: ranks.
    """
    p = config.parallel
    context = ParallelContext.create(Topology.divide(world_size=world_size, tp=p.tp, pp=p.pp, cp=p.cp, ep=p.ep), rank)
    groups = context.layer_groups(sequence_parallel=p.sequence_parallel, context_attention=p.context_attention.value)
    micro = cut_to_context(random_micro_batch(config), groups)
    found = []
    for stage in held_stages(config.model, p, context.pipeline.rank()):
        model = build_model(config.model, seed=0, groups=groups, device="cpu", recompute=config.train.recompute.value, stage=stage)
        found.append(kept(model, micro, config))
    return found


def kept(model: Transformer, micro: MicroBatch, config: Config) -> Kept:
    """Of one forward pass, with the loss where the stage has one."""
    B, S = micro.inputs.tokens_BS.shape
    if model.groups.sequence_parallel:
        S //= model.groups.tensor.size()
    hidden = () if model.stage.first else (torch.randn(B, S, config.model.hidden_size, requires_grad=True),)
    inputs = [each for each in (*micro.inputs, micro.targets_BS, micro.loss_mask_BS) if each is not None]
    known = [*model.parameters(), *model.buffers(), *inputs, *hidden]
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with Watch(known) as watch, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with autocast(config.train.precision.value, "cpu"):
            out = model(micro.inputs, None, *hidden)
        if model.stage.last:
            out = (token_losses(out, micro.targets_BS, model) * micro.loss_mask_BS).sum()
    left = watch.left()
    own = {each.untyped_storage()._cdata for each in known}
    assert out.requires_grad
    return Kept(model.stage.index, left, sum(size for storage, size in saved.items() if storage not in own))
