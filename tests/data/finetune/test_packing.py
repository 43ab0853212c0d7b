"""Packing: every example in exactly one row, no row too full, nearly all rows full, and what is too long goes as was asked."""

import numpy as np
import pytest
from hexareme.data.finetune.examples import OVERLONG, Example, fit
from hexareme.data.finetune.packing import pack
from hexareme.data.finetune.refusal import RecordRefusedError
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40).flatmap(lambda capacity: st.tuples(st.just(capacity), st.lists(st.integers(1, capacity), max_size=60))))
def test_every_item_is_in_one_row_that_holds_it(case):
    capacity, sizes = case
    rows = pack(np.array(sizes, dtype=np.int64), capacity)
    assert sorted(item for row in rows for item in row) == list(range(len(sizes)))
    assert all(sum(sizes[item] for item in row) <= capacity for row in rows)
    assert rows == sorted(sorted(row) for row in rows)
    # Best-fit decreasing takes at most 11/9 of the least number of rows, and 4 (Johnson 1973); the sum is a bound of that.
    assert len(rows) <= max(-(-sum(sizes) // capacity), sum(2 * size > capacity for size in sizes)) * 11 / 9 + 4


@pytest.mark.parametrize("median", [100, 300, 600])
def test_typical_lengths_fill_rows(median):
    sizes = np.clip(np.random.default_rng(0).lognormal(np.log(median), 0.8, 20_000), 2, 2048).astype(np.int64)
    assert sizes.sum() / (2048 * len(pack(sizes, 2048))) >= 0.98


def example(prompt: int, answer: int) -> Example:
    mask = np.array([0] * prompt + [1] * answer, dtype=np.uint8)
    return Example(np.arange(prompt + answer, dtype=np.int64), mask, "")


@pytest.mark.parametrize(("policy", "kept"), [("cut_prompt_start", [4, 5, 6, 7, 8, 9]), ("cut_prompt_end", [0, 1, 2, 7, 8, 9]),
                                              ("cut_end", [0, 1, 2, 3, 4, 5])])
def test_too_long_is_cut_where_asked(policy, kept):
    found, fate = fit([example(7, 3) if policy != "cut_end" else example(3, 7)], 6, policy)
    assert fate == "cut" and found[0].ids.tolist() == kept
    assert found[0].mask.tolist() == [0, 0, 0, 1, 1, 1]


def test_an_answer_that_cannot_stay_is_dropped():
    for policy in ("drop", "cut_prompt_start", "cut_prompt_end"):
        assert fit([example(2, 8)], 6, policy) == ([], "dropped")
    assert fit([example(7, 3)], 6, "cut_end") == ([], "dropped")  # nothing learned would be left
    with pytest.raises(RecordRefusedError, match="too_long"):
        fit([example(7, 3)], 6, "error")
    for policy in OVERLONG:
        assert fit([example(3, 3)], 6, policy)[1] == ""


def test_a_pair_loses_the_same_of_its_prompt():
    found, fate = fit([example(6, 2), example(6, 4)], 7, "cut_prompt_start")
    assert fate == "cut" and [each.ids.tolist() for each in found] == [[3, 4, 5, 6, 7], [3, 4, 5, 6, 7, 8, 9]]
    assert fit([example(6, 2), example(6, 9)], 7, "cut_prompt_start") == ([], "dropped")


def test_a_text_that_is_classified_keeps_its_end():
    text = Example(np.arange(10, dtype=np.int64), np.zeros(10, dtype=np.uint8), "")
    assert fit([text], 6, "cut_prompt_end")[0][0].ids.tolist() == [0, 1, 2, 3, 4, 9]
    assert fit([text], 6, "cut_prompt_start")[0][0].ids.tolist() == [4, 5, 6, 7, 8, 9]
