"""`samples.jsonl`, with `data.audit=true`: which sample, of which documents, each rank saw in each step."""

from ..data.samples.batch import Batch
from .step_log import StepLog, encode


class SampleLog(StepLog):
    """One line for each sample; the ranks of the data axis append to one file."""

    def record(self, batch: Batch, *, step: int, rank: int) -> None:
        """Append this rank's samples of a step, in one write.

        Args:
            batch: all of this rank's samples.
            step: steps done, this one included, as in `metrics.jsonl`.
            rank: of this process.

        Raises:
            StorageError: the disk is full or failing.
        """
        samples = zip(batch.samples_B.tolist(), batch.sources_B.tolist(), batch.document_ids_B, strict=True)
        self.append(b"".join(encode({"step": step, "rank": rank, "sample": sample, "source": source, "documents": list(documents)})
                             for sample, source, documents in samples))
