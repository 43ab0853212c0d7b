"""What `hexareme bench` measures, each beside its theory."""
