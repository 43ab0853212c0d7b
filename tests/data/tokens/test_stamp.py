"""When a stamp is believed, when it is not, and that it never stands in the way."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from hexareme.data.errors import DataError
from hexareme.data.tokens import stamp
from hexareme.data.tokens.description import describe_file, write_description
from hexareme.data.tokens.stamp import beside, in_cache
from hexareme.data.tokens.token_file import largest_id, open_corpus

from ..token_files import random_documents, write_corpus, write_tokens


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache


@pytest.fixture(params=["corpus", "prefix"])
def path(request, tmp_path):
    write_corpus(tmp_path / "corpus", random_documents(20, 50, 900))
    return tmp_path / "corpus" if request.param == "corpus" else tmp_path / "corpus" / "train"


def flip(file, *, keep_time):
    before = file.stat()
    with file.open("r+b") as stream:
        first = stream.read(1)[0]
        stream.seek(0)
        stream.write(bytes([first ^ 1]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + (0 if keep_time else 1)))


def test_a_stamp_is_believed_until_the_file_changes(tmp_path):
    write_corpus(tmp_path, random_documents(20, 50, 900))
    open_corpus(tmp_path)
    flip(tmp_path / "train.bin", keep_time=True)
    open_corpus(tmp_path)  # nothing that the stamp looks at has changed: the proof that nothing was read
    flip(tmp_path / "train.bin", keep_time=False)
    open_corpus(tmp_path)  # back to the true content, another time: verified again, sound
    flip(tmp_path / "train.bin", keep_time=False)
    with pytest.raises(DataError, match="is damaged"):
        open_corpus(tmp_path)


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_a_replaced_file_is_verified_again(path, suffix):
    open_corpus(path)
    prefix = path / "train" if path.is_dir() else path
    file = prefix.with_suffix(suffix)
    before = file.stat()
    content = file.read_bytes()
    other = file.with_name("other")
    other.write_bytes(content[:-1] if suffix == ".idx" else content + b"00")
    other.replace(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DataError):
        open_corpus(path)


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"version": 9}', "\x00", "[" * 100_000])
def test_an_unreadable_stamp_only_costs_time(path, content):
    open_corpus(path)
    prefix = path / "train" if path.is_dir() else path
    good = beside(prefix).read_text()
    beside(prefix).write_text(content)
    open_corpus(path)
    assert beside(prefix).read_text() == good


def test_another_description_overrules_the_stamp(tmp_path):
    corpus = write_corpus(tmp_path, [[1, 2], [3]])
    open_corpus(tmp_path)
    other = write_corpus(tmp_path.parent / "other", [[1, 2], [4]])
    write_description(tmp_path, type(corpus)(tokenizer=corpus.tokenizer, parts=other.parts))
    with pytest.raises(DataError, match="is damaged"):
        open_corpus(tmp_path)


def test_where_the_folder_takes_no_stamp_the_cache_does(tmp_path, own_cache):
    write_tokens(tmp_path / "train", [[1, 2], [7]])
    beside(tmp_path / "train").mkdir()  # also stops root, whom a read-only folder would not stop
    assert largest_id(tmp_path / "train") == 7
    stamps = list(own_cache.rglob("*.stamp.json"))
    assert stamps == [in_cache(tmp_path / "train")]
    assert json.loads(stamps[0].read_text())["largest_id"] == 7
    flip(tmp_path / "train.bin", keep_time=True)
    assert largest_id(tmp_path / "train") == 7  # from the cache
    assert not list(tmp_path.glob("*.writing"))


def test_nowhere_to_leave_a_stamp(tmp_path, monkeypatch, caplog):
    write_tokens(tmp_path / "train", [[1, 2], [7]])
    beside(tmp_path / "train").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert open_corpus(tmp_path / "train").num_tokens == 3
    assert "verified at every start" in caplog.text


def test_negative_ids_of_a_foreign_file_are_placed(tmp_path):
    write_tokens(tmp_path / "train", [[1, 2], [3, 4, 5]], np.int32)
    content = np.fromfile(tmp_path / "train.bin", np.int32)
    content[3] = -4
    content.tofile(tmp_path / "train.bin")
    with pytest.raises(DataError, match=r"negative id -4 \(document 1, offset 1\)"):
        open_corpus(tmp_path / "train")


def test_processes_that_open_at_once(path):
    program = "import sys; from hexareme.data.tokens.token_file import open_corpus; print(open_corpus(sys.argv[1]).num_tokens)"
    started = [subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE) for _ in range(4)]
    answers = {process.communicate()[0] for process in started}
    assert [process.returncode for process in started] == [0] * 4
    assert len(answers) == 1
    folder = path if path.is_dir() else path.parent
    assert not list(folder.glob("*.writing"))


def test_a_file_that_changes_under_the_verification(path, monkeypatch):
    prefix = path / "train" if path.is_dir() else path

    def disturbed(file, tick):
        found = describe_file(file, tick)
        os.utime(prefix.with_suffix(".bin"), ns=(0, 0))
        return found

    monkeypatch.setattr(stamp, "describe_file", disturbed)
    with pytest.raises(DataError, match="changed while it was being verified"):
        open_corpus(path)
    assert not beside(prefix).exists()


def test_a_stamped_open_takes_milliseconds(tmp_path):
    write_tokens(tmp_path / "train", [[0] * 20_000] * 1000)
    open_corpus(tmp_path / "train")
    times = []
    for _ in range(5):
        start = time.perf_counter()
        open_corpus(tmp_path / "train")
        times.append(time.perf_counter() - start)
    assert min(times) < 0.01
