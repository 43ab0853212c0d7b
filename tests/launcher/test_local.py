"""All ranks of one machine: `hexareme train cluster=local`, and the real torchrun and deepspeed around the same program."""

import os
import signal
import sys
from pathlib import Path

import pytest
from hexareme.launcher.environment import free_port
from hexareme.launcher.processes import descendants

from .processes import PROGRAM, alive, error_lines, ready, wait_until

# As `hexareme train`, but the ranks run the program.
LOCAL = """
import subprocess, sys
from pathlib import Path
from hexareme.launcher.local import start_local
def start(overrides, variables):
    return subprocess.Popen([sys.executable, sys.argv[2], *overrides], env=variables).pid
directory = next(word.partition("=")[2] for word in sys.argv if word.startswith("run.directory="))
sys.exit(start_local(sys.argv[3:], ranks=int(sys.argv[1]), directory=Path(directory), start=start))
"""
BIN = Path(sys.executable).parent


def local(run, ranks=2, **variables):
    return run.start(sys.executable, "-c", LOCAL, str(ranks), str(PROGRAM), **variables)


def start(run, front_end, **variables):
    if front_end == "local":
        return local(run, **variables)
    port = str(free_port())
    command = {"torchrun": [str(BIN / "torchrun"), "--nproc_per_node=2", f"--master_port={port}"],
               "deepspeed": [str(BIN / "deepspeed"), "--num_accelerators", "2", "--master_port", port]}[front_end]
    return run.start(*command, str(PROGRAM), **{"PATH": f"{BIN}:{os.environ['PATH']}", **variables})


@pytest.mark.parametrize("front_end", ["local", "torchrun", "deepspeed"])
def test_two_ranks_end_well(run, front_end):
    code, out, err = run.finish(start(run, front_end), 120)
    assert code == 0, err
    assert "ready 0/2" in out and "ready 1/2" not in out
    log = (run.directory / "logs" / "rank-00001.log").read_text()
    assert "ready 1/2" in log and f" {front_end}\n" in log
    assert run.exit_json()["code"] == 0


@pytest.mark.parametrize(("behaviour", "code"), [("storage", 7), ("kill", 137), ("bug", 1)])
def test_the_first_cause_ends_the_others(run, behaviour, code):
    process = local(run, BEHAVIOUR="saves", BEHAVIOUR_1=behaviour, DELAY_1="1")
    got, _, err = run.finish(process)
    assert got == code and run.exit_json()["rank"] == 1
    (line,) = error_lines(err)
    assert line.startswith(f"ERROR {code} rank=1 ")
    assert "stopped by signal [15]" in (run.directory / "logs" / "rank-00000.log").read_text()  # asked, and not only killed later


def test_a_lost_peer_leaves_the_word_to_the_cause(run):
    code, _, err = run.finish(local(run, BEHAVIOUR_0="peer", BEHAVIOUR_1="storage", DELAY_1="1.0"))
    assert code == 7 and run.exit_json()["code"] == 7
    assert [line[:7] for line in error_lines(err)] == ["ERROR 7"]


def test_one_rank_is_enough(run):
    assert run.finish(local(run, 1, BEHAVIOUR="storage"))[0] == 7


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 75), (signal.SIGUSR1, 75), (signal.SIGKILL, -9)])
def test_signals_to_the_launcher(run, number, code):
    process = local(run, BEHAVIOUR="saves")
    ready(process)
    wait_until(lambda: (run.directory / "logs" / "rank-00001.log").exists()
               and "ready" in (run.directory / "logs" / "rank-00001.log").read_text())
    below = descendants(process.pid)
    assert len(below) == 4
    process.send_signal(number)
    assert run.finish(process)[0] == code
    wait_until(lambda: not any(alive(child) for child in below), 5)
    assert code < 0 or run.exit_json()["reason"] == "preempted"


def test_a_rank_that_will_not_end_is_killed_with_the_others(run):
    process = local(run, BEHAVIOUR_0="stubborn", BEHAVIOUR_1="storage", DELAY_1="0.5")
    rank = ready(process)
    code, _, _ = run.finish(process)
    assert code == 7 and not alive(rank)


def test_sigterm_to_deepspeed_alone_still_saves(run):
    """deepspeed's runner dies at once and leaves its node launcher running; the watchers notice (FAULTS.md, C3)."""
    process = start(run, "deepspeed", BEHAVIOUR="saves")
    ready(process)
    below = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    wait_until(lambda: not any(alive(child) for child in below), 30)
    assert run.exit_json()["code"] == 75


def test_sigkill_of_the_node_launcher_ends_its_ranks(run):
    process = start(run, "deepspeed", BEHAVIOUR="stubborn")
    ready(process)
    below = descendants(process.pid)
    os.kill(below[0], signal.SIGKILL)
    wait_until(lambda: not any(alive(child) for child in below), 5)


def test_hexareme_train_validates_before_it_starts_anything(run):
    code, out, err = run.finish(run.start(str(BIN / "hexareme"), "train", "cluster.ranks_per_node=3", "parallel.tp=2"))
    assert code == 2 and out == "" and "does not divide the world size 3" in err
    assert not run.directory.exists()
