"""Topology, process groups and the parallel layers; plain torch, groups passed in, no config object."""
