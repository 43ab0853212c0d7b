"""The command line answers at once, helps, and names the nearest command."""

import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hexareme.conf.compose import compose
from hexareme.conf.keys import table
from hexareme.conf.registry import COMMANDS
from hexareme.launcher import cli
from hexareme.launcher.help import EXAMPLES

HEXAREME = str(Path(sys.executable).with_name("hexareme"))


def test_help_within_its_time():
    """CPU time, which the neighbours of this machine cannot change; 0.7 s is promised."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run([HEXAREME, "--help"], capture_output=True, text=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert all(command in out for command in COMMANDS)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.7


def test_commands_and_schemas_are_the_same_list():
    assert list(cli.COMMANDS) == ["prepare", "train", "submit", "plan", "doctor", "prove", "evaluate", "generate", "report", "watch",
                                  "inspect", "convert", "bench"]
    assert set(cli.COMMANDS) == set(COMMANDS) == set(EXAMPLES)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command, capsys):
    assert cli.main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.count("hexareme") >= 3 and len(EXAMPLES[command]) == 3
    for key in table(COMMANDS[command].schema()):
        assert f"  {key} " in out
    assert all(entry.metadata["help"] for _, entry in table(COMMANDS[command].schema()).values())


@pytest.mark.parametrize(("command", "example"), [(command, example) for command, examples in EXAMPLES.items() for example in examples])
def test_examples_compose(command, example):
    words = shlex.split(example)
    compose(command, words[2:] if words[0] == "hexareme" else words[words.index("launcher/train.py") + 1 :])


@pytest.mark.parametrize(("arguments", "words"), [
    (["trian"], "did you mean `hexareme train`"), (["prepar"], "`hexareme prepare`"), (["zzz"], "prepare, train"),
    (["model=debug"], "hexareme train model=debug"),
])
def test_unknown_commands(arguments, words, capsys):
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("ERROR 2 rank=0 step=0 ") and words in err and err.count("\n") == 1


def test_no_command_shows_what_there_is(capsys):
    assert cli.main([]) == 2 and "usage" in capsys.readouterr().out


def test_a_mistake_in_a_command_is_one_line(capsys):
    assert cli.main(["report", "directroy=x"]) == 2
    err = capsys.readouterr().err
    assert "did you mean directory?" in err and err.splitlines()[-1].startswith("ERROR 2 ")
