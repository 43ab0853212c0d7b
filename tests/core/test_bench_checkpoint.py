"""`hexareme bench suite=checkpoint`: real saves and loads beside the bare disk and memory; 1 where a bound does not hold."""

import json

import pytest
from hexareme.core.bench.checkpoint import LIMIT, rows
from hexareme.launcher.cli import main

GOOD = {"write+fsync": 1.0, "save": 1.1, "memcpy": 0.1, "blocked": 0.11, "read": 0.5, "hash": 0.1, "load": 0.54}


@pytest.mark.parametrize(("name", "seconds", "holds"), [
    ("save", 1.17, True), ("save", 1.18, False), ("blocked", 0.119, True), ("blocked", 0.121, False), ("load", 0.549, True),
    ("load", 0.56, False),
])
def test_bounds(name, seconds, holds):
    found = rows(GOOD | {name: seconds}, 10**9)
    assert all(LIMIT.holds(row) for row in found) == holds


def test_small_states_are_measured(tmp_path):
    output = tmp_path / "bench.json"
    code = main(["bench", "suite=checkpoint", "state_bytes=20000000", "ranks=2", "rounds=1", f"directory={tmp_path}", f"output={output}"])
    result = json.loads(output.read_text())
    measured = {row["where"]: row["measured"] for row in result["cases"][0]["rows"]}
    assert code == (0 if result["holds"] else 1) and not result["cases"][0]["failure"]
    assert measured.keys() >= {"write+fsync", "save", "memcpy", "blocked", "read", "load", "hash", "save, durable"}
    assert all(value > 0 for value in measured.values())
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]
