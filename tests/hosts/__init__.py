"""Hosts by ssh: the hostfile, what travels to the hosts, and real hosts that fail."""
