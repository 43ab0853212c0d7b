"""The tracking process can neither slow, stop nor outlive a run, whatever becomes of it, of the server, or of the rank."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from hexareme.core.tracking.lifeline import kill_descendants
from hexareme.core.tracking.notices import Notices
from hexareme.core.tracking.tracker import Tracker
from hexareme.core.tracking.transaction_log import history

from .helpers import ROOT, offline_rows, ours, record


@pytest.mark.parametrize("answer", [500, None])
def test_a_failing_server_costs_nothing_but_a_warning(run, online, monkeypatch, capfd, answer):
    server = online(answer or 200)
    if answer is None:
        server.close()  # the port is refused
    begin = time.monotonic()
    tracker = Tracker(run, wandb_mode="online", config={})
    record(run, range(1, 21))
    assert time.monotonic() - begin < 1
    tracker.close(14)
    assert time.monotonic() - begin < 15
    assert [row["step"] for row in offline_rows(run) if "loss" in row] == list(range(1, 21))
    said = capfd.readouterr().err
    assert said.count("WARNING") == 1
    assert "wandb sync" in said
    assert "Traceback" not in said
    assert answer is None or server.requests > 0
    assert not ours(run)


def test_a_server_that_breaks_during_the_run_bounds_the_end(run, scratch, online, capfd):
    server = online()
    tracker = Tracker(run, wandb_mode="online", config={})
    record(run, range(1, 11))
    while not server.config:  # the run exists on the server
        time.sleep(0.1)
    server.status = 500
    record(run, range(11, 31))
    begin = time.monotonic()
    assert not tracker.close(6)
    assert time.monotonic() - begin < 7
    assert list(scratch.iterdir()) == []
    assert "wandb sync" in capfd.readouterr().err
    assert not ours(run)
    (log,) = (run / "wandb").glob("run-*/run-*.wandb")
    assert [row["step"] for row in history(log) if "loss" in row] == list(range(1, 31))


OWNER = """
import sys, time
from pathlib import Path
from tests.core.tracking.test_life import *
run = Path(sys.argv[1])
tracker = Tracker(run, wandb_mode="offline", tensorboard=True, config={})
helper = os.fork() if sys.argv[2] == "forked" else -1
if helper == 0:
    time.sleep(60)
    os._exit(0)
print(tracker.pid, helper, flush=True)
for step in range(1, 10**6):
    record(run, [step])
    time.sleep(0.01)
"""


@pytest.mark.parametrize("case", ["alone", "forked"])  # a forked helper of the rank holds the follower's pipe open
def test_sigkill_of_the_rank_leaves_no_process_and_loses_nothing(run, scratch, case):
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(run), case], stdout=subprocess.PIPE, cwd=ROOT)
    follower, helper = map(int, owner.stdout.readline().split())
    follower = psutil.Process(follower)
    while len(offline_rows(run)) < 20:
        assert owner.poll() is None
        time.sleep(0.1)
    family = [follower, *follower.children(recursive=True)]
    assert any("wandb-core" in process.name() for process in family)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    _, alive = psutil.wait_procs(family, timeout=10)
    if case == "forked":
        os.kill(helper, signal.SIGKILL)
    assert alive == []
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]
    assert [row["step"] for row in offline_rows(run) if "loss" in row] == steps
    assert list(scratch.iterdir()) == []


def test_a_follower_that_is_killed_does_not_touch_the_run(run):
    tracker = Tracker(run, wandb_mode="offline", config={})
    follower = psutil.Process(tracker.pid)
    while not any("wandb-core" in child.name() for child in follower.children(recursive=True)):
        time.sleep(0.05)
    family = follower.children(recursive=True)
    follower.kill()
    record(run, range(1, 11))
    assert not tracker.close()
    assert psutil.wait_procs(family, timeout=10)[1] == []


def test_a_frozen_follower_is_killed_in_time(run):
    tracker = Tracker(run, wandb_mode="offline", config={})
    psutil.Process(tracker.pid).suspend()
    begin = time.monotonic()
    assert not tracker.close(1)
    assert time.monotonic() - begin < 2
    assert not ours(run)


@pytest.mark.parametrize("package", ["wandb", "tensorboard"])
def test_a_missing_package_is_named_and_the_run_goes_on(run, tmp_path, monkeypatch, capfd, package):
    # A sitecustomize in front of the path hides the package from the follower, as if it were not installed.
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide" / "sitecustomize.py").write_text(
        "import importlib.util\nfind = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name, package=None: None if name == '{package}' else find(name, package)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hide"))
    tracker = Tracker(run, wandb_mode="offline" if package == "wandb" else "disabled", tensorboard=True, config={})
    record(run, range(1, 3))
    assert tracker.close()
    assert f"pip install 'hexareme[{package}]'" in capfd.readouterr().err


def test_training_imports_neither_wandb_nor_tensorboard():
    code = ("import sys, hexareme.core.tracking.tracker, hexareme.core.metrics, hexareme.core.console\n"
            "print([name for name in ('wandb', 'tensorboard', 'torch', 'rich', 'numpy') if name in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_warnings_come_at_most_once_a_minute(monkeypatch):
    person, log, now = io.StringIO(), io.StringIO(), 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    notices = Notices(person, log)
    for now in (1000.0, 1030.0, 1059.0, 1061.0):  # noqa: B007 (the clock reads it)
        notices.warn(f"at {now:.0f}")
    assert [line.split()[3] for line in person.getvalue().splitlines()] == ["1000", "1061"]
    assert log.getvalue().count("at ") == 4


TREE = """
import subprocess, sys
middle = "import subprocess; inner = subprocess.Popen(['sleep', '60'], start_new_session=True); print(inner.pid, flush=True); inner.wait()"
print(subprocess.Popen([sys.executable, "-c", middle], start_new_session=True).wait())
"""


def test_descendants_die_also_in_sessions_of_their_own():
    child = subprocess.Popen([sys.executable, "-c", TREE], stdout=subprocess.PIPE)
    inner = psutil.Process(int(child.stdout.readline()))
    kill_descendants(child.pid)
    assert psutil.wait_procs([inner], timeout=5)[1] == []
    assert child.stdout.readline() == b"-9\n"  # what became of the one in the middle
    assert child.wait(5) == 0
    child.stdout.close()
