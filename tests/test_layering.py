"""The shape of the code: who may import whom, and how long anything may be. Reads the source, imports nothing."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("conf", "data", "parallel", "core", "launcher")
BELOW = {"conf": set(), "data": set(), "parallel": set(), "core": {"conf", "data", "parallel"},
         "launcher": {"conf", "data", "parallel", "core"}}
MOST_LINES, MOST_FUNCTION_LINES, MOST_PARAMETERS = 300, 50, 8
OURS = "hexareme"

# Foreign package -> the folders (or files) that may import it.
HOMES = {
    "deepspeed": ("core/engine/",),
    "wandb": ("core/tracking/",),
    "tensorboard": ("core/tracking/",),
    "hydra": ("conf/", "launcher/"),
    "omegaconf": ("conf/", "launcher/"),
    "torch": ("core/", "parallel/", "launcher/rank.py", "launcher/commands/"),
}
# Run before torch is imported, or without it: nothing on their way may import it at the top of a module.
LIGHT = ("launcher/cli.py", "launcher/help.py", "launcher/train.py", "launcher/watch/watcher.py", "launcher/local.py", "launcher/rank.py",
         "launcher/commands/submit.py", "launcher/slurm/job.py", "launcher/slurm/task.py",
         "launcher/commands/train.py", "launcher/commands/plan.py", "launcher/commands/prove.py", "launcher/hosts/node.py",
         "core/combine.py", "core/corpora.py", "core/batch.py", "core/errors.py", "core/pulse.py", "core/oversight.py", "core/heartbeat.py",
         "core/waiting.py", "launcher/watch/hang.py", "launcher/watch/vigil.py")


def files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def absolute(path: Path, node: ast.Import | ast.ImportFrom) -> list[str]:
    """Full names of what an import statement imports; relative ones resolved; `from a import b` gives a and a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    package = [OURS, *path.relative_to(ROOT).parent.parts]
    base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")] if node.level else (node.module or "").split(".")
    start = ".".join(part for part in base if part)
    return [start, *(f"{start}.{alias.name}" for alias in node.names)]


def imports(path: Path, *, top_only: bool = False) -> Iterator[str]:
    nodes = top_level(tree(path)) if top_only else ast.walk(tree(path))
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from absolute(path, node)


def top_level(module: ast.Module) -> Iterator[ast.AST]:
    """What runs at import time: everything outside of functions and of `if TYPE_CHECKING`."""
    waiting: list[ast.AST] = list(module.body)
    while waiting:
        node = waiting.pop()
        yield node
        guarded = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not guarded:
            waiting += ast.iter_child_nodes(node)


def module_file(dotted: str) -> Path | None:
    """The file of one of our modules, if it is one."""
    parts = dotted.split(".")
    if parts[0] != OURS:
        return None
    stem = ROOT.joinpath(*parts[1:])
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_the_walk_sees_the_code():
    assert len(files(*LAYERS)) > 20
    assert f"{OURS}.conf.errors" in set(imports(ROOT / "core/combine.py"))


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_import_only_what_lies_below(layer: str):
    wrong = [f"{name(path)} imports {imported}" for path in files(layer) for imported in imports(path)
             if imported.startswith(f"{OURS}.") and imported.split(".")[1] not in {layer, *BELOW[layer]}]
    assert not wrong


@pytest.mark.parametrize("package", HOMES)
def test_foreign_libraries_have_one_home(package: str):
    wrong = [name(path) for path in files(*LAYERS) if any(imported.split(".")[0] == package for imported in imports(path))
             and not name(path).startswith(HOMES[package])]
    assert not wrong


def test_inside_the_package_imports_are_relative():
    started_as_files = ("launcher/train.py",)
    wrong = [name(path) for path in files(*LAYERS) if name(path) not in started_as_files for node in ast.walk(tree(path))
             if (isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == OURS)
             or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == OURS for alias in node.names))]
    assert not wrong


@pytest.mark.parametrize("start", LIGHT)
def test_nothing_before_the_rank_imports_torch(start: str):
    """Follows the imports that run at import time, from module to module."""
    heavy = {"torch", "deepspeed", "transformers", "matplotlib", "wandb"}
    seen, waiting = set(), [ROOT / start]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        found = list(imports(path, top_only=True))
        assert not heavy & {imported.split(".")[0] for imported in found}, f"{name(path)}, on the way from {start}"
        waiting += [file for imported in found if (file := module_file(imported))]


def test_package_inits_are_one_docstring():
    wrong = [name(path) for path in files(*LAYERS) if path.name == "__init__.py"
             and not (len(tree(path).body) == 1 and ast.get_docstring(tree(path)))]
    assert not wrong


def test_files_stay_short():
    assert not [f"{name(path)}: {n}" for path in files(*LAYERS, "tests") if (n := len(path.read_text().splitlines())) > MOST_LINES]


def test_functions_stay_short():
    def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
        """Lines of the body; the docstring is documentation and is not counted."""
        doc = node.body[0] if ast.get_docstring(node) else None
        return (node.end_lineno or 0) - node.lineno + 1 - ((doc.end_lineno or 0) - doc.lineno + 1 if doc else 0)

    assert not [f"{name(path)}:{node.lineno} {node.name}: {length(node)}" for path in files(*LAYERS) for node in functions(path)
                if length(node) > MOST_FUNCTION_LINES]


def test_functions_take_few_parameters():
    def count(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
        named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        return len([argument for argument in named if argument.arg not in ("self", "cls")])

    assert not [f"{name(path)}:{node.lineno} {node.name}: {count(node)}" for path in files(*LAYERS) for node in functions(path)
                if count(node) > MOST_PARAMETERS]


def test_no_bags_and_no_globals():
    wrong = [f"{name(path)}:{node.lineno} {node.name}(**{node.args.kwarg.arg})" for path in files(*LAYERS) for node in functions(path)
             if node.args.kwarg]
    wrong += [f"{name(path)}:{node.lineno} global" for path in files(*LAYERS) for node in ast.walk(tree(path))
              if isinstance(node, ast.Global)]
    assert not wrong


def test_nothing_unsafe_is_read_or_run():
    """No pickle and no shell: a checkpoint or a host name is data."""
    calls = {"pickle.load", "pickle.loads", "torch.load", "eval", "exec", "os.system"}
    wrong = []
    for path in files(*LAYERS):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call):
                flags = [k.arg for k in node.keywords if k.arg in ("shell", "allow_pickle") and ast.unparse(k.value) == "True"]
                if ast.unparse(node.func) in calls or flags:
                    wrong.append(f"{name(path)}:{node.lineno} {ast.unparse(node.func)} {flags}")
    assert not wrong
