"""Rows C12 and C14: ports that are taken, and ranks that do not come, come twice, or come as somebody else."""

import os
import re
import socket
import time

import pytest
from hexareme.core import meeting, roll_call
from hexareme.launcher.environment import agreed_port, free_port
from hexareme.launcher.rank import run_rank
from hexareme.launcher.watch import watcher

from .rig import SLACK, fork

TIMEOUT, AMPLE = 3, 40  # run.hang_timeout: where somebody is missing, and where nobody is
MISSING = f"run.hang_timeout={TIMEOUT}"


@pytest.fixture
def ranks(new_run):
    """`ranks({rank: variables}, *overrides)`: ranks as a user's own script would start them; exit codes, outputs, seconds, run."""
    def start(places, *overrides, prepare=lambda rank: None, port=None):
        run, port, begin = new_run("run"), port or free_port(), time.monotonic()
        children = {}
        for number, changes in enumerate(places):
            def watch(number=number, changes=changes):
                os.environ.update({"RANK": str(number), "WORLD_SIZE": "2", "LOCAL_RANK": str(number), "MASTER_ADDR": "127.0.0.1",
                                   "MASTER_PORT": str(port)} | changes)
                for name in [name for name, value in changes.items() if value == ""]:
                    del os.environ[name]
                prepare(number)
                more = [word for word in os.environ.get("MORE", "").split() if word]
                return watcher.main([*run.overrides, f"run.hang_timeout={AMPLE}", *overrides, *more], run_rank)
            children[number] = fork(watch, run.folder / f"rank-{number}.txt", MARK_OF_TEST=run.mark)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children.values()]
        texts = [(run.folder / f"rank-{number}.txt").read_text() for number in children]
        return codes, texts, time.monotonic() - begin, run
    return start


def lines(texts):
    return [line for text in texts for line in text.splitlines() if line.startswith("ERROR ")]


def test_a_rank_that_never_starts_is_named(ranks):
    """C14."""
    codes, texts, seconds, run = ranks([{}], MISSING)
    assert codes == [5] and seconds < SLACK * (TIMEOUT + 2)
    (line,) = lines(texts)
    assert f"rank 1 of 2 did not come within {TIMEOUT} s; came: 0 on {os.uname().nodename}" in line
    assert run.exit_json()["reason"] == "missing_rank" and run.exit_json()["code"] == 5


def test_rank_0_that_never_starts_is_named(ranks):
    codes, texts, seconds, run = ranks([{"RANK": "1", "LOCAL_RANK": "1"}], MISSING)
    assert codes == [5] and seconds < SLACK * (TIMEOUT + 2)
    assert f"rank 0 of 2 did not come within {TIMEOUT} s" in lines(texts)[0]
    assert not (run.directory / "exit.json").exists() and not (run.directory / "logs").exists()


@pytest.mark.parametrize(("places", "words"), [
    ([{"WORLD_SIZE": "3"}, {"WORLD_SIZE": "3"}, {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "3"}], "RANK=1 came twice: process "),
    ([{}, {"WORLD_SIZE": "4"}], "has WORLD_SIZE=4, rank 0 (host "),
    ([{}, {"MORE": "optimizer.learning_rate=0.5"}], "another config than rank 0: optimizer.learning_rate=0.5, rank 0 has "),
    ([{}, {"MORE": "run.directory=/tmp/hexareme-elsewhere"}], "run.directory='/tmp/hexareme-elsewhere', rank 0 has "),
])
def test_all_that_came_hear_what_is_wrong(ranks, places, words):
    overrides = ["batch.global_size=12"] if "WORLD_SIZE" in str(places) else []
    codes, texts, seconds, run = ranks(places, *overrides)
    assert codes == [9] * len(places) and seconds < AMPLE
    assert all(words in line for line in lines(texts)) and words in run.exit_json()["what"]
    assert len(lines(texts)) == (2 if "run.directory" in words else 1)  # one for each folder that there is


def test_another_version_is_named(ranks):
    def prepare(number):
        if number == 1:
            meeting.version = lambda name: "0.0.1"

    codes, texts, _, _ = ranks([{}, {}], prepare=prepare)
    assert codes == [9, 9] and "has deepspeed 0.0.1, rank 0 (host " in lines(texts)[0]


def test_another_folder_under_the_same_name_is_no_shared_disk(ranks):
    def prepare(number):
        if number == 1:
            from hexareme.launcher import gathering
            gathering.seen_token = lambda directory: ""

    codes, texts, _, _ = ranks([{}, {}], prepare=prepare)
    assert codes == [9, 9] and "sees another folder at " in lines(texts)[0] and "a disk that all hosts share" in lines(texts)[0]


def test_without_the_roll_call_a_rank_of_another_config_trains_along(ranks):
    """The mutant of the tests above."""
    def prepare(number):
        meeting.objection = lambda first, came, card: None

    codes, _, _, _ = ranks([{}, {"MORE": "train.gradient_clipping=0.5"}], "train.steps=2", prepare=prepare)
    assert codes == [0, 0]


def test_a_port_that_is_taken_is_told_with_its_holder(ranks):
    """C12."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        codes, texts, seconds, run = ranks([{}], port=taken.getsockname()[1])
        assert codes == [9] and seconds < SLACK * 5
        assert f"port {taken.getsockname()[1]} (MASTER_PORT) is taken by process {os.getpid()} (" in lines(texts)[0]
        assert run.exit_json()["code"] == 9


def test_a_stranger_on_the_port_does_not_hold_us_for_ever(ranks):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        codes, texts, seconds, _ = ranks([{"RANK": "1", "LOCAL_RANK": "1"}], MISSING, port=silent.getsockname()[1])
        assert codes == [5] and seconds < SLACK * (TIMEOUT + 2) and "accepts, but does not answer" in lines(texts)[0]


def test_two_runs_at_once_on_one_host(new_run):
    """C12."""
    starts = [new_run(name, "train.steps=3").start() for name in ("one", "two")]
    assert [start.finish() for start in starts] == [0, 0]


def test_two_runs_at_the_same_port_do_not_mix(ranks):
    """The second run's rank 1 comes to the first run's rank 0."""
    codes, texts, _, _ = ranks([{"HEXAREME_ATTEMPT": "one"}, {"HEXAREME_ATTEMPT": "two"}], "run.hang_timeout=8")
    assert codes == [5, 9] and re.search(r"another run's ranks meet: attempt \w+, not \w+", "\n".join(texts))


def test_a_port_that_we_chose_ourselves_is_changed_where_it_is_taken(ranks):
    """C12: the ranks that srun starts compute a port from the job; where it is taken, rank 0's lock tells another."""
    absent = dict.fromkeys(("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"), "")
    step = absent | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0",
                     "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NODELIST": "n0"}
    with socket.create_server(("127.0.0.1", agreed_port(f"{os.getpid()}.0"))):
        codes, texts, _, run = ranks([step | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in "01"], "train.steps=2")
    assert codes == [0, 0], texts
    assert run.last_step() == 2


def test_words_of_ranges():
    assert roll_call.ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert len(roll_call.ranges(range(0, 10000, 2))) < 200
