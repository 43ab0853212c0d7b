"""Facts about processes, against psutil, which reads them in its own way."""

import os
import subprocess
import sys

import psutil
import pytest
from hexareme.launcher.processes import descendants, parent_of, started_at


def test_parent_start_and_descendants_as_psutil_sees_them():
    child = subprocess.Popen(["bash", "-c", "sleep 60 & sleep 60 & wait"])
    try:
        seen = psutil.Process(child.pid)
        while len(seen.children()) < 2:
            pass
        assert parent_of(child.pid) == seen.ppid() == os.getpid()
        assert started_at(child.pid) == pytest.approx(seen.create_time(), abs=1.1)  # psutil takes the boot time in whole seconds
        assert sorted(descendants(child.pid)) == sorted(process.pid for process in seen.children(recursive=True))
    finally:
        for process in descendants(child.pid):
            os.kill(process, 9)
        child.wait()
    assert parent_of(child.pid) == 0 and descendants(child.pid) == []


def test_a_name_in_brackets_does_not_confuse(tmp_path):
    odd = tmp_path / "a) S 1 (b"
    odd.symlink_to("/bin/sleep")
    child = subprocess.Popen([str(odd), "60"])
    try:
        assert parent_of(child.pid) == os.getpid()
    finally:
        child.kill()
        child.wait()


def test_dying_with_a_parent_that_is_dead_already():
    script = "from hexareme.core.parent_death import die_with_parent\ndie_with_parent(999999999)\nprint('alive')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -9 and done.stdout == ""


def test_reap_collects_what_has_ended():
    script = ("import os, time\nfrom hexareme.launcher.processes import reap\nassert reap() == {}\nchild = os.fork()\n"
              "if child == 0: os._exit(7)\n"
              "while not (ended := reap()): time.sleep(0.01)\nassert ended == {child: 7 << 8}\nassert reap() == {}\nprint('ok')")
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "ok\n"
