"""Counts what a rank sends: every collective and message at the c10d call, whoever makes it.

A dispatch mode sees torch.distributed's Python calls (DeepSpeed's among them), the functional operators of our layers, and single messages,
in forward and backward. Bytes are those of the ring and pairwise algorithms (Thakur et al. 2005, section 4), whatever the backend really
does, so that they can be compared with a theory. Notation: n ranks of a group, W bytes of the whole tensor.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .context import ParallelContext

METADATA_BYTES = 64  # counts, flags, norms and losses: at most eight numbers in one call
METADATA = "metadata"

_NAMESPACES = ("c10d", "_c10d_functional")
_KINDS = {
    "allreduce_": "all_reduce", "allreduce_coalesced_": "all_reduce", "all_reduce": "all_reduce", "all_reduce_": "all_reduce",
    "all_reduce_coalesced": "all_reduce", "all_reduce_coalesced_": "all_reduce",
    "allgather_": "all_gather", "_allgather_base_": "all_gather", "allgather_coalesced_": "all_gather",
    "allgather_into_tensor_coalesced_": "all_gather", "all_gather_into_tensor": "all_gather", "all_gather_into_tensor_out": "all_gather",
    "all_gather_into_tensor_coalesced": "all_gather",
    "reduce_scatter_": "reduce_scatter", "_reduce_scatter_base_": "reduce_scatter", "reduce_scatter_tensor_coalesced_": "reduce_scatter",
    "reduce_scatter_tensor": "reduce_scatter", "reduce_scatter_tensor_coalesced": "reduce_scatter",
    "reduce_scatter_tensor_out": "reduce_scatter",
    "reduce_": "reduce", "broadcast_": "broadcast", "broadcast": "broadcast", "gather_": "gather", "scatter_": "scatter",
    "alltoall_": "all_to_all", "alltoall_base_": "all_to_all", "all_to_all_single": "all_to_all", "send": "send",
}
_SEND_NOTHING = {"recv_", "recv_any_source_", "barrier", "monitored_barrier_", "wait_tensor"}
_INPUTS = ("tensors", "input_tensors", "input_tensor", "inputs", "input", "self")


@dataclass(frozen=True)
class Call:
    """One collective or message of this rank.

    Args:
        kind: all_reduce, all_gather, reduce_scatter, reduce, broadcast, gather, scatter, all_to_all or send.
        ranks: the global ranks of its group, ascending.
        payload: W: bytes of the tensor that is reduced, scattered, exchanged or sent; for an all-gather of the gathered one.
        sent: bytes that leave this rank.
    """

    kind: str
    ranks: tuple[int, ...]
    payload: int
    sent: float


@dataclass(frozen=True)
class Traffic:
    """Several calls, added up."""

    calls: int
    payload: int
    sent: float


class TrafficRecorder(TorchDispatchMode):
    """Notes the calls of this thread, and of the backward passes that it starts, while it is entered.

    It must be entered outside of other dispatch modes (selective recomputation): those decide which calls are made at all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Runs the operator; its call is noted before, because the operator may change its input."""
        if func.namespace in _NAMESPACES:
            name = func._schema.name.split("::")[1]
            if name not in _SEND_NOTHING:
                named = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
                call = _call(name, {**named, **(kwargs or {})})
                if len(call.ranks) > 1:  # a group of one sends nothing
                    self.calls.append(call)
        return func(*args, **(kwargs or {}))


def _call(name: str, arguments: Mapping[str, Any]) -> Call:
    if name not in _KINDS:
        raise NotImplementedError(f"c10d operator {name} is not counted yet; name its kind in parallel/traffic.py")
    kind, group = _KINDS[name], _group(arguments)
    tensors = _tensors(next(arguments[key] for key in _INPUTS if key in arguments))
    rank, n = group.rank(), group.size()
    payload = sum(tensor.numel() * tensor.element_size() for tensor in tensors) * (n if kind == "all_gather" else 1)
    root = int(arguments.get("root_rank", arguments.get("src", 0)))
    kept = _kept(tensors, arguments, rank, n) if kind == "all_to_all" else payload // n
    sent = bytes_sent(kind, payload, n=n, rank=rank, root=root, kept=kept)
    return Call(kind, tuple(sorted(dist.get_process_group_ranks(group))), payload, sent)


def bytes_sent(kind: str, payload: int, *, n: int, rank: int = 0, root: int = 0, kept: int = 0) -> float:
    """What leaves one rank.

    All-reduce 2 W (n-1)/n; all-gather and reduce-scatter W (n-1)/n. A reduce is a chain that ends at its root, a broadcast one that
    begins there: each rank but the last of the chain sends W.

    Args:
        kind: as in `Call`.
        payload: W, bytes.
        n: ranks of the group.
        rank: this one's place in it.
        root: place of the root, for reduce, broadcast, gather and scatter.
        kept: bytes of W that stay on this rank, for all_to_all and scatter.
    """
    rules: dict[str, Callable[[], float]] = {
        "all_reduce": lambda: 2 * payload * (n - 1) / n,
        "all_gather": lambda: payload * (n - 1) / n,
        "reduce_scatter": lambda: payload * (n - 1) / n,
        "reduce": lambda: 0 if rank == root else payload,
        "broadcast": lambda: 0 if (rank + 1) % n == root else payload,
        "gather": lambda: 0 if rank == root else payload,
        "scatter": lambda: payload - kept if rank == root else 0,
        "all_to_all": lambda: payload - kept,
        "send": lambda: payload,
    }
    return float(rules[kind]())


def _group(arguments: Mapping[str, Any]) -> dist.ProcessGroup:
    if "group_name" in arguments:
        return dist.distributed_c10d._resolve_process_group(arguments["group_name"])
    return dist.ProcessGroup.unbox(arguments["process_group"])


def _tensors(value: Any) -> list[Tensor]:
    """The tensors of an argument that is one, a list, or a list of lists of them."""
    return [value] if isinstance(value, Tensor) else [tensor for part in value for tensor in _tensors(part)]


def _kept(tensors: Sequence[Tensor], arguments: Mapping[str, Any], rank: int, n: int) -> int:
    """Bytes of an all-to-all that this rank sends to itself."""
    if len(tensors) > 1:  # one tensor for each rank
        return tensors[rank].numel() * tensors[rank].element_size()
    whole, splits = tensors[0], list(arguments.get("input_split_sizes") or ())
    if not whole.numel():
        return 0
    rows = int(splits[rank]) if splits else whole.shape[0] // n
    return rows * (whole.numel() // whole.shape[0]) * whole.element_size()


def axis_labels(context: ParallelContext) -> dict[tuple[int, ...], str]:
    """Ranks of a group -> the axes that it serves; axes whose ranks are the same share a label, as `tensor=model`."""
    groups = {"tensor": context.tensor, "context": context.context, "pipeline": context.pipeline, "pipeline_ends": context.pipeline_ends,
              "expert": context.expert, "expert_data": context.expert_data, "data": context.data, "model": context.model,
              "world": context.world}
    labels: dict[tuple[int, ...], str] = {}
    for axis, group in groups.items():
        if group is not None and group.size() > 1:
            ranks = tuple(sorted(dist.get_process_group_ranks(group)))
            labels[ranks] = f"{labels[ranks]}={axis}" if ranks in labels else axis
    return labels


def by_axis(calls: Iterable[Call], labels: Mapping[tuple[int, ...], str]) -> dict[tuple[str, str], Traffic]:
    """The calls added up for each (label of their group, kind); those of at most METADATA_BYTES under (METADATA, "all").

    Args:
        calls: of a recorder.
        labels: from `axis_labels`; a group that it does not name appears as its list of ranks.
    """
    found: dict[tuple[str, str], Traffic] = {}
    for call in calls:
        label = labels.get(call.ranks, f"ranks {list(call.ranks)}")
        key = (METADATA, "all") if call.payload <= METADATA_BYTES else (label, call.kind)
        so_far = found.get(key, Traffic(0, 0, 0.0))
        found[key] = Traffic(so_far.calls + 1, so_far.payload + call.payload, so_far.sent + call.sent)
    return found
