"""The training state as fragments: for each ZeRO stage, which elements of which tensor lie where on this rank."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn

from ...parallel.context import ParallelContext
from ...parallel.partition import ShardSpec
from ...parallel.partition_module import Placed
from ..checkpoint.fragment import Fragment
from .norm import counted

SCALER = frozenset({"cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis"})  # of DeepSpeed's DynamicLossScaler
IN_USE = "as the forward pass uses it"  # kind of the fragments that are not the masters
# parameter, start in the flattened local tensor, flat master elements, key of the optimizer's state
Owned = tuple[Placed, int, Tensor, Tensor]


class EngineState:
    """Reads and fills the state of a DeepSpeed engine without any of DeepSpeed's files.

    Args:
        engine: from `deepspeed.initialize`.
        placed: every parameter of this rank.
        buffers: persistent buffers by full name, alike on every rank that holds them.
        names: of all parameters of the whole model.
        context: the process groups.
        tied: a parameter that is no part of the optimizer: the copy of another rank's.
        refresh: brings what is computed from other ranks' parameters in line after a load.
    """

    def __init__(self, engine: deepspeed.DeepSpeedEngine, *, placed: Sequence[Placed], buffers: Mapping[str, Tensor], names: list[str],
                 context: ParallelContext, tied: Sequence[Placed] = (), refresh: Callable[[], None] = lambda: None) -> None:
        self._engine = engine
        self.names = names
        self._placed = {id(each.parameter): each for each in placed}
        self._buffers = buffers
        self._context = context
        self._tied = tied
        self._refresh = refresh
        self._stage = int(engine.zero_optimization_stage())
        self._base = engine.optimizer.optimizer if self._stage else engine.optimizer

    @property
    def placed(self) -> list[Placed]:
        """Every parameter of this rank, in the order in which the engine was given them."""
        return list(self._placed.values())

    def bytes_written(self) -> int:
        """What this rank will write into a checkpoint, about: each parameter and two moments in fp32."""
        return sum(3 * 4 * master.numel() for placed, _, master, _ in self._owned() if self._writes(placed))

    def fragments(self) -> list[Fragment]:
        """This rank's part of every parameter and optimizer moment, as flat views of live storage."""
        found = []
        for placed, start, master, key in self._owned():
            name, write = placed.name, self._writes(placed)
            offset = master.storage_offset() - key.storage_offset()
            found.append(Fragment(name, "parameter", placed.shard, start, master, write))
            for kind, value in self._base.state.get(key, {}).items():
                if torch.is_tensor(value) and value.numel() == key.numel() and kind != "step":
                    moment = value.view(-1).narrow(0, offset, master.numel())
                    found.append(Fragment(name, kind, placed.shard, start, moment, write))
        first = self._context.tensor.rank() == 0 and self._context.data.rank() == 0
        found += [Fragment(name, "buffer", ShardSpec.whole(buffer.shape), 0, buffer.view(-1), first)
                  for name, buffer in self._buffers.items()]
        return found

    def replicated(self) -> Iterator[Fragment]:
        """All that may have an equal on another rank: the state, its counters, and the parameters that the forward pass computes with."""
        yield from self.fragments()
        counters = torch.tensor(list(self.counters().values()), dtype=torch.float64)
        yield Fragment("updates and loss scale", "counter", ShardSpec.whole(counters.shape), 0, counters, write=False)
        if self._stage == 0:
            return  # the forward pass computes with the masters themselves
        for placed in (*self.placed, *self._tied):
            parameter: Any = placed.parameter
            if self._stage < 3 or parameter.ds_persist:  # small ones lie whole on every rank at stage 3, too
                yield Fragment(placed.name, IN_USE, placed.shard, 0, parameter.data.view(-1), write=False)
            else:
                size = parameter.partition_numel()
                start = size * self._context.data.rank()
                part = parameter.ds_tensor.data.view(-1)[: max(0, min(size, parameter.ds_numel - start))]
                yield Fragment(placed.name, IN_USE, placed.shard, min(start, parameter.ds_numel), part, write=False)

    @contextmanager
    def watching_gradients(self) -> Iterator[list[Fragment]]:
        """Copies of this rank's gradients (kind `gradient`) as the optimizer gets them at the next update: averaged, unscaled, clipped.

        Yields:
            A list that the update fills: stage by stage's own way, all at once or one flat group after another.
        """
        found: list[Fragment] = []

        def keep(optimizer: torch.optim.Optimizer, *_: object) -> None:
            updated = {id(key): key.grad for group in optimizer.param_groups for key in group["params"]}
            for placed, start, master, key in self._owned():
                whole = updated.get(id(key))
                if whole is not None:
                    offset = master.storage_offset() - key.storage_offset()
                    gradient = whole.view(-1).narrow(0, offset, master.numel()).clone()
                    found.append(Fragment(placed.name, "gradient", placed.shard, start, gradient, self._writes(placed)))

        handle = self._base.register_step_pre_hook(keep)
        try:
            yield found
        finally:
            handle.remove()

    def materialize(self, kinds: Mapping[str, Collection[str]]) -> None:
        """Makes the optimizer's moments, which torch makes only at the first update, so that a checkpoint can fill them.

        Args:
            kinds: parameter name -> kinds of its saved moments.
        """
        for placed, _, _, key in self._owned():
            state = self._base.state[key]
            for kind in kinds.get(placed.name, ()):
                state.setdefault(kind, torch.zeros_like(key, memory_format=torch.preserve_format))
            if "exp_avg_sq" in state:
                state["step"] = self._update_count(0, key)

    def after_load(self) -> None:
        """Brings the parameters that the forward pass uses in line with the masters just loaded."""
        optimizer = self._engine.optimizer
        if self._stage in (1, 2):
            optimizer.update_lp_params()
        elif self._stage == 3:
            optimizer._partition_all_parameters()
            for _, _, master, parameter in self._owned_of_stage_3():
                parameter.ds_tensor.data.narrow(0, 0, master.numel()).copy_(master)
            persistent = optimizer.persistent_parameters
            if persistent:
                persistent[0].all_gather(persistent)
        self._refresh()

    def counters(self) -> dict[str, int | float]:
        """What is neither a tensor nor a function of the step: updates done (an fp16 overflow skips one), and the loss scaler's state."""
        found: dict[str, int | float] = {"updates": int(self._engine.global_steps) - int(self._engine.skipped_steps)}
        return found | {key: value for key, value in vars(self._scaler()).items() if key in SCALER}

    def set_counters(self, counters: Mapping[str, Any]) -> None:
        """The inverse of `counters`."""
        updates = int(counters["updates"])
        self._engine.global_steps, self._engine.skipped_steps = updates, 0
        for key, state in self._base.state.items():
            if "step" in state:
                state["step"] = self._update_count(updates, key)
        for key in SCALER & counters.keys() & vars(self._scaler()).keys():
            setattr(self._scaler(), key, counters[key])

    def _scaler(self) -> object:
        return getattr(self._engine.optimizer, "loss_scaler", None) or SimpleNamespace()

    def _update_count(self, updates: int, key: Tensor) -> Tensor | int:
        if not isinstance(self._base, torch.optim.AdamW) or type(self._base).__module__.startswith("deepspeed"):
            return updates
        device = key.device if self._base.defaults.get("fused") else torch.device("cpu")
        return torch.tensor(float(updates), dtype=torch.float32, device=device)

    def _writes(self, placed: Placed) -> bool:
        """One writer for each element: copies along the tensor axis leave it to its first rank, stage 0 to the first of the data axis."""
        replicas = self._context.expert_data if placed.expert else self._context.data
        return counted(placed, self._context) and (self._stage > 0 or replicas.rank() == 0)

    def _owned(self) -> Iterator[Owned]:
        if self._stage == 0:
            yield from self._owned_of_stage_0()
        elif self._stage in (1, 2):
            yield from self._owned_of_stage_1_and_2()
        else:
            for placed, start, master, parameter in self._owned_of_stage_3():
                group, _, _ = self._position(parameter)
                yield placed, start, master, self._engine.optimizer.fp32_partitioned_groups_flat[group]

    def _owned_of_stage_0(self) -> Iterator[Owned]:
        for group in self._base.param_groups:
            for parameter in group["params"]:
                yield self._placed[id(parameter)], 0, parameter.data.view(-1), parameter

    def _owned_of_stage_1_and_2(self) -> Iterator[Owned]:
        optimizer = self._engine.optimizer
        for index, group in enumerate(optimizer.bit16_groups):
            flat = optimizer.single_partition_of_fp32_groups[index]
            for parameter in group:
                mapping = parameter._hp_mapping
                if mapping is None:  # lies wholly in other ranks' partitions
                    continue
                here = mapping.hp_fragment_address
                yield (self._placed[id(parameter)], mapping.lp_fragment_address.start,
                       flat.data.narrow(0, here.start, here.numel), flat)

    def _owned_of_stage_3(self) -> Iterator[tuple[Placed, int, Tensor, Any]]:
        """As `_owned`, but with the parameter itself, whose own partition must follow the master."""
        optimizer = self._engine.optimizer
        for group in optimizer.fp16_groups:
            for parameter in group:
                size = parameter.partition_numel()
                start = size * self._context.data.rank()
                count = min(size, parameter.ds_numel - start)
                if count > 0:  # the last ranks of a small parameter hold only padding
                    index, offset, _ = self._position(parameter)
                    flat = optimizer.fp32_partitioned_groups_flat[index]
                    yield self._placed[id(parameter)], start, flat.data.narrow(0, offset, count), parameter

    def _position(self, parameter: nn.Parameter) -> tuple[int, int, int]:
        optimizer = self._engine.optimizer
        index, offset, count = optimizer.grad_position[optimizer.get_param_id(parameter)]
        return index, offset, count
