"""prepare: the same bytes for any number of workers, everything or nothing, and constant memory."""

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import psutil
import pytest
import xxhash
import zstandard
from hexareme.data.errors import DataError
from hexareme.data.prepare.prepare import NoProgress, Prepared, Recipe, prepare
from hexareme.data.tokenizer.tokenizer import load_tokenizer
from hexareme.data.tokens.token_file import open_corpus
from sentencepiece import SentencePieceProcessor

from tests.data.prepare.runs import Run, Told, contents, write_lines
from tests.data.prepare.runs import documents as repeated_documents

SMALL = Recipe(vocab_size=500, held_out=0.1)


def documents(count: int, *, size: int = 60) -> list[str]:
    """Slices of the standard library's source, all different."""
    text = (Path(sysconfig.get_path("stdlib")) / "argparse.py").read_text()
    return [f"# document {i}\n" + (text[i * 37 % 50_000 :] * (1 + size // 50_000))[:size] for i in range(count)]


def decoded(prepared: Prepared, part: str) -> list[str]:
    tokenizer, corpus = load_tokenizer(prepared.folder), open_corpus(prepared.folder, part)
    ids = [corpus.document(i).tolist() for i in range(corpus.num_documents)]
    assert all(document[-1] == tokenizer.end_of_document for document in ids)
    return [tokenizer.decode(document[:-1]) for document in ids]


@pytest.fixture(scope="module")
def lines(tmp_path_factory) -> Path:
    """About 3 MB in 300 documents, with an equal pair far apart."""
    texts = documents(300, size=10_000)
    return write_lines(tmp_path_factory.mktemp("input") / "a.jsonl", [*texts, texts[0]])


@pytest.fixture(scope="module")
def reference(lines, tmp_path_factory) -> Prepared:
    return prepare([str(lines)], tmp_path_factory.mktemp("reference") / "corpus", SMALL, workers=1)


@pytest.fixture(scope="module")
def existing(reference) -> Recipe:
    """Uses the reference's tokenizer: one pass only."""
    return Recipe(tokenizer_kind="sentencepiece_file", tokenizer_path=str(reference.folder / "tokenizer"), held_out=0.1)


def settings(recipe: Recipe) -> dict[str, object]:
    """Those that are not the default, but for cleaning."""
    return {key: value for key, value in vars(recipe).items() if key != "clean" and value != getattr(Recipe(), key)}


@pytest.fixture(autouse=True)
def nothing_is_left():
    """No process and nothing in /dev/shm, whatever a test did."""
    before = set(os.listdir("/dev/shm"))
    yield
    assert not [child for child in psutil.Process().children() if "hexareme.data.prepare.workers" in child.cmdline()]
    assert {name for name in set(os.listdir("/dev/shm")) - before if name.startswith("sem.mp-")} == set()


def test_two_workers_write_the_same(lines, reference, tmp_path):
    prepared = prepare([str(lines)], tmp_path / "2", SMALL, workers=2)
    assert contents(prepared.folder) == contents(reference.folder)


def test_one_two_and_seven_workers_clean_alike_and_write_the_same(existing, tmp_path):
    """In eight chunks or more, so that each of seven workers has one; most of each is no text, so that it takes no time."""
    file = write_lines(tmp_path / "a.jsonl", repeated_documents(800, size=600), other=10_000)
    found = {}
    for workers in (1, 2, 7):
        run, told = Run([str(file)], tmp_path / str(workers), settings(existing), clean=True, workers=workers), Told()
        run.here(progress=told)
        assert min(told.results["cleaning"], told.results["tokenizing"]) >= 8
        found[workers] = {name: hashlib.sha256(content).hexdigest() for name, content in contents(run.output).items()}
    assert found[1] == found[2] == found[7]
    assert {"train.bin", "train.idx", "validation.bin", "validation.idx", "clean_report.json"} < found[1].keys()
    assert json.loads((tmp_path / "7" / "clean_report.json").read_text())["documents_out"] < 800


@pytest.mark.parametrize("kind", ["byte_bpe", "sentencepiece_unigram"])
def test_other_tokenizers_too(kind, tmp_path):
    file = write_lines(tmp_path / "a.jsonl", documents(200, size=1000))
    recipe = Recipe(tokenizer_kind=kind, vocab_size=400)
    first, second = (prepare([str(file)], tmp_path / str(workers), recipe, workers=workers) for workers in (1, 2))
    assert contents(first.folder) == contents(second.folder)
    assert first.description.tokenizer.vocab_size == 400
    assert sorted(decoded(first, "train") + decoded(first, "validation")) == sorted(documents(200, size=1000))


def test_documents_come_back_in_order_each_on_the_side_of_its_hash(lines, reference):
    texts = [json.loads(line)["text"] for line in lines.read_text().splitlines()]
    held_out = [xxhash.xxh3_64_intdigest(text.encode()) < 2**64 / 10 for text in texts]
    assert 10 < sum(held_out) < 60
    assert decoded(reference, "train") == [text for text, held in zip(texts, held_out, strict=True) if not held]
    assert decoded(reference, "validation") == [text for text, held in zip(texts, held_out, strict=True) if held]


def test_ids_are_sentencepieces_own(lines, reference):
    own = SentencePieceProcessor(model_file=str(reference.folder / "tokenizer" / "tokenizer.model"))
    corpus = open_corpus(reference.folder, "train")
    kept = iter(range(corpus.num_documents))
    for line in lines.read_text().splitlines():
        text = json.loads(line)["text"]
        if xxhash.xxh3_64_intdigest(text.encode()) >= 2**64 / 10:
            assert corpus.document(next(kept)).tolist() == [*own.encode(text), own.piece_to_id("<|endofdoc|>")]


def test_training_does_not_see_what_is_held_out(lines, reference, tmp_path):
    """Without the held-out documents in the input, the same tokenizer comes out."""
    train = write_lines(tmp_path / "a.jsonl", decoded(reference, "train"))
    alone = prepare([str(train)], tmp_path / "corpus", Recipe(vocab_size=500, held_out=0), workers=1)
    assert contents(alone.folder / "tokenizer") == contents(reference.folder / "tokenizer")
    assert (alone.folder / "train.bin").read_bytes() == (reference.folder / "train.bin").read_bytes()
    assert not (alone.folder / "validation.bin").exists()


def test_every_format_gives_the_same_tokens(lines, reference, existing, tmp_path):
    data = lines.read_bytes()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(data, 1))
    (tmp_path / "b.jsonl.zst").write_bytes(zstandard.compress(data))
    for name in ("a.jsonl.gz", "b.jsonl.zst"):
        prepared = prepare([str(tmp_path / name)], tmp_path / name[0], existing, workers=2)
        for file in ("train.bin", "train.idx", "validation.bin", "validation.idx"):
            assert (prepared.folder / file).read_bytes() == (reference.folder / file).read_bytes()


def test_a_second_time_does_nothing_and_another_corpus_is_refused(lines, existing, tmp_path):
    first = prepare([str(lines)], tmp_path / "corpus", existing, workers=1)
    before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    again = prepare([str(lines)], tmp_path / "corpus", existing, workers=2)
    assert again.reused and again.tally == first.tally and again.description == first.description
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")} == before
    other = Recipe(tokenizer_kind="sentencepiece_file", tokenizer_path=existing.tokenizer_path, held_out=0)
    with pytest.raises(DataError, match=r"other settings \(recipe.held_out differ\)") as caught:
        prepare([str(lines)], tmp_path / "corpus", other, workers=1)
    assert "overwrite=true" in caught.value.do
    assert not prepare([str(lines)], tmp_path / "corpus", other, workers=1, overwrite=True).reused
    assert not (first.folder / "validation.bin").exists()
    (first.folder / "train.bin").write_bytes(b"")
    with pytest.raises(DataError, match="train.bin is missing or has another size"):
        prepare([str(lines)], tmp_path / "corpus", other, workers=1)


def test_a_folder_with_other_files_is_left_alone(lines, existing, tmp_path):
    (tmp_path / "train.bin").write_bytes(b"precious")
    with pytest.raises(DataError, match=r"holds train\.bin but no corpus"):
        prepare([str(lines)], tmp_path, existing, overwrite=True)
    assert (tmp_path / "train.bin").read_bytes() == b"precious"


def test_an_output_inside_the_input_is_no_input(existing, tmp_path):
    for i, text in enumerate(documents(30)):
        (tmp_path / f"{i}.txt").write_text(text)
    first = prepare([str(tmp_path)], tmp_path / "corpus", existing, workers=1)
    assert first.tally.documents == 30
    assert prepare([str(tmp_path)], tmp_path / "corpus", existing, workers=1).reused


def test_few_bad_records_are_listed_and_left_out(existing, tmp_path):
    texts = documents(2000)
    file = write_lines(tmp_path / "a.jsonl", texts)
    good = prepare([str(file)], tmp_path / "good", existing, workers=2)
    rows = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*rows[:1000], '{"text": 1}\n', *rows[1000:], "{\n"]))
    prepared = prepare([str(file)], tmp_path / "corpus", existing, workers=2)
    rejects = [json.loads(line) for line in (prepared.folder / "rejects.jsonl").read_text().splitlines()]
    causes = [(1001, "wrong_type"), (2002, "broken_json")]
    assert rejects == [{"file": str(file), "line": line, "cause": cause} for line, cause in causes]
    assert dict(prepared.tally.causes) == {"wrong_type": 1, "broken_json": 1}
    for name in ("train.bin", "train.idx"):  # corpus.json also tells of the lines, which are others now
        assert (prepared.folder / name).read_bytes() == (good.folder / name).read_bytes()


