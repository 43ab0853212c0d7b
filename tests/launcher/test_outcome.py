"""exit.json has one first cause, however many ranks write it at once; the error line is always one short line."""

import json
import os
import subprocess
import sys
import time

from hexareme.core.errors import FolderInUseError, NonFiniteError, PeerError
from hexareme.launcher.outcome import ExitFile, Outcome, last_step, outcome_of, reason_of
from hypothesis import given
from hypothesis import strategies as st


def test_one_first_cause_among_many_writers(tmp_path):
    writers = []
    script = ("import sys, pathlib\nfrom hexareme.launcher.outcome import ExitFile, Outcome\n"
              "sys.stdin.read(1)\n"
              "print(ExitFile(pathlib.Path(sys.argv[1])).write(Outcome(code=7, reason='x', rank=int(sys.argv[2]))))")
    for rank in range(6):
        writers.append(subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(rank)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True))
    won = [rank for rank, writer in enumerate(writers) if writer.communicate("g")[0].strip() == "True"]
    assert len(won) == 1 and (ExitFile(tmp_path).read() or {})["rank"] == won[0]
    assert os.listdir(tmp_path) == ["exit.json"]


def test_a_failure_replaces_a_success_and_never_the_other_way(tmp_path):
    file = ExitFile(tmp_path)
    assert file.write(Outcome(code=0, reason="completed"))
    assert file.write(Outcome(code=7, reason="storage", rank=1))
    assert not file.write(Outcome(code=0, reason="completed")) and not file.write(Outcome(code=5, reason="peer"))
    assert (file.read() or {})["rank"] == 1


def test_clear_and_restore(tmp_path):
    (tmp_path / "exit.json").write_text('{"code": 0}')
    file = ExitFile(tmp_path)
    file.clear(began=time.time() - 60)
    assert file.read() == {"code": 0}  # of this attempt: another rank was faster
    file.clear(began=time.time() + 60)
    assert file.read() is None
    file.restore()
    assert file.read() == {"code": 0}


@given(what=st.text(max_size=5000), do=st.text(max_size=300))
def test_the_line_is_one_short_line(what, do):
    line = Outcome(code=3, reason="data", rank=2, step=9, what=what, do=do).line()
    assert line.startswith("ERROR 3 rank=2 step=9 ") and line.splitlines() == [line] and line.endswith(")")
    assert len(line.encode()) <= 2048


def test_outcomes_of_errors():
    found = outcome_of(NonFiniteError("nan", do="smaller rate", file="f"))
    assert (found.code, found.reason, found.what, found.do, found.file) == (6, "non_finite", "nan", "smaller rate", "f")
    assert reason_of(FolderInUseError("", do="")) == "folder_in_use" and reason_of(PeerError("", do="")) == "peer"
    assert outcome_of(KeyboardInterrupt()).code == 130 and outcome_of(SystemExit(4)).code == 4
    assert outcome_of(OSError(2, "No such file", "x")).code == 1 and outcome_of(OSError(122, "Quota", "x")).code == 7
    assert (outcome_of(OSError(28, "No space")).what, outcome_of(OSError(28, "No space")).file) == ("No space", None)


@given(st.integers(0, 3000), st.binary(max_size=40))
def test_last_step_reads_any_tail(tmp_path_factory, steps, torn):
    folder = tmp_path_factory.mktemp("run")
    lines = [json.dumps({"step": step, "loss": 1.5}) for step in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_bytes("".join(line + "\n" for line in lines).encode() + b'{"step": ' + torn.replace(b"\n", b""))
    assert last_step(folder) == steps or torn.strip(b" \t\r").rstrip(b"}").isdigit()


def test_last_step_without_a_run(tmp_path):
    assert last_step(tmp_path) == 0 and last_step(tmp_path / "none") == 0
