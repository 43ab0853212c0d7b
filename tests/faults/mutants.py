"""Acceptance 8: each protection, what takes it away, and the row that then turns red."""

import dataclasses
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from hexareme.core import corpora
from hexareme.core.checkpoint import committer, saving
from hexareme.core.checkpoint.folder import folder_name, step_folders, whole_folders
from hexareme.core.engine.engine import Engine
from hexareme.data.samples.windows import Windows
from hexareme.launcher.folder.fence import Fence
from hexareme.launcher.folder.lock_record import FILE_NAME, read_holder, write_record

from .planted import Prepare, all_of, replaced
from .rig import Run, Start, send
from .strace import Hold, Tracer

HELD, NEWEST = 4, "step-00000004"  # the save that is looked at
SHORT = ("train.steps=6", "checkpoint.interval=2", "checkpoint.keep=1", "evaluation.interval=0", "run.hang_timeout=8")


@dataclass(frozen=True)
class Mutant:
    """A protection that is taken away.

    Args:
        protection: its name.
        row: of the matrix.
        take_away: in the front end; the ranks inherit it.
        check: of the row, on a run: raises AssertionError where the row is red.
        red: how it then says why.
    """

    protection: str
    row: str
    take_away: Prepare
    check: Callable[[Run, Prepare], None]
    red: str


def held(run: Run, prepare: Prepare) -> tuple[Start, Hold]:
    """A start whose ranks stand before the save of step 4."""
    hold = Hold(run.folder, HELD)
    start = run.start(*SHORT, prepare=all_of(hold.prepare, prepare))
    hold.wait(start)
    return start, hold


def ends_with(start: Start, code: int) -> None:
    """Its exit code."""
    assert start.finish() == code, f"exit {start.code} instead of {code}:\n{start.text()}"


def in_order(run: Run, prepare: Prepare) -> None:
    """A4: everything is on disk before its name is."""
    start, hold = held(run, prepare)
    tracers = [Tracer([start.rank(rank)], run.folder / f"trace-{rank}") for rank in (0, 1)]
    hold.release()
    assert start.finish() == 0, start.text()
    shards = []
    for rank, tracer in enumerate(tracers):
        tracer.wait()
        calls = [f"{call.name} {call.what.replace(f'{run.directory}/checkpoints', 'C')}" for call in tracer.calls()]
        shards.append(f"fsync C/.{NEWEST}.tmp/rank-{rank:05d}.safetensors")
        assert shards[-1] in calls, f"{shards[-1]} is missing"
        if rank == 0:
            wanted = [shards[0], f"fsync C/.{NEWEST}.tmp/manifest.json", f"fsync C/.{NEWEST}.tmp",
                      f"rename C/.{NEWEST}.tmp -> C/{NEWEST}", "fsync C",
                      "fsync C/latest.tmp", "rename C/latest.tmp -> C/latest", "fsync C"]
            found = [call for call in calls if call in wanted]
            assert found[: len(wanted)] == wanted, f"out of order: {found}"


def nothing_half_under_a_final_name(run: Run, prepare: Prepare) -> None:
    """A1: killed before the commit, there is no folder of this step."""
    start, hold = held(run, prepare)
    tracer = Tracer.stopping(start.rank(0), run.folder / "trace", "fsync")
    hold.release()
    tracer.await_stop(lambda call: call.what.endswith("/rank-00000.safetensors"), start.ended)
    for rank in (1, 0):
        send(start.rank(rank), signal.SIGKILL)
    tracer.close()
    ends_with(start, 137)
    directory = run.directory / "checkpoints"
    assert step_folders(directory)[0] in [folder for folder, _ in whole_folders(directory)], "half a checkpoint has its final name"


def fenced(run: Run, prepare: Prepare) -> None:
    """C13: somebody took the folder over while the ranks were frozen; they write nothing more."""
    start, hold = held(run, prepare)
    path = run.directory / FILE_NAME
    holder = read_holder(path)
    assert holder is not None
    descriptor = os.open(path, os.O_RDWR)
    write_record(descriptor, dataclasses.replace(holder, token=token_hex(8), attempt="newer"))
    os.close(descriptor)
    hold.release()
    ends_with(start, 8)
    assert NEWEST not in os.listdir(run.directory / "checkpoints")


