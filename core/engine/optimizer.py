"""Optimizers over groups of parameters: matrices decay, norms and biases do not."""

import shutil
from collections.abc import Sequence

import torch
from torch import nn

from ...conf.errors import ConfigError, Problem
from ...conf.schema import OptimizerConfig, OptimizerName
from ...parallel.partition_module import Placed

EXPERTS = "experts"  # the name by which DeepSpeed knows the group of the experts' replicas


def parameter_groups(placed: Sequence[Placed], optimizer: OptimizerConfig, *, experts_apart: bool = False) -> list[dict]:
    """Groups for the optimizer: tensors of two or more dims decay, the others do not; muon takes the blocks' matrices.

    Args:
        placed: every parameter of this rank.
        optimizer: the section of the config.
        experts_apart: the experts are cut over ranks, so their gradients are reduced over fewer of them: they get a group of their own.

    Returns:
        Groups without empty ones, which DeepSpeed could not flatten.
    """
    members: dict[tuple[bool, bool, bool], list[nn.Parameter]] = {}
    for each in placed:
        is_matrix = len(each.shard.shape) >= 2
        is_hidden = is_matrix and each.name.startswith("blocks.") and optimizer.name is OptimizerName.muon
        each.parameter.use_muon = is_hidden  # type: ignore[attr-defined]  # DeepSpeed asks every parameter
        members.setdefault((each.expert and experts_apart, not is_hidden, not is_matrix), []).append(each.parameter)
    auxiliary = optimizer.auxiliary_learning_rate if optimizer.name is OptimizerName.muon else optimizer.learning_rate
    return [
        {"params": parameters, "weight_decay": 0.0 if is_vector else optimizer.weight_decay,
         "lr": auxiliary if by_adam else optimizer.learning_rate, "use_muon": not by_adam,
         **({"moe": True, "name": EXPERTS} if apart else {})}  # as DeepSpeed asks for them
        for (apart, by_adam, is_vector), parameters in sorted(members.items())  # muon's first: its rate is the one that is logged
    ]


def build_optimizer(groups: list[dict], optimizer: OptimizerConfig, *, device: torch.device, offloaded: bool) -> torch.optim.Optimizer:
    """The optimizer that the config names.

    Args:
        groups: from `parameter_groups`.
        optimizer: the section of the config.
        device: where the parameters live.
        offloaded: states live in host memory beside a GPU; AdamW is then DeepSpeed's vectorised one, built on first use.

    Raises:
        ConfigError: an optimizer that this machine does not have.
    """
    rate, betas, epsilon = optimizer.learning_rate, (optimizer.betas[0], optimizer.betas[1]), optimizer.epsilon
    on_gpu = device.type == "cuda"
    if optimizer.name is OptimizerName.muon:
        from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

        for group in groups:
            group.update({"momentum": optimizer.momentum} if group["use_muon"] else {"betas": betas, "eps": epsilon})
        return MuonWithAuxAdam(groups)
    for group in groups:
        group.pop("use_muon")
    if optimizer.name is OptimizerName.sgd:
        return torch.optim.SGD(groups, lr=rate, momentum=optimizer.momentum)
    if optimizer.name is OptimizerName.lion:
        return _lion(groups, optimizer, on_gpu=on_gpu and not offloaded)
    if offloaded and on_gpu:
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(groups, lr=rate, betas=betas, eps=epsilon, adamw_mode=True)
    return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=epsilon, fused=on_gpu)


def _lion(groups: list[dict], optimizer: OptimizerConfig, *, on_gpu: bool) -> torch.optim.Optimizer:
    """DeepSpeed's Lion (Chen et al. 2023, algorithm 2): a CUDA kernel, or a C++ one that is compiled on first use."""
    from deepspeed.ops.lion import DeepSpeedCPULion, FusedLion

    betas = (optimizer.betas[0], optimizer.betas[1])
    if on_gpu:
        return FusedLion(groups, lr=optimizer.learning_rate, betas=betas)
    if shutil.which("ninja") is None or shutil.which("c++") is None:
        raise ConfigError([Problem("optimizer.name", "lion", "on a CPU Lion is compiled on first use, which needs c++ and ninja",
                                   "install them, or take optimizer=adamw")])
    return DeepSpeedCPULion(groups, lr=optimizer.learning_rate, betas=betas)
