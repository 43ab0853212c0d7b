"""The fault matrix: real processes, real signals, real disks, row by row (docs/faults.md)."""
