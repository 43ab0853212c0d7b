"""Linear layers of many experts at once, cut over the expert axis and, within each expert, over the tensor axis.

All experts of a layer are one 2-D parameter whose rows belong to them in turn, so that names and shapes know no layout. Parameters start as
zeros; whoever builds the model fills them. Shapes: E experts, e of them here, Q rows here (sorted by expert), H hidden, F width inside an
expert, f this rank's part of it.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from .collectives import copy_to_tensor_axis
from .partition import Piece, ShardSpec
from .topology import divisors

_ALIGNMENT = 16  # bytes to which the grouped kernel wants rows aligned


def shard_experts(shape: Sequence[int], *, parts: Sequence[int], expert: tuple[int, int], tensor: tuple[int, int]) -> ShardSpec:
    """Cut dim 0, which holds for each expert in turn its `parts`: whole experts over one axis, every part of them over the other.

    Args:
        shape: the global shape; dim 0 is a multiple of the parts' sum.
        parts: rows of one expert that are each cut by themselves, e.g. gate and value.
        expert: degree of the expert axis and place on it.
        tensor: degree of the tensor axis and place on it.

    Raises:
        ValueError: the experts or a part are not divisible.
    """
    (ep, block), (tp, index) = expert, tensor
    experts = shape[0] // sum(parts)
    if experts * sum(parts) != shape[0]:
        raise ValueError(f"{shape[0]} rows are no whole number of experts of {sum(parts)} rows")
    if experts % ep:
        raise ValueError(f"parallel.ep={ep} must divide model.num_experts={experts}; try ep in {divisors(experts)}")
    for part in parts:
        if part % tp:
            raise ValueError(f"parallel.tp={tp} must divide the width {part} of an expert; try tp in {divisors(part)}")
    pieces: list[Piece] = []
    start, local = block * (experts // ep) * sum(parts), 0
    for part in list(parts) * (experts // ep):
        length = part // tp
        piece = Piece(local, start + index * length, length)
        last = pieces[-1] if pieces else None
        if last is not None and last.start + last.length == piece.start:  # neighbours here and there: one piece
            pieces[-1] = Piece(last.local, last.start, last.length + length)
        else:
            pieces.append(piece)
        start, local = start + part, local + length
    return ShardSpec(tuple(shape), 0, tuple(pieces), local)


class ExpertColumnLinear(nn.Module):
    """y = x W^T + b of each expert, with the rows of its W, the features, cut over the tensor axis.

    Args:
        num_experts: E of the whole model.
        in_features: H.
        parts: features of one expert that are each cut by themselves.
        bias: whether there is one; it is cut like the rows.
        expert: the expert axis.
        tensor: the tensor axis.

    Raises:
        ValueError: a degree does not fit.
    """

    def __init__(self, num_experts: int, in_features: int, *, parts: Sequence[int], bias: bool, expert: dist.ProcessGroup,
                 tensor: dist.ProcessGroup) -> None:
        super().__init__()
        places = {"expert": (expert.size(), expert.rank()), "tensor": (tensor.size(), tensor.rank())}
        rows = num_experts * sum(parts)
        self.experts = num_experts // expert.size()
        self.shards = {"weight": shard_experts((rows, in_features), parts=parts, **places)}
        self.expert_parameters = {"weight", "bias"}
        self.weight = nn.Parameter(torch.zeros(self.shards["weight"].local_shape))
        self.bias: nn.Parameter | None = None
        if bias:
            self.shards["bias"] = shard_experts((rows,), parts=parts, **places)
            self.bias = nn.Parameter(torch.zeros(self.shards["bias"].local_shape))

    def forward(self, x_QH: Tensor, rows: Sequence[int]) -> Tensor:
        """[Q, H], `rows` of each expert here -> [Q, f']: this rank's slice of every part, one after the other."""
        weight_eHf = self.weight.unflatten(0, (self.experts, -1)).transpose(1, 2)
        return grouped_product(x_QH, weight_eHf, None if self.bias is None else self.bias.view(self.experts, -1), rows)


class ExpertRowLinear(nn.Module):
    """y = x W + b of each expert, with the rows of its W, the features that go in, cut over the tensor axis: y is this rank's summand.

    Args:
        num_experts: E of the whole model.
        in_features: F of one expert.
        out_features: H.
        bias: whether there is one; it lies whole on every tensor rank and is added by the first, so that it is in the sum once.
        expert: the expert axis.
        tensor: the tensor axis.

    Raises:
        ValueError: a degree does not fit.
    """

    def __init__(self, num_experts: int, in_features: int, out_features: int, *, bias: bool, expert: dist.ProcessGroup,
                 tensor: dist.ProcessGroup) -> None:
        super().__init__()
        self.tensor = tensor
        self.experts = num_experts // expert.size()
        place = (expert.size(), expert.rank())
        self.shards = {"weight": shard_experts((num_experts * in_features, out_features), parts=(in_features,), expert=place,
                                               tensor=(tensor.size(), tensor.rank()))}
        self.expert_parameters = {"weight", "bias"}
        self.copies = {"bias"} if tensor.rank() > 0 else set()
        self.weight = nn.Parameter(torch.zeros(self.shards["weight"].local_shape))
        self.bias: nn.Parameter | None = None
        if bias:
            self.shards["bias"] = shard_experts((num_experts, out_features), parts=(1,), expert=place, tensor=(1, 0))
            self.bias = nn.Parameter(torch.zeros(self.shards["bias"].local_shape))

    def forward(self, x_Qf: Tensor, rows: Sequence[int]) -> Tensor:
        """[Q, f], `rows` of each expert here -> [Q, H], to be summed over the tensor axis."""
        bias_eH = None
        if self.bias is not None:
            bias_eH = copy_to_tensor_axis(self.bias, self.tensor) * float(self.tensor.rank() == 0)
        return grouped_product(x_Qf, self.weight.unflatten(0, (self.experts, -1)), bias_eH, rows)


def grouped_product(x_QI: Tensor, weight_eIO: Tensor, bias_eO: Tensor | None, rows: Sequence[int]) -> Tensor:
    """Each expert's rows times its matrix: [Q, O] in the dtype of `x`. An expert without rows gets a zero gradient, not none.

    Args:
        x_QI: rows, by expert.
        weight_eIO: the experts' matrices, any strides.
        bias_eO: added to each row of an expert.
        rows: of each expert.
    """
    weight_eIO = weight_eIO.to(x_QI.dtype)
    if x_QI.is_cuda and fits_grouped_kernel(x_QI, weight_eIO):
        y_QO = grouped_kernel(x_QI, weight_eIO, rows)
    else:
        y_QO = torch.cat([x_nI @ weight_IO for x_nI, weight_IO in zip(x_QI.split(list(rows)), weight_eIO.unbind(0), strict=True)])
    if bias_eO is None:
        return y_QO
    rows_e = torch.tensor(rows, device=x_QI.device)
    return y_QO + bias_eO.to(x_QI.dtype).repeat_interleave(rows_e, dim=0, output_size=x_QI.shape[0])


def fits_grouped_kernel(x_QI: Tensor, weight_eIO: Tensor) -> bool:
    """Whether torch's grouped product takes these: bf16, and rows of both aligned."""
    aligned = all(size * x_QI.element_size() % _ALIGNMENT == 0 for size in weight_eIO.shape[1:])
    return x_QI.dtype == torch.bfloat16 and aligned and hasattr(F, "grouped_mm")


def grouped_kernel(x_QI: Tensor, weight_eIO: Tensor, rows: Sequence[int]) -> Tensor:
    """Each expert's rows times its matrix, as one kernel for all experts."""
    ends_e = torch.tensor(rows, device=x_QI.device).cumsum(0)
    return F.grouped_mm(x_QI, weight_eIO, offs=ends_e.to(torch.int32))
