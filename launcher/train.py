"""One rank of a training run, started as a file: by `deepspeed`, `torchrun`, `srun python`, `mpirun python`, or `python` alone.

    deepspeed --num_gpus 8 launcher/train.py experiment=gpt2_124m data.train=corpus
"""

import sys
from pathlib import Path


def main() -> int:
    """Becomes the watcher of one rank; the imports wait until this folder is off the path."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != here]  # nothing here may shadow anybody's `help` or `local`

    from hexareme.launcher.rank import run_rank
    from hexareme.launcher.watch.watcher import main as watch

    return watch(sys.argv[1:], run_rank)


if __name__ == "__main__":
    sys.exit(main())
