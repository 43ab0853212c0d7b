"""What the ranks say of themselves when they meet, and what is wrong with it. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .errors import MissingRankError, PortError, RunError

MOST_NAMED = 20  # ranges of ranks in a message


@dataclass(frozen=True, kw_only=True)
class Card:
    """One process that wants to be a rank.

    Args:
        rank, world_size: as it was started.
        host, pid: where it runs.
        versions: name and version of each package that must be the same.
        folder: of the run, as an absolute path; empty for a command that has none.
        token: of the attempt that holds the folder, as this process sees it.
        difference: of its config from rank 0's, in words; empty where there is none.
    """

    rank: int
    world_size: int
    host: str
    pid: int
    versions: dict[str, str]
    folder: str = ""
    token: str = ""
    difference: str = ""

    def words(self) -> str:
        """For a message."""
        return f"rank {self.rank} (host {self.host}, process {self.pid})"


def objection(first: Card, came: Sequence[Card], card: Card) -> RunError | None:
    """Why a process that came cannot be a rank of this run; None where it can.

    Args:
        first: rank 0.
        came: who came before and was let in, rank 0 among them.
        card: of the process.
    """
    if card.world_size != first.world_size:
        return PortError(f"{card.words()} has WORLD_SIZE={card.world_size}, rank 0 (host {first.host}) has {first.world_size}",
                         do="start all ranks with the same WORLD_SIZE")
    if not 0 <= card.rank < first.world_size:
        return PortError(f"{card.words()} is no rank of {first.world_size}", do="give each process its own RANK, from 0 on")
    twin = next((other for other in came if other.rank == card.rank), None)
    if twin is not None:
        return PortError(f"RANK={card.rank} came twice: process {twin.pid} on host {twin.host}, and process {card.pid} on host {card.host}",
                         do="give each process its own RANK, from 0 on")
    for name in sorted(first.versions.keys() | card.versions.keys()):
        theirs, ours = card.versions.get(name), first.versions.get(name)
        if theirs != ours:
            return PortError(f"{card.words()} has {name} {theirs}, rank 0 (host {first.host}) has {ours}",
                             do="install the same versions on every host")
    if card.difference:
        return PortError(f"{card.words()} has another config than rank 0: {card.difference}",
                         do="start all ranks with the same overrides, and the same files on every host")
    if card.token != first.token:
        return PortError(f"{card.words()} sees another folder at {card.folder} than rank 0 (host {first.host}) at {first.folder}",
                         do="put run.directory on a disk that all hosts share")
    return None


def missing(first: Card, came: Sequence[Card], *, seconds: float) -> MissingRankError:
    """The error where not all ranks have come in time.

    Args:
        first: rank 0.
        came: who has come, rank 0 among them.
        seconds: how long was waited.
    """
    present = {card.rank for card in came}
    absent = ranges(rank for rank in range(first.world_size) if rank not in present)
    hosts: dict[str, list[int]] = {}
    for card in came:
        hosts.setdefault(card.host, []).append(card.rank)
    here = ", ".join(f"{ranges(sorted(ranks))} on {host}" for host, ranks in list(hosts.items())[:MOST_NAMED])
    return MissingRankError(f"rank {absent} of {first.world_size} did not come within {seconds:.0f} s; came: {here}",
                            do="look whether that process was started and at its log, or raise run.hang_timeout")


def ranges(numbers: Iterable[int]) -> str:
    """Ascending numbers in few words: 0-2, 5."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    words = [str(low) if low == high else f"{low}-{high}" for low, high in found[:MOST_NAMED]]
    return ", ".join([*words, "..."] if len(found) > MOST_NAMED else words)
