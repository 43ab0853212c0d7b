"""Workers answer in order, and neither a dead one nor a dead parent makes anybody wait."""

import signal
import subprocess
import sys
import time
from functools import partial

import psutil
import pytest
from hexareme.data.errors import DataError
from hexareme.data.prepare.workers import Workers

EVALUATE = partial(partial, eval)  # makes the task in the worker: an item is a Python expression
SLEEP = "__import__('time').sleep({})"


def ordered(workers, items, *, most=1000):
    """Answers to items of weight 1."""
    return workers.ordered(((item, 1) for item in items), most=most)


def test_answers_come_in_the_order_of_the_items():
    with Workers(2, EVALUATE) as workers:
        assert list(ordered(workers, (f"({SLEEP.format(0.05 if i % 3 == 0 else 0)}, {i})[1]" for i in range(20)))) == list(range(20))


def test_items_are_taken_only_a_little_ahead():
    taken: list[str] = []

    def items():
        for item in ["1"] * 100:
            taken.append(item)
            yield item

    with Workers(2, EVALUATE) as workers:
        for answered, _ in enumerate(ordered(workers, items())):
            assert len(taken) <= answered + 4 * 2 + 1


def test_a_death_is_noticed_while_an_earlier_item_is_worked_on():
    start = time.monotonic()
    with pytest.raises(DataError, match="ended with code 3"), Workers(2, EVALUATE) as workers:
        list(ordered(workers, [SLEEP.format(60), "__import__('os')._exit(3)"]))
    assert time.monotonic() - start < 5


def test_weight_bounds_what_is_taken_ahead():
    taken: list[int] = []

    def items():
        for weight in [10, 10, 10, 500, 10, 10]:
            taken.append(weight)
            yield f"{weight}", weight

    with Workers(4, EVALUATE) as workers:
        answered = 0
        for answer in workers.ordered(items(), most=25):
            answered += answer
            assert sum(taken) - answered <= 25 + taken[-1], (taken, answered)
    assert answered == 550


def test_a_task_that_cannot_be_made_says_why():
    with pytest.raises(RuntimeError, match="ZeroDivisionError"), Workers(2, partial(eval, "1 / 0")) as workers:
        list(ordered(workers, ["1"]))


def test_an_error_in_a_task_names_itself():
    with pytest.raises(RuntimeError, match="ZeroDivisionError"), Workers(1, EVALUATE) as workers:
        list(ordered(workers, ["1 / 0"]))


def test_a_busy_worker_ends_with_its_parent():
    code = """
from tests.data.prepare.test_workers import *
with Workers(1, EVALUATE) as workers:
    print("ready", *ordered(workers, ["__import__('os').getpid()"]), flush=True)
    list(ordered(workers, [SLEEP.format(60)]))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        worker = psutil.Process(int(parent.stdout.readline().split()[1]))
        time.sleep(0.3)
        parent.send_signal(signal.SIGKILL)
    worker.wait(timeout=5)
