"""Row F2: whatever a user writes arrives on a host byte for byte, and no shell on the way makes anything of it."""

import ast
import os
import subprocess
from pathlib import Path

import pytest
from hexareme.launcher.hosts.messages import Reader, line
from hexareme.launcher.hosts.ssh import NODE, Ssh, passed_on
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
# Stands where the interpreter would: tells its arguments, then what came on standard input.
SPY = '#!/bin/sh\nprintf "%s\\0" "$0" "$@"\ncat\n'
HOSTILE = ["; touch canary", "$(touch canary)", "`touch canary`", "' ; touch canary; '", '" ; touch canary; "', "a b\tc\nd", "*", "~", "!!",
           "\\", "-rf", "${IFS}", "&& touch canary &", "ü\u202e", "%s%n", "#"]
words = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_characters="\0/", exclude_categories=("Cs",)), min_size=1,
                                                    max_size=40))


def parsed(content: bytes) -> list:
    return list(Reader().feed(content))


def place_spy(folder: Path, name: str) -> Path:
    place = folder / f"x{name}"[:60] if len(os.fsencode(name)) < 200 else folder / "long"
    place.mkdir(exist_ok=True)
    spy = place / "py'th\"on $(touch canary)"
    spy.write_text(SPY)
    spy.chmod(0o755)
    return spy


def command(python: Path, *, config: str = "", port: int = 22) -> list[str]:
    return Ssh(python=str(python), port=port, config_file=config, connect_seconds=7, silence_seconds=9).arguments("n1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(name=words, overrides=st.lists(words, max_size=4), value=words)
@example(name="; touch canary", overrides=HOSTILE, value="$(touch canary)")
def test_path_arguments_and_variables_arrive_byte_for_byte(folder, name, overrides, value):
    spy = place_spy(folder, name)
    setup = {"overrides": [*overrides, os.fsdecode(b"run.name=\xff\xfe")], "variables": {"A": value}, "folder": name}
    # as sshd does it: the login shell gets the command as one word
    ran = subprocess.run(["sh", "-c", command(spy)[-1]], input=line({"setup": setup}), capture_output=True, cwd=folder, check=True)
    *arguments, rest = ran.stdout.split(b"\0", 4)
    assert arguments == [os.fsencode(spy), b"-P", b"-m", NODE.encode()]
    assert parsed(rest) == [{"setup": setup}]
    assert ran.stderr == b"" and not list(folder.glob("**/canary"))


@pytest.mark.nightly
def test_the_same_through_a_real_sshd(rig, tmp_path):
    for name in HOSTILE[:6]:
        spy = place_spy(tmp_path, name)
        setup = {"overrides": HOSTILE}
        words = rig.on("n0", *command(spy, config=str(rig.config)), folder=tmp_path)
        ran = subprocess.run(words, input=line({"setup": setup}), capture_output=True, check=True)
        *arguments, rest = ran.stdout.split(b"\0", 4)
        assert arguments == [os.fsencode(spy), b"-P", b"-m", NODE.encode()] and parsed(rest) == [{"setup": setup}]
    assert not list(tmp_path.glob("**/canary")) and not Path("/root/canary").exists()


def test_the_command_line_holds_what_is_asked_for_and_nothing_secret():
    words = command(Path("/x/python"), config="/x/config", port=2222)
    assert words[-3:] == ["--", "n1", f"exec /x/python -P -m {NODE}"]
    for wanted in ("-oBatchMode=yes", "-oConnectTimeout=7", "-oServerAliveInterval=5", "-oServerAliveCountMax=3", "-oForwardAgent=no",
                   "-oForwardX11=no", "-oClearAllForwardings=yes", "-p2222"):
        assert wanted in words
    # what ssh itself makes of them
    told = subprocess.run(["ssh", "-G", *[word for word in words[1:-1] if word not in ("-F", "/x/config")]], capture_output=True, text=True,
                          check=True).stdout
    for wanted in ("batchmode yes", "connecttimeout 7", "serveraliveinterval 5", "forwardagent no", "forwardx11 no",
                   "clearallforwardings yes", "hostname n1", "port 2222"):
        assert wanted in told.splitlines(), (wanted, told)


def test_only_allowed_variables_are_passed_on():
    variables = {"NCCL_DEBUG": "INFO", "WANDB_API_KEY": "secret", "OMP_NUM_THREADS": "1", "XNCCL_A": "1"}
    assert passed_on(variables, ["NCCL_*", "OMP_NUM_THREADS"]) == {"NCCL_DEBUG": "INFO", "OMP_NUM_THREADS": "1"}


@given(st.lists(st.tuples(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3), st.binary(max_size=20)), max_size=5),
       st.integers(1, 7))
def test_messages_are_whole_however_they_are_cut_and_whatever_a_shell_prints_between(told, size):
    stream = b"".join(line(message) + noise.replace(b"\n", b"").replace(b"\x1e", b"") + b"\n" for message, noise in told)
    reader = Reader()
    found = [each for begin in range(0, len(stream), size) for each in reader.feed(stream[begin: begin + size])]
    assert [each for each in found if isinstance(each, dict)] == [message for message, _ in told]


def test_a_greeting_before_a_message_is_told_apart_from_it():
    assert parsed(b"Welcome to n1" + line({"beat": 1}) + b"motd\n") == [b"Welcome to n1", {"beat": 1}, b"motd"]


def test_no_shell_is_ever_asked_for():
    for path in [*(ROOT / "launcher").rglob("*.py"), *(ROOT / "core").rglob("*.py"), *(ROOT / "data").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.keyword) and node.arg == "shell"), path
            assert not (isinstance(node, ast.Attribute) and node.attr in ("system", "popen") and ast.unparse(node.value) == "os"), path
