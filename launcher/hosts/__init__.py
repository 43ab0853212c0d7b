"""Many hosts by ssh: the hostfile, and what starts, watches and ends the ranks on them."""
