"""One checkpoint under many layouts, through the commands: the same greedy text and the same loss."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest
from hexareme.launcher import cli
from hexareme.launcher.commands import evaluate, generate
from hexareme.launcher.environment import free_port
from hexareme.launcher.local import Seats, rank_variables

from .trained import DENSE, EXPERTS, make_corpus, train_tiny

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

PROMPT, NEW_TOKENS = "one two", 24
BOTH = {
    "tp2": ("parallel.tp=2",),
    "tp4, kv heads shared": ("parallel.tp=4",),
    "dp2": ("cluster.ranks_per_node=2",),
    "pp2": ("parallel.pp=2",),
    "pp2 zbv": ("parallel.pp=2", "parallel.schedule=zbv"),
    "pp2 interleaved": ("parallel.pp=2", "parallel.schedule=interleaved_1f1b", "parallel.virtual_stages=2"),
    "pp4 gpipe": ("parallel.pp=4", "parallel.schedule=gpipe"),
    "tp2 x pp2 x dp2 dualpipev": ("parallel.tp=2", "parallel.pp=2", "parallel.schedule=dualpipev", "cluster.ranks_per_node=8"),
    "pp2 of 4 and 1 blocks": ("parallel.pp=2", "parallel.stage_layers=[4,1]"),
}
ONLY_LOSS = {
    "cp2 ring": ("parallel.cp=2",),
    "cp2 ulysses x tp2": ("parallel.cp=2", "parallel.tp=2", "parallel.context_attention=ulysses"),
    "cp2 ring x pp2": ("parallel.cp=2", "parallel.pp=2"),
}
WITH_EXPERTS = {"ep2": ("parallel.ep=2",), "ep2 x tp2": ("parallel.ep=2", "parallel.tp=2"), "ep4": ("parallel.ep=4",)}


class Models:
    """Runs to read from, and what one process made of each."""

    def __init__(self, folder: Path) -> None:
        corpus = make_corpus(folder)
        self.folder = folder
        self.runs = {"dense": train_tiny(corpus, folder / "dense", *DENSE), "experts": train_tiny(corpus, folder / "experts", *EXPERTS)}
        self.loss, self.text = {}, {}
        for name, run in self.runs.items():
            for command, words in ((evaluate, EVALUATE), (generate, GENERATE)):
                in_forks(partial(command.main, [f"directory={run}", f"output={folder}/one.json", *words]))
                found = json.loads((folder / "one.json").read_text())
                if command is evaluate:
                    self.loss[name] = found["loss"]
                else:
                    self.text[name] = found["text"]


EVALUATE = ("samples=21", "micro_size=2")  # the last micro-batch is short on some data ranks, and empty on others
GENERATE = (f"prompt={PROMPT}", "temperature=0", f"max_new_tokens={NEW_TOKENS}")


def in_forks(*functions: Callable[[], object]) -> None:
    """Each in a fork of its own, all at once, so that this process never joins a group."""
    processes = [get_context("fork").Process(target=function) for function in functions]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("trained"))


@pytest.fixture(autouse=True)
def nothing_left_in_shared_memory() -> Iterator[None]:
    before = set(Path("/dev/shm").iterdir())
    yield
    assert set(Path("/dev/shm").iterdir()) <= before


def same_loss(models: Models, model: str, layout: tuple[str, ...]) -> None:
    output = models.folder / "loss.json"
    assert evaluate.main([f"directory={models.runs[model]}", *EVALUATE, f"output={output}", *layout]) == 0
    assert json.loads(output.read_text())["loss"] == pytest.approx(models.loss[model], rel=1e-5)


def same_text(models: Models, model: str, layout: tuple[str, ...]) -> None:
    output = models.folder / "text.json"
    assert generate.main([f"directory={models.runs[model]}", *GENERATE, f"output={output}", *layout]) == 0
    assert json.loads(output.read_text())["text"] == models.text[model]


@pytest.mark.parametrize("layout", [*BOTH, *ONLY_LOSS])
def test_the_loss_is_that_of_one_process(models: Models, layout: str) -> None:
    same_loss(models, "dense", (BOTH | ONLY_LOSS)[layout])


@pytest.mark.parametrize("layout", BOTH)
def test_the_text_is_that_of_one_process(models: Models, layout: str) -> None:
    same_text(models, "dense", BOTH[layout])


@pytest.mark.parametrize("layout", WITH_EXPERTS)
def test_experts_give_the_same_loss_and_text(models: Models, layout: str) -> None:
    same_loss(models, "experts", WITH_EXPERTS[layout])
    same_text(models, "experts", WITH_EXPERTS[layout])


def test_the_texts_say_something(models: Models) -> None:
    """Or their being equal would say nothing: a model that repeats one token passes any layout."""
    assert all(len(set(text)) > 3 for text in models.text.values())


def test_each_result_is_printed_once(models: Models, capfd: pytest.CaptureFixture[str]) -> None:
    generate.main([f"directory={models.runs['dense']}", *GENERATE, "parallel.tp=2", "cluster.ranks_per_node=4"])
    out, err = capfd.readouterr()
    assert out == f"{PROMPT}{models.text['dense']}\n" and err.count("tokens/s") == 1
    evaluate.main([f"directory={models.runs['dense']}", "samples=2", "parallel.pp=2"])
    assert capfd.readouterr().out.count("perplexity of the model") == 1


def test_an_error_in_the_ranks_is_the_commands_own(models: Models, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """With its exit code and its way out, not as a traceback of a rank."""
    dense = f"directory={models.runs['dense']}"
    assert cli.run(["evaluate", dense, "parallel.tp=3"]) == 2
    assert "ERROR 2" in (said := capfd.readouterr().err) and "try parallel.tp in [1, 2, 4]" in said and "Traceback" not in said
    assert cli.run(["generate", dense, "parallel.cp=2"]) == 2
    assert "set parallel.cp=1" in capfd.readouterr().err
    assert cli.run(["generate", dense, "parallel.tp=2", f"prompt={'one ' * 300}"]) == 2
    assert "fills the model's context of 64" in capfd.readouterr().err
    damaged = tmp_path / "damaged"
    shutil.copytree(models.runs["dense"] / "checkpoints" / "step-00000060", damaged)
    file = next(damaged.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1000] + bytes(1000))
    assert cli.run(["evaluate", f"checkpoint={damaged}", "parallel.pp=2", f"corpus={models.folder}/corpus"]) == 4
    assert "ERROR 4" in (said := capfd.readouterr().err) and "Traceback" not in said


def test_ranks_that_something_else_started_are_used(models: Models) -> None:
    """As torchrun, srun and deepspeed start them: one process for each rank, placed by the environment."""
    port, output = free_port(), models.folder / "outside.json"

    def rank(number: int) -> None:
        os.environ.update(rank_variables({}, Seats(first=0, count=2, world_size=2, address="127.0.0.1", port=port), number))
        evaluate.main([f"directory={models.runs['dense']}", *EVALUATE, "parallel.tp=2", f"--local_rank={number}",
                       f"output={output}.{number}"])

    in_forks(partial(rank, 0), partial(rank, 1))
    assert json.loads(Path(f"{output}.0").read_text())["loss"] == pytest.approx(models.loss["dense"], rel=1e-5)
    assert not Path(f"{output}.1").exists()


def test_a_reader_that_leaves_early_is_no_error(models: Models) -> None:
    """As `hexareme generate ... | head -c 1` does, in the midst of a text that several ranks write."""
    reader, writer = os.pipe()

    def command() -> None:
        os.close(reader)
        os.dup2(writer, 1)
        sys.stdout = os.fdopen(1, "w")
        os._exit(cli.main(["generate", f"directory={models.runs['dense']}", "prompt=one", "max_new_tokens=60", "parallel.tp=2"]))

    process = get_context("fork").Process(target=command)
    process.start()
    os.close(writer)
    assert os.read(reader, 1) == b"o"
    os.close(reader)
    process.join()
    assert process.exitcode == cli.PIPE_CODE
