"""The watcher of a rank: from its fork to its end, and what it does when nothing moves."""
