"""Our duplicates beside datatrove's MinHash pipeline (FineWeb's), with the same numbers on the same texts."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hexareme.data.clean.duplicates import KEPT

from tests.data.clean.planted import planted_corpus, unlike_documents
from tests.data.clean.test_duplicates import find


class Words:
    """Stands in for spaCy, which datatrove would ask for English."""

    def word_tokenize(self, text: str) -> list[str]:
        return re.findall(r"[^\W_]+", text)


def datatrove_removes(texts: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[int]:
    from datatrove.data import Document
    from datatrove.pipeline.dedup import minhash
    from datatrove.utils.text import TextNormConfig

    monkeypatch.setattr(minhash, "load_word_tokenizer", lambda language: Words())
    config = minhash.MinhashConfig(norm_config=TextNormConfig(norm_numbers=False))  # as we do: a table of other figures is another table
    names = {name: str(folder / "datatrove" / name) for name in ("signatures", "buckets", "clusters")}
    documents = (Document(text=text, id=str(number)) for number, text in enumerate(texts))
    minhash.MinhashDedupSignature(names["signatures"], config).run(documents)
    for bucket in range(config.num_buckets):
        minhash.MinhashDedupBuckets(names["signatures"], names["buckets"], config=config).run(None, bucket, config.num_buckets)
    minhash.MinhashDedupCluster(names["buckets"], names["clusters"], config=config).run(None)
    return {int(number) for path in sorted(Path(names["clusters"]).glob("*.remove")) for number in np.fromfile(path, "<u4")}


@pytest.mark.parametrize("similarity", [0.9, 0.75])
def test_datatrove_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, similarity: float):
    """With threshold 0 ours is datatrove's rule: bands alone decide. Only the hash functions differ, so single documents may."""
    corpus = planted_corpus(unlike_documents(300), similarity=similarity)
    theirs = Counter(corpus.families[number] for number in datatrove_removes(corpus.texts, tmp_path, monkeypatch))
    removed = np.flatnonzero(find(corpus.texts, tmp_path, similarity=0).codes != KEPT)
    ours = Counter(corpus.families[number] for number in removed)  # datatrove keeps any one of a cluster, ours the first
    both = (theirs & ours).total()
    print(f"planted at {similarity}: datatrove removes {theirs.total()}, ours {ours.total()}, of the same families {both}")
    assert theirs.total() >= 0.9 * sum(corpus.repeats())
    assert both >= (0.99 if similarity == 0.9 else 0.75) * max(theirs.total(), ours.total())
