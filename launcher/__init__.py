"""Commands, the watcher, and the ways to start."""
