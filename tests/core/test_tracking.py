"""Tracking: what W&B and TensorBoard hold at the end, and that neither can slow, stop or outlive a run."""

import io
import json
import math
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from hexareme.core.metrics import MetricsLog, StepMetrics, ValidationMetrics
from hexareme.core.tracking.lifeline import kill_descendants
from hexareme.core.tracking.notices import Notices
from hexareme.core.tracking.secrets import without_secrets
from hexareme.core.tracking.tail import Tail
from hexareme.core.tracking.tracker import Tracker
from hypothesis import given
from hypothesis import strategies as st

from .wandb_server import WandbServer

ROOT = Path(__file__).parents[2]
EXAMPLE = StepMetrics(step=1, samples_seen=8, tokens_seen=1024, loss=10.5, grad_norm=1.25, learning_rate=3e-4, step_seconds=0.5,
                      tokens_per_second=2048.0, model_flops_utilization=None, memory_bytes=123)


def loss_of(step):
    return 10 / 3 / step


def record(run, steps, *, cut=None):
    """Steps into metrics.jsonl, a validation after each tenth."""
    with MetricsLog(run / "metrics.jsonl") as log:
        if cut is not None:
            log.cut_after(cut)
        for step in steps:
            log.record(replace(EXAMPLE, step=step, loss=loss_of(step)))
            if step % 10 == 0:
                log.record(ValidationMetrics(step=step, validation_loss=loss_of(step) + 1, validation_perplexity=math.exp(2)))


