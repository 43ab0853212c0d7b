"""The choices of routers, recorded in one run and replayed in another.

Shapes: B samples, S tokens here, W tokens of the whole window, E experts, k choices.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from .input import Shared

_MARGIN = 1e-3  # of scores; two experts nearer than this may change places by rounding


class RoutingTape:
    """The choices of every router, recorded in one run to be replayed in another.

    Between layouts sums are rounded in another order, and where two experts' scores are almost equal another one is chosen: a jump, no
    rounding error. Replaying one run's choices leaves only the rounding. It holds plain tensors, so it can be sent to other processes.

    Args:
        choices: (layer, step, sample) -> int64 [W, k] experts, -1 where none was recorded. Empty: this tape records.
    """

    def __init__(self, choices: Mapping[tuple[int, int, int], Tensor] | None = None) -> None:
        self.replays = choices is not None
        self.choices = dict(choices or {})
        self.compared = 0  # choices that were replayed
        self.differing = 0  # of these, where the router itself would have chosen otherwise
        self.disagreeing = 0  # of these, where its preference was clear: that is no rounding

    @classmethod
    def replaying(cls, recorded: Iterable["RoutingTape"]) -> "RoutingTape":
        """A tape that replays what some ranks recorded, each its own places."""
        choices: dict[tuple[int, int, int], Tensor] = {}
        for tape in recorded:
            for key, value in tape.choices.items():
                choices[key] = value.maximum(choices[key]) if key in choices else value
        return cls(choices)

    @torch.no_grad()
    def follow(self, layer: int, shared: Shared, experts_BSk: Tensor, preference_BSE: Tensor, *, count: bool) -> Tensor:
        """What a router is to choose: its own experts, which are recorded, or the recorded ones.

        Args:
            layer: number of the block.
            shared: names step, samples and places.
            experts_BSk: the router's own choice.
            preference_BSE: by which it chose.
            count: whether this pass counts (recomputation does not).

        Raises:
            LookupError: a token was never recorded.
        """
        keys = [(layer, int(shared.step), sample) for sample in shared.samples_B.tolist()]
        if not self.replays:
            for key, own_Sk in zip(keys, experts_BSk.cpu(), strict=True):
                self._record(key, own_Sk, shared.positions_S.cpu())
            return experts_BSk
        missing = [key for key in keys if key not in self.choices]
        if missing:
            raise LookupError(f"no choice was recorded for (layer, step, sample) {missing[0]}")
        taped_BSk = torch.stack([self.choices[key] for key in keys]).to(experts_BSk.device)[:, shared.positions_S]
        if bool((taped_BSk < 0).any()):
            raise LookupError(f"some places of {keys} were not recorded")
        if count:
            differs = taped_BSk != experts_BSk
            margin = preference_BSE.gather(-1, experts_BSk) - preference_BSE.gather(-1, taped_BSk)
            self.compared += differs.numel()
            self.differing += int(differs.sum())
            self.disagreeing += int((differs & (margin.abs() > _MARGIN)).sum())
        return taped_BSk

    def _record(self, key: tuple[int, int, int], experts_Sk: Tensor, places_S: Tensor) -> None:
        length = int(places_S.max()) + 1
        known = self.choices.get(key)
        if known is None or len(known) < length:
            longer = experts_Sk.new_full((length, experts_Sk.shape[1]), -1)
            if known is not None:
                longer[:len(known)] = known
            self.choices[key] = known = longer
        known[places_S] = experts_Sk
