"""What may be combined: each rule refuses what it should, names the values, and its way out works."""

import re

import numpy as np
import pytest
from hexareme.conf.compose import compose
from hexareme.core.combine import DEEPSPEED_FOLLOWS, problems
from hexareme.core.corpora import corpus_problems, validation_source
from hexareme.data.errors import DataError
from hexareme.data.tokens.description import CorpusDescription, TokenizerDescription, write_description
from hexareme.data.tokens.writer import TokenFileWriter
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def base():
    return compose("train", ["data.train=corpus", "experiment=debug"])


def keys(overrides, world_size=1, **more):
    config = compose("train", ["data.train=corpus", "experiment=debug", *overrides])
    return [problem.key for problem in problems(config, world_size=world_size, **more)]


def test_the_recipe_itself_is_fine(base):
    assert problems(base, world_size=2) == []


@pytest.mark.parametrize(("overrides", "key"), [
    (["run.name=a/b"], "run.name"),
    (["run.name=.."], "run.name"),
    (["run.directory=''"], "run.directory"),
    (["cluster=slurm", "cluster.partition='a b'"], "cluster.partition"),
    (["cluster=slurm", "cluster.time_limit=2", "cluster.signal_seconds=120"], "cluster.signal_seconds"),
    (["cluster=slurm", "run.directory=50%/a"], "run.directory"),
    (["cluster=slurm", "run.directory=a\\\\b"], "run.directory"),
    (["cluster=ssh"], "cluster.hostfile"),
    (["cluster.nodes=2"], "cluster.nodes"),
    (["parallel.pp=2"], "parallel.pp"),
    (["parallel.cp=2"], "parallel.cp"),
    (["parallel.ep=2"], "parallel.ep"),
    (["parallel.virtual_stages=2"], "parallel.virtual_stages"),
    (["model.num_heads=3", "model.num_kv_heads=3"], "model.num_heads"),
    (["model.num_kv_heads=3"], "model.num_kv_heads"),
    (["model.num_experts=4", "model.experts_per_token=5"], "model.experts_per_token"),
    (["model.num_experts=4", "train.precision=fp16"], "train.precision"),
    (["model.hidden_size=60", "model.num_heads=4", "model.positions=rope"], "model.num_heads"),
    (["model.rope_high_frequency_factor=1"], "model.rope_high_frequency_factor"),
    (["parallel.zero=0", "parallel.offload=optimizer"], "parallel.offload"),
    (["parallel.zero=2", "parallel.offload=optimizer_and_parameters"], "parallel.offload"),
    (["parallel.zero=3", "train.compile=true"], "train.compile"),
    (["train.stop_at=21"], "train.stop_at"),
    (["schedule.warmup_steps=21"], "schedule.warmup_steps"),
    (["schedule=wsd", "schedule.warmup_steps=5", "schedule.decay_steps=16"], "schedule.decay_steps"),
    (["schedule=wsd", "schedule.decay_steps=0"], "schedule.decay_steps"),
    (["schedule.decay_steps=5"], "schedule.decay_steps"),
    (["optimizer.betas=[0.9]"], "optimizer.betas"),
    (["optimizer.betas=[0.9, 1.0]"], "optimizer.betas"),
    (["batch.micro_size=3"], "batch.global_size"),
])
def test_each_rule(overrides, key):
    assert key in keys(overrides)


@pytest.mark.parametrize("overrides", [
    ["parallel.zero=1", "parallel.offload=optimizer"], ["parallel.zero=3", "parallel.offload=optimizer_and_parameters"],
    ["parallel.zero=2", "train.compile=true"], ["train.stop_at=20"], ["schedule=wsd", "schedule.warmup_steps=5", "schedule.decay_steps=15"],
    ["model.num_kv_heads=2"], ["optimizer=sgd", "optimizer.betas=[]"], ["train.precision=bf16", "parallel.zero=0"],
    ["parallel.deepspeed.train_batch_size=8"], ["parallel.deepspeed.zero_optimization.reduce_bucket_size=1000"],
    ["parallel.deepspeed.wall_clock_breakdown=true"], ["train.reduce_precision=bf16"],
])
def test_what_is_just_allowed(overrides):
    assert keys(overrides) == []


def test_muon_needs_whole_matrices():
    assert keys(["optimizer=muon", "parallel.zero=0"], 2) == []
    assert keys(["optimizer=muon", "parallel.zero=0", "parallel.tp=2"], 2) == ["optimizer.name"]
    assert keys(["optimizer=muon", "parallel.zero=1"], 2) == ["optimizer.name"]


def test_fp16_needs_a_device_that_has_it_and_fp32_masters():
    assert keys(["train.precision=fp16"], fp16=False) == ["train.precision"]
    assert keys(["train.precision=fp16"], fp16=True) == []
    assert keys(["train.precision=fp16", "parallel.zero=0"]) == ["train.precision"]


def test_all_problems_at_once():
    found = keys(["parallel.tp=3", "train.stop_at=99", "optimizer.betas=[2, 3]", "batch.global_size=7"], 6)
    assert set(found) >= {"parallel.tp", "train.stop_at", "optimizer.betas", "batch.global_size"}


@given(world=st.integers(1, 16), tp=st.integers(1, 8), heads=st.sampled_from([1, 2, 4, 6, 8]), kv_heads=st.sampled_from([1, 2, 4]),
       ffn=st.sampled_from([96, 100, 256]), micro=st.integers(1, 4), size=st.integers(1, 64))
