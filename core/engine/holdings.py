"""Which live tensors of a DeepSpeed engine are state, and of what kind."""

import gc
from collections.abc import Iterable, Iterator
from typing import Any

import deepspeed
import torch
from torch import Tensor

KINDS = ("parameters", "masters", "moments", "gradients")
OTHER = "other"  # DeepSpeed's buffers, data: no state
SMALL = 1 << 16  # bytes; other tensors below are not worth a look


def held_bytes(engine: deepspeed.DeepSpeedEngine) -> dict[str, int]:
    """Bytes of live storage by kind, each storage once, under the first kind that has it.

    Every tensor of the process that is larger than 64 KiB and of no kind is counted under `other`, so that no state is overlooked.
    """
    seen: set[int] = set()
    found = {kind: _bytes(tensors, seen) for kind, tensors in zip(KINDS, _by_kind(engine), strict=True)}
    found[OTHER] = _bytes((each for each in _all_tensors() if each.untyped_storage().nbytes() > SMALL), seen)
    return found


def _by_kind(engine: deepspeed.DeepSpeedEngine) -> tuple[Iterable[Tensor], ...]:
    """Tensors of each of KINDS."""
    stage, optimizer = int(engine.zero_optimization_stage()), engine.optimizer
    parameters = list(engine.module.parameters())
    gradients = [p.grad for p in parameters if p.grad is not None]
    base = optimizer.optimizer if stage else optimizer
    moments = [value for state in base.state.values() for value in state.values() if torch.is_tensor(value) and value.numel() > 1]
    if stage == 0:
        return parameters, [], moments, gradients
    if stage == 3:
        partitions = [p.ds_tensor for p in parameters]
        partitions += [p for p in parameters if p.ds_persist]
        return partitions, optimizer.fp32_partitioned_groups_flat, moments, [*gradients, optimizer.grad_partitions_flat_buffer]
    for groups in (optimizer.averaged_gradients, optimizer.all_grad_tensors):
        gradients += [each for group in groups.values() for each in group or () if each is not None]
    if optimizer.grads_in_partition is not None:
        gradients.append(optimizer.grads_in_partition)
    return optimizer.bit16_groups_flat, optimizer.single_partition_of_fp32_groups, moments, gradients


def _bytes(tensors: Iterable[Tensor], seen: set[int]) -> int:
    total = 0
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
    return total


def _all_tensors() -> Iterator[Any]:
    """Every tensor that Python knows, and their gradients."""
    for each in gc.get_objects():
        if issubclass(type(each), Tensor):  # the type: a proxy's __class__ may import or warn
            yield each
            if each.is_leaf and each.grad is not None:
                yield each.grad
