"""One module for each command: main(overrides) -> exit code."""
