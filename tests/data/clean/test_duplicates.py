"""Duplicates over a corpus of real text with planted copies, against sets of words counted in plain Python."""

import math
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hexareme.data.clean.duplicates import EXACT, KEPT, NEAR, Duplicates, find_duplicates, removal_probability
from hexareme.data.clean.settings import DuplicateSettings
from hexareme.data.clean.signatures import SignatureShape, Signer
from hexareme.data.errors import DataError

from tests.data.clean.planted import changed, jaccard, planted_corpus, unlike_documents

SHAPE = SignatureShape()
DEFAULT = DuplicateSettings().similarity
KNOWN = ["0x9eb1a52dbcf7dd95", "0x1d6ab5a3", "0x395ee0ce", "0x836dd7e"]  # of one text: signatures made yesterday must compare with today's


@pytest.fixture(scope="module")
def originals() -> list[str]:
    return unlike_documents(1000)


def find(texts: list[str], folder: Path, *, shape: SignatureShape = SHAPE, similarity: float = DEFAULT) -> Duplicates:
    path = folder / "signatures"
    Signer(shape)(texts).tofile(path)
    return find_duplicates(path, shape, similarity=similarity, folder=folder / "work")


@pytest.mark.parametrize("count", [200, 1000, pytest.param(20_000, marks=pytest.mark.nightly)])
def test_planted_duplicates_are_found_and_nothing_else(originals: list[str], tmp_path: Path, count: int):
    """Acceptance 5: recall at least 0.98 with copies at 0.9 similarity, false removals at most 0.5 %."""
    corpus = planted_corpus(originals[:count] if count <= 1000 else unlike_documents(count, folder="purelib"), similarity=0.9)
    found = find(corpus.texts, tmp_path)
    repeats, gone = np.array(corpus.repeats()), found.codes != KEPT
    print(f"{len(corpus.texts)} documents, {repeats.sum()} repeats: recall {(gone & repeats).sum() / repeats.sum():.4f}, "
          f"false removals {(gone & ~repeats).sum()} of {(~repeats).sum()}")
    assert repeats.sum() == pytest.approx(0.6 * count)
    assert (gone & repeats).sum() >= 0.98 * repeats.sum()
    assert (gone & ~repeats).sum() <= 0.005 * (~repeats).sum()
    first: dict[str, int] = {}
    equal = [first.setdefault(text, number) != number for number, text in enumerate(corpus.texts)]
    assert np.array_equal(found.codes == EXACT, equal)
    families = np.array(corpus.families)
    strangers = families[families[found.kept] != families]
    assert np.isin(strangers, families[gone & ~repeats]).all(), "the kept one is of the family, but for false removals, counted above"
    assert (found.kept[gone] < np.flatnonzero(gone)).all() and np.array_equal(found.kept[~gone], np.flatnonzero(~gone))
    assert (found.codes[found.kept] == KEPT).all()


@pytest.mark.parametrize("threshold", [0, DEFAULT])
@pytest.mark.parametrize("similarity", [0.7, 0.8, 0.9])
def test_the_curve_is_the_theory(originals: list[str], tmp_path: Path, similarity: float, threshold: float):
    """Of 150 independent pairs as many are found as 1 - (1 - s^8)^14 and the threshold say, within four standard deviations."""
    chance = random.Random(5)
    pairs = [(text, changed(text, similarity, chance)) for text in originals[:150]]
    found = find([text for pair in pairs for text in pair], tmp_path, similarity=threshold)
    expected = [removal_probability(jaccard(*pair), SHAPE, threshold) for pair in pairs]
    spread = math.sqrt(sum(p * (1 - p) for p in expected))
    count = int((found.codes[1::2] != KEPT).sum())
    print(f"similarity {similarity}, threshold {threshold}: found {count} of {len(pairs)}, theory {sum(expected):.1f} +- {spread:.1f}")
    assert abs(count - sum(expected)) <= 4 * spread + 1
    assert (found.codes[::2] == KEPT).all()


def test_the_theory_against_the_published_formula_and_counting():
    for s in (0.5, 0.7, 0.8, 0.9, 1.0):
        assert removal_probability(s, SHAPE, 0) == pytest.approx(1 - (1 - s**8) ** 14)
    equal = np.random.default_rng(0).random((20_000, 14, 8)) < 0.8
    counted = (equal.all(axis=2).any(axis=1) & (equal.sum(axis=(1, 2)) >= 90)).mean()
    assert removal_probability(0.8, SHAPE, 0.8) == pytest.approx(counted, abs=0.015)


def test_the_signature_estimates_the_similarity_of_the_word_sets(originals: list[str]):
    chance = random.Random(2)
    sign, errors = Signer(SHAPE), []
    for number, text in enumerate(originals[:200]):
        other = changed(text, (0.5, 0.7, 0.9)[number % 3], chance)
        one, two = sign([text, other])["minhash"]
        errors.append((one == two).mean() - jaccard(text, other))
    assert abs(np.mean(errors)) < 0.01
    assert np.std(errors) == pytest.approx(0.04, abs=0.01)  # sqrt(s (1 - s) / 112), on average over the three


