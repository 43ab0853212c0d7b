"""Row C9: a rank that is busy for longer than the others is named with its host, and goes on; no clean run has one."""

import os
import threading
import time

import pytest
from hexareme.core.heartbeat import Heartbeat
from hexareme.core.pulse import Pulse
from hexareme.core.trainer import Trainer

from .rig import SLACK

SLOW = 0.3  # seconds more a step
WARNING = "WARNING: rank {rank} on "


def slow_rank_1() -> None:
    original = Trainer.train_one_step

    def train_one_step(self):
        batch = self.loader.batch

        def slowly(step):
            if os.environ["RANK"] == "1":
                time.sleep(SLOW)
            return batch(step)

        self.loader.batch = slowly
        try:
            return original(self)
        finally:
            self.loader.batch = batch

    Trainer.train_one_step = train_one_step


def warnings(start) -> list[str]:
    return [line for line in start.text().splitlines() if "holds the others up" in line]


@pytest.mark.nightly
@pytest.mark.parametrize("layout", ["parallel.tp=1", "parallel.tp=2", "parallel.pp=2"])
def test_a_slow_rank_is_named_within_20_steps(new_run, layout):
    start = new_run("run", "train.steps=20", "checkpoint.interval=0", layout).start(prepare=slow_rank_1)
    assert start.finish() == 0, start.text()
    (line,) = warnings(start)
    assert WARNING.format(rank=1) in line and os.uname().nodename in line, line


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_a_clean_run_has_no_straggler(new_run):
    start = new_run("run", "train.steps=1000", "checkpoint.interval=0", "evaluation.interval=0").start()
    assert start.finish(600) == 0, start.text()
    assert warnings(start) == []


def test_the_thread_costs_next_to_nothing():
    """At most 0.5 % of a processor, beside a main thread that keeps Python's lock busy."""
    pulse = Pulse()

    def processor_seconds(seconds: float) -> float:
        """Of the heartbeat's thread alone."""
        heartbeat = Heartbeat(pulse, accelerator=False).start()
        clock = time.pthread_getcpuclockid(next(each.ident for each in threading.enumerate() if each.name == "hexareme-heartbeat"))
        end, spent = time.monotonic() + seconds, time.clock_gettime(clock)
        while time.monotonic() < end:
            sum(range(1000))
        spent = time.clock_gettime(clock) - spent
        heartbeat.stop()
        return spent

    share = min(processor_seconds(1.0) for _ in range(3))  # what else runs here makes it dearer, never cheaper
    print(f"{share:.3%} of a processor")
    assert pulse.read().thread >= 3
    assert share <= 0.005 * SLACK


def test_waiting_is_told_from_work():
    """Half a second of work and half a second below a frame of torch.distributed."""
    heartbeat = Heartbeat(Pulse(), accelerator=False).start()
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        sum(range(1000))
    assert heartbeat.waited_seconds() < 0.1
    exec(compile("import time; time.sleep(0.5)", "/any/torch/distributed/distributed_c10d.py", "exec"))
    heartbeat.stop()
    assert 0.3 < heartbeat.waited_seconds() < 0.8
