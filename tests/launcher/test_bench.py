"""`hexareme bench suite=...`: what it prints and writes, and how it ends."""

import json

import pytest
from hexareme.core.bench import suite
from hexareme.core.bench.suites import BUBBLE, BYTES
from hexareme.core.bench.table import Row
from hexareme.launcher import cli


def test_a_bubble_that_is_all_overhead_ends_with_1(tmp_path, capsys):
    """Passes of 50 microseconds cost less than the messages between them."""
    output = tmp_path / "bubble.json"
    assert cli.main(["bench", "suite=bubble", "only=gpipe", "pass_ms=0.05", f"output={output}"]) == 1
    shown, found = capsys.readouterr().out, json.loads(output.read_text())
    assert "[1/1] gpipe" in shown and "OUTSIDE" in shown and "0.2727" in shown and "outside: gpipe" in shown
    [bubble, passes] = found["cases"][0]["rows"]
    assert not found["holds"] and not bubble["holds"] and passes["holds"] and passes["measured"] == 96


@pytest.mark.parametrize(("measured", "failure", "code"), [(1000.0, "", 0), (1004.0, "", 0), (1006.0, "", 1), (1000.0, "a rank died", 1)])
def test_the_exit_code_says_whether_all_is_within_the_limit(measured, failure, code, monkeypatch, capsys):
    def findings(work, progress):
        progress(work[0][0])
        yield suite.Finding("ZeRO-1", [Row("data", "reduce", measured, 1000.0, 2), Row("metadata", "at most", 5, 10.0, bound=True)], BYTES,
                            failure)

    monkeypatch.setattr(suite, "findings", findings)
    assert cli.main(["bench", "suite=bytes", "quick=true"]) == code
    shown = capsys.readouterr().out
    assert ("OUTSIDE" in shown) == (measured > 1005) and (not failure or f"FAILED: {failure}" in shown)


def test_a_name_that_no_case_has_is_refused(capsys):
    assert cli.main(["bench", "suite=memory", "only=ZeRO-9"]) == 2
    assert "only=ZeRO-9 is in no name of suite=memory's cases" in capsys.readouterr().err


def test_a_bound_allows_less_and_nothing_more():
    below, above = (Row("best", "at most", measured, 1 / 3, bound=True) for measured in (0.2, 0.3334))
    assert BUBBLE.holds(below) and not BUBBLE.holds(above)
    assert BUBBLE.holds(Row("zbv", "bubble", 0.07, 0.0588)) and not BUBBLE.holds(Row("zbv", "bubble", 0.08, 0.0588))
