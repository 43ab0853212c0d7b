"""The console script: `hexareme <command> key=value ...`. Imports a command only when it is asked for."""

import os
import sys
from importlib import import_module

# Command -> what it does, one line.
COMMANDS = {
    "prepare": "raw text in, a corpus folder out",
    "train": "pre-training and fine-tuning; resumes by itself",
    "submit": "a training run as a Slurm job; its status, logs and end",
    "plan": "which rank of a run will hold what, and how much; needs no GPU",
    "doctor": "the machines of a run, looked at before it starts",
    "prove": "a training config on many layouts against one process",
    "evaluate": "loss and perplexity of a checkpoint on a corpus",
    "generate": "text from a checkpoint",
    "report": "a run's curves as PNG files and one HTML file",
    "watch": "a run live in the terminal",
    "inspect": "what a checkpoint or a run contains; finds what is damaged",
    "convert": "a checkpoint as plain safetensors weights; token files merged or in other formats",
    "bench": "measures what the performance table claims",
}
HELP = ("--help", "-h", "help")
USAGE_CODE = 2
PIPE_CODE = 128 + 13  # as a shell reports SIGPIPE


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit code; a reader that closes the pipe early, as `head` does, is no error to report.

    Args:
        arguments: without the program's name; by default those of this process.
    """
    try:
        code = run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        return PIPE_CODE


def run(words: list[str]) -> int:
    """Runs one command and returns its exit code.

    Args:
        words: the command and its overrides.
    """
    if not words or words[0] in HELP:
        print(overview())
        return 0 if words else USAGE_CODE
    command, *overrides = words
    if command not in COMMANDS:
        sys.stderr.write(unknown(command) + "\n")
        return USAGE_CODE
    if any(word in HELP for word in overrides):
        from .help import command_help

        print(command_help(command, COMMANDS[command]))
        return 0
    try:
        return int(import_module(f".commands.{command}", __package__).main(overrides))
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        from .outcome import complain

        return complain(error, rank=0)


def overview() -> str:
    """What `hexareme --help` prints."""
    rows = "\n".join(f"  {name:<10} {what}" for name, what in COMMANDS.items())
    return (f"Hexareme trains large language models.\n\nusage: hexareme <command> key=value ...\n\n{rows}\n\n"
            "`hexareme <command> --help` lists the keys of a command, with examples.")


def unknown(command: str) -> str:
    """The error line for a command that is none."""
    from difflib import get_close_matches

    if "=" in command:
        return f"ERROR {USAGE_CODE} rank=0 step=0 {command!r} stands where a command belongs (do: hexareme train {command} ...)"
    close = get_close_matches(command, COMMANDS, n=1, cutoff=0.4)
    way = f"did you mean `hexareme {close[0]}`?" if close else f"take one of {', '.join(COMMANDS)}"
    return f"ERROR {USAGE_CODE} rank=0 step=0 there is no command {command!r} (do: {way})"
