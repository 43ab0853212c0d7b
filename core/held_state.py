"""Bytes of state that each rank of a planned run will hold, by ZeRO stage. Pure."""

from collections.abc import Sequence
from dataclasses import astuple

from ..conf.schema import Config, OptimizerName, Precision
from .engine.settings import deepspeed_settings
from .held_parameters import HeldParameter
from .memory import StateBytes, state_bytes
from .traffic import Replicas, ZeroSwitches


def held_state(config: Config, held: Sequence[HeldParameter], *, replicas: int, zero: int) -> StateBytes:
    """What the first of some data replicas holds between two micro-batches.

    Args:
        config: of the run; its own ZeRO stage is not looked at.
        held: the parameters of the rank.
        replicas: ranks that hold equal dense parameters (dp x cp).
        zero: the stage to count for.
    """
    settings = deepspeed_settings(config.train, config.parallel, micro_size=1, accumulation_steps=1, dp=1, pin_memory=False)
    switches = ZeroSwitches.of(settings["zero_optimization"])
    parameter_bytes = 2 if config.train.precision is Precision.fp16 else 4  # bf16 is autocast over fp32 parameters
    parts = [state_bytes(zero, [group], switches, moments=moments_of(config, hidden), parameter_bytes=parameter_bytes)
             for hidden, group in replica_groups(config, held, replicas=replicas)]
    copied = parameter_bytes * sum(each.size for each in held if each.copy)  # a tied head's copy has a gradient, and no optimizer
    parts.append(StateBytes(copied, copied, 0, 0))
    return StateBytes(*(sum(values) for values in zip(*map(astuple, parts), strict=True)))


def replica_groups(config: Config, held: Sequence[HeldParameter], *, replicas: int) -> list[tuple[bool, Replicas]]:
    """The groups of the optimizer, as core/engine/optimizer.py makes them; with each, whether muon takes it."""
    ep, muon = config.parallel.ep, config.optimizer.name is OptimizerName.muon
    members: dict[tuple[bool, bool, bool], list[int]] = {}
    for each in (each for each in held if not each.copy):
        hidden = muon and each.matrix and each.name.startswith("blocks.")
        members.setdefault((each.expert and ep > 1, not hidden, not each.matrix), []).append(each.size)
    return [(not by_adam, Replicas("expert_data" if apart else "data", replicas // (ep if apart else 1), 0, tuple(sizes)))
            for (apart, by_adam, _), sizes in sorted(members.items())]


def moments_of(config: Config, hidden: bool) -> int:
    """Moments that the optimizer keeps of each parameter.

    Args:
        config: of the run.
        hidden: the parameter is one of the blocks' matrices, which muon treats apart.
    """
    name = config.optimizer.name
    if name is OptimizerName.sgd:
        return int(config.optimizer.momentum > 0)
    return 1 if name is OptimizerName.lion or (name is OptimizerName.muon and hidden) else 2