def offline_rows(run):
    """History of all offline sessions, decoded with wandb's own messages and a LevelDB reader of this test."""
    from wandb.proto.wandb_internal_pb2 import Record
    rows = []
    for path in sorted((run / "wandb").glob("offline-run-*/run-*.wandb")):
        content, position, parts = path.read_bytes(), 7, b""
        assert content[:4] == b":W&B"
        while position < len(content):
            room = 32768 - position % 32768
            if room < 7:
                position += room
                continue
            length, kind = struct.unpack_from("<HB", content, position + 4)
            parts += content[position + 7:position + 7 + length]
            position += 7 + length
            if kind in (1, 4):
                record_ = Record.FromString(parts)
                parts = b""
                if record_.WhichOneof("record_type") == "history":
                    rows.append({"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record_.history.item})
    return rows


def followers():
    """Processes of tracking that live now."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if "hexareme.core.tracking.follower" in line or "wandb-core" in line or "wandb-symon" in line:
            found.append((process.info["pid"], line))
    return found


def ours(run):
    """Those of this test: followers of this run, and all that descends from this process."""
    mine = {child.pid for child in psutil.Process().children(recursive=True)}
    return [(pid, line) for pid, line in followers() if str(run) in line or pid in mine]


@pytest.fixture
def scratch():
    """Stands for /tmp; short, as wandb puts sockets there."""
    with tempfile.TemporaryDirectory(prefix="hx-") as folder:
        yield Path(folder)


@pytest.fixture
def run(tmp_path, monkeypatch, scratch):
    """A run folder; wandb sees a home and a /tmp of its own, and no settings of the machine."""
    home, folder = tmp_path / "home", tmp_path / "runs" / "x"
    home.mkdir()
    folder.mkdir(parents=True)
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(scratch))
    return folder


@pytest.fixture
def online(monkeypatch):
    """Makes wandb talk to a server of ours; returns a function that starts it."""
    servers = []

    def start(status=200):
        servers.append(WandbServer(status))
        monkeypatch.setenv("WANDB_BASE_URL", servers[-1].url)
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def test_offline_holds_every_step_once_also_after_a_resume(run):
    for first, last in ((1, 100), (51, 130)):
        tracker = Tracker(run, wandb_mode="offline", config={"model": {"num_layers": 2}})
        record(run, range(first, last + 1), cut=first - 1)
        assert tracker.close()
    rows = offline_rows(run)
    assert [(row["step"], row["loss"]) for row in rows if "loss" in row] == [(step, loss_of(step)) for step in range(1, 131)]
    assert [row["step"] for row in rows if "validation_loss" in row] == list(range(10, 131, 10))
    ids = {path.name for path in (run / "wandb").glob("offline-run-*/run-*.wandb")}
    assert ids == {f"run-{(run / 'wandb' / 'run_id').read_text().strip()}.wandb"}
    assert not ours(run)


def test_nothing_is_written_outside_the_run(run, scratch):
    record(run, range(1, 4))
    assert Tracker(run, wandb_mode="offline", config={}).close()
    expected = {run, run.parent, run.parents[1] / "home"}
    assert [path for path in run.parents[1].rglob("*") if run not in path.parents and path not in expected] == []
    assert list(scratch.iterdir()) == []


def test_tensorboard_holds_every_step_once_also_after_a_resume(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    for first, last in ((1, 40), (21, 60)):
        tracker = Tracker(run, wandb_mode="disabled", tensorboard=True, config={})
        record(run, range(first, last + 1), cut=first - 1)
        assert tracker.close()
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    assert [event.step for event in events.Scalars("training/loss")] == list(range(1, 61))
    assert [event.value for event in events.Scalars("training/loss")] == pytest.approx([loss_of(step) for step in range(1, 61)], rel=1e-6)
    assert [event.step for event in events.Scalars("validation/validation_loss")] == [10, 20, 30, 40, 50, 60]


def test_disabled_starts_no_process(run):
    tracker = Tracker(run, wandb_mode="disabled", config={})
    assert tracker.pid is None
    assert tracker.close()
    assert list(run.iterdir()) == []


def test_online_sends_every_step_once_also_after_a_resume(run, online):
    server = online()
    for first, last in ((1, 30), (16, 45)):
        tracker = Tracker(run, wandb_mode="online", config={"train": {"seed": 5}, "hub_token": "canary-1", "url": "s3://me:canary-2@x/y"})
        record(run, range(first, last + 1), cut=first - 1)
        assert tracker.close()
    rows = [server.history[number] for number in sorted(server.history)]
    assert [(row["step"], row["loss"]) for row in rows if "loss" in row] == [(step, loss_of(step)) for step in range(1, 46)]
    assert [row["step"] for row in rows if "validation_loss" in row] == [10, 20, 30, 40]
    assert server.config["train"]["value"] == {"seed": 5}
    assert "canary" not in server.text
    assert not ours(run)


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
    from hexareme.core.tracking.transaction_log import history
    (log,) = (run / "wandb").glob("run-*/run-*.wandb")
    assert [row["step"] for row in history(log) if "loss" in row] == list(range(1, 31))


OWNER = """
import sys, time
from pathlib import Path
from tests.core.test_tracking import *
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


def test_a_cut_file_is_read_again_from_its_beginning(tmp_path):
    record(tmp_path, range(1, 6))
    tail = Tail(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in tail.rows()] == [1, 2, 3, 4, 5]
    record(tmp_path, [4, 5, 6], cut=3)
    assert [row["step"] for row in tail.rows()] == [1, 2, 3, 4, 5, 6]
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 7, "lo')
        file.flush()
        assert list(tail.rows()) == []
        file.write(b'ss": 1.0}\n')
        file.flush()
        assert [row["step"] for row in tail.rows()] == [7]


SECRETS = {"api_key": "x1", "apiKey": "x2", "WANDB_API_KEY": "x3", "hub": {"token": "x4", "password": "x5"}, "aws-secret": "x6",
           "mirrors": ["https://user:x7@host/path", "postgres://x8@host:5432/db"], "note": "use hf_x9x9x9x9x9x9x9x9x9x9 here"}
HARMLESS = {"tokens_seen": 5, "tokenizer": {"kind": "byte_bpe"}, "max_new_tokens": "many", "vocab_size": 1000, "key": 3, "token": None,
            "url": "https://host/a@b", "keys": "a", "monkey": "b", "auth": {"mode": "none"}}


def test_secrets_are_masked_and_the_rest_is_kept():
    masked = json.dumps(without_secrets(SECRETS))
    assert [f"x{number}" for number in range(1, 10) if f"x{number}" in masked] == []
    assert "https://***@host/path" in masked
    assert without_secrets(HARMLESS) == HARMLESS


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(alphabet="abc @:/", max_size=12),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet="abc_", max_size=5), inner, max_size=3)))
def test_masking_keeps_the_structure(value):
    masked = without_secrets(value)
    assert type(masked) is type(value)
    assert without_secrets(masked) == masked


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
