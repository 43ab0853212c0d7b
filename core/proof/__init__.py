"""Proves that layouts agree: a config, scaled down, on every layout of local processes against one process and a plain torch loop."""