def test_many_bad_records_stop_it(existing, tmp_path):
    file = write_lines(tmp_path / "a.jsonl", documents(500))
    with file.open("a") as stream:
        stream.write("{\n")
    with pytest.raises(DataError, match=r"1 of 501 records are bad \(1 broken_json\), more than reject_limit=0.001") as caught:
        prepare([str(file)], tmp_path / "corpus", existing, workers=1)
    assert caught.value.exit_code == 3 and caught.value.file
    assert json.loads(Path(caught.value.file).read_text()) == {"file": str(file), "line": 501, "cause": "broken_json"}
    assert [path.name for path in (tmp_path / "corpus").iterdir()] == ["rejects.jsonl"]
    file.write_text(file.read_text().removesuffix("{\n"))
    assert prepare([str(file)], tmp_path / "corpus", existing, workers=1).tally.rejected == 0


def test_a_wrong_text_key_is_noticed_early(existing, tmp_path):
    file = write_lines(tmp_path / "a.jsonl", documents(60_000))
    with pytest.raises(DataError, match="missing_key") as caught:
        prepare([str(file)], tmp_path / "corpus", Recipe(**{**vars(existing), "text_key": "content"}), workers=1)
    assert int(str(caught.value).split(" of ")[1].split()[0]) < 60_000


