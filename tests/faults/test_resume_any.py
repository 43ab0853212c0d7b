"""Rows B7 and B8, and the second acceptance of checkpoints for any layout: saved under the one, gone on from under the other.

Of each pair: every tensor, saved again by the new layout as soon as it was loaded, is equal to what the old one saved, bit for bit; the
losses of the next steps are those of the old one's uninterrupted run to 1e-5; the samples are the same. Dropout is on: its masks belong to
samples and positions, not to ranks, which is tested on the masks themselves.
"""

from collections import Counter
from typing import NamedTuple

import pytest
import torch
from hexareme.core.checkpoint.folder import folder_name
from hexareme.core.model import attend, dropout

from .rig import Run, hashes
from .test_resume_same import old_weights_in_the_forward_pass, schedule_not_restored, update_count_not_restored
from .warm import go, save_again, stopped_at

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

CLOSE = 1e-5  # of a loss, relative
ONE = "one process"
LAYOUTS = {
    ONE: (1, ""),
    "DP2, ZeRO-1": (2, "parallel.zero=1"),
    "DP2, ZeRO-3": (2, "parallel.zero=3"),
    "TP2": (2, "parallel.tp=2"),
    "PP2": (2, "parallel.pp=2"),
    "TP2 x DP2": (4, "parallel.tp=2"),
    "TP2 x PP2, zbv": (4, "parallel.tp=2 parallel.pp=2 parallel.schedule=zbv"),
    "CP2": (2, "parallel.cp=2"),
}
DEEP = "model.num_layers=4"  # a V of two ranks is four stages
MIXTURE = {ONE: (1, ""), "DP2": (2, ""), "EP2": (2, "parallel.ep=2")}
EXPERTS = "model=mixtral_debug model.dropout=0.1 model.router_balance=bias"
PRECISIONS = {
    "DP2, fp32, ZeRO-1": (2, "parallel.zero=1"),
    "DP2, bf16, ZeRO-2": (2, "parallel.zero=2 train.precision=bf16"),
    "DP2, fp16, ZeRO-3": (2, "parallel.zero=3 train.precision=fp16"),
}


class Moved(NamedTuple):
    """What became of a pair."""

    same_state: bool  # every parameter, moment and buffer equal after the reshard
    same_samples: bool
    loss_difference: float  # largest, relative


def differences(found: Run, right: Run, since: int) -> tuple[bool, float]:
    """Whether the samples are the same, and the largest relative difference of a loss, of the steps after `since`."""
    ours, theirs = ({row["step"]: row["loss"] for row in run.metrics() if "loss" in row and row["step"] > since} for run in (found, right))
    assert ours.keys() == theirs.keys() and ours, "other steps than the reference"
    samples = [{step: ids for step, ids in run.samples().items() if step > since} for run in (found, right)]
    return samples[0] == samples[1], max(abs(ours[step] - theirs[step]) / abs(theirs[step]) for step in ours)


# ---- T0: a ring in which each layout loads once and saves once


def test_a_ring_of_eight_layouts_is_one_run(new_run):
    """Nine legs of two steps: eight pairs, each a load and a save under another layout."""
    legs, steps = [*LAYOUTS.values(), LAYOUTS[ONE]], 2
    common = (DEEP, "checkpoint.interval=0", f"train.steps={len(legs) * steps}")
    whole, ring = new_run("whole", *common), new_run("ring", *common)
    go(whole, ranks=1)
    before, pairs = None, 0
    for leg, (ranks, overrides) in enumerate(legs, 1):
        stop = f"train.stop_at={leg * steps}"
        if before is None:
            go(ring, stop, *overrides.split(), ranks=ranks)
        else:
            again, *_ = go(ring, stop, *overrides.split(), ranks=ranks, at_once=save_again)
            assert again == before, f"leg {leg}: a tensor changed on the way"
            pairs += 1
        before = ring.state()
    same_samples, difference = differences(ring, whole, since=0)
    print(f"{pairs} of 8 pairs hash-equal; largest difference of a loss {difference:.1e}")
    assert pairs == 8 and same_samples and difference <= CLOSE


