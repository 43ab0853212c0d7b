"""What DeepSpeed asks of its `mpu` object, answered from a ParallelContext."""

from torch.distributed import ProcessGroup

from ...parallel.context import ParallelContext


class ModelParallelUnit:
    """The one adapter to DeepSpeed's duck-typed `mpu`.

    DeepSpeed sums the gradient norm over the *model-parallel* group, so that is pipeline x tensor here; the tensor group
    decides which parameters are copies.
    """

    def __init__(self, context: ParallelContext) -> None:
        self._context = context

    def get_data_parallel_group(self) -> ProcessGroup:
        return self._context.data

    def get_data_parallel_rank(self) -> int:
        return self._context.data.rank()

    def get_data_parallel_world_size(self) -> int:
        return self._context.data.size()

    def get_model_parallel_group(self) -> ProcessGroup:
        return self._context.model

    def get_model_parallel_rank(self) -> int:
        return self._context.model.rank()

    def get_model_parallel_world_size(self) -> int:
        return self._context.model.size()

    def get_tensor_model_parallel_group(self) -> ProcessGroup:
        return self._context.tensor

    def get_tensor_model_parallel_rank(self) -> int:
        return self._context.tensor.rank()

    def get_tensor_model_parallel_world_size(self) -> int:
        return self._context.tensor.size()
