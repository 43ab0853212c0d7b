"""Nothing that we read can run code: no pickle and nothing like it on any path that reads a file. Reads the source, imports nothing.

What a library would unpickle for us counts, too: torch.load, numpy's object arrays, DeepSpeed's checkpoints, tokenizers as code.
"""

import ast
from collections.abc import Iterator

import pytest

from tests.test_layering import LAYERS, files, imports, name, tree

MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle", "runpy", "copyreg",
           "multiprocessing"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {"load_checkpoint", "save_checkpoint", "read_pickle", "unsafe_load", "full_load",
         "load_module", "all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list", "send_object_list",
         "recv_object_list"}
# Whole calls that are harmless only with the argument beside them.
NEEDS = {"torch.load": ("weights_only", True), "yaml.load": ("Loader", "SafeLoader")}
FORBIDDEN = {"allow_pickle": True, "trust_remote_code": True, "weights_only": False}

# (file, what) -> why no file of a user comes near it.
ALLOWED = {
    ("core/forked_ranks.py", "pickle"): "the results of ranks that it forked itself, through its own pipes",
    ("core/forked_ranks.py", "multiprocessing"): "makes those pipes",
    ("data/prepare/workers.py", "multiprocessing"): "tasks and results of processes that it started itself, through its own pipes",
    ("core/engine/build.py", "all_gather_object"): "names of parameters, between the ranks of one run",
    ("core/engine/replicas.py", "all_gather_object"): "checksums, between the ranks of one run",
    ("core/origin.py", "all_gather_object"): "what ranks of one run saw of a step",
    ("core/pace.py", "all_gather_object"): "host names, between the ranks of one run",
}


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def wrongs(module: ast.Module, imported: list[str]) -> Iterator[str]:
    """What this source does that could run code from a file."""
    yield from sorted({each.split(".")[0] for each in imported} & MODULES)
    for node in ast.walk(module):
        if not isinstance(node, ast.Call):
            continue
        whole = dotted(node.func)
        last = whole.rpartition(".")[2]
        if last in CALLS or whole in BUILTINS:
            yield last
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if whole in NEEDS:
            key, value = NEEDS[whole]
            found = given.get(key)
            right = isinstance(found, ast.Constant) and found.value is value or (found is not None and dotted(found).endswith(str(value)))
            if not right:
                yield f"{whole} without {key}={value}"
        yield from (f"{key}={value}" for key, value in FORBIDDEN.items()
                    if isinstance(given.get(key), ast.Constant) and given[key].value is value)


def test_no_pickle_on_any_path():
    found = {(name(path), wrong) for path in files(*LAYERS) for wrong in wrongs(tree(path), list(imports(path)))}
    assert not found - ALLOWED.keys()
    assert not ALLOWED.keys() - found, "an exception that is no longer needed"


SAMPLES = {
    "import pickle": "pickle", "from pickle import loads": "pickle", "import joblib.numpy_pickle": "joblib",
    "torch.load(path)": "torch.load without weights_only=True", "torch.load(path, weights_only=False)": "weights_only=False",
    "np.load(path, allow_pickle=True)": "allow_pickle=True", "yaml.load(text)": "yaml.load without Loader=SafeLoader",
    "yaml.load(text, Loader=yaml.Loader)": "yaml.load without Loader=SafeLoader", "engine.load_checkpoint(path)": "load_checkpoint",
    "pd.read_pickle(path)": "read_pickle", "AutoTokenizer.from_pretrained(x, trust_remote_code=True)": "trust_remote_code=True",
    "eval(text)": "eval",
}


@pytest.mark.parametrize("source", SAMPLES)
def test_each_form_is_found(source: str):
    module = ast.parse(source)
    imported = [alias.name for node in module.body if isinstance(node, ast.Import) for alias in node.names]
    imported += [node.module or "" for node in module.body if isinstance(node, ast.ImportFrom)]
    assert SAMPLES[source] in set(wrongs(module, imported))


@pytest.mark.parametrize("source", ["torch.load(path, weights_only=True)", "yaml.load(text, Loader=yaml.SafeLoader)", "re.compile(text)",
                                    "np.load(path)", "json.loads(text)"])
def test_what_is_harmless_is_not_found(source: str):
    assert not list(wrongs(ast.parse(source), []))
