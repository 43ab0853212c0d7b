"""Behind URLs: a real S3 over HTTP on this machine, a web server, fsspec's own memory; and what is said where something lacks."""

import functools
import http.server
import subprocess
import sys
import threading

import pytest
from hexareme.data.errors import DataError
from hexareme.data.sources.find import find_sources
from hexareme.data.sources.read import read_chunks
from hexareme.data.sources.remote import reaching

from tests.data.sources.made import json_lines, page, real_texts, write_compressed, write_parquet, write_warc, write_wikipedia
from tests.data.sources.reading import read, sources_of

TEXTS = real_texts(60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same inputs that lie behind the URLs."""
    folder = tmp_path_factory.mktemp("local") / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    write_compressed(folder, "a.jsonl", json_lines(TEXTS))
    write_parquet(folder / "sub" / "b.parquet", TEXTS)
    write_warc(folder / "c.warc.gz", [(f"http://a.example/{i}", "200", text.encode(), "text/html") for i, text in enumerate(TEXTS)])
    write_wikipedia(folder / "d.xml.bz2", [page(f"Title {i}", "a [[link]]") for i in range(30)])
    (folder / "notes").write_text("no suffix")
    (folder / "e.csv").write_text("text\nrow\n")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / ".hidden" / "f.txt").write_text("hidden")
    return folder


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def bucket(folder):
    """s3://bucket with the inputs; the server speaks HTTP on a port of its own."""
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for key, value in {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
                           "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}.items():
            patch.setenv(key, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        for file in files_of(folder):
            client.upload_file(str(file), "bucket", f"in/{file.relative_to(folder)}")
        yield client
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def outcomes(result):
    return [(getattr(each, "text", None) or each.cause, each.line, each.file.rpartition("/")[2]) for each in result.outcomes]


def test_s3_holds_what_the_folder_holds(bucket, folder):
    found = find_sources(["s3://bucket/in"])
    local = sources_of(folder)
    assert [source.path for source in found.sources] == [source.path.replace(str(folder), "s3://bucket/in") for source in local]
    assert [source.size for source in found.sources] == [source.size for source in local]
    assert found.left_out == {"hidden": 1, "binary": 1}
    assert outcomes(read("s3://bucket/in")) == outcomes(read(folder))
    assert len(read("s3://bucket/in/a.*").texts) == 4 * len(TEXTS)
    assert read("s3://bucket/in/**/*.parquet").texts == TEXTS
    assert read({"path": "s3://bucket/in/e.csv", "format": "text"}).texts == ["text\nrow\n"]


def test_s3_goes_on_from_any_place(bucket):
    sources = sources_of("s3://bucket/in")
    whole = list(read_chunks(sources, text_key="text", size=30_000))
    assert len(whole) > 10
    for at in range(0, len(whole), 5):
        rest = read_chunks(sources, text_key="text", start=whole[at].next, size=30_000)
        assert [chunk.blocks for chunk in rest] == [chunk.blocks for chunk in whole[at + 1 :]]


def test_a_changed_object_has_another_mark(bucket):
    bucket.put_object(Bucket="bucket", Key="changing/a.txt", Body=b"one")
    before = sources_of("s3://bucket/changing/a.txt")
    bucket.put_object(Bucket="bucket", Key="changing/a.txt", Body=b"two")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()  # a new process would have no listing, either
    after = sources_of("s3://bucket/changing/a.txt")
    assert before[0].size == after[0].size
    assert before[0].mark != after[0].mark


@pytest.mark.parametrize(("url", "message", "way"), [
    ("s3://bucket/nothing", "does not exist", "URL"),
    ("s3://bucket/in/*.nothing", "matches no file", "URL"),
    ("s3://no-such-bucket/x/", "no-such-bucket", ""),
    ("gs://bucket/a.txt", "needs a package that is not installed", r"hexareme\[gs\]"),
    ("nosuch://bucket/a.txt", "nosuch", "the URL"),
])
def test_what_is_not_there_says_so(bucket, url, message, way):
    with pytest.raises(DataError, match=message) as caught:
        sources_of(url)
    assert caught.match(message)
    assert way.replace("\\", "") in caught.value.do


def test_a_server_that_goes_away_is_an_error_of_the_data(folder):
    """Between finding and reading."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sources = sources_of(f"http://127.0.0.1:{server.server_port}/a.jsonl.gz")
    server.shutdown()
    server.server_close()
    with pytest.raises(DataError, match="cannot be reached"):
        list(read_chunks(sources, text_key="text"))


def test_credentials_are_not_shown():
    with pytest.raises(DataError) as caught:
        sources_of("http://user:secret@127.0.0.1:9/a.txt?token=secret")
    assert "secret" not in str(caught.value) + str(caught.value.file) + caught.value.do


@pytest.mark.parametrize("client", ["httpx", "httpx2"])
def test_what_the_hub_raises_without_a_route_is_an_error_of_the_data(client):
    module = pytest.importorskip(client)  # either, by the version of huggingface_hub
    with pytest.raises(DataError, match="cannot be read: no route"), reaching("hf://datasets/a/b/c.jsonl"):
        raise module.ConnectError("no route")


def test_a_web_server(folder):
    """One without ranges: read from the start, also to go on."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        assert read(f"{base}/a.jsonl.gz").texts == TEXTS
        assert read(f"{base}/sub/b.parquet").texts == TEXTS
        assert read(f"{base}/notes").texts == ["no suffix"]
        sources = sources_of(f"{base}/c.warc.gz")
        assert sources[0].size == (folder / "c.warc.gz").stat().st_size
        whole = list(read_chunks(sources, text_key="text", size=30_000))
        rest = list(read_chunks(sources, text_key="text", size=30_000, start=whole[1].next))
        assert [chunk.blocks for chunk in rest] == [chunk.blocks for chunk in whole[2:]]
        with pytest.raises(DataError, match="does not exist"):
            sources_of(f"{base}/nothing.txt")
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_memory():
    from fsspec.implementations.memory import MemoryFileSystem

    MemoryFileSystem().pipe_file("/sources/a.txt", b"kept in memory")
    MemoryFileSystem().pipe_file("/sources/b.txt", b"")
    result = read("memory://sources", "memory://sources/a.txt")
    assert result.texts == ["kept in memory"]
    assert result.skipped == {"empty": 1}


def test_the_hub_without_a_network(tmp_path):
    """In a process of its own: the library reads its switch when it is imported."""
    script = "import sys; from hexareme.data.sources.find import find_sources\nfind_sources([sys.argv[1]])"
    for name in ("nobody/nothing", "nobody/nothing/data/*.parquet"):
        environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "/usr/bin", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", script, f"hf://datasets/{name}"]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=environment)
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode == 1
        assert last.startswith("hexareme.data.errors.DataError"), done.stderr[-2000:]
