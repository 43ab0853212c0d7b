"""Overrides and YAML become typed values, or every problem at once."""

import math

import pytest
from hexareme.conf.compose import as_dict, compose, defaults, dump_yaml, load_yaml
from hexareme.conf.errors import ConfigError, Problem
from hexareme.conf.schema import Config, PipelineSchedule, Precision
from hexareme.conf.sources import Source, sources
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

BASE = ["data.train=corpus"]


def faults(*overrides, command="train", base=BASE):
    with pytest.raises(ConfigError) as caught:
        compose(command, [*base, *overrides])
    return {problem.key: problem for problem in caught.value.problems}


def test_plain_values_come_out():
    config = compose("train", [*BASE, "train.precision=bf16", "parallel.schedule=1f1b", "optimizer.betas=[0.8,0.99]", "train.seed=7"])
    assert type(config) is Config
    assert config.train.precision is Precision.bf16 and config.parallel.schedule is PipelineSchedule.one_f_one_b
    assert type(config.optimizer.betas) is list and config.optimizer.betas == [0.8, 0.99]
    assert type(config.train.seed) is int and type(config.optimizer.learning_rate) is float
    assert config.run.directory == "runs/train" and config.model.num_kv_heads == config.model.num_heads


def test_the_experiment_names_the_run_and_an_override_beats_it():
    assert compose("train", [*BASE, "experiment=debug"]).run.directory == "runs/debug"
    assert compose("train", ["run.name=mine", "experiment=debug", *BASE]).run.directory == "runs/mine"
    assert compose("train", [*BASE, "experiment=gpt2_124m", "model=debug", "train.steps=3"]).model.num_layers == 2


@pytest.mark.parametrize(("override", "key", "words"), [
    ("train.step=3", "train.step", "train.steps"),
    ("tp=2", "tp", "parallel.tp"),
    ("learning_rate=1", "learning_rate", "optimizer.learning_rate"),
    ("batch.globl_size=2", "batch.globl_size", "batch.global_size"),
    ("+model.widht=2", "model.widht", "not a known key"),
    ("model.num_layers.x=2", "model.num_layers.x", "model.num_layers"),
    ("train=3", "train", "is a section"),
    ("train.steps=abc", "train.steps", "a whole number, at least 1"),
    ("train.steps=1.5", "train.steps", "a whole number"),
    ("train.steps=0", "train.steps", "at least 1"),
    ("train.steps=null", "train.steps", "a whole number"),
    ("train.deterministic=maybe", "train.deterministic", "true or false"),
    ("train.precision=fp8", "train.precision", "one of fp32, bf16, fp16"),
    ("train.precision=bf61", "train.precision", "did you mean bf16"),
    ("train.gradient_clipping=nan", "train.gradient_clipping", "at least 0"),
    ("train.gradient_clipping=inf", "train.gradient_clipping", "at least 0"),
    ("model.dropout=1", "model.dropout", "below 1"),
    ("run.hang_timeout=0", "run.hang_timeout", "above 0"),
    ("parallel.zero=4", "parallel.zero", "at most 3"),
    ("optimizer.betas=[a]", "optimizer.betas", "a list of numbers"),
    ("optimizer.betas=[.nan,0.9]", "optimizer.betas", "number"),
    ("model=gpt2_124", "model", "did you mean gpt2_124m"),
    ("experiment=quikstart", "experiment", "did you mean quickstart"),
    ("optimizer=adam", "optimizer", "did you mean adamw"),
    ("model.num_heads=2,4", "model.num_heads", "one value"),
    ("model.num_heads", "model.num_heads", "key=value"),
    ("~model.num_heads", "model.num_heads", "cannot be deleted"),
    ("hydra.run.dir=x", "hydra.run.dir", "Hydra's own"),
    ("run.name=${oc.env:HOME}", "run.name", "resolver"),
    ("run.name=${run.nme}", "run.name", "cannot be resolved"),
    ("parallel.deepspeed.key=${oc.env:HOME}", "parallel.deepspeed.key", "resolver"),
    ("parallel.deepspeed.x._target_=os.system", "parallel.deepspeed.x._target_", "call a function"),
    ("parallel.deepspeed={a: {_target_: os.system}}", "parallel.deepspeed.a._target_", "call a function"),
    ("data.train=[{path: a, weight: 0}]", "data.train", "above 0"),
    ("data.train=[{path: a, wieght: 1}]", "data.train", "optional weight"),
    ("data.train=[]", "data.train", "names no corpus"),
])
def test_a_problem_names_key_value_and_way_out(override, key, words):
    found = faults(override)
    assert set(found) == {key}
    assert words in str(found[key]) and found[key].do
    value = override.partition("=")[2]
    if value and value[0] not in "[{" and found[key].value != "???":
        assert value in str(found[key])


def test_all_problems_at_once():
    wrong = ["train.step=3", "train.steps=abc", "parallel.tp=0", "model=gpt9", "run.name=${oc.env:HOME}", "train.precision=fp8",
             "parallel.deepspeed={_target_: x}", "optimizer.learning_rate=-1", "nonsense"]
    assert len(faults(*wrong)) == len(wrong)


def test_what_is_mandatory():
    assert list(faults(base=[])) == ["data.train"]
    assert "report" not in faults(command="report", base=[]) and list(faults(command="report", base=[])) == ["directory"]


