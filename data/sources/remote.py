"""Files behind URLs (s3://, gs://, http://, hf:// ...), through fsspec: listing, and reading with the next block already under way."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from glob import has_magic
from typing import Any, BinaryIO, cast

from ..errors import DataError
from .dataset_folder import without_descriptions
from .source import Entry, Source

# What changes when the file does, best first; every file system has its own names.
_MARKS = ("ETag", "etag", "md5Hash", "crc32c", "blob_id", "mtime", "LastModified", "last_modified", "updated", "created")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "http": "http", "https": "http", "hf": "sources"}
# Packages of the clients, whose errors are no OSErrors.
_CLIENTS = ("aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "httpcore", "httpcore2", "httpx", "httpx2", "huggingface_hub",
            "requests", "s3fs", "urllib3")


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """What the clients raise becomes a DataError; URLs are shown without the credentials that they may hold."""
    shown = _shown(url)
    protocol = url.partition("://")[0]
    try:
        yield
    except DataError:
        raise
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        way = f"pip install 'hexareme[{extra}]'" if extra else f"install the fsspec implementation of {protocol}"
        raise DataError(f"{shown} needs a package that is not installed: {error}", do=way, file=shown) from error
    except FileNotFoundError as error:
        raise DataError(f"input={shown} does not exist, or cannot be reached", do="check the URL and the network", file=shown) from error
    except Exception as error:
        if not (isinstance(error, OSError | ValueError) or type(error).__module__.partition(".")[0] in _CLIENTS):
            raise
        why = str(error) or type(error).__name__
        raise DataError(f"{shown} cannot be read: {why}", do="check the network, the URL and the credentials", file=shown) from error


def remote_sources(entry: Entry, counts: Counter[str]) -> Iterator[Source]:
    """The files behind a URL: one file, all below a folder, or those that match a glob."""
    from fsspec.core import url_to_fs

    from .find import selected

    with reaching(entry.path):
        system, root = url_to_fs(entry.path)
        if has_magic(root) and not system.exists(root):
            files, named = sorted(path for path in system.glob(root) if system.isfile(path)), True
        elif system.isfile(root):
            files, named = [root], True
        else:
            below = sorted(path for path in system.find(root) if not path.endswith("/"))
            shown = [path for path in below if not any(part.startswith(".") for part in path[len(root) :].split("/"))]
            counts["hidden"] += len(below) - len(shown)
            kept = list(selected(shown, root, entry.format, counts))
            files, named = without_descriptions(kept, root, entry.split, system.cat_file), False
        if not files:
            what = "matches no file" if named else "does not exist, or holds no text file"
            raise DataError(f"input={_shown(entry.path)} {what}", do="check the URL", file=_shown(entry.path))
        infos = [(str(system.unstrip_protocol(path)), system.info(path)) for path in files]
    for url, info in infos:
        yield Source(url, int(info.get("size") or 0), _mark(info), entry.format, entry.text_key, named)


def open_remote(url: str, block: int) -> BinaryIO:
    """A file, opened for reading it through."""
    from fsspec.core import url_to_fs

    with reaching(url):
        system, path = url_to_fs(url)
        return cast(BinaryIO, system.open(path, "rb", block_size=block, cache_type="background"))


def _mark(info: dict[str, Any]) -> str:
    return next((str(info[key]) for key in _MARKS if info.get(key)), "")


def _shown(url: str) -> str:
    protocol, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{protocol}{separator}{host.rpartition('@')[2]}{slash}{path.partition('?')[0]}"