def test_no_text_is_an_error(existing, tmp_path):
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(DataError, match="holds no text: 2 records, 2 of them empty"):
        prepare([str(tmp_path / "*")], tmp_path / "corpus", existing)
    assert not (tmp_path / "corpus").exists()
    with pytest.raises(DataError, match="does not exist"):
        prepare([str(tmp_path / "missing")], tmp_path / "other", existing)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("train", [True, False])
def test_validation_is_never_empty(existing, tmp_path, train):
    recipe = Recipe(vocab_size=400, held_out=1e-9) if train else Recipe(**{**vars(existing), "held_out": 1e-9})
    texts = documents(20, size=500)
    prepared = prepare([str(write_lines(tmp_path / "a.jsonl", texts))], tmp_path / "corpus", recipe, workers=1)
    assert decoded(prepared, "validation") == [min(texts, key=lambda text: xxhash.xxh3_64_intdigest(text.encode()))]
    assert prepared.description.parts["train"].documents == 19
    with pytest.raises(DataError, match="leaves one part empty: 2 documents") as caught:
        prepare([str(write_lines(tmp_path / "b.jsonl", texts[:1] * 2))], tmp_path / "other", recipe, workers=1)
    assert "held_out=0" in caught.value.do


class KillAWorker(NoProgress):
    """Kills one worker, without a warning, when the first results of a pass are there."""

    def __init__(self) -> None:
        self.at = 0.0

    def advance(self, input_bytes: int, documents: int, text_bytes: int) -> None:
        if not self.at:
            self.at = time.monotonic()
            [child for child in psutil.Process().children() if "hexareme.data.prepare.workers" in child.cmdline()][-1].kill()


def test_a_killed_worker_is_an_error_and_no_hang(existing, tmp_path):
    file = write_lines(tmp_path / "a.jsonl", documents(60, size=400_000))
    killer = KillAWorker()
    with pytest.raises(DataError, match="was killed by SIGKILL"):
        prepare([str(file)], tmp_path / "corpus", existing, workers=2, progress=killer)
    assert time.monotonic() - killer.at < 5
    assert not (tmp_path / "corpus" / "corpus.json").exists()


def test_killed_as_a_whole_it_leaves_no_process_and_no_corpus(existing, tmp_path):
    run = Run([str(write_lines(tmp_path / "a.jsonl", documents(60, size=400_000)))], tmp_path / "corpus", settings(existing), workers=2)
    process = run.start()
    assert process.stdout
    assert [process.stdout.readline() for _ in range(2)] == ["begun\n", "result\n"]
    workers = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(workers) == 2
    assert not psutil.wait_procs(workers, timeout=5)[1]
    assert not (run.output / "corpus.json").exists()
    with pytest.raises(DataError, match="no finished corpus"):
        open_corpus(run.output, "train")


def test_two_at_once_do_not_mix(lines, existing, tmp_path):
    class Second(NoProgress):
        def phase(self, name: str, total_bytes: int, done_bytes: int = 0) -> None:
            with pytest.raises(DataError, match="another prepare is writing"):
                prepare([str(lines)], tmp_path / "corpus", existing, workers=1)

    assert not prepare([str(lines)], tmp_path / "corpus", existing, workers=1, progress=Second()).reused


MEASURE = """
import resource, sys
from hexareme.data.prepare.prepare import *
prepare([sys.argv[1]], sys.argv[2], Recipe(tokenizer_kind="sentencepiece_file", tokenizer_path=sys.argv[3]), workers=1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_the_input(existing, tmp_path):
    peaks = []
    for megabytes in (4, 24):
        file = write_lines(tmp_path / f"{megabytes}.jsonl", documents(megabytes * 50, size=20_000))
        command = [sys.executable, "-c", MEASURE, str(file), str(tmp_path / f"corpus-{megabytes}"), existing.tokenizer_path]
        peaks.append([int(mib) for mib in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()])
    (small, small_worker), (large, large_worker) = peaks
    assert large < small + 12 and large_worker < small_worker + 12, peaks
