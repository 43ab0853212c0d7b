"""`hexareme report directory=<run>`: a run's curves as PNG files and one HTML file."""

import sys
from pathlib import Path


def main(overrides: list[str]) -> int:
    """Draw the run's figures and say where they lie.

    Returns:
        0; 2 with one line on standard error where the folder holds no readable run.
    """
    from ...conf.compose import compose
    from ...core.report import write_report  # matplotlib takes half a second: not for `--help`

    config = compose("report", overrides)
    try:
        files = write_report([config.directory], config.output)
    except (FileNotFoundError, ValueError) as error:
        print(f"ERROR 2 {error} (do: name the folder of a run, as in directory=runs/quickstart)", file=sys.stderr)
        return 2
    for file in files:
        print(Path(file))
    return 0
