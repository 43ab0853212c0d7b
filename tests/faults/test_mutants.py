"""Acceptance 8: with a protection taken away, its row turns red."""

from importlib import import_module

import pytest

from .mutants import BESIDE_THEIR_ROWS, MUTANTS

SLOW = {"votes of all ranks"}  # red only when a hang is found


@pytest.mark.parametrize("mutant", [pytest.param(each, marks=[pytest.mark.nightly] * (each.protection in SLOW)) for each in MUTANTS],
                         ids=lambda each: each.protection)
def test_without_its_protection_a_row_is_red(new_run, mutant):
    with pytest.raises(AssertionError, match=mutant.red):
        mutant.check(new_run("run"), mutant.take_away)


@pytest.mark.nightly
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: each.protection)
def test_with_its_protection_the_row_is_green(new_run, mutant):
    mutant.check(new_run("run"), lambda: None)


@pytest.mark.parametrize("protection", BESIDE_THEIR_ROWS)
def test_the_other_mutants_are_where_this_list_says(protection):
    module, _, name = BESIDE_THEIR_ROWS[protection].partition(":")
    assert callable(getattr(import_module(module), name))
