"""Manifests that lie, with a right seal: refused by name, in bounded memory."""

import hashlib
import json
import resource
from pathlib import Path

import pytest
from hexareme.core.errors import CheckpointError

from .damaged import assert_falls_back, loads


def sealed(fields: dict) -> bytes:
    """A manifest whose checksum is right, as an attacker can make it; by the format's description, not by our code."""
    body = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    return body[:-1] + b',"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def honest(directory: Path) -> dict:
    fields = json.loads((directory / "step-00000020" / "manifest.json").read_bytes())
    del fields["sha256"]
    return fields


def test_the_seal_is_as_described(directory):
    assert sealed(honest(directory)) == (directory / "step-00000020" / "manifest.json").read_bytes()


LIES = {
    "huge shape": lambda m: m["tensors"][0].update(shape=[10**15, 10**15]),
    "huge slice": lambda m: m["tensors"][0]["slices"][0].update(shape=[10**15]),
    "huge everything": lambda m: m["tensors"][0].update(
        shape=[10**15], slices=[{"file": "rank-00000.safetensors", "offset": 0, "starts": [0], "shape": [10**15]}]
    ),
    "negative shape": lambda m: m["tensors"][0].update(shape=[-4]),
    "wrong shape": lambda m: m["tensors"][0].update(shape=[1, 2, 3]),
    "no shape": lambda m: m["tensors"][0].pop("shape"),
    "true as a number": lambda m: m["tensors"][0].update(shape=[True]),
    "a thousand dims": lambda m: m["tensors"][0].update(shape=[1] * 1000),
    "negative offset": lambda m: m["tensors"][0]["slices"][0].update(offset=-8),
    "offset beyond the end": lambda m: m["tensors"][0]["slices"][0].update(offset=2**40),
    "odd offset": lambda m: m["tensors"][0]["slices"][0].update(offset=m["tensors"][0]["slices"][0]["offset"] + 1),
    "offset of 2**64": lambda m: m["tensors"][0]["slices"][0].update(offset=2**64),
    "float offset": lambda m: m["tensors"][0]["slices"][0].update(offset=8.0),
    "overlapping slices": lambda m: m["tensors"][0]["slices"].append(m["tensors"][0]["slices"][0]),
    "missing slice": lambda m: m["tensors"][0]["slices"].pop(),
    "shared bytes": lambda m: m["tensors"][-1]["slices"][0].update(
        {key: m["tensors"][0]["slices"][0][key] for key in ("file", "offset")}
    ),
    "duplicate tensor": lambda m: m["tensors"].append(m["tensors"][0]),
    "duplicate empty tensor": lambda m: m["tensors"].extend([{**m["tensors"][0], "name": "x", "shape": [0], "slices": []}] * 2),
    "unknown dtype": lambda m: m["tensors"][0].update(dtype="object"),
    "smaller dtype": lambda m: m["tensors"][0].update(dtype="float64"),
    "file outside": lambda m: m["files"].update({"../../etc/passwd": m["files"].pop("rank-00000.safetensors")}),
    "absolute file": lambda m: m["files"].update({"/etc/passwd": {"size": 1, "blocks": ["0" * 32]}}),
    "unlisted file": lambda m: m["tensors"][0]["slices"][0].update(file="rank-00007.safetensors"),
    "huge file": lambda m: m["files"]["rank-00000.safetensors"].update(size=2**62),
    "too few blocks": lambda m: m["files"]["rank-00000.safetensors"].update(blocks=[]),
    "block as a number": lambda m: m["files"]["rank-00000.safetensors"].update(blocks=[7]),
    "capital block": lambda m: m["files"]["rank-00000.safetensors"].update(blocks=["A" * 32]),
    "tensors as text": lambda m: m.update(tensors="x"),
    "tensor as null": lambda m: m.update(tensors=[None]),
    "slices as object": lambda m: m["tensors"][0].update(slices={}),
    "no step": lambda m: m.pop("step"),
    "step as text": lambda m: m.update(step="20"),
    "other step": lambda m: m.update(step=21),
    "config as list": lambda m: m.update(config=[]),
    "name as list": lambda m: m["tensors"][0].update(name=[]),
    "name of a megabyte": lambda m: m["tensors"][0].update(name="x" * 2**20),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_manifest_is_refused_in_bounded_memory(directory, caplog, lie):
    fields = honest(directory)
    LIES[lie](fields)
    (directory / "step-00000020" / "manifest.json").write_bytes(sealed(fields))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert_falls_back(directory, caplog, "manifest.json", "rank-00000.safetensors")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"version":1,"version":1}',
        b'{"version":NaN}',
        b'{"version":' + b"9" * 10_000 + b"}",
        b"\xff{}",
        b'{"a":"\\ud800"}',
    ],
)
def test_sealed_nonsense_is_refused(directory, caplog, body):
    seal = b',"sha256":"' + hashlib.sha256(body[:-1] + b"}").hexdigest().encode() + b'"}\n'
    (directory / "step-00000020" / "manifest.json").write_bytes(body[:-1] + seal)
    assert_falls_back(directory, caplog, "manifest.json")


def test_a_key_that_stands_twice_is_refused(directory, caplog):
    path = directory / "step-00000020" / "manifest.json"
    body = sealed(honest(directory))[: -len(',"sha256":""}\n') - 64] + b',"version":1}'
    path.write_bytes(body[:-1] + b',"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n')
    assert_falls_back(directory, caplog, "a key stands twice")


def test_a_later_version_is_refused_by_name(directory):
    fields = honest(directory)
    fields["version"] = 2
    (directory / "step-00000020" / "manifest.json").write_bytes(sealed(fields))
    for must in (True, False):
        with pytest.raises(CheckpointError, match=r"format version 2; this Hexareme reads version 1"):
            loads(directory, must=must)
