"""A large line of JSON gives what json.loads gives, in less memory."""

import json
import subprocess
import sys

import pytest
from hexareme.data.sources import blocks, large_json
from hexareme.data.sources.blocks import JsonLines
from hexareme.data.sources.document import Document, Rejected, Skipped
from hexareme.data.sources.large_json import is_large_object, parse_large
from hypothesis import given
from hypothesis import strategies as st

texts = st.text(st.characters(codec="utf-8")) | st.sampled_from(["é" * 3, "😀中", '"\\\n\x7f\x85\u2028'])
values = st.recursive(texts | st.integers() | st.booleans() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(texts, inner))


@given(st.dictionaries(texts, values), st.integers(1, 7))
def test_the_same_value(value, piece):
    """Cut into pieces of any length, also inside of a character; numbers spell control characters only."""
    line = json.dumps(value, ensure_ascii=False).encode()
    large_json._PIECE, before = piece, large_json._PIECE
    try:
        assert parse_large(memoryview(line)) == json.loads(line)
    finally:
        large_json._PIECE = before


# Some of it spelled by number, lone surrogates and backslashes among it.
spelled = st.lists(st.sampled_from(["a", "é", "😀", "\\u00e9", "\\u4e2d", "\\ud83d\\ude00", "\\uD83D", "\\ude00", "\\u0022", "\\u005c",
                                    "\\n", "\\\\", '\\"', "u00e9"])).map("".join)


@given(spelled)
def test_the_same_text_whatever_spells_it(text):
    line = ('{"text": "' + text + '"}').encode()
    assert parse_large(line) == json.loads(line)


MEASURE = """
import json, resource, sys
from hexareme.data.sources import large_json
size = 20_000_000
line = bytearray(b'{"text": "')
line += b"word and more " * (size // 14)
line += b'\\xf0\\x9f\\x98\\x80 \\\\u2028"}'
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert large_json.is_large_object(line)
text = large_json.parse_large(memoryview(line))["text"]
assert text.endswith(chr(0x1F600) + " " + chr(0x2028))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / size)
"""


def test_a_line_with_an_emoji_and_an_escape_takes_few_bytes_a_character():
    """Four for what comes out; six with json.loads, which has the line as text at once: with the line itself, 1 GB for 100 MB is passed."""
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, check=True, text=True)
    assert float(done.stdout) < 5.2


@pytest.fixture
def everything_is_large(monkeypatch):
    monkeypatch.setattr(large_json, "LARGE", 3)
    monkeypatch.setattr(blocks, "LARGE", 3)


LINES = [b'{"text": "\\u001b \\\\u00e9 \xc3\xa9"}', b'{"text": "\\\\\\u00e9 \xc3\xa9"}',
         b'{"text": "a \xf0\x9f\x98\x80 \xc3\xa9", "m\xc3\xa9": ["\xe4\xb8\xad"]}', b"", b"   \t",
         b" \xe3\x80\x80 ", b'{"text": "\xff"}', b"{broken",
         b'["text"]', b'{"text": 1}', b'{"other": 1}', b'{"text": ""}',
         b'{"text": "\\ud83d\\ude00 \\ud800"}', b'  {"text": "\\u00e9 \xc3\xa9"}',
         b"\xef\xbb\xbf{}", b'{"text": ' + b"[" * 100_000]  # fmt: skip


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
def test_a_large_block_gives_the_same_documents(end, monkeypatch, request):
    data = b"\n".join(LINES) + end
    small = list(JsonLines("f", 7, data, "text").documents())
    request.getfixturevalue("everything_is_large")
    assert is_large_object(LINES[0]) and is_large_object(LINES[1]) and not is_large_object(b'{"text": "\\u00e9"}')
    assert list(JsonLines("f", 7, data, "text").documents()) == small
    assert {type(outcome) for outcome in small} == {Document, Rejected, Skipped}
