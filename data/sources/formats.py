"""Which format a file has: by its suffix, and where that says nothing by its first bytes."""

import os

from .decompress import COMPRESSIONS, MAGIC

# What an input entry may force. "text", "code", "html": a file is one document.
FORMATS = ("text", "code", "html", "paragraphs", "jsonl", "json", "csv", "tsv", "parquet", "arrow", "warc", "wikipedia")

_BY_SUFFIX = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow", ".csv": "csv", ".tsv": "tsv",
    ".warc": "warc", ".wet": "warc", ".htm": "html", ".html": "html", ".xhtml": "html", ".txt": "text", ".text": "text", ".md": "text",
    ".rst": "text", ".tex": "text",
}
CODE_SUFFIXES = frozenset((
    ".adb", ".ads", ".asm", ".awk", ".bash", ".bat", ".c", ".c++", ".cc", ".cfg", ".clj", ".cljs", ".cmake", ".cpp", ".cr", ".cs", ".css",
    ".cu", ".cuh", ".cxx", ".d", ".dart", ".el", ".elm", ".erl", ".ex", ".exs", ".f", ".f03", ".f90", ".f95", ".fish", ".fs", ".fsx", ".go",
    ".gradle", ".graphql", ".groovy", ".h", ".hh", ".hpp", ".hrl", ".hs", ".hxx", ".inc", ".ini", ".inl", ".ipp", ".java", ".jl", ".js",
    ".jsx", ".kt", ".kts", ".less", ".lisp", ".lua", ".m4", ".mjs", ".mk", ".ml", ".mli", ".mm", ".nim", ".nix", ".pas", ".php", ".pl",
    ".pm", ".proto", ".ps1", ".pxd", ".py", ".pyi", ".pyx", ".r", ".rake", ".rb", ".rkt", ".rs", ".s", ".sass", ".scala", ".scm", ".scss",
    ".sh", ".sql", ".sv", ".svelte", ".swift", ".tcl", ".tf", ".thrift", ".toml", ".ts", ".tsx", ".v", ".vb", ".vhd", ".vhdl", ".vim",
    ".vue", ".yaml", ".yml", ".zig", ".zsh",
))
CODE_NAMES = frozenset(("cmakelists.txt", "dockerfile", "gnumakefile", "makefile", "rakefile"))
# Folders with code of others, or made by tools.
VENDORED = frozenset((
    "__pycache__", "bower_components", "build", "dist", "dist-packages", "node_modules", "site-packages", "third-party", "third_party",
    "thirdparty", "vendor", "vendored", "venv", "virtualenv",
))
# What a folder holds beside text. Whoever names such a file itself has it read.
BINARY_SUFFIXES = frozenset((
    ".7z", ".a", ".avi", ".bin", ".bmp", ".class", ".db", ".dll", ".doc", ".docx", ".dylib", ".exe", ".gif", ".h5", ".ico", ".idx", ".jar",
    ".jpeg", ".jpg", ".m4a", ".mkv", ".model", ".mov", ".mp3", ".mp4", ".npy", ".npz", ".o", ".odt", ".ogg", ".onnx", ".otf", ".pdf",
    ".pkl", ".png", ".ppt", ".pptx", ".pt", ".pth", ".pyc", ".rar", ".safetensors", ".so", ".sqlite", ".tar", ".tbz2", ".tgz", ".tif",
    ".tiff", ".ttf", ".txz", ".wav", ".webm", ".webp", ".whl", ".woff", ".woff2", ".xls", ".xlsx", ".zip",
))
_BY_START = {
    b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow", b"WARC/": "warc", b"<mediawiki": "wikipedia", b"{": "jsonl",
}
_BOM = b"\xef\xbb\xbf"


def compression_of(path: str) -> str:
    """By suffix: a value of `COMPRESSIONS`, or ""."""
    return COMPRESSIONS.get(os.path.splitext(path)[1].lower(), "")


def inner_suffix(path: str) -> str:
    """The suffix without that of the compression, in small letters: ".jsonl" of "a.jsonl.GZ"."""
    stem, suffix = os.path.splitext(path.lower())
    return os.path.splitext(stem)[1] if suffix in COMPRESSIONS else suffix


def format_by_name(path: str) -> str:
    """The format that the suffix tells, or ""."""
    suffix = inner_suffix(path)
    name = os.path.basename(path).lower()
    return _BY_SUFFIX.get(suffix) or ("code" if suffix in CODE_SUFFIXES or name in CODE_NAMES else "")


def compression_by_start(start: bytes) -> str:
    """By the first bytes: a value of `COMPRESSIONS`, or ""."""
    return next((compression for magic, compression in MAGIC.items() if start.startswith(magic)), "")


def format_by_start(start: bytes, name: str, *, whole: bool) -> str:
    """What the first (decompressed) bytes tell; plain text if nothing.

    Args:
        start: these bytes.
        name: of the file.
        whole: no more are to be had.

    Returns:
        A format, or "": more bytes are needed.
    """
    trimmed = start.removeprefix(_BOM).lstrip()
    if inner_suffix(name) == ".json":
        return _json_format(trimmed, whole=whole) if not trimmed or trimmed.startswith(b"{") else "json"
    known = next((kind for magic, kind in _BY_START.items() if trimmed.startswith(magic)), "")
    if known == "jsonl":
        # A brace may begin many things; only an object that ends on its line is JSON.
        line, feed, _ = trimmed.partition(b"\n")
        return "text" if feed and not line.rstrip().endswith(b"}") else _json_format(trimmed, whole=whole)
    if known:
        return known
    return "html" if trimmed[:100].lower().startswith((b"<!doctype html", b"<html")) else "text"


def _json_format(start: bytes, *, whole: bool) -> str:
    """Whether an object is the first of many lines, or a file for itself, as settings are; "": its line goes on behind `start`."""
    first, _, rest = start.partition(b"\n")
    rest = rest.lstrip()
    if not rest:
        return "" if not whole else "json" if first else "jsonl"
    # Behind a line that ends with a brace an object would go on with one of these.
    return "jsonl" if first.rstrip().endswith(b"}") and rest[:1] not in (b"}", b"]", b",") else "json"
