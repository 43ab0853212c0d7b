"""The two sides of a proof: a plain torch loop on one process, and the engine that trains, on every rank of a layout.

Shapes: B samples, S sequence, V vocabulary.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from ...conf.schema import Config, OptimizerName
from ...conf.sources import sources
from ...data.samples.batch import Batch
from ...parallel.context import LayerGroups, ParallelContext
from ...parallel.partition import ShardSpec
from ...parallel.partition_module import placed_buffers, placed_parameters
from ...parallel.topology import Topology
from ..batch import BatchPlan
from ..checkpoint.fragment import Fragment
from ..corpora import task_of
from ..engine.optimizer import build_optimizer, parameter_groups
from ..inputs import MicroBatch, micro_batch
from ..model.build import build_model
from ..model.precision import autocast
from ..model.routing import collect_routing, set_auxiliary_scale, set_routing_tape, update_router_bias
from ..model.routing_tape import RoutingTape
from ..objectives import made_objective
from ..run import build
from ..schedule import schedule_factor
from .tokens import proof_batch
from .trace import Portion, Trace

DEVICE = torch.device("cpu")
Choices = Mapping[tuple[int, int, int], torch.Tensor]  # (layer, step, sample) -> the experts of each token of the window


def run_layout(rank: int, config: Config, steps: int, experts: Choices) -> Trace:
    """One rank of a layout: the model and the engine as `hexareme train` builds them.

    Args:
        rank: of this process; torch.distributed is started.
        config: scaled down, with the layout's degrees.
        steps: optimizer steps.
        experts: the reference's choices, which the routers follow: where two experts are all but equal, rounding would choose.
    """
    p = config.parallel
    topology = Topology.divide(world_size=dist.get_world_size(), tp=p.tp, pp=p.pp, cp=p.cp, ep=p.ep)
    context = ParallelContext.create(topology, rank)
    plan = BatchPlan.divide(global_size=config.batch.global_size, micro_size=config.batch.micro_size, dp=topology.dp)
    groups = context.layer_groups(sequence_parallel=p.sequence_parallel, context_attention=p.context_attention.value)
    built = build(config, context, DEVICE, plan)
    tape = RoutingTape(experts)
    set_routing_tape(built.engine.module, tape)
    trace, make = Trace(), maker(config)
    for step in range(steps):
        micros = _micro_batches(config, make(plan.samples(step, context.coordinate.dp)), step, groups)
        if step == 0:
            with built.state.watching_gradients() as gradients:
                result = built.engine.train_step(micros).healthy()
            trace.gradients.extend(_portions(gradients, "gradient"))
        else:
            result = built.engine.train_step(micros).healthy()
        trace.losses.append(result.loss)
        trace.norms.append(result.grad_norm)
    trace.parameters.extend(_portions(built.state.fragments(), "parameter", "buffer"))
    trace.strayed = tape.disagreeing
    return trace


def run_plain(rank: int, config: Config, steps: int, micro_size: int, experts: Choices | None = None) -> Trace:
    """The reference: our model on one process, and otherwise torch alone: no engine, no ZeRO.

    Args:
        rank: 0 of a world of one.
        config: scaled down; of the layout nothing is read.
        steps: optimizer steps.
        micro_size: samples of one forward pass; the global batch, but where the spread of a low precision is sought.
        experts: choices for the routers to follow; None: their own.
    """
    assert dist.group.WORLD is not None
    groups = LayerGroups.of_tensor_axis(dist.group.WORLD)
    model = build_model(config.model, seed=config.train.seed, groups=groups, device=DEVICE)
    tape = RoutingTape(experts)
    set_routing_tape(model, tape)
    size, clipping = config.batch.global_size, config.train.gradient_clipping
    set_auxiliary_scale(model, 1 / size)
    optimizer = _plain_optimizer(model, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule_factor(config.schedule, total_steps=config.train.steps))
    trace, make = Trace(), maker(config)
    for step in range(steps):
        micros = _micro_batches(config, make(range(step * size, (step + 1) * size)), step, groups, micro_size=micro_size)
        trace.losses.append(_plain_backward(model, micros, config.train.precision.value))
        # as clip_grad_norm_, but in fp64: in fp32 torch's norm of a large embedding is 4e-5 off on a CPU
        norm = torch.stack([p.grad.double().norm() for p in model.parameters() if p.grad is not None]).norm()
        nn.utils.clip_grads_with_norm_(model.parameters(), clipping or torch.inf, norm)
        trace.norms.append(norm.item())
        if step == 0:
            trace.gradients.extend(_named((name, parameter.grad) for name, parameter in model.named_parameters()))
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        routing = collect_routing(model, config.model)
        if routing is not None:
            update_router_bias(model, routing.loads_LE, rate=config.model.router_bias_rate)
    trace.parameters.extend(_named([*model.named_parameters(), *placed_buffers(model).items()]))
    trace.experts = tape.choices
    return trace


def _plain_backward(model: nn.Module, micros: Sequence[MicroBatch], precision: str) -> float:
    """The mean loss over all tokens that count, and its gradient."""
    tokens = sum(micro.loss_mask_BS.sum() for micro in micros)
    total = 0.0
    for micro in micros:
        with autocast(precision, DEVICE.type):
            logits_BSV = model(micro.inputs)
        losses = F.cross_entropy(logits_BSV.float().flatten(0, 1), micro.targets_BS.flatten(), reduction="none")
        loss = (losses * micro.loss_mask_BS.flatten()).sum() / tokens
        loss.backward()
        total += loss.item()
    return total


def _plain_optimizer(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    """torch's own, with decay for matrices only; for the optimizers that torch does not have, the one that trains."""
    o = config.optimizer
    groups = [{"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": o.weight_decay},
              {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}]
    if o.name is OptimizerName.adamw:
        return torch.optim.AdamW(groups, lr=o.learning_rate, betas=(o.betas[0], o.betas[1]), eps=o.epsilon)
    if o.name is OptimizerName.sgd:
        return torch.optim.SGD(groups, lr=o.learning_rate, momentum=o.momentum)
    return build_optimizer(parameter_groups(placed_parameters(model), o), o, device=DEVICE, offloaded=False)


def maker(config: Config) -> Callable[[Sequence[int]], Batch]:
    """Makes samples such as the run would train on: packed rows where its corpus is one of conversations, and changed by its objective."""
    path, model = sources(config.data.train)[0].path, config.model
    return partial(proof_batch, vocab_size=model.vocab_size, sequence_length=model.sequence_length, document_mask=config.data.document_mask,
                   packed=task_of(path).kind == "chat", objective=made_objective(config.data.objective, model))


def _micro_batches(config: Config, batch: Batch, step: int, groups: LayerGroups, micro_size: int = 0) -> list[MicroBatch]:
    """This rank's part of a step."""
    return [micro_batch(part, step=step, document_mask=config.data.document_mask, device=DEVICE, groups=groups)
            for part in batch.split(micro_size or config.batch.micro_size)]


def _portions(fragments: Iterable[Fragment], *kinds: str) -> list[Portion]:
    return [Portion(each.name, each.shard, each.start, each.tensor.detach().float().cpu().numpy().copy())
            for each in fragments if each.kind in kinds]


def _named(tensors: Iterable[tuple[str, torch.Tensor | None]]) -> list[Portion]:
    return [Portion(name, ShardSpec.whole(tensor.shape), 0, tensor.detach().float().flatten().numpy().copy())
            for name, tensor in tensors if tensor is not None]
