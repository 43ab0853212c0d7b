"""How the global batch of one step is divided among data ranks and micro-batches, and which samples a step takes. Pure arithmetic."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from ..conf.schema import BatchConfig


@dataclass(frozen=True)
class RampUp:
    """Megatron's batch-size ramp-up: from `start`, by `increment`, to the global size, in equal shares of so many samples.

    Args:
        start: samples of the first step; 0: no ramp-up.
        increment: samples that each level has more.
        samples: of the whole ramp; from there on steps have the global size.
    """

    start: int = 0
    increment: int = 0
    samples: int = 0

    def sizes(self, global_size: int) -> list[int]:
        """Every size that a step may have, ascending.

        Raises:
            ValueError: `increment` does not lead from `start` to the global size.
        """
        if not self.start:
            return [global_size]
        if min(self.start, self.increment, self.samples) < 1 or self.start > global_size or (global_size - self.start) % self.increment:
            raise ValueError(f"a ramp-up from {self.start} by {self.increment} over {self.samples} samples does not lead to {global_size}")
        return list(range(self.start, global_size + 1, self.increment))


@dataclass(frozen=True)
class Level:
    """Steps of one size.

    Args:
        step: the first one, 0-based.
        sample: global index of its first sample.
        size: samples of each of them.
    """

    step: int
    sample: int
    size: int


@dataclass(frozen=True)
class BatchPlan:
    """Global batch = micro-batch x accumulation steps x data-parallel degree, all in samples, always exact.

    Args:
        global_size: samples of one optimizer step over all ranks, once a ramp-up is over.
        micro_size: samples of one forward pass on one rank.
        dp: data-parallel degree.
        ramp_up: how steps grow to the global size.
    """

    global_size: int
    micro_size: int
    dp: int
    ramp_up: RampUp = RampUp()

    @classmethod
    def divide(cls, *, global_size: int, micro_size: int, dp: int, ramp_up: RampUp = RampUp()) -> "BatchPlan":
        """A plan that is known to be exact.

        Raises:
            ValueError: where a step's size is no multiple of micro_size x dp, with the nearest sizes that are; or the ramp-up does not
                lead to global_size.
        """
        if min(global_size, micro_size, dp) < 1:
            raise ValueError(f"global_size={global_size}, micro_size={micro_size} and dp={dp} must be at least 1")
        for size in (global_size, *ramp_up.sizes(global_size)):
            if size % (micro_size * dp):
                near = " or ".join(map(str, nearest_multiples(size, micro_size * dp)))
                what = "global_size" if size == global_size else "a ramp-up's size"
                raise ValueError(f"{what}={size} is not micro_size={micro_size} x accumulation steps x dp={dp}; try {near}")
        return cls(global_size, micro_size, dp, ramp_up)

    @classmethod
    def of(cls, batch: BatchConfig, *, dp: int) -> "BatchPlan":
        """The plan of a run; errors as `divide`."""
        return cls.divide(global_size=batch.global_size, micro_size=batch.micro_size, dp=dp, ramp_up=ramp_up_of(batch))

    @classmethod
    def of_steps(cls, batch: BatchConfig) -> "BatchPlan":
        """For which samples a step of a run takes, whatever its layout."""
        return cls.divide(global_size=batch.global_size, micro_size=1, dp=1, ramp_up=ramp_up_of(batch))

    @property
    def accumulation_steps(self) -> int:
        """Micro-batches of each rank in one step of the global size; a step of a ramp-up has fewer."""
        return self.global_size // (self.micro_size * self.dp)

    @property
    def local_size(self) -> int:
        """Samples of each data rank in one step of the global size."""
        return self.global_size // self.dp

    @cached_property
    def levels(self) -> list[Level]:
        """The sizes that steps really have, and where each begins: a step begins at a level by the samples seen before it.

        Megatron-LM, core/num_microbatches_calculator.py, RampupBatchsizeNumMicroBatchesCalculator, in whole numbers.
        """
        sizes, found, step, sample = self.ramp_up.sizes(self.global_size), [], 0, 0
        for number, size in enumerate(sizes[:-1], start=1):
            left = number * self.ramp_up.samples - sample * (len(sizes) - 1)  # until the next level, in 1 / (len(sizes) - 1) samples
            steps = -(-left // (size * (len(sizes) - 1)))
            if steps > 0:
                found.append(Level(step, sample, size))
                step, sample = step + steps, sample + steps * size
        return [*found, Level(step, sample, self.global_size)]

    def size(self, step: int) -> int:
        """Samples of a step (0-based) over all ranks."""
        return self._level(step).size

    def first_sample(self, step: int) -> int:
        """How many samples all steps before this one (0-based) have."""
        level = self._level(step)
        return level.sample + (step - level.step) * level.size

    def step_of(self, sample: int) -> int:
        """The step (0-based) that a sample belongs to."""
        assert sample >= 0
        level = self.levels[bisect_right(self.levels, sample, key=lambda level: level.sample) - 1]
        return level.step + (sample - level.sample) // level.size

    def _level(self, step: int) -> Level:
        assert step >= 0
        return self.levels[bisect_right(self.levels, step, key=lambda level: level.step) - 1]

    def samples(self, step: int, dp_rank: int) -> list[int]:
        """Global indices of the samples that one data rank sees in one step, in the order of its micro-batches.

        Micro-batch a of all ranks is one contiguous block, so that a step sees the same samples in the same micro-batches'
        order whatever the data-parallel degree.

        Args:
            step: 0-based; step n covers `size(n)` samples from `first_sample(n)` on.
            dp_rank: 0-based place on the data axis.
        """
        assert step >= 0 and 0 <= dp_rank < self.dp
        return self.block(self.first_sample(step), self.size(step), dp_rank)

    def block(self, first: int, size: int, dp_rank: int) -> list[int]:
        """As `samples`, of a step that takes `size` samples from `first` on."""
        unit = self.dp * self.micro_size
        starts = range(first + dp_rank * self.micro_size, first + size, unit)
        return [start + offset for start in starts for offset in range(self.micro_size)]

    def samples_from(self, step: int, samples_seen: int, dp_rank: int) -> Callable[[int], list[int]]:
        """As `samples`, for a run of which this step begins at that sample: its batch size was changed, or it passed samples over.

        Args:
            step: 0-based.
            samples_seen: global index of that step's first sample.
            dp_rank: 0-based place on the data axis.
        """
        shift = samples_seen - self.first_sample(step)
        return lambda number: [shift + index for index in self.samples(number, dp_rank)]


def ramp_up_of(batch: BatchConfig) -> RampUp:
    """The ramp-up of a run."""
    return RampUp(batch.ramp_up.start, batch.ramp_up.increment, batch.ramp_up.samples)


def nearest_multiples(size: int, unit: int) -> list[int]:
    """The largest positive multiple of unit up to size and the smallest above it."""
    below = size // unit * unit
    return [multiple for multiple in (below, below + unit) if multiple > 0]
