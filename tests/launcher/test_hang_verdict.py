"""Who is blamed for a hang: pure findings, in every order of arrival."""

from dataclasses import replace

import pytest
from hexareme.core.pulse import Phase
from hexareme.core.waiting import Wait
from hexareme.launcher.watch import verdict
from hexareme.launcher.watch.finding import Finding, Findings
from hexareme.launcher.watch.stacks import Standing, standing_of
from hexareme.launcher.watch.verdict import judge

REDUCE = Standing(Wait.collective, "all_reduce", "core/engine/engine.py:184 in _agree", "dist.all_reduce(numbers)",
                  (("train_step", 95), ("_agree", 184)))
NORM = replace(REDUCE, place="core/engine/norm.py:60 in norm", lines=(("train_step", 99), ("norm", 60)))
COMPUTES = Standing(Wait.none, "", "core/model/mlp.py:40 in forward", "return self.down(x)", (("train_step", 94), ("forward", 40)))
LOADS = replace(COMPUTES, wait=Wait.loader, place="data/dataset.py:50 in sample", text="return self._read(file)")
LATE = Finding(attempt="here:1", episode=1, rank=0, host="n0", process=100, phase=Phase.step, step=7, ticks=2, idle_seconds=3.2, late=True,
               state="S", beat_seconds=0.3, answered=True, standing=REDUCE)
STOPPED = replace(LATE, state="T", answered=False, standing=Standing(), beat_seconds=4.0)
COMPUTING = replace(LATE, standing=COMPUTES)
MOVES = replace(COMPUTING, idle_seconds=0.1, late=False, state="R")


def found(*findings):
    ranks = [None if each is None else replace(each, rank=rank) for rank, each in enumerate(findings)]
    return judge({each.rank: each for each in ranks if each is not None}, world_size=len(findings))


@pytest.mark.parametrize("findings, rank, says", [
    ([LATE, STOPPED], 1, "is stopped (state T)"),
    ([STOPPED, LATE], 0, "rank 1 waits in all_reduce at core/engine/engine.py:184 in _agree `dist.all_reduce(numbers)`"),
    ([COMPUTING, STOPPED], 1, "is stopped"),  # who computes for long may only wait for a lock that the stopped one holds
    ([MOVES, STOPPED, LATE], 1, "is stopped"),
    ([LATE, COMPUTING], 1, "it stands at core/model/mlp.py:40 in forward `return self.down(x)`"),
    ([MOVES, COMPUTING], 1, "it stands at"),
    ([LATE, replace(LATE, standing=LOADS)], 1, "its data loader stands at data/dataset.py:50"),
    ([LATE, replace(COMPUTING, beat_seconds=3.0)], 1, "holds Python's lock at core/model/mlp.py:40"),
    ([LATE, replace(COMPUTING, answered=False, standing=Standing())], 1, "gives no sign of life (state S"),
    ([LATE, replace(COMPUTING, state="D")], 1, "waits for a disk"),
    ([LATE, None], 1, "rank 1 and the watcher beside it report nothing"),
    ([LATE, None, None, LATE], 1, "ranks 1, 2 and the watcher"),
    ([LATE, COMPUTING, None], 1, "it stands at"),  # a rank that is known to hang before one that is not known
    ([LATE, LATE, replace(LATE, standing=NORM), LATE], 2, "left out a collective"),
    ([LATE, replace(LATE, standing=NORM)], 1, "it waits in all_reduce at core/engine/norm.py:60"),
    ([LATE, replace(LATE, phase=Phase.evaluation)], 1, "left out a collective"),
    ([replace(LATE, step=8), LATE], 0, "while rank 1 waits in all_reduce"),
    ([LATE, replace(LATE, host="n1")], 0, "the link between n0, n1 may be cut"),
    ([LATE], 0, "hung in phase step for 3.2 s, after step 7"),
])
def test_who_is_guilty(findings, rank, says):
    verdict = found(*findings)
    assert verdict is not None and verdict.rank == rank and says in verdict.what, verdict


@pytest.mark.parametrize("findings", [
    [MOVES, LATE],  # it verifies a corpus, the others wait for it
    [replace(LATE, late=False), LATE],  # it waits, but not for long: it has just moved
    [MOVES, LATE, None],
    [replace(STOPPED, late=False), LATE],  # it may be continued before its time is up
    [MOVES, MOVES],
])
def test_not_a_hang_yet(findings):
    assert found(*findings) is None


def test_the_order_of_the_verdict_matters(monkeypatch):
    """The mutant blames whoever waits longest, as the group's own timeout does: the survivor."""
    longer = replace(LATE, idle_seconds=9.0)
    assert found(longer, STOPPED).rank == 1
    monkeypatch.setattr(Finding, "waiting", property(lambda self: False))
    monkeypatch.setattr(Finding, "stopped", property(lambda self: False))
    assert found(longer, STOPPED).rank == 0


def test_a_line_fits(monkeypatch):
    monkeypatch.setattr(verdict, "ENDING", "start again")
    many = {rank: replace(LATE, rank=rank) for rank in range(2000)} | {7: replace(STOPPED, rank=7)}
    assert len(judge(many, world_size=2000).what) < 600


def test_findings_come_back_as_they_were(tmp_path):
    findings = Findings(tmp_path, "here:1")
    assert findings.read() == {}
    findings.publish(LATE)
    findings.publish(replace(STOPPED, rank=1, attempt="an earlier start"))
    (tmp_path / "hang" / "rank-00002.json").write_text('{"attempt": "here:1"')
    assert findings.read() == {0: LATE}
    findings.clear(0, all_ranks=True)
    assert findings.read() == {} and not any((tmp_path / "hang").iterdir())


def test_stacks_of_a_run_that_never_was():
    assert standing_of("", accelerator=False) == Standing()
