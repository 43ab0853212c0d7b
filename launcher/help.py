"""`hexareme <command> --help`, written from the schema, so that it cannot be out of date."""

from dataclasses import Field
from typing import Any

from ..conf.compose import defaults
from ..conf.errors import show
from ..conf.keys import allowed, table
from ..conf.overrides import options
from ..conf.registry import COMMANDS

EXAMPLES = {
    "prepare": (
        "hexareme prepare input=texts output=corpora/mine",
        "hexareme prepare 'input=[crawl/*.warc.gz,wiki/*.jsonl.zst,books.parquet]' output=corpora/web clean=web tokenizer.kind=byte_bpe",
        "hexareme prepare input=chats.jsonl output=corpora/chat task=chat tokenizer.kind=huggingface tokenizer.path=llama/tokenizer.json",
    ),
    "train": (
        "hexareme train experiment=quickstart data.train=corpora/mine cluster.ranks_per_node=2",
        "deepspeed --num_gpus 8 launcher/train.py experiment=gpt2_124m data.train=corpora/mine",
        "hexareme train model=llama_1b data.train=corpora/mine train.steps=1000 batch.global_size=64 batch.micro_size=2 parallel=zero3",
    ),
    "submit": (
        "hexareme submit experiment=llama_8b data.train=corpora/mine cluster=slurm cluster.nodes=8 cluster.gpus_per_node=8",
        "hexareme submit experiment=quickstart data.train=corpora/mine cluster=slurm cluster.time_limit=2:00:00 dry_run=true",
        "hexareme submit action=status run.directory=runs/llama_8b",
    ),
    "doctor": (
        "hexareme doctor",
        "hexareme doctor cluster=ssh cluster.hostfile=hosts cluster.nodes=4 cluster.ranks_per_node=8 output=doctor.json",
        "hexareme doctor cluster=slurm cluster.nodes=2 cluster.gpus_per_node=8 all_reduce_gigabytes=180 strict=true",
    ),
    "plan": (
        "hexareme plan experiment=llama_8b parallel.tp=4 parallel.pp=2 parallel.zero=1 ranks=64 cluster.ranks_per_node=8",
        "hexareme plan experiment=quickstart parallel.zero=3 ranks=2",
        "hexareme plan experiment=llama_70b parallel.pp=4 parallel.zero=1 ranks=512 cluster.ranks_per_node=8 output=plan.json",
    ),
    "prove": (
        "hexareme prove experiment=gpt2_124m parallel.tp=2 parallel.pp=2",
        "hexareme prove model=llama_8b parallel=zero3 parallel.cp=2 train.precision=bf16 output=proof.json",
        "hexareme prove all=true quick=true jobs=2",
    ),
    "evaluate": (
        "hexareme evaluate directory=runs/quickstart",
        "hexareme evaluate directory=runs/quickstart corpus=corpora/other part=train samples=512 parallel.pp=2 parallel.tp=2",
        "hexareme evaluate checkpoint=runs/quickstart/checkpoints/step-00000100 output=result.json",
    ),
    "generate": (
        "hexareme generate directory=runs/quickstart prompt='def main():'",
        "hexareme generate directory=runs/quickstart temperature=0 max_new_tokens=64 parallel.tp=4",
        "hexareme generate directory=runs/quickstart top_k=40 top_p=0.9 seed=1 'stop=[\"\\n\\n\"]'",
    ),
    "report": (
        "hexareme report directory=runs/quickstart",
        "hexareme report directory=runs/quickstart output=public/quickstart",
        "hexareme report 'directory=[runs/a, runs/b]' output=comparison",
    ),
    "watch": (
        "hexareme watch directory=runs/quickstart",
        "hexareme watch directory=/shared/runs/llama_8b last=500 seconds=5",
        "hexareme watch directory=runs/quickstart once=true",
    ),
    "inspect": (
        "hexareme inspect corpus=corpora/chat preview=3",
        "hexareme inspect directory=runs/quickstart step=100",
        "hexareme inspect checkpoint=runs/quickstart/checkpoints/step-00000100 'filter=*.mlp.*' verify=true output=checkpoint.json",
    ),
    "convert": (
        "hexareme convert path=runs/quickstart output=quickstart-weights",
        "hexareme convert source=run target=safetensors path=runs/quickstart output=quickstart.safetensors dtype=bfloat16",
        "hexareme convert source=tokens path=[corpora/web,corpora/code] target=corpus output=corpora/all",
    ),
    "bench": (
        "hexareme bench suite=overhead model=quickstart steps=100",
        "hexareme bench suite=bytes only=ZeRO-1 output=bytes.json",
        "hexareme bench suite=checkpoint state_bytes=10000000000 ranks=2 directory=/scratch",
    ),
}


def command_help(command: str, what: str) -> str:
    """The whole help text of a command.

    Args:
        command: its name.
        what: one line about it.
    """
    schema = COMMANDS[command].schema()
    groups = options(command)
    parts = [f"hexareme {command}: {what}", f"usage: hexareme {command} key=value ..."]
    if groups:
        rows = "\n".join(f"  {group}=<{' | '.join(names)}>" for group, names in groups.items())
        parts.append(f"groups (each a YAML file of keys):\n{rows}")
    preset = defaults(command)
    rows = "\n".join(row(key, preset[key], hint, entry) for key, (hint, entry) in table(schema).items())
    examples = "\n".join(f"  {example}" for example in EXAMPLES[command])
    return "\n\n".join([*parts, f"keys:\n{rows}", f"examples:\n{examples}"])


def row(key: str, default: Any, hint: Any, entry: Field[Any]) -> str:
    """One key: name, default, type and range, meaning."""
    start = "required" if default == "???" else f"[{show(default)}]".replace("[]", "[empty]")
    return f"  {key} {start}\n      {entry.metadata.get('help', '')} ({allowed(hint, entry.metadata.get('rule', {}))})"
