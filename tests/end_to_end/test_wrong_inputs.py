"""Wrong inputs: each ends with its exit code and the one line that says what to do, and nothing is lost."""

import shutil
import subprocess
import time

import pytest

from .user import error_lines


def refused(user, code, *words, command):
    """Runs a command that must end with this code and one error line with these words in it."""
    found, out, err = user.run(*command)
    lines = error_lines(err)
    assert found == code, out + err
    assert len(lines) == 1 and lines[0].startswith(f"ERROR {code} rank=0 step="), err
    assert "(do: " in lines[0] and "Traceback" not in err
    assert len(err) < 2048
    for word in words:
        assert word in err, (word, err)


def train(corpus, *more):
    return ["hexareme", "train", "experiment=debug", f"data.train={corpus}", "train.steps=3", "schedule.warmup_steps=1", *more]


def test_prepare_of_nothing(user):
    (user.folder / "empty").mkdir()
    (user.folder / "blank.txt").write_text("\n")
    refused(user, 3, "empty", command=["hexareme", "prepare", "input=empty", "output=corpus"])
    refused(user, 3, "missing.txt", command=["hexareme", "prepare", "input=missing.txt", "output=corpus"])
    assert not (user.folder / "corpus" / "corpus.json").exists()


def test_a_missing_and_an_empty_corpus(user, corpus):
    refused(user, 3, "nowhere", "hexareme prepare", command=train("nowhere"))
    (user.folder / "none.bin").touch()
    (user.folder / "none.idx").touch()
    refused(user, 3, "none.idx", command=train("none", "data.validation=none"))


@pytest.mark.parametrize("file", ["train.idx", "train.bin"])
def test_a_corrupt_token_file(file, user, corpus):
    shutil.copytree(corpus, user.folder / "copy")
    path = user.folder / "copy" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    refused(user, 3, file, command=train("copy", "cluster.ranks_per_node=2"))


def test_a_vocabulary_below_the_largest_id(user, corpus):
    refused(user, 2, "model.vocab_size=100", "largest id", command=train(corpus, "model.vocab_size=100"))
    refused(user, 3, "holds the id", "model.vocab_size=100", "document",
            command=train(corpus / "train", "model.vocab_size=100", "data.validation=none"))


def test_all_mistakes_of_a_config_at_once(user, corpus):
    refused(user, 2, "optimizer.learning_rate", "train.steps=-3", "model.num_heads=many", command=[
        "hexareme", "train", f"data.train={corpus}", "optimzer.learning_rate=1", "train.steps=-3", "model.num_heads=many"])
    refused(user, 2, "batch.global_size=7", "model.num_heads=5", command=train(corpus, "batch.global_size=7", "model.num_heads=5"))
    refused(user, 2, "nearest valid layout", "nowhere cannot be used", command=train("nowhere", "parallel.pp=2", "cluster.ranks_per_node=4",
                                                                                     "parallel.zero=3"))
    refused(user, 2, "parallel.zero=3", "nearest valid layout of 2 ranks: parallel.pp=2 parallel.zero=1 (dp=1)",
            command=train(corpus, "parallel.pp=2", "parallel.zero=3", "cluster.ranks_per_node=2"))


def test_only_rank_0_speaks_and_nothing_heavy_is_imported(user, corpus):
    begin = time.monotonic()
    refused(user, 2, "model.num_heads=5", command=train(corpus, "model.num_heads=5", "cluster.ranks_per_node=4"))
    assert time.monotonic() - begin < 3 * 2  # the bound is 2 s; three times that on a loaded machine


def test_a_checkpoint_folder_of_another_model(user, corpus):
    assert user.run(*train(corpus))[0] == 0
    before, config = user.metrics("debug"), (user.folder / "runs/debug/config.yaml").read_text()
    refused(user, 4, "model.hidden_size was 64 and is 32", command=train(corpus, "model.hidden_size=32"))
    assert user.metrics("debug") == before
    assert (user.folder / "runs/debug/config.yaml").read_text() == config
    refused(user, 4, "nothing-here", command=["hexareme", "evaluate", "directory=nothing-here"])


@pytest.fixture
def small_disk(user):
    """A real file system of 24 MB; the debug model's checkpoints are 1.3 MB each, its first is written aside."""
    disk = user.folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(disk)], check=True)
    yield disk
    user.kill_everything()
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_disk_too_small_is_found_before_the_first_step(small_disk, user, corpus):
    (small_disk / "filler").write_bytes(bytes(23 << 20))
    refused(user, 7, str(small_disk), "free", command=train(corpus, f"run.directory={small_disk}/run"))
    assert not list((small_disk / "run").glob("checkpoints/step-*"))


def test_a_disk_that_fills_before_the_first_save(small_disk, user, corpus):
    process = user.start(*train(corpus, f"run.directory={small_disk}/run", "train.steps=300", "checkpoint.interval=100"))
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("step "))
    with open(small_disk / "filler", "wb", buffering=0) as filler:  # a buffer would fail once more when it is closed
        try:
            while True:
                filler.write(bytes(1 << 16))
        except OSError:
            pass
    _, err = process.communicate(timeout=90)
    assert process.returncode == 7, err
    assert len(error_lines(err)) == 1 and "free" in err
    assert not list((small_disk / "run").glob("checkpoints/.step-*")), "the half-written checkpoint was left"
    (small_disk / "filler").unlink()
    code, out, err = user.run(*train(corpus, f"run.directory={small_disk}/run", "train.steps=300", "checkpoint.interval=100",
                                     "train.stop_at=30"))
    assert code == 0, out + err
