"""Who is to blame for a run that stands still. Pure: every watcher judges the same findings and says the same."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...core.pulse import Phase
from ...core.waiting import Wait
from .finding import Finding

SILENT_SECONDS = 2.0  # of the rank's own thread, which beats twice a second
ENDING = "start the same command to go on from the last checkpoint; where a phase needs longer, raise run.hang_timeout"


@dataclass(frozen=True)
class Verdict:
    """Why a run hangs.

    Args:
        rank: the guilty one; where the ranks only wait for each other, the lowest.
        what: which rank, phase, seconds, and what it was doing at which source line.
        do: the way out.
    """

    rank: int
    what: str
    do: str


def judge(findings: Mapping[int, Finding], *, world_size: int) -> Verdict | None:
    """Who hangs; None where nobody does yet, because a rank that others wait for still computes.

    The order is that of certainty: a stopped process; one that is late and waits for nobody; one that nobody reports; and last, ranks
    that all wait, each for another.

    Args:
        findings: of one episode; a rank that is missing here reported nothing in time.
        world_size: ranks of the run.
    """
    told = [findings[rank] for rank in sorted(findings)]
    late = [finding for finding in told if finding.late]
    if not late:
        return None
    idle_by_itself = [finding for finding in late if finding.stopped] or [finding for finding in late if not finding.waiting]
    if idle_by_itself:
        return _guilty(_longest(idle_by_itself), told)
    if len(late) < len(told):
        return None
    silent = sorted(set(range(world_size)) - set(findings))
    if silent:
        return Verdict(silent[0], f"{_ranks(silent)} and the watcher beside it report nothing, {_waiters(late)}",
                       f"see whether that rank's host is up and reaches the run folder; {ENDING}")
    return _all_wait(late)


def _guilty(one: Finding, told: Sequence[Finding]) -> Verdict:
    waiters = [finding for finding in told if finding.waiting]
    what = f"{_who(one)} hung in {_when(one)}: {_doing(one)}"
    if waiters:
        what += f"; {_waiters(waiters)}"
    return Verdict(one.rank, what, f"read the stacks in logs/rank-{one.rank:05d}.log; {ENDING}")


def _all_wait(late: Sequence[Finding]) -> Verdict:
    """Everybody waits: for a rank that went another way, or for a message that never comes."""
    hosts = {finding.host for finding in late}
    link = f"the link between {', '.join(sorted(hosts)[:8])} may be cut" if len(hosts) > 1 else "a collective never ended"
    one = None if len(late) == 1 else _odd_one(late)
    if one is None:
        first = late[0]
        return Verdict(first.rank, f"{_ranks([each.rank for each in late])} hung in {_when(first)}: all wait for each other "
                       f"{_at(first)}, so {link}", f"check network and devices; {ENDING}")
    other = next(finding for finding in late if _position(finding) != _position(one))
    what = (f"{_who(one)} hung in {_when(one)}: it waits {_at(one)}, while rank {other.rank} waits {_at(other)} "
            f"(phase {other.phase.name}, after step {other.step}): one of them left out a collective")
    if len(hosts) > 1:
        what += f", or {link}"
    return Verdict(one.rank, what, f"compare the stacks in logs/rank-{one.rank:05d}.log and logs/rank-{other.rank:05d}.log; {ENDING}")


def _odd_one(late: Sequence[Finding]) -> Finding | None:
    """The rank that stands elsewhere than most; where there is no majority the one that is furthest: it left out the other's wait."""
    count = Counter(map(_position, late))
    if len(count) == 1:
        return None
    (most, number), (_, second) = count.most_common(2)
    if number > second:
        return next(finding for finding in late if _position(finding) != most)
    return max(late, key=_position)


def _position(finding: Finding) -> tuple[int, Phase, tuple[int, ...]]:
    """Its place in the program, in the order in which the program runs: within a function, a later line is further."""
    return finding.step, finding.phase, tuple(line for _, line in finding.standing.lines)


def _longest(findings: Sequence[Finding]) -> Finding:
    return max(findings, key=lambda finding: (finding.idle_seconds, -finding.rank))


def _who(finding: Finding) -> str:
    return f"rank {finding.rank} (host {finding.host}, process {finding.process})"


def _when(finding: Finding) -> str:
    return f"phase {finding.phase.name} for {finding.idle_seconds:.1f} s, after step {finding.step}"


def _doing(finding: Finding) -> str:
    standing = finding.standing
    if finding.stopped:
        return f"the process is stopped (state {finding.state}), by SIGSTOP or a debugger"
    if finding.state in "ZX":
        return "the process has ended"
    if finding.state == "D":
        return f"it waits for a disk (state D) at {standing.place}"
    if not finding.answered:
        return f"it gives no sign of life (state {finding.state}, last beat {finding.beat_seconds:.1f} s ago)"
    if standing.wait is Wait.loader:
        return f"its data loader stands at {_line(finding)}"
    if finding.beat_seconds > max(SILENT_SECONDS, finding.idle_seconds / 2):
        return f"it holds Python's lock at {_line(finding)}"
    return f"it stands at {_line(finding)}"


def _at(finding: Finding) -> str:
    if finding.standing.wait is Wait.device:
        return f"for its device at {_line(finding)}"
    return f"in {finding.standing.operation} at {_line(finding)}"


def _line(finding: Finding) -> str:
    return f"{finding.standing.place} `{finding.standing.text}`" if finding.standing.text else finding.standing.place


def _waiters(waiters: Sequence[Finding]) -> str:
    return f"{_ranks([each.rank for each in waiters])} wait{'s' if len(waiters) == 1 else ''} {_at(waiters[0])}"


def _ranks(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")
    return f"rank {shown}" if len(numbers) == 1 else f"ranks {shown}"
