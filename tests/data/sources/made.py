"""Files of every format, made by the libraries of those formats from real text on this machine, and what must come out of them."""

import bz2
import csv
import io
import json
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import zstandard

SITE = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="de">
  <siteinfo>
    <sitename>Wikipedia</sitename><base>https://de.wikipedia.org/wiki/Hauptseite</base>
    <namespaces>
      <namespace key="-2" case="first-letter">Medium</namespace><namespace key="0" case="first-letter" />
      <namespace key="6" case="first-letter">Datei</namespace><namespace key="14" case="first-letter">Kategorie</namespace>
    </namespaces>
  </siteinfo>
"""


def real_texts(count: int, *, size: int = 2000) -> list[str]:
    """Passages of the standard library's own files, all different, with what breaks lines, quotes and tags."""
    root = Path(sysconfig.get_path("stdlib"))
    whole = "".join((root / name).read_text() for name in ("argparse.py", "doctest.py", "html/entities.py", "typing.py"))
    step = max(1, (len(whole) - size) // count)
    return [f'{i} "é😀" <b>&amp;</b>, {whole[i * step % (len(whole) - size) :][: size - i % 7 * size // 9]}' for i in range(count)]


def json_lines(texts: Sequence[str]) -> bytes:
    return "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)).encode()


def write_parquet(file: Path, texts: Sequence[str], row_group: int = 50) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"number": range(len(texts)), "text": list(texts)}), file, row_group_size=row_group)
    return file


def write_arrow(file: Path, texts: Sequence[str], *, stream: bool) -> Path:
    import pyarrow as pa

    table = pa.table({"text": list(texts)})
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(str(file), table.schema) as writer:
        writer.write_table(table, max_chunksize=70)
    return file


def write_csv(file: Path, texts: Sequence[str]) -> Path:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["number", "text"])
    writer.writerows(enumerate(texts))
    file.write_bytes(out.getvalue().encode())
    return file


def write_warc(file: Path, pages: Sequence[tuple[str, str, bytes, str]], *, gzip: bool = True) -> Path:
    """Of (url, status, body, content type); with the records around them that a crawler writes."""
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    with file.open("wb") as stream:
        writer = WARCWriter(stream, gzip=gzip)
        writer.write_record(writer.create_warcinfo_record(file.name, {"software": "test"}))
        for url, status, body, kind in pages:
            head = StatusAndHeaders(f"{status} X", [("Content-Type", kind), ("Content-Length", str(len(body)))], protocol="HTTP/1.1")
            request = StatusAndHeaders("GET / HTTP/1.1", [("Host", "x")], is_http_request=True)
            writer.write_record(writer.create_warc_record(url, "request", http_headers=request))
            writer.write_record(writer.create_warc_record(url, "response", payload=io.BytesIO(body), http_headers=head))
    return file


def write_wet(file: Path, texts: Sequence[str], *, gzip: bool = True) -> Path:
    from warcio.warcwriter import WARCWriter

    with file.open("wb") as stream:
        writer = WARCWriter(stream, gzip=gzip)
        writer.write_record(writer.create_warcinfo_record(file.name, {"software": "test"}))
        for i, text in enumerate(texts):
            payload = io.BytesIO(text.encode())
            record = writer.create_warc_record(f"http://a.example/{i}", "conversion", payload=payload, warc_content_type="text/plain")
            writer.write_record(record)
    return file


def page(title: str, text: str, *, namespace: int = 0, redirect: str = "") -> str:
    """One page of a Wikipedia dump."""
    middle = f'<redirect title="{redirect}" />' if redirect else ""
    return (f"  <page>\n    <title>{escape(title)}</title><ns>{namespace}</ns><id>1</id>{middle}<revision><id>2</id>"
            f'<text bytes="{len(text)}" xml:space="preserve">{escape(text)}</text></revision>\n  </page>\n')


def write_wikipedia(file: Path, pages: Sequence[str], *, a_stream: int = 10) -> Path:
    """As the multistream dumps: the head, then so many pages in each bz2 stream, then the tail."""
    groups = ["".join(pages[i : i + a_stream]) for i in range(0, len(pages), a_stream)]
    file.write_bytes(b"".join(bz2.compress(part.encode()) for part in (SITE, *groups, "</mediawiki>\n")))
    return file


def write_compressed(folder: Path, name: str, data: bytes) -> list[Path]:
    """The same bytes in every compression, each in two members."""
    import gzip
    import lzma

    half = len(data) // 2
    tools = {"gz": gzip.compress, "zst": zstandard.compress, "bz2": bz2.compress, "xz": lzma.compress}
    files = [folder / f"{name}.{suffix}" for suffix in tools]
    for file, compress in zip(files, tools.values(), strict=True):
        file.write_bytes(compress(data[:half]) + compress(data[half:]))
    return files
