"""`inspect directory=<run> step=N` against the audit log of real runs: every sample of every rank, with its documents."""

import json
import random

import pytest
from hexareme.conf.compose import load_yaml
from hexareme.core.explain import explain_step
from hexareme.core.starts import FILE
from hexareme.data.tokens.token_file import TokenFile
from hexareme.launcher import cli

from tests.data.token_files import random_documents, write_tokens

from .rig import Run
from .warm import go

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

SMALL = ("model.hidden_size=16", "model.ffn_hidden_size=32", "model.sequence_length=16", "checkpoint.interval=0")
STAGED = ("data.stages=[{from_step: 10, train: [{path: OTHER, weight: 3}, {path: CORPUS}]}, {from_step: 25, sequence_length: 8}]",
          "batch.ramp_up={start: 4, increment: 4, samples: 60}", "batch.global_size=12")
LAYOUTS = {
    "dp2 x tp2, two sources in stages, ramp-up": (4, ("parallel.tp=2", *STAGED)),
    "pp2, micro-batches of 2": (2, ("parallel.pp=2", "batch.micro_size=2", "batch.global_size=8")),
    "cp2 x dp2, one source by epochs": (4, ("parallel.cp=2", "data.train=[{path: CORPUS, epochs: 1}, {path: OTHER, epochs: 2}]")),
    "dp3, accumulation": (3, ("batch.global_size=12", "batch.micro_size=2")),
}


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Short documents: many in a window, and the stream's end within one."""
    prefix = tmp_path_factory.mktemp("other") / "short"
    write_tokens(prefix, random_documents(200, 25, 512))
    return str(prefix)


def named(overrides, corpus, other):
    return [each.replace("CORPUS", corpus).replace("OTHER", other) for each in overrides]


def audited(run: Run) -> dict[int, set]:
    """Step -> what samples.jsonl says of it."""
    found: dict[int, set] = {}
    for line in (run.directory / "samples.jsonl").read_text().splitlines():
        row = json.loads(line)
        found.setdefault(row["step"], set()).add((row["rank"], row["sample"], row["source"], tuple(row["documents"])))
    return found


def explained(run: Run, config, step: int) -> set:
    """The same, found again."""
    samples = explain_step(config, run.directory, step)["samples"]
    return {(each["rank"], each["sample"], each["source"], tuple(each["documents"])) for each in samples}


def differing(run: Run, steps) -> list[int]:
    log, config = audited(run), load_yaml(run.directory / "config.yaml")
    return [step for step in steps if explained(run, config, step) != log[step]]


@pytest.mark.parametrize("name", list(LAYOUTS)[:2])
def test_forty_steps_agree_with_the_audit_log(name, new_run, corpus, other):
    """Acceptance 8, T0."""
    ranks, overrides = LAYOUTS[name]
    run = new_run("run", *SMALL, *named(overrides, corpus, other))
    go(run, ranks=ranks)
    assert differing(run, range(1, 41)) == []


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", LAYOUTS)
def test_two_hundred_random_steps_agree_with_the_audit_log(name, new_run, corpus, other):
    """Acceptance 8."""
    ranks, overrides = LAYOUTS[name]
    run = new_run("run", *SMALL, *named(overrides, corpus, other), "train.steps=300")
    for stop in range(60, 301, 60):
        go(run, f"train.stop_at={stop}", ranks=ranks)
    assert differing(run, random.Random(8).sample(range(1, 301), 200)) == []


def test_each_start_is_explained_by_its_own_layout_and_batch(new_run, corpus, other):
    """A run that goes on with other ranks, another batch and another mixture: config.yaml knows only the last."""
    run = new_run("run", *SMALL, "train.steps=12")
    go(run, "train.stop_at=5", "parallel.tp=2", ranks=2)
    mixed = named(["data.train=[{path: CORPUS}, {path: OTHER}]"], corpus, other)
    go(run, "train.stop_at=9", "batch.global_size=6", *mixed, "checkpoint.allow_change=[batch.global_size,data.train]", ranks=3)
    go(run, "batch.global_size=6", *mixed, ranks=1)
    assert differing(run, range(1, 13)) == []
    config = load_yaml(run.directory / "config.yaml")
    found = [explain_step(config, run.directory, step) for step in (5, 6, 10)]
    assert [(each["layout"]["ranks"], each["layout"]["dp"], each["size"]) for each in found] == [(2, 1, 4), (3, 3, 6), (1, 1, 6)]
    assert not any(each["assumed"] or each["passed_over"] for each in found)
    (run.directory / FILE).unlink()
    assert differing(run, range(10, 13)) == [] and "starts.jsonl does not tell" in explain_step(config, run.directory, 11)["assumed"][0]


def test_the_command_tells_of_bytes_and_offsets_that_are_there(new_run, other, capsys):
    """The tokens at the bytes that are named are those of the documents at their offsets."""
    run = new_run("run", *SMALL, "train.steps=3", f"data.train={other}")
    go(run, ranks=1)
    output = run.folder / "found.json"
    assert cli.main(["inspect", f"directory={run.directory}", "step=2", f"output={output}"]) == 0
    printed, found, file = capsys.readouterr().out, json.loads(output.read_text()), TokenFile(other)
    assert "step 2 is made of 4 samples, 4 to 7" in printed and "data rank 0 (rank 0), micro-batch 3" in printed
    for sample in found["samples"]:
        assert sum(span["tokens"] for span in sample["spans"]) == 16
        for span in sample["spans"]:
            document = file.document(span["document"])[span["offset"] : span["offset"] + span["tokens"]]
            with open(sample["bin"], "rb") as content:
                content.seek(span["byte"])
                assert content.read(document.nbytes) == document.tobytes() and len(document) == span["tokens"]
    assert cli.main(["inspect", f"directory={run.directory}", "step=9"]) == 0
    assert "assumed: step 9 is not recorded" in capsys.readouterr().out
