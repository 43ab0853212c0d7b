"""The search for duplicates says how far it is."""

from hexareme.data.clean.signatures import SignatureShape, Signer
from hexareme.data.prepare.corpus_wide import SIGNATURES, load_verdict, search_duplicates

from tests.data.prepare.runs import Told, documents


def test_the_search_for_duplicates_tells_all_of_its_work(tmp_path):
    class Counts(Told):
        times = 0

        def advance(self, input_bytes: int, documents: int, text_bytes: int) -> None:
            super().advance(input_bytes, documents, text_bytes)
            assert input_bytes >= 0 == documents == text_bytes
            self.times += 1

    shape, texts, told = SignatureShape(), documents(40, size=300), Counts()
    (tmp_path / SIGNATURES).write_bytes(Signer(shape)(texts).tobytes())
    verdict = load_verdict(tmp_path, search_duplicates(tmp_path, shape, 0.8, told))
    size = (tmp_path / SIGNATURES).stat().st_size
    assert told.phases == [("looking for duplicates", size, 0)] and told.advanced == {"looking for duplicates": size} and told.times >= 4
    assert [n for n, code in enumerate(verdict) if code] == [n for n in range(10, 40, 10)]