def test_layouts_against_the_definition(base, world, tp, heads, kv_heads, ffn, micro, size):
    """Accepted exactly where every piece is whole, tried one by one instead of by the rules' arithmetic."""
    b, m, p = base.batch, base.model, base.parallel
    before = (m.hidden_size, m.num_heads, m.num_kv_heads, m.ffn_hidden_size, b.micro_size, b.global_size, p.tp)
    p.sequence_parallel = False
    m.hidden_size, m.num_heads, m.num_kv_heads, m.ffn_hidden_size = 192, heads, kv_heads, ffn
    b.micro_size, b.global_size, p.tp = micro, size, tp
    try:
        found = problems(base, world_size=world)
    finally:
        m.hidden_size, m.num_heads, m.num_kv_heads, m.ffn_hidden_size, b.micro_size, b.global_size, p.tp = before
    grids = [dp for dp in range(1, world + 1) if dp * tp == world]
    whole = [n for n in (heads, ffn) if not any(piece * tp == n for piece in range(1, n + 1))] == []
    # a rank has whole kv heads, or several ranks share one
    whole = whole and any(piece * tp == kv_heads or piece * kv_heads == tp for piece in range(1, 9))
    batches = any(steps * micro * dp == size for dp in grids for steps in range(1, size + 1))
    groups = any(kv_heads * share == heads for share in range(1, heads + 1))
    if grids:
        assert (found == []) == (whole and batches and groups)
    else:
        assert "parallel.tp" in [problem.key for problem in found]


def test_the_ways_out_of_a_wrong_tp_work():
    config = compose("train", ["data.train=corpus", "experiment=debug", "parallel.tp=3", "batch.global_size=16"])
    found = [problem for problem in problems(config, world_size=4) if problem.key == "parallel.tp"]
    assert len(found) == 2 and "model.num_heads=4" in found[1].what
    assert "nearest valid layout of 4 ranks: parallel.tp=4 (dp=1)" in found[0].do
    for problem in found[1:]:
        advised = re.search(r"try parallel.tp in \[([\d, ]+)\]", problem.do)
        assert advised
        for tp in advised[1].split(", "):
            assert keys([f"parallel.tp={tp}", "batch.global_size=16"], 4) == []


def test_the_ways_out_of_a_wrong_batch_work():
    overrides = ["batch.global_size=10", "batch.micro_size=4"]
    config = compose("train", ["data.train=corpus", "experiment=debug", *overrides])
    (problem,) = problems(config, world_size=2)
    assert "batch.micro_size=4" in problem.what and "dp=2" in problem.what and "2 ranks" in problem.what
    sizes, micro_sizes = re.findall(r"batch.global_size=(\d+) or (\d+), or batch.micro_size in \[([\d, ]+)\]", problem.do)[0][:2], "1, 5"
    assert sizes == ("8", "16") and f"[{micro_sizes}]" in problem.do
    for fix in ["batch.global_size=8", "batch.global_size=16", "batch.micro_size=1", "batch.micro_size=5"]:
        assert keys([*overrides, fix], 2) == []


@pytest.mark.parametrize("name", DEEPSPEED_FOLLOWS)
def test_deepspeed_settings_that_contradict_are_refused_by_name(name):
    (found,) = keys([f"parallel.deepspeed.{name}=77"])
    assert found == f"parallel.deepspeed.{name}"


def describe(folder, *, largest, tokens=100, parts=("train", "validation")):
    folder.mkdir()
    written = {}
    for part in parts:
        with TokenFileWriter(folder / part, np.uint16) as writer:
            writer.add_document(np.full(tokens, max(largest, 0)))
            written[part] = writer.finish()
    write_description(folder, CorpusDescription(tokenizer=TokenizerDescription(kind="byte_bpe", vocab_size=900, end_of_document=0),
                                                parts=written))
    return compose("train", [f"data.train={folder}", "experiment=debug"])


def test_a_vocabulary_that_is_too_small(tmp_path):
    assert corpus_problems(describe(tmp_path / "fits", largest=511)) == []
    found = corpus_problems(describe(tmp_path / "large", largest=512))
    assert {problem.key for problem in found} == {"model.vocab_size"}
    assert "512" in found[0].what and "900" in found[0].what and found[0].do == "set model.vocab_size=900"


def test_a_corpus_that_is_missing_or_empty(tmp_path):
    with pytest.raises(DataError, match="neither a corpus folder nor a prefix"):
        corpus_problems(compose("train", [f"data.train={tmp_path / 'none'}"]))
    with pytest.raises(DataError, match="no token"):
        corpus_problems(describe(tmp_path / "empty", largest=-1, tokens=0))
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(DataError, match="no finished corpus"):
        corpus_problems(compose("train", [f"data.train={tmp_path / 'unfinished'}"]))


@pytest.mark.parametrize("file", ["train.bin", "train.idx", "validation.bin", "validation.idx"])
def test_files_that_are_gone_or_cut_are_found_before_a_rank_starts(tmp_path, file):
    config = describe(tmp_path / "corpus", largest=9)
    path = tmp_path / "corpus" / file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=path.stem):
        corpus_problems(config)
    path.unlink()
    with pytest.raises(DataError, match=file):
        corpus_problems(config)


def test_where_validation_reads(tmp_path):
    held = describe(tmp_path / "held", largest=9)
    assert validation_source(held.data) == (str(tmp_path / "held"), "validation")
    assert validation_source(describe(tmp_path / "all", largest=9, parts=("train",)).data) is None
    held.data.validation = "none"
    assert validation_source(held.data) is None
    held.data.validation = "elsewhere"
    assert validation_source(held.data) == ("elsewhere", "train")
    prefix = compose("train", [f"data.train={tmp_path / 'all' / 'train'}"])
    assert validation_source(prefix.data) is None and corpus_problems(prefix) == []
