"""`hexareme doctor`: each rule on facts that are made up, and the facts of this machine against what was set up on it."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest
from hexareme.launcher import cli
from hexareme.launcher.doctor import facts, rules, together
from hexareme.launcher.doctor.finding import Level

GIB = 1 << 30
GPU = {"index": "0", "name": "H100", "memory.total": "81559", "memory.used": "4", "ecc.errors.uncorrected.volatile.total": "0",
       "temperature.gpu": "40", "clocks_event_reasons.hw_slowdown": "Not Active", "driver_version": "570.1"}


def healthy(host="a", **changed):
    """The facts of a machine on which nothing is wrong, but for what is given."""
    return {
        "host": host, "clock": 1000.0, "versions": {"python": "3.11.7", "kernel": "6", "interpreter": "p",
                     "torch": "2.13", "deepspeed": "1"},
        "code": "c0de", "cores": 8, "memory": {"total": 64 * GIB, "available": 60 * GIB, "limit": 0},
        "shared_memory": {"total": 8 * GIB, "free": 8 * GIB}, "limits": {"open_files": 65536, "locked_memory": -1, "processes": -1},
        "addresses": ["10.0.0.7"], "home_writable": True, "temporary_writable": True, "port": 29500, "port_free": True,
        "disk": {"directory": "runs", "exists": "/", "writable": True, "kind": "nfs", "total": 100 * GIB, "free": 50 * GIB},
        "leftovers": [], "locks": [], "gpus": [GPU], "token_seen": True,
        "speed": {"ranks": 2, "matmul_flops": 1e14, "copy_bytes": 1e12, "all_reduce_bytes": 2e11, "write_bytes": 1e9},
    } | changed


def wrong(found):
    return [(each.check, each.level) for each in found if each.level is not Level.ok]


def test_a_healthy_machine():
    found = rules.findings(healthy())
    assert not wrong(found) and {each.hosts for each in found} == {("a",)}
    assert {each.check for each in found} == {"versions", "gpus", "memory", "shared memory", "limits", "name", "disk", "port", "processes"}


@pytest.mark.parametrize(("changed", "check", "level", "word"), [
    ({"versions": {"torch": ""}}, "versions", Level.error, "not installed: torch"),
    ({"memory": {"total": 64 * GIB, "available": 60 * GIB, "limit": 200 * GIB}}, "", None, ""),
    ({"memory": {"total": 64 * GIB, "available": 10 * GIB, "limit": 32 * GIB}}, "memory", Level.warning, "10.7 GB of 34.4 GB"),
    ({"shared_memory": {"total": 64 << 20, "free": 64 << 20}}, "shared memory", Level.warning, "67.1 MB"),
    ({"limits": {"open_files": 1024, "locked_memory": -1}}, "limits", Level.warning, "1024 files"),
    ({"limits": {"open_files": -1, "locked_memory": 65536}}, "limits", Level.warning, "RDMA"),
    ({"limits": {"open_files": -1, "locked_memory": 65536}, "gpus": []}, "", None, ""),
    ({"addresses": []}, "name", Level.error, "does not resolve"),
    ({"addresses": ["127.0.1.1", "::1"]}, "name", Level.warning, "127.0.1.1"),
    ({"disk": healthy()["disk"] | {"writable": False}}, "disk", Level.error, "not writable"),
    ({"disk": healthy()["disk"] | {"free": GIB}}, "disk", Level.warning, "1.1 GB"),
    ({"disk": healthy()["disk"] | {"kind": "tmpfs"}}, "disk", Level.warning, "gone with the machine"),
    ({"home_writable": False}, "disk", Level.warning, "HOME"),
    ({"port_free": False}, "port", Level.error, "29500"),
    ({"leftovers": [{"process": 7, "seconds": 90, "command": "python launcher/train.py"}]}, "processes", Level.warning, "7 (90 s)"),
    ({"locks": [{"file": "/x/lock", "seconds": 5}]}, "build locks", Level.warning, "/x/lock"),
    ({"locks": [{"file": "/x/lock", "seconds": 5000}]}, "build locks", Level.error, "/x/lock"),
    ({"gpus": [{"error": "NVRM"}]}, "gpus", Level.error, "NVRM"),
    ({"gpus": [GPU | {"ecc.errors.uncorrected.volatile.total": "3"}]}, "gpus", Level.error, "ECC"),
    ({"gpus": [GPU | {"ecc.errors.uncorrected.volatile.total": "[N/A]"}]}, "", None, ""),
    ({"gpus": [GPU | {"clocks_event_reasons.hw_slowdown": "Active"}]}, "gpus", Level.warning, "slowed down"),
    ({"gpus": [GPU | {"temperature.gpu": "93"}]}, "gpus", Level.warning, "93 degrees"),
    ({"gpus": [GPU | {"memory.used": "40000"}]}, "gpus", Level.warning, "40000 of 81559 MiB"),
])
def test_each_rule(changed, check, level, word):
    found = [each for each in rules.findings(healthy(**changed)) if each.level is not Level.ok]
    assert wrong(found) == ([(check, level)] if check else [])
    assert all(word in each.what and each.do for each in found)


def test_machines_together():
    machines = [healthy(host) for host in "abcd"]
    assert not wrong(together.findings(machines, (999.0, 1001.0)))
    machines[1] |= {"versions": machines[1]["versions"] | {"torch": "2.12"}}
    machines[2] |= {"clock": 1031.0, "token_seen": False}
    machines[3] |= {"speed": machines[3]["speed"] | {"matmul_flops": 5e13}}
    found = [each for each in together.findings(machines, (999.0, 1001.0)) if each.level is not Level.ok]
    assert [(each.check, each.hosts) for each in found] == [
        ("same versions", ("b",)), ("clocks", ("c",)), ("shared disk", ("c",)), ("slow machine", ("d",))]
    assert "torch: b has 2.12; the others have 2.13" in found[0].what and "30.0 s" in found[1].what and "d at 50%" in found[3].what
    assert wrong(together.findings([healthy()], (999.0, 1001.0), expected_all_reduce=4e11)) == [("speed", Level.warning)]


def test_what_was_set_up_on_this_machine_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    lock = tmp_path / "extensions" / "py311" / "cpu_adam" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (time.time() - 5000,) * 2)
    older = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "launcher/train.py"])
    with socket.create_server(("", 0)) as server:
        found = facts.gather(tmp_path / "runs" / "new", port=server.getsockname()[1])
    older.kill()
    older.wait()
    assert not found["port_free"] and facts.port_is_free(0)
    assert older.pid not in [each["process"] for each in found["leftovers"]], "a program's own arguments are no program"
    assert found["locks"][0]["file"] == str(lock) and 4999 <= found["locks"][0]["seconds"] <= 5100
    assert found["disk"]["exists"] == str(tmp_path) and found["disk"]["free"] > 0 and found["disk"]["kind"]
    assert found["versions"]["deepspeed"] and found["code"] == facts.code_digest() and json.dumps(found)


def test_processes_of_an_older_run(tmp_path):
    program = tmp_path / ("long" * 50) / "launcher" / "train.py"
    program.parent.mkdir(parents=True)
    program.write_text("import time; print(1, flush=True); time.sleep(60)")
    older = subprocess.Popen([sys.executable, str(program), "run.name=old"], stdout=subprocess.PIPE)
    older.stdout.read(1)
    (found,) = [each for each in facts.leftovers() if each["process"] == older.pid]
    older.kill()
    older.communicate()
    assert found["seconds"] < 30 and found["command"].endswith("run.name=old")
    (finding,) = [each for each in rules.findings(healthy(leftovers=[found])) if each.check == "processes"]
    assert finding.what.endswith("run.name=old") and len(finding.what) < 200


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    words = ["doctor", "cluster.ranks_per_node=2", f"run.directory={tmp_path / 'run'}", f"output={tmp_path / 'doctor.json'}"]
    assert cli.main(words) == 0, capsys.readouterr().out
    out, told = capsys.readouterr().out, json.loads((tmp_path / "doctor.json").read_text())
    speed = told["machines"][0]["speed"]
    assert speed["ranks"] == 2 and all(speed[name] > 0 for name in together.RATES) and "0 errors" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["doctor.json"], "it leaves nothing behind"
    with socket.create_server(("", 0)) as server:
        assert cli.main([*words, "speed=false", f"port={server.getsockname()[1]}"]) == 1
    assert "somebody listens" in capsys.readouterr().out
