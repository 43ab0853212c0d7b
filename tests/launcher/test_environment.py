"""Every front end's variables, as it really sets them, give the same kind of answer; contradictions end with 9."""

import socket

import pytest
from hexareme.core.errors import PortError
from hexareme.launcher.environment import (
    FrontEnd,
    agreed_port,
    expand_counts,
    fair_threads,
    first_host,
    free_port,
    read_environment,
    without_local_rank,
)
from hypothesis import given
from hypothesis import strategies as st

TORCH = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "n1", "MASTER_PORT": "29501"}
TORCHRUN = TORCH | {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1", "TORCHELASTIC_RUN_ID": "none"}
DEEPSPEED = TORCH | {"LOCAL_SIZE": "2", "CROSS_RANK": "1", "CROSS_SIZE": "2"}
SLURM = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
         "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
            "PMIX_NAMESPACE": "prterun-7@1", "MASTER_ADDR": "n1"}


@pytest.mark.parametrize(("variables", "front_end"), [
    (TORCHRUN, FrontEnd.torchrun), (DEEPSPEED, FrontEnd.deepspeed),
    (TORCH | {"LOCAL_WORLD_SIZE": "2", "HEXAREME_PARENT": "42"}, FrontEnd.local),
    (SLURM, FrontEnd.slurm), (OPEN_MPI, FrontEnd.open_mpi), (SLURM | TORCHRUN, FrontEnd.torchrun),
])
def test_each_front_end(variables, front_end):
    found = read_environment(variables)
    assert (found.rank, found.world_size, found.local_rank, found.local_world_size) == (3, 4, 1, 2)
    assert found.front_end is front_end and found.master_address == "n1"
    assert found.master_port == 29501 or front_end in (FrontEnd.slurm, FrontEnd.open_mpi)


def test_plain_python_is_a_world_of_one_with_its_own_port():
    found = read_environment({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"})  # as an sbatch script has them: not srun
    assert (found.rank, found.world_size, found.front_end) == (0, 1, FrontEnd.python)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", found.master_port))


def test_what_torch_reads_is_said_in_torchs_words(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    said = read_environment(SLURM).variables()
    again = read_environment(said)
    assert (again.rank, again.local_rank, again.world_size, again.local_world_size, again.master_address) == (3, 1, 4, 2, "n1")
    assert said["OMP_NUM_THREADS"] == str(fair_threads(2))
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert read_environment(SLURM).variables()["OMP_NUM_THREADS"] == "5"


@pytest.mark.parametrize(("change", "word"), [
    ({"RANK": "abc"}, "abc"), ({"RANK": ""}, "no RANK"), ({"RANK": "4"}, "RANK=4"), ({"RANK": "-1"}, "-1"), ({"WORLD_SIZE": "0"}, "of 0"),
    ({"LOCAL_RANK": "2"}, "LOCAL_RANK=2"), ({"MASTER_PORT": "70000"}, "70000"), ({"MASTER_PORT": "x"}, "x"),
    ({"MASTER_ADDR": ""}, "MASTER_ADDR"),
    ({"LOCAL_WORLD_SIZE": "5"}, "LOCAL_WORLD_SIZE=5"),
])
def test_contradictions(change, word):
    with pytest.raises(PortError, match=word) as caught:
        read_environment(TORCHRUN | change)
    assert caught.value.exit_code == 9 and caught.value.do


@pytest.mark.parametrize("variables", [{"WORLD_SIZE": "2"}, SLURM | {"WORLD_SIZE": "5"}])
def test_a_world_size_without_its_ranks_is_named(variables):
    with pytest.raises(PortError, match=f"WORLD_SIZE={variables['WORLD_SIZE']}"):
        read_environment(variables)


def test_ranks_of_an_attempt_know_each_other_and_no_others():
    def attempt(**changes):
        return read_environment(TORCHRUN | {"LOCAL_WORLD_SIZE": "4"} | changes).membership.attempt

    assert attempt() == attempt(RANK="2", LOCAL_RANK="2")
    assert len({attempt(), attempt(MASTER_PORT="3"), attempt(TORCHELASTIC_RUN_ID="x"), attempt(HEXAREME_ATTEMPT="y")}) == 4
    assert len({read_environment(SLURM | {"SLURM_RESTART_COUNT": count}).membership.attempt for count in "012"}) == 3
    assert read_environment(SLURM).port_is_ours and not read_environment(SLURM | {"MASTER_PORT": "29555"}).port_is_ours


def test_open_mpi_on_many_machines_needs_an_address():
    with pytest.raises(PortError, match="MASTER_ADDR"):
        read_environment({key: value for key, value in OPEN_MPI.items() if key != "MASTER_ADDR"})


def test_ranks_of_a_job_agree_on_a_port_and_jobs_differ():
    ports = {agreed_port(f"{job}.0") for job in range(200)}
    assert agreed_port("77.0") == agreed_port("77.0") and len(ports) > 190 and all(20000 <= port < 32000 for port in ports)
    assert 1024 < free_port() < 65536


# Left: as `scontrol show hostnames` reads them (its documentation's examples).
@pytest.mark.parametrize(("nodes", "first"), [("n1", "n1"), ("n[1-3]", "n1"), ("n[03,05-9],m1", "n03"), ("tux7,tux9", "tux7"),
                                              ("gpu-a[1-2]-ib", "gpu-a1-ib"), ("a[5]", "a5")])
def test_first_host(nodes, first):
    assert first_host(nodes) == first


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4)), min_size=1, max_size=5))
def test_expand_counts(groups):
    text = ",".join(str(count) if times == 1 else f"{count}(x{times})" for count, times in groups)
    assert expand_counts(text) == [count for count, times in groups for _ in range(times)]


def test_local_rank_is_filtered_in_every_spelling():
    words = ["--local_rank=0", "a=1", "--local-rank=-1", "--local_rank", "3", "b=--local_rank=2"]
    assert without_local_rank(words) == ["a=1", "b=--local_rank=2"]