def test_no_secret_of_the_environment_is_read(monkeypatch):
    monkeypatch.setenv("HEXAREME_CANARY", "s3cret")
    for override in ["run.name=${oc.env:HEXAREME_CANARY}", "model=${oc.env:HEXAREME_CANARY}", "run.name='${oc.env:HEXAREME_CANARY}'"]:
        assert "s3cret" not in str(list(faults(override).values()))


def test_free_deepspeed_settings_need_no_plus_sign():
    for spelling in ["parallel.deepspeed.a.b=3", "+parallel.deepspeed.a.b=3", "parallel.deepspeed={a: {b: 3}}"]:
        assert compose("train", [*BASE, spelling]).parallel.deepspeed == {"a": {"b": 3}}


@pytest.mark.parametrize("text", [
    "def main(a, b):", "Hello, world", "1e3", "true", "null", "a=b", "x y", "été {", "\\n", "a\nb", "", "#", "[0]",
])
def test_texts_are_taken_letter_by_letter(text):
    assert compose("generate", [f"prompt={text}"]).prompt == text
    assert compose("evaluate", [f"directory={text}"]).directory == text


def test_quotes_are_taken_off_and_odd_paths_are_paths():
    assert compose("generate", ["prompt='a \"b\"'"]).prompt == 'a "b"'
    assert compose("train", ["data.train=/data/my corpus (1), new"]).data.train == [Source("/data/my corpus (1), new")]
    assert compose("generate", ["prompt=a", "stop=['x, y',z]"]).stop == ["x, y", "z"]


def test_own_folder_of_recipes(tmp_path):
    (tmp_path / "experiment").mkdir()
    recipe = tmp_path / "experiment" / "mine.yaml"
    recipe.write_text("# @package _global_\ndefaults:\n  - override /model: debug\nrun:\n  name: mine\n")
    search = f"hydra.searchpath=[file://{tmp_path}]"
    config = compose("train", [*BASE, search, "experiment=mine"])
    assert config.run.name == "mine" and config.model.num_layers == 2
    recipe.write_text("# @package _global_\nrun:\n  nmae: mine\n")
    (problem,) = faults(search, "experiment=mine").values()
    assert "nmae" in str(problem)
    recipe.write_text("# @package _global_\nrun:\n  name: ${oc.env:HOME}\n")
    assert "resolver" in str(faults(search, "experiment=mine")["run.name"])


def test_sources_in_every_spelling():
    assert sources("a") == [Source("a")] and sources(["a", "b"]) == [Source("a"), Source("b")]
    config = compose("train", ["data.train=[{path: a, weight: 2}, {path: b}, c]"])
    assert config.data.train == [Source("a", 2.0), Source("b", 1.0), Source("c", 1.0)] == sources(config.data.train)
    for weight in [math.nan, math.inf, -1, True, "1"]:
        with pytest.raises(ConfigError):
            sources([{"path": "a", "weight": weight}])


def test_a_saved_config_reads_back_equal(tmp_path):
    config = compose("train", [*BASE, "experiment=llama_8b", "parallel.schedule=1f1b", "parallel.deepspeed.a.b=[1, x]",
                               "run.name='été: #1'", "optimizer.learning_rate=1.2345678901234567e-4"])
    path = tmp_path / "config.yaml"
    path.write_text(dump_yaml(config))
    assert load_yaml(path) == config and "schedule: 1f1b" in path.read_text()


@settings(max_examples=25, deadline=None)
@example(temperature=0.0, seed=0, stop=["\x85", "a\u2028b", "\u2029"])  # YAML takes these for line breaks
@given(temperature=st.floats(0, 1e30), seed=st.integers(0, 2**63 - 1), stop=st.lists(st.text(), max_size=3))
def test_any_values_read_back_equal(tmp_path_factory, temperature, seed, stop):
    assume(not any("${" in text or text == "???" for text in stop))  # these two mean something in YAML; compose refuses or resolves them
    config = compose("generate", [])
    config.temperature, config.seed, config.stop = temperature, seed, stop
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(dump_yaml(config))
    assert load_yaml(path, type(config)) == config


def test_a_damaged_saved_config_names_every_key(tmp_path):
    path = tmp_path / "config.yaml"
    text = dump_yaml(compose("train", BASE))
    path.write_text(text.replace("steps: 1000", "stpes: 1000").replace("precision: fp32", "precision: fp9", 1).replace("tp: 1", "tp: 0"))
    with pytest.raises(ConfigError) as caught:
        load_yaml(path)
    assert {problem.key for problem in caught.value.problems} == {"train.stpes", "train.steps", "train.precision", "parallel.tp"}
    for broken in ["", "[1]", "a: [", "\x00"]:
        path.write_text(broken)
        with pytest.raises(ConfigError, match=r"config\.yaml"):
            load_yaml(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_yaml(tmp_path / "none.yaml")


def test_defaults_are_what_compose_gives():
    preset, config = defaults("train"), as_dict(compose("train", BASE))
    assert preset["data.train"] == "???" and preset["run.name"] == "train" and preset["run.directory"] == "runs/${run.name}"
    assert preset["train.steps"] == config["train"]["steps"] and preset["model.num_layers"] == config["model"]["num_layers"]


def test_problems_read_as_sentences():
    assert str(Problem("a.b", True, "is wrong", "set a.b=false")) == "a.b=true is wrong (do: set a.b=false)"
    assert ConfigError([Problem("a", 1, "x", "y")]).what == "a=1 x"
    two = ConfigError([Problem("a", 1, "x", "y"), Problem("b", 2, "x", "y")])
    assert "a, b" in two.what and two.exit_code == 2