def test_what_counts_as_equal(tmp_path: Path, originals: list[str]):
    text = originals[0]
    table = [" ".join(str(random.Random(seed).randrange(10**6)) for _ in range(100)) for seed in (1, 2)]
    chinese = "".join(chr(0x4E00 + random.Random(3).randrange(5000) + i) for i in range(200))
    texts = [text, text + " ", text.upper(), text.replace(" ", "\n"), *table, "a few words", "a few  words", "a few words", "", "",
             chinese, chinese[:100] + "。" + chinese[100:], chinese[::-1]]
    found = find(texts, tmp_path)
    assert found.codes.tolist() == [KEPT, NEAR, NEAR, NEAR, KEPT, KEPT, KEPT, KEPT, EXACT, KEPT, EXACT, KEPT, NEAR, KEPT]
    only_exact = find(texts, tmp_path, shape=SignatureShape(near=False))
    assert np.flatnonzero(only_exact.codes).tolist() == [8, 10] and set(only_exact.codes) == {KEPT, EXACT}


def test_long_documents(originals: list[str], tmp_path: Path):
    """Longer than the pieces in which words are hashed, with and without a place to cut."""
    long = " ".join(originals[:400])
    texts = [long, long[:-5000], "x " + long, " ".join(originals[400:800]), "ab" * 400_000, "ab" * 400_000 + " c d e f g"]
    assert len(long) > 2 * 2**18
    assert find(texts, tmp_path).codes.tolist() == [KEPT, NEAR, NEAR, KEPT, KEPT, KEPT]
    assert Signer(SHAPE)(["word " * 200_000])[0]["shingles"] == 200_000 - 4, "those across the pieces' borders, too"


def test_records_do_not_depend_on_batches_and_stay_what_they_are(originals: list[str]):
    sign, texts = Signer(SHAPE), [*originals[:50], "", "a b c d e"]
    whole = sign(texts).tobytes()
    assert whole == b"".join(Signer(SHAPE)([text]).tobytes() for text in texts)
    assert len(whole) == 468 * len(texts)
    known = sign(["The quick brown fox jumps over the lazy dog. Größe 北京"])[0]
    assert known["shingles"] == 8
    assert [hex(number) for number in (known["exact"][0], *known["minhash"][:2], known["minhash"][-1])] == KNOWN
    other = Signer(SignatureShape(seed=1))(texts[:1])[0]
    assert (other["minhash"] == sign(texts[:1])[0]["minhash"]).mean() < 0.1


def test_a_common_band_alone_removes_nothing(tmp_path: Path):
    """Records made by hand: 0 shares one band with all; 1 and 2 are near each other by that band only; 3 is near to none."""
    chance = np.random.default_rng(1)
    records = np.zeros(4, SHAPE.record)
    records["exact"], records["shingles"] = chance.integers(0, 2**64, (4, 2), np.uint64), 100
    records["minhash"] = chance.integers(0, 2**32, (4, 112), np.uint32)
    records["minhash"][2] = records["minhash"][1]
    records["minhash"][2, 8::8] ^= 1  # one row of each other band: 99 of 112 hashes are equal
    records["minhash"][:, :8] = 5
    records.tofile(tmp_path / "signatures")
    found = find_duplicates(tmp_path / "signatures", SHAPE, similarity=99 / 112, folder=tmp_path / "work")
    assert found.codes.tolist() == [KEPT, KEPT, NEAR, KEPT] and found.kept.tolist() == [0, 1, 1, 3]
    assert not find_duplicates(tmp_path / "signatures", SHAPE, similarity=100 / 112, folder=tmp_path / "work").codes.any()
    by_band = find_duplicates(tmp_path / "signatures", SHAPE, similarity=0, folder=tmp_path / "work")
    assert by_band.codes.tolist() == [KEPT, NEAR, NEAR, NEAR]


def test_interrupted_and_begun_again(originals: list[str], tmp_path: Path):
    corpus = planted_corpus(originals[:200], similarity=0.9)
    whole = find(corpus.texts, tmp_path)
    codes, kept = whole.codes.copy(), whole.kept.copy()

    def interrupt(done: float, stop: float) -> None:
        if done > stop:
            raise KeyboardInterrupt

    for stop in (0.05, 0.15, 0.3, 0.7):
        with pytest.raises(KeyboardInterrupt):
            find_duplicates(tmp_path / "signatures", SHAPE, similarity=DEFAULT, folder=tmp_path / "work",
                            progress=partial(interrupt, stop=stop))
    (tmp_path / "work" / "bands" / "007").mkdir(parents=True)  # what an interruption may leave of a partition that was split
    (tmp_path / "work" / "bands" / "007" / "000.pairs").write_bytes(b"half")
    again = find_duplicates(tmp_path / "signatures", SHAPE, similarity=DEFAULT, folder=tmp_path / "work")
    assert np.array_equal(again.codes, codes) and np.array_equal(again.kept, kept)
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["codes.u8", "kept.u"]


def test_no_documents_and_a_damaged_file(tmp_path: Path):
    assert not len(find([], tmp_path).codes)
    (tmp_path / "signatures").write_bytes(b"x" * 469)
    with pytest.raises(DataError, match="469 bytes"):
        find_duplicates(tmp_path / "signatures", SHAPE, similarity=DEFAULT, folder=tmp_path / "work")