def agreed(run: Run, prepare: Prepare) -> None:
    """C4: a signal that reaches one rank is a save on all of them."""
    start = run.start("run.hang_timeout=5", prepare=prepare)
    start.await_step(3)
    send(start.rank(1), signal.SIGUSR1)
    ends_with(start, 75)


def ids_checked(run: Run, prepare: Prepare) -> None:
    """E1: an id beyond the vocabulary, which nobody saw before the start, is an error on the host, under tensor parallelism too."""
    blind = replaced(corpora, "corpus_rules", lambda *arguments, **named: iter(()))
    start = run.start(*SHORT, "model.vocab_size=256", "parallel.tp=2", prepare=all_of(blind, prepare))
    ends_with(start, 3)
    assert "but model.vocab_size=256" in start.text()


def in_place() -> None:
    """A save writes under the final name from the beginning."""
    def stage(directory: Path, step: int, *, need: int) -> None:
        (directory / folder_name(step)).mkdir(parents=True)

    committer.stage = stage
    committer.staged_folder = lambda directory, step, rank: directory / folder_name(step)
    saving.put_in_place = lambda staged, target: None


def alone() -> None:
    """A rank follows its own vote."""
    train_step = Engine.train_step

    def with_own_votes(engine, micro_batches, *, votes=()):
        return dataclasses.replace(train_step(engine, micro_batches, votes=votes), votes=tuple(votes))

    Engine.train_step = with_own_votes


MUTANTS = (
    Mutant("fsync", "A4", replaced(os, "fsync", lambda descriptor: None), in_order, "rank-00000.safetensors is missing"),
    Mutant("commit by rename", "A1", in_place, nothing_half_under_a_final_name, "half a checkpoint"),
    Mutant("fence", "C13", replaced(Fence, "__call__", lambda fence: None), fenced, "exit 0 instead of 8"),
    Mutant("votes of all ranks", "C4", alone, agreed, "exit 5 instead of 75"),
    Mutant("token ids", "E1", replaced(Windows, "_check_ids", lambda windows, *arguments: None), ids_checked,
           "exit 0 instead of 3"),
)

# Protection -> the test of its mutant, beside the row it belongs to.
BESIDE_THEIR_ROWS = {
    "hash check, seal, sizes, links, hint, listing": "tests.faults.test_damaged:test_each_check_is_needed",
    "PDEATHSIG and pipe": "tests.faults.test_processes:test_without_both_ways_the_ranks_are_orphans",
    "the front end's word": "tests.faults.test_processes:test_without_the_front_ends_word_the_wrong_rank_is_blamed",
    "lock": "tests.launcher.test_folder_lock:test_of_a_hundred_pairs_one_wins_each",
    "age of a lock": "tests.launcher.test_folder_lock:test_without_the_look_at_its_age_a_living_host_would_lose_its_folder",
    "heartbeat, stacks, verdict": "tests.faults.test_hangs:test_a_mutant_turns_the_row_red",
    "non-finite check and its agreement": "tests.faults.test_numbers:test_a_mutant_turns_d1_red",
    "retention's verified rule": "tests.faults.test_storage:test_mutant_without_the_read_back",
    "nothing unhealthy is committed": "tests.faults.test_storage:test_mutant_without_the_look_at_elements",
    "audit of replicas": "tests.faults.test_replicas:test_without_the_protection_drift_is_missed",
    "comparison of configs": "tests.faults.test_changed_config:test_without_the_comparison_a_change_goes_through",
    "what a resume restores": "tests.faults.test_resume_same:test_a_resume_that_forgets_anything_is_another_run",
    "forwarded signals": "tests.faults.test_signals:test_without_forwarding_the_run_does_not_stop",
    "limit of futile restarts": "tests.faults.test_restarts:test_without_the_rule_of_progress_it_goes_on",
}