@pytest.fixture(scope="module")
def of_one_process(corpus, tmp_path_factory):
    """A run of one process with a checkpoint in its middle."""
    run = Run(tmp_path_factory.mktemp("one"), corpus, "train.steps=24", "checkpoint.interval=0")
    for stop in (["train.stop_at=4"], []):
        go(run, *stop, ranks=1)
    return run


@pytest.mark.parametrize("mutant", [None, update_count_not_restored, schedule_not_restored, old_weights_in_the_forward_pass])
def test_the_bound_on_the_losses_tells_right_from_wrong(mutant, of_one_process, new_run, monkeypatch):
    """What the hashes of tensors do not show, the next twenty losses do: one process -> DP2."""
    run = stopped_at(of_one_process, 4, new_run("run", "train.steps=24", "checkpoint.interval=0"))
    if mutant is not None:
        mutant(monkeypatch)
    go(run)
    same_samples, difference = differences(run, of_one_process, since=4)
    print(f"{mutant.__name__ if mutant else 'right'}: largest difference of a loss {difference:.1e}")
    assert same_samples and (difference <= CLOSE) is (mutant is None)


# ---- T1: all ordered pairs


def all_pairs(layouts: dict[str, tuple[int, str]], new_run, *common: str, saved: int = 10, last: int = 30) -> dict[tuple[str, str], Moved]:
    """Each layout saves at step `saved` and goes on to `last`; each goes on from each of these checkpoints."""
    common = (*common, "checkpoint.interval=0", f"train.steps={last}")
    wholes: dict[str, Run] = {}
    for index, (name, (ranks, overrides)) in enumerate(layouts.items()):
        wholes[name] = new_run(f"whole-{index}", *common, *overrides.split())
        for stop in (f"train.stop_at={saved}", ""):
            go(wholes[name], *stop.split(), ranks=ranks)
    found = {}
    for before, whole in wholes.items():
        saved_hashes = hashes(whole.directory / "checkpoints" / folder_name(saved))
        for after, (ranks, overrides) in layouts.items():
            run = stopped_at(whole, saved, new_run(f"pair-{len(found)}", *common, *overrides.split()))
            again, *_ = go(run, ranks=ranks, at_once=save_again)
            found[before, after] = Moved(again == saved_hashes, *differences(run, whole, since=saved))
            print(f"{before} -> {after}: {found[before, after]}")
    return found


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_all_ordered_pairs_of_eight_layouts(new_run):
    """B7 and B8, acceptance 2: 64 of 64."""
    found = all_pairs(LAYOUTS, new_run, DEEP)
    good = [pair for pair, moved in found.items() if moved.same_state and moved.same_samples and moved.loss_difference <= CLOSE]
    worst = max(moved.loss_difference for moved in found.values())
    print(f"{len(good)} of {len(found)} ordered pairs; largest difference of a loss {worst:.1e}")
    assert len(good) == len(found) == 64, sorted(set(found) - set(good))


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_all_ordered_pairs_of_a_mixture_of_experts(new_run):
    found = all_pairs(MIXTURE, new_run, *EXPERTS.split())
    print(f"largest difference of a loss {max(moved.loss_difference for moved in found.values()):.1e}")
    assert len(found) == 9
    for pair, moved in found.items():
        assert moved.same_state and moved.same_samples and moved.loss_difference <= CLOSE, (pair, moved)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_all_ordered_pairs_of_precisions(new_run):
    """The masters and moments are kept whatever the forward pass computes in; losses then differ as the precisions do."""
    found = all_pairs(PRECISIONS, new_run, saved=5, last=10)
    assert len(found) == 9
    for pair, moved in found.items():
        assert moved.same_state and moved.same_samples and moved.loss_difference <= 2e-2, (pair, moved)


# ---- B8: the masks themselves

WIDE = ("model.dropout=0.5", "model.attention_dropout=0.5", "train.steps=2", "checkpoint.interval=0")  # 64 bits a row: no two by chance


