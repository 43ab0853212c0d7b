"""What the layers of one rank send in one step along each axis, from the sizes alone. Pure: imports no torch.

Bytes as in core/traffic.py. Shapes: B micro-batch, S tokens of one rank (a part of the window on the context axis), H hidden,
T = B * S tokens. The tensor axis: Shoeybi et al. 2019, section 3; the sequence: Korthikanti et al. 2022, section 4.
"""

from dataclasses import dataclass

from ..conf.schema import Config, Precision, Recompute
from ..parallel.stages import Stage
from .traffic import Sent, add, merged

_FP32 = 4


@dataclass(frozen=True)
class Passes:
    """What a rank's layers run in one step.

    Args:
        stage: the slice of the model.
        micro_batches: forward and backward passes over it.
    """

    stage: Stage
    micro_batches: int


def layer_traffic(config: Config, passes: Passes) -> Sent:
    """Bytes that one rank's layers send in one step, by axis and kind.

    Args:
        config: of the run.
        passes: of this rank.
    """
    found = merged([tensor_traffic(config, passes.stage)])
    return {key: passes.micro_batches * sent for key, sent in found.items()}


def tensor_traffic(config: Config, stage: Stage) -> Sent:
    """Of one micro-batch over the tensor axis, forward and backward."""
    tp, found = config.parallel.tp, Sent()
    if tp == 1:
        return found
    tokens = config.batch.micro_size * config.model.sequence_length // config.parallel.cp
    elements, others = tokens * config.model.hidden_size, (tp - 1) / tp
    product = _FP32 if config.train.precision is Precision.fp32 else 2  # bytes of what a matrix product gives
    leaving = 2 * elements * product  # an all-reduce where attention and MLP leave the region; where they enter it, one in the backward pass
    if config.train.recompute is Recompute.full:
        # the forward pass again, but for the last reduction where nothing after it needs its result (without dropout)
        leaving += (2 if config.model.dropout > 0 else 1) * elements * product
    entering = 2 * elements * _FP32
    add(found, "tensor", "all_reduce", 2 * others * len(stage.layers) * (leaving + entering))
    if stage.first:  # embedding
        add(found, "tensor", "all_reduce", 2 * others * elements * _FP32)
    if stage.last:  # the head's input gradient; largest logit, sum of exponentials and target's logit of each token
        add(found, "tensor", "all_reduce", 2 * others * (elements + 3 * tokens) * _FP32)
    return found
