"""One watcher and its rank: every way to end has its code, its one line and its exit.json, and nobody is left behind."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from hexareme.launcher.processes import descendants

from .processes import PROGRAM, alive, error_lines, ready, wait_until


@pytest.mark.parametrize(("behaviour", "code", "words"), [
    ("storage", 7, "the disk is full (do: make room)"),
    ("non_finite", 6, "loss is nan (do: lower optimizer.learning_rate)"),
    ("data", 3, "a file is cut short (do: copy it again)"),
    ("config", 2, "optimizer.name=lion cannot run here (do: take adamw)"),
    ("peer", 5, "rank 1 was lost"),
    ("full", 7, "No space left on device: /full/file"),
    ("bug", 1, "TypeError: two lines (do: read the traceback in "),
    ("exit", 3, "exit code 3 without a word"),
    ("kill", 137, "killed by signal 9 (SIGKILL), probably out of memory"),
    ("crash", 139, "killed by signal 11 (SIGSEGV)"),
])
def test_each_failure_has_its_code_and_one_line(run, behaviour, code, words):
    (run.directory).mkdir()
    (run.directory / "metrics.jsonl").write_text('{"step": 16}\n{"step": 17, "loss": 1.0}\n{"ste')
    got, _, err = run.finish(run.program(BEHAVIOUR=behaviour))
    assert got == code
    (line,) = error_lines(err)
    assert line.startswith(f"ERROR {code} rank=0 step=17 ") and words in line and err.endswith(line + "\n")
    assert "Traceback" not in err
    ended = run.exit_json()
    assert ended["code"] == code and ended["rank"] == 0 and ended["step"] == 17 and ended["do"]


def test_the_traceback_is_in_the_log(run):
    run.finish(run.program(BEHAVIOUR="bug"))
    log = (run.directory / "logs" / "rank-00000.log").read_text()
    assert "Traceback" in log and "raise RAISES[what]" in log


@pytest.mark.parametrize(("behaviour", "code", "words"), [("storage", 7, "the disk is full (do: make room)"), ("bug", 1, "two lines")])
def test_a_log_on_a_full_disk_does_not_hide_the_cause(run, behaviour, code, words):
    (run.directory / "logs").mkdir(parents=True)
    (run.directory / "logs" / "rank-00000.log").symlink_to("/dev/full")
    got, _, err = run.finish(run.program(BEHAVIOUR=behaviour))
    (line,) = error_lines(err)
    assert got == code and words in line, err


def test_a_crash_in_native_code_leaves_its_stack_in_the_log(run):
    run.finish(run.program(BEHAVIOUR="crash"))
    assert "Segmentation fault" in (run.directory / "logs" / "rank-00000.log").read_text()


def test_success(run):
    got, out, err = run.finish(run.program())
    assert (got, err) == (0, "") and "ready 0/1" in out
    assert run.exit_json()["code"] == 0 and run.exit_json()["reason"] == "completed"


def test_a_new_start_forgets_the_old_end(run):
    run.directory.mkdir()
    (run.directory / "exit.json").write_text('{"code": 7}')
    os.utime(run.directory / "exit.json", (1e9, 1e9))
    process = run.program(BEHAVIOUR="saves")
    ready(process)
    assert run.exit_json() is None
    process.send_signal(signal.SIGTERM)
    assert run.finish(process)[0] == 75 and run.exit_json()["reason"] == "preempted"


def test_a_folder_of_another_run_keeps_its_end(run):
    run.directory.mkdir()
    (run.directory / "exit.json").write_text('{"code": 0, "reason": "completed"}')
    os.utime(run.directory / "exit.json", (1e9, 1e9))
    got, _, err = run.finish(run.program(BEHAVIOUR="in_use"))
    assert got == 8 and len(error_lines(err)) == 1
    assert run.exit_json() == {"code": 0, "reason": "completed"}


def test_no_file_is_left_beside_exit_json(run):
    run.finish(run.program(BEHAVIOUR="storage"))
    assert sorted(path.name for path in run.directory.iterdir()) == [".lock", "exit.json", "logs"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
def test_signals_reach_the_rank(run, number):
    process = run.program(BEHAVIOUR="saves")
    ready(process)
    process.send_signal(number)
    got, _, err = run.finish(process)
    assert got == 75
    reached = signal.SIGTERM if number is signal.SIGHUP else number
    assert f"[{int(reached)}]" in error_lines(err)[0]


def test_a_second_interrupt_kills(run):
    process = run.program(BEHAVIOUR="stubborn")
    rank = ready(process)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    assert alive(rank)
    process.send_signal(signal.SIGINT)
    got, _, err = run.finish(process)
    assert got == 130 and "interrupted twice" in err and not alive(rank)


def test_interrupts_at_once_are_one_request(run):
    """Ctrl-C reaches the watcher from the terminal, and again from the launcher that got it too."""
    process = run.program(BEHAVIOUR="saves", SAVE_SECONDS="1")
    ready(process)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    assert run.finish(process)[0] == 75


def test_a_rank_that_does_not_stop_is_killed_after_the_grace():
    script = """
