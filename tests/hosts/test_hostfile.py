"""Row F1: what a hostfile may say, and sixty hostile ones that are refused before ssh is ever called."""

import os
import time
from pathlib import Path

import pytest
from hexareme.conf.errors import ConfigError
from hexareme.launcher.cli import main
from hexareme.launcher.hosts.hostfile import Host, choose_hosts, parse_hostfile, read_hostfile
from hypothesis import given
from hypothesis import strategies as st

PATH = Path("hosts")

GOOD = {
    b"h1 slots=4": ["h1"],
    b"\n# all\n  h1\tslots=4 # first\n\nh2.example-x_y slots=1024\n": ["h1", "h2.example-x_y"],
    b"n[08-11] slots=8": ["n08", "n09", "n10", "n11"],
    b"rack[1-2,7]-ib slots=1\nlogin slots=2": ["rack1-ib", "rack2-ib", "rack7-ib", "login"],
    b"10.0.0.[1-2] slots=1": ["10.0.0.1", "10.0.0.2"],
    b"a" + b"b" * 252 + b" slots=1": ["a" + "b" * 252],
}
HOSTILE = [
    b"-oProxyCommand=touch${IFS}canary slots=2", b"-h slots=1", b"--help slots=1", b"$(touch canary) slots=1", b"`touch canary` slots=1",
    b"h1;touch canary slots=1", b"h1 slots=4 && touch canary", b"h1 slots=4; touch canary", b"h1|touch canary slots=1",
    b"h1 > canary slots=1", b"h\0x slots=1", b"h1 slots=1\0", b"\0", b"h1\rh2 slots=1", b"h1 slots=1\r", b"h1\x0bslots=1", b"h1\x1cslots=1",
    "ｈ1 slots=1".encode(), "h1 slots=١".encode(), "h\u2028 slots=1".encode(), "h\u202ex slots=1".encode(), b"\xff\xfe slots=1",
    b"\xef\xbb\xbfh1 slots=1", b"h1", b"h1 ", b"h1 slots", b"h1 slots=", b"h1 slots=0", b"h1 slots=-1", b"h1 slots=+1", b"h1 slots=01",
    b"h1 slots=1e18", b"h1 slots=1.0", b"h1 slots=0x4", b"h1 slots=1025", b"h1 slots=99999999999999", b"h1 slots = 4", b"h1 slots=4 4",
    b"h1 slots=4 slots=4", b"h1 Slots=4", b"h1 slot=4", b"slots=4", b"slots=4 h1", b"h1,h2 slots=4", b"h1 h2 slots=4", b"user@h1 slots=4",
    b"ssh://h1 slots=4", b"h1:22 slots=4", b"/etc/passwd slots=4", b"../h1 slots=4", b".h1 slots=4", b"_h1 slots=4", b"*.h slots=4",
    b"~ slots=4", b"%h slots=4", b"h1 slots=4\nh1 slots=4", b"h[1-2] slots=4\nh2 slots=4", b"h[2-1] slots=4", b"h[1-] slots=4",
    b"h[] slots=4", b"h[a-c] slots=4", b"h[1-999999999] slots=4", b"h[1-3 slots=4", b"h[1-2][1-2] slots=4", b"h[1--2] slots=4",
    b"a" * 254 + b" slots=1", b"a" * 250 + b"[1-9999] slots=1", b"h" * (1 << 20), b"x" * ((1 << 20) + 1), b"", b"# nothing\n\n",
    b"garbage of no form\n" * 10_000, b"".join(b"host%d slots=8\n" % number for number in range(10_000)) + b"$(id) slots=1\n",
    b"[1-3]\n" * 3, b"h1 slots=4 \\\n# h2",
]


@pytest.mark.parametrize("content", GOOD, ids=range(len(GOOD)))
def test_good_ones(content):
    assert [host.name for host in parse_hostfile(content, PATH)] == GOOD[content]


def test_slots_belong_to_the_hosts_of_a_line():
    assert parse_hostfile(b"a[1-2] slots=3\nb slots=1024", PATH) == [Host("a1", 3), Host("a2", 3), Host("b", 1024)]


def test_every_hostile_one_is_refused_at_once_in_few_words_and_ssh_is_never_called(tmp_path, monkeypatch, capfd):
    assert len(HOSTILE) >= 60
    called = tmp_path / "called"
    fake = tmp_path / "bin" / "ssh"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\necho >> {called}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    for number, content in enumerate(HOSTILE):
        path = tmp_path / f"hosts{number}"
        path.write_bytes(content)
        begun = time.thread_time()
        with pytest.raises(ConfigError) as caught:
            choose_hosts(read_hostfile(path), nodes=1, ranks_per_node=1, path=path)
        assert time.thread_time() - begun <= 1.0, content[:80]
        told = str(caught.value)
        assert len(told.encode()) <= 2000 and told.isprintable() and told.isascii(), told
    path = tmp_path / "hosts"
    path.write_bytes(HOSTILE[-3])
    words = ["train", "experiment=debug", f"data.train={tmp_path}", "cluster=ssh", f"cluster.hostfile={path}", "batch.micro_size=1"]
    assert main([*words, "cluster.nodes=1", "cluster.ranks_per_node=1"]) in (2, 3)
    assert not called.exists() and not (tmp_path / "canary").exists()
    assert len(capfd.readouterr().err.encode()) <= 2000


def test_the_first_five_wrong_lines_are_told_by_number():
    with pytest.raises(ConfigError) as caught:
        parse_hostfile(b"ok slots=1\n" + b"".join(b"bad %d\n" % number for number in range(7)), PATH)
    told = str(caught.value)
    assert all(f"line {number}: 'bad {number - 2}'" in told for number in range(2, 7))
    assert "line 7" not in told and "and 2 more lines" in told and caught.value.exit_code == 2


@given(st.binary(max_size=40))
def test_any_bytes_give_names_that_are_words_or_a_refusal(content):
    try:
        hosts = parse_hostfile(content, PATH)
    except ConfigError:
        return
    for host in hosts:
        assert host.name.isascii() and host.name[0].isalnum() and host.name.replace(".", "").replace("_", "").replace("-", "").isalnum()
        assert 1 <= host.slots <= 1024


@pytest.mark.parametrize("special", ["/dev/zero", "fifo", "folder", "missing"])
def test_what_is_no_file_is_refused_without_waiting(tmp_path, special):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="cluster.hostfile"):
        read_hostfile(tmp_path / special)


def test_too_few_hosts_and_too_few_slots_are_told():
    hosts = parse_hostfile(b"a slots=2\nb slots=1", PATH)
    with pytest.raises(ConfigError, match=r"cluster.nodes=3 is more than the 2 hosts"):
        choose_hosts(hosts, nodes=3, ranks_per_node=1, path=PATH)
    with pytest.raises(ConfigError, match=r"cluster.ranks_per_node=2 is more than the slots of b \(1\)"):
        choose_hosts(hosts, nodes=2, ranks_per_node=2, path=PATH)
    assert [host.name for host in choose_hosts(hosts, nodes=1, ranks_per_node=2, path=PATH)] == ["a"]
