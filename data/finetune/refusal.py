"""The refusal of one record: it is counted by its cause and written to rejects.jsonl, the run goes on."""


class RecordRefusedError(ValueError):
    """This record cannot be used; the message is its cause, a few words without the record's own text."""