import os, signal, time
from hexareme.launcher.environment import FrontEnd
from hexareme.launcher.watch.vigil import Vigil, watched_signals
signal.pthread_sigmask(signal.SIG_BLOCK, watched_signals())
rank = os.fork()
if rank == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
os.kill(os.getpid(), signal.SIGTERM)
begin = time.monotonic()
outcome = Vigil(rank, FrontEnd.python, grace_seconds=1).wait().outcome(None)
print(outcome.code, outcome.what, 0.9 < time.monotonic() - begin < 10)
"""
    out = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, timeout=60, check=True).stdout
    assert out == "143 was asked to stop, had not after 1 s, and was killed True\n"


def test_a_killed_watcher_takes_its_rank_along(run):
    process = run.program(BEHAVIOUR="stubborn")
    rank = ready(process)
    process.kill()
    wait_until(lambda: not alive(rank), 5)


def test_a_killed_launcher_takes_everything_along(run):
    """The watcher of a launched rank dies with its parent; one that a shell started does not."""
    variables = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    script = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    for foreign, survives in ((variables, False), ({}, True)):
        process = run.start(sys.executable, "-c", script, sys.executable, str(PROGRAM), BEHAVIOUR="saves", **foreign)
        rank = ready(process)
        watcher = descendants(process.pid)[0]
        process.kill()
        process.wait()
        if survives:
            with pytest.raises(AssertionError):
                wait_until(lambda: not alive(rank), 1)  # noqa: B023
            os.kill(watcher, signal.SIGTERM)
        wait_until(lambda: not alive(rank) and not alive(watcher), 10)  # noqa: B023


def test_what_the_rank_forked_is_ended_too():
    script = """
import os, signal, time
from hexareme.launcher.processes import adopt_orphans, descendants, end_descendants
adopt_orphans()
child = os.fork()
if child == 0:
    for _ in range(2):
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(60)
    os._exit(0)
os.waitpid(child, 0)
print(len(descendants(os.getpid())))
end_descendants(patience_seconds=0.2)
print(len(descendants(os.getpid())))
"""
    out = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, timeout=60, check=True).stdout
    assert out.split() == ["2", "0"]


def test_only_rank_0_speaks_of_a_wrong_config(run):
    told = {}
    for rank in (0, 1):
        process = run.program("train.steps=0", "parallel.tp=x", RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank),
                              MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")
        told[rank] = run.finish(process)
    assert told[1] == (2, "", "")
    code, _, err = told[0]
    assert code == 2 and "parallel.tp=x must be" in err and "train.steps=0 must be" in err
    assert error_lines(err) == [err.splitlines()[-1]] and run.exit_json() is None


def test_a_missing_corpus_is_a_data_error(run):
    got, _, err = run.finish(run.program("data.train=/nowhere"))
    assert got == 3 and "hexareme prepare" in error_lines(err)[0]


def test_wrong_variables_are_a_rendezvous_error(run):
    got, _, err = run.finish(run.program(RANK="abc", WORLD_SIZE="2"))
    assert got == 9 and "RANK='abc' is no number" in error_lines(err)[0]


def test_deepspeeds_extra_argument_is_filtered(run):
    assert run.finish(run.start(sys.executable, str(PROGRAM), "--local_rank=0"))[0] == 0


def test_the_watcher_never_imports_torch_and_starts_at_once(run):
    script = ("import resource, sys, json\n"
              "from hexareme.launcher.watch.watcher import validated\nimport hexareme.launcher.commands.train\n"
              "config = validated(sys.argv[1:], 1)\nused = resource.getrusage(resource.RUSAGE_SELF)\n"
              "print(json.dumps([config.run.name, 'torch' in sys.modules, used.ru_utime + used.ru_stime]))")
    name, torch, seconds = json.loads(run.finish(run.start(sys.executable, "-c", script))[1])
    assert name == "debug" and not torch and seconds < 2