def recorded_masks(trainer):
    """Lets a rank note every mask it draws: (site, step, sample, place) -> the row's bits; saved beside the run's files."""
    masks: dict[tuple, bytes] = {}
    of_residual, of_attention = dropout.dropout, attend.attention_dropout

    def rows(mask, key, samples, places):
        for b, sample in enumerate(samples.tolist()):
            for s, place in enumerate(places):
                row = bytes(mask[b, s].to(torch.uint8).numpy())
                coordinate = (*key, sample, place)
                assert masks.setdefault(coordinate, row) == row, f"two masks of {coordinate}"

    def residual(x_BSH, p, *, site_key, step, samples_B, positions_S):
        mask = of_residual(torch.ones_like(x_BSH), p, site_key=site_key, step=step, samples_B=samples_B, positions_S=positions_S) != 0
        rows(mask, (site_key, int(step)), samples_B, positions_S.tolist())
        return of_residual(x_BSH, p, site_key=site_key, step=step, samples_B=samples_B, positions_S=positions_S)

    def attention(x_BNSK, p, *, site_key, step, samples_B, heads_N, positions_S):
        rest = {"site_key": site_key, "step": step, "samples_B": samples_B, "heads_N": heads_N, "positions_S": positions_S}
        mask = of_attention(torch.ones_like(x_BNSK), p, **rest) != 0
        for n, head in enumerate(heads_N.tolist()):
            rows(mask[:, n], (site_key, int(step)), samples_B, [(head, position) for position in positions_S.tolist()])
        return of_attention(x_BNSK, p, **rest)

    dropout.dropout, attend.attention_dropout = residual, attention
    right = trainer.run

    def run():
        reason = right()
        trainer.masks.update(masks)
        return reason

    trainer.masks, trainer.run = {}, run
    return trainer.masks


@pytest.fixture(scope="module")
def masks_of_one_process(corpus, tmp_path_factory):
    return masks_of(Run(tmp_path_factory.mktemp("masks"), corpus, *WIDE), 1)


def masks_of(run: Run, ranks: int, *overrides: str) -> dict[tuple, bytes]:
    """Every mask of every rank of a run, after the same coordinate was found equal wherever two ranks drew it."""
    joined: dict[tuple, bytes] = {}
    for masks in go(run, *overrides, ranks=ranks, at_once=recorded_masks):
        for coordinate, row in masks.items():
            assert joined.setdefault(coordinate, row) == row, f"two ranks differ at {coordinate}"
    return joined


def repeated(masks: dict[tuple, bytes]) -> int:
    """How many coordinates share a mask with another."""
    return sum(count - 1 for count in Counter(masks.values()).values())


@pytest.mark.parametrize("name", ["DP2, ZeRO-1", "TP2", *(pytest.param(each, marks=pytest.mark.nightly) for each in
                                                          ("DP2, ZeRO-3", "PP2", "TP2 x DP2", "CP2"))])
def test_no_two_coordinates_share_a_mask_and_every_layout_draws_the_same(name, masks_of_one_process, new_run):
    """B8: 0 duplicates over all (layer, site, step, sample, position, head) of all ranks."""
    ranks, overrides = LAYOUTS[name]
    masks = masks_of(new_run("run", *WIDE), ranks, *overrides.split())
    print(f"{name}: {len(masks)} masks, {repeated(masks)} of them twice")
    assert masks == masks_of_one_process
    assert repeated(masks) == 0 and len(masks) == 2 * 4 * (5 * 64 + 2 * 2 * 64)


@pytest.mark.parametrize("mutant", ["every sample alike", "keyed by the rank"])
def test_streams_that_are_shared_or_bound_to_ranks_are_found(mutant, masks_of_one_process, new_run, monkeypatch):
    right = dropout.dropout

    def wrong(x, p, *, samples_B, positions_S, **rest):
        shifted = samples_B * 0 if mutant == "every sample alike" else samples_B + 1000 * torch.distributed.get_rank()
        return right(x, p, samples_B=shifted, positions_S=positions_S, **rest)

    monkeypatch.setattr(dropout, "dropout", wrong)
    masks = masks_of(new_run("run", *WIDE), 2)
    assert masks != masks_of_one_process
    assert (repeated(masks) > 0) == (mutant == "every sample alike")
