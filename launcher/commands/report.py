"""`hexareme report directory=<run>`: a run's curves as PNG files and one HTML file."""

from pathlib import Path


def main(overrides: list[str]) -> int:
    """Draw the run's figures and say where they lie.

    Raises:
        ConfigError: the folder holds no run that can be drawn.
    """
    from ...conf.compose import compose
    from ...conf.errors import ConfigError, Problem
    from ...core.report import write_report  # matplotlib takes half a second: not for `--help`

    config = compose("report", overrides)
    runs = [Path(str(run)) for run in (config.directory if isinstance(config.directory, list) else [config.directory])]
    try:
        files = write_report(runs, Path(config.output) if config.output else runs[0] / "report")
    except (FileNotFoundError, ValueError, IndexError) as error:
        raise ConfigError([Problem("directory", config.directory, f"cannot be drawn: {error}",
                                   "name the folder of a run that has begun to train, as in directory=runs/quickstart")]) from error
    for file in files:
        print(file)
    return 0
