"""How the global batch of one step is divided among data ranks and micro-batches. Pure arithmetic."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class BatchPlan:
    """Global batch = micro-batch x accumulation steps x data-parallel degree, all in samples, always exact.

    Args:
        global_size: samples of one optimizer step over all ranks.
        micro_size: samples of one forward pass on one rank.
        dp: data-parallel degree.
    """

    global_size: int
    micro_size: int
    dp: int

    @classmethod
    def divide(cls, *, global_size: int, micro_size: int, dp: int) -> "BatchPlan":
        """A plan that is known to be exact.

        Raises:
            ValueError: where global_size is no multiple of micro_size x dp, with the nearest sizes that are.
        """
        if min(global_size, micro_size, dp) < 1:
            raise ValueError(f"global_size={global_size}, micro_size={micro_size} and dp={dp} must be at least 1")
        if global_size % (micro_size * dp):
            near = " or ".join(map(str, nearest_multiples(global_size, micro_size * dp)))
            raise ValueError(f"global_size={global_size} is not micro_size={micro_size} x accumulation steps x dp={dp}; try {near}")
        return cls(global_size, micro_size, dp)

    @property
    def accumulation_steps(self) -> int:
        """Micro-batches of each rank in one step."""
        return self.global_size // (self.micro_size * self.dp)

    @property
    def local_size(self) -> int:
        """Samples of each data rank in one step."""
        return self.global_size // self.dp

    def samples(self, step: int, dp_rank: int) -> list[int]:
        """Global indices of the samples that one data rank sees in one step, in the order of its micro-batches.

        Micro-batch a of all ranks is one contiguous block, so that a step sees the same samples in the same micro-batches'
        order whatever the data-parallel degree.

        Args:
            step: 0-based; step n covers samples n * global_size up to (n + 1) * global_size.
            dp_rank: 0-based place on the data axis.
        """
        assert step >= 0 and 0 <= dp_rank < self.dp
        first = step * self.global_size + dp_rank * self.micro_size
        blocks = (first + a * self.dp * self.micro_size for a in range(self.accumulation_steps))
        return [start + offset for start in blocks for offset in range(self.micro_size)]

    def samples_from(self, step: int, samples_seen: int, dp_rank: int) -> Callable[[int], list[int]]:
        """As `samples`, for a run of which this step begins at that sample: its batch size was changed, or it passed samples over.

        Args:
            step: 0-based.
            samples_seen: global index of that step's first sample.
            dp_rank: 0-based place on the data axis.
        """
        first = samples_seen - step * self.global_size
        return lambda number: [first + index for index in self.samples(number, dp_rank)]


def nearest_multiples(size: int, unit: int) -> list[int]:
    """The largest positive multiple of unit up to size and the smallest above it."""
    below = size // unit * unit
    return [multiple for multiple in (below, below + unit) if multiple > 0]
