"""Two real hosts with two ranks each: a run to its end, over a link that was cut for five seconds, equal to one on one machine."""

import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from tests.end_to_end.user import MARK, ROOT

from .user import HostsUser

SECRET = "canary-3f1c9b"
NAME = "it's $(touch canary) `touch canary`; touch canary & \"x\" ü"  # a plain folder's name, whatever a shell would make of it
pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1500)]  # until issue 6 ends: a rig of minutes on two loaded cores
STEPS = ("train.steps=12", "checkpoint.interval=6")


def seen_by_ps(word: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and word.encode() in (entry / "cmdline").read_bytes():
                found.append(entry.name)
        except OSError:
            continue
    return found


def local_losses(corpus: Path, user: HostsUser) -> dict:
    code, out, err = user.finish(user.start("hexareme", *user.words(corpus, "local"), "cluster.ranks_per_node=4", *STEPS))
    assert code == 0, out + err
    return user.steps("local")


@pytest.mark.nightly
@pytest.mark.skipif(shutil.which("pdsh") is None, reason="needs pdsh (Debian: pdsh)")
def test_deepspeeds_own_front_end_trains_on_the_same_hosts(corpus, user):
    (user.folder / "two").write_text("n1 slots=2\nn2 slots=2\n")
    (user.folder / ".deepspeed_env").write_text(f"{MARK}={user.mark}\nOMP_NUM_THREADS=1\nGLOO_SOCKET_IFNAME=eth0\n")
    address = user.rig.address("n1")
    code, out, err = user.finish(user.start("deepspeed", "--hostfile", "two", "--master_addr", address, "--master_port", "29871",
                                            str(ROOT / "launcher" / "train.py"), *user.words(corpus, "deepspeed")[1:], *STEPS))
    assert code == 0, out + err
    assert user.steps("deepspeed") == local_losses(corpus, user)


def test_a_run_on_two_hosts_survives_a_cut_of_five_seconds_and_equals_one_machine(corpus, user):
    process = user.train(corpus, NAME, 2, *STEPS, "run.hang_timeout=60", "cluster.link_timeout=30", WANDB_API_KEY=SECRET)
    user.wait_for_step(process, NAME, 3)
    assert seen_by_ps(SECRET) == []
    assert f"WANDB_API_KEY={SECRET}".encode() in Path(f"/proc/{user.rank(3)}/environ").read_bytes().split(b"\0")
    user.rig.cut("n2")
    blink = threading.Timer(5.0, user.rig.restore, ["n2"])
    blink.start()
    code, out, err = user.finish(process)
    blink.join()
    assert code == 0, out + err
    assert "hosts: n1 (ranks 0-1), n2 (ranks 2-3); rank 0 listens at 10.78.0.101:" in out
    assert "step 12/12" in out
    assert user.steps(NAME) == local_losses(corpus, user)  # bit for bit
    assert not (user.folder / "canary").exists()
    assert subprocess.run(["grep", "-rlF", SECRET, user.folder], check=False, capture_output=True, text=True).stdout == ""
