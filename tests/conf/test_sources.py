"""`data.train` and `data.stages` in every spelling, read back as they were, and everything wrong at once."""

import pytest
from hexareme.conf.compose import compose, dump_yaml, load_yaml
from hexareme.conf.errors import ConfigError
from hexareme.conf.sources import DataStage, Source, SourceByEpochs, all_sources, sources, stages

BASE = ["experiment=debug", "data.train=[{path: a, weight: 3}, {path: b}]"]
STAGES = ("data.stages=[{from_step: 0, sequence_length: 32}, {from_step: 4, train: [{path: c, epochs: 2}, {path: a, epochs: 0.5}]}, "
          "{from_step: 9, train: d, sequence_length: 64}]")


def test_epochs_beside_epochs():
    assert sources([{"path": "a", "epochs": 3}, {"path": "b", "epochs": 0.5}]) == [SourceByEpochs("a", 3.0), SourceByEpochs("b", 0.5)]


def test_stages_read_back_as_they_were(tmp_path):
    config = compose("train", [*BASE, STAGES])
    assert config.data.stages == [DataStage(0, [], 32), DataStage(4, [SourceByEpochs("c", 2.0), SourceByEpochs("a", 0.5)]),
                                  DataStage(9, [Source("d")], 64)] == stages(config.data.stages)
    assert all_sources(config.data.train, config.data.stages) == ["a", "b", "c", "d"]
    (tmp_path / "config.yaml").write_text(dump_yaml(config))
    assert load_yaml(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(("given", "told"), [
    ("{path: a, epochs: 0}", "not a number above 0"), ("{path: a, epochs: x}", "not a number above 0"),
    ("{path: a, epochs: 1, weight: 1}", "both a weight and epochs"), ("{path: a}, {path: b, epochs: 2}", "some sources a weight"),
    ("{path: a}, {path: b}, a", "names a more than once"),
])
def test_sources_that_cannot_be(given, told):
    with pytest.raises(ConfigError) as error:
        compose("train", ["experiment=debug", f"data.train=[{given}]"])
    (problem,) = error.value.problems
    assert problem.key == "data.train" and told in problem.message and problem.do


@pytest.mark.parametrize(("given", "told"), [
    ("x", "is not from_step"), ("{train: [a]}", "is not from_step"), ("{from_step: 3, trian: [a]}", "is not from_step"),
    ("{from_step: -1, train: [a]}", "from_step that is not"), ("{from_step: 2, sequence_length: 1.5}", "sequence_length that is not"),
    ("{from_step: 2}", "changes nothing"), ("{from_step: 0, train: [a]}", "which data.train does"),
    ("{from_step: 2, train: [{path: a, weight: -1}]}", "not a number above 0"),
    ("{from_step: 5, train: [a]}, {from_step: 5, train: [b]}", "does not rise"),
])
def test_stages_that_cannot_be(given, told):
    with pytest.raises(ConfigError) as error:
        compose("train", [*BASE, f"data.stages=[{given}]"])
    assert all(problem.key == "data.stages" and problem.do for problem in error.value.problems)
    assert any(told in problem.message for problem in error.value.problems)


def test_stages_are_a_list():
    with pytest.raises(ConfigError):
        compose("train", [*BASE, "data.stages={from_step: 3, train: a}"])
