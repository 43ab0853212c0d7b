"""The batch script: what Slurm and bash read of it is what was meant, letter by letter."""

import subprocess
import sys
from pathlib import Path

import pytest
from hexareme.conf.cluster_schema import ClusterConfig
from hexareme.conf.compose import compose
from hexareme.conf.errors import ConfigError
from hexareme.core.cluster_rules import seconds_of
from hexareme.core.combine import problems
from hexareme.launcher.slurm.script import Job, job_name, render, slurm_quote
from hexareme.launcher.slurm.submit import run_overrides
from hexareme.launcher.slurm.sweep import members
from hypothesis import given, settings
from hypothesis import strategies as st

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
HOSTILE = st.one_of(TEXT, st.sampled_from(["; touch canary", "$(touch canary)", "`touch canary`", "'", '"', "\\", "\n#SBATCH --wrap=x\n",
                                           "$HOME", "*", "a\tb", "${overrides[@]}", ")\ntouch canary\n(", "-rf", "!x", "é ü", "%j%%"]))


def job(folder=Path("/work"), **changes):
    return Job(**{"name": "run", "directory": "runs/run", "working_folder": folder, "python": sys.executable, "overrides": [], **changes})


@pytest.fixture
def recorder(tmp_path):
    """In place of the interpreter: writes what it was started with."""
    program = tmp_path / "it's python $(touch canary)"
    program.write_text("#!/bin/bash\nprintf '%s\\0' \"$@\"\n")
    program.chmod(0o755)
    return program


def test_arguments_arrive_byte_identical(tmp_path, recorder):
    """F2: bash hands on every word as it was, and runs nothing on the way."""
    @settings(max_examples=200, deadline=None)
    @given(st.lists(HOSTILE, max_size=5), st.lists(HOSTILE, max_size=2))
    def each(overrides, member):
        script = tmp_path / "job.sh"
        made = job(overrides=overrides, python=str(recorder), members=[[], member])
        script.write_text(render(made, ClusterConfig()), newline="")
        done = subprocess.run(["bash", str(script)], cwd=tmp_path, env={"SLURM_ARRAY_TASK_ID": "1"}, capture_output=True, check=True)
        assert done.stdout.decode().split("\0")[:-1] == ["-P", "-m", "hexareme.launcher.slurm.job", *overrides, *member]
        assert not (tmp_path / "canary").exists()

    each()


@settings(max_examples=200, deadline=None)
@given(HOSTILE, st.lists(HOSTILE, max_size=3))
def test_no_value_becomes_a_line_for_slurm(name, overrides):
    """sbatch reads #SBATCH up to the first command: what a user names stands on one line or after it."""
    plain = render(job(), ClusterConfig())
    text = render(job(name=name, overrides=overrides), ClusterConfig())

    def directives(script):
        head = script[: script.index("\ntrap ")]
        return [line.partition("=")[0] for line in head.splitlines() if line.startswith("#SBATCH")]

    assert directives(text) == directives(plain)
    assert len(text[: text.index("\ntrap ")].splitlines()) == len(plain[: plain.index("\ntrap ")].splitlines())


def test_every_key_has_its_line():
    cluster = ClusterConfig(nodes=3, ranks_per_node=4, partition="gpu", account="a", qos="high", constraint="a100&ib", exclude="n[3,7-9]",
                            time_limit="1-12:00:00", signal_seconds=90, cpus_per_rank=7, gpus_per_node=4, memory="64G", requeue=False)
    lines = [line.removeprefix("#SBATCH ") for line in render(job(), cluster).splitlines() if line.startswith("#SBATCH")]
    assert lines == ["--job-name=run", "--nodes=3", "--ntasks-per-node=4", "--cpus-per-task=7", "--gpus-per-node=4", "--mem=64G",
                     "--partition=gpu", "--account=a", "--qos=high", '--constraint="a100&ib"', '--exclude="n[3,7-9]"',
                     "--time=1-12:00:00", "--signal=B:USR1@90", "--no-requeue", "--open-mode=append", "--chdir=/work",
                     "--output=/work/runs/run/slurm/job-%j.log"]


def test_names_and_paths():
    assert job_name("a b;c\n") == "a_b_c_" and job_name("日") == "_" and job_name("") == "hexareme" and len(job_name("a" * 100)) == 64
    assert slurm_quote("/a b/c'd\"e#f") == "\"/a b/c'd\\\"e#f\"" and slurm_quote("/a/50%%/job-%j.log") == "/a/50%%/job-%j.log"


@pytest.mark.parametrize(("limit", "seconds"), [("30", 1800), ("30:15", 1815), ("2:00:00", 7200), ("1-12", 129600), ("1-12:30", 131400),
                                                ("1-12:30:05", 131405), ("", 0), ("soon", 0)])
def test_time_limits(limit, seconds):
    assert seconds_of(limit) == seconds


@pytest.mark.parametrize("key", ["partition", "account", "qos", "constraint", "exclude", "time_limit", "memory"])
@pytest.mark.parametrize("value", ["a b", "a\n#SBATCH --wrap=x", "$(id)", "-x", "a;b", "a'b"])
def test_what_is_no_word_of_slurms_is_refused(key, value):
    config = compose("train", ["data.train=corpus", "experiment=debug", "cluster=slurm"])
    setattr(config.cluster, key, value)
    assert f"cluster.{key}" in [problem.key for problem in problems(config, world_size=2)]


def test_a_sweep_has_every_combination():
    found = members("optimizer.learning_rate=1e-3,3e-4 train.seed=0,1", name="x", directory="runs/x/")
    assert len(found) == 4
    assert found[1] == ["optimizer.learning_rate=1e-3", "train.seed=1", "run.name=x-1", "run.directory=runs/x-1"]
    assert found[2][:2] == ["optimizer.learning_rate=3e-4", "train.seed=0"]
    assert members("", name="x", directory="x") == []


@pytest.mark.parametrize("sweep", ["train.seed", "=1", "train.seed=1,", "train.seed=1 train.seed=2", "run.name=a,b",
                                   "train.seed=" + ",".join(map(str, range(201)))])
def test_wrong_sweeps(sweep):
    with pytest.raises(ConfigError) as error:
        members(sweep, name="x", directory="x")
    assert error.value.problems[0].key == "sweep"


def test_what_is_for_submit_alone_does_not_reach_the_ranks():
    assert run_overrides(["action=submit", "dry_run=true", "sweep=a=1", "chain=3", "job=1", "output=x", "run.name=a", "cluster=slurm"]) == [
        "run.name=a", "cluster=slurm"]
