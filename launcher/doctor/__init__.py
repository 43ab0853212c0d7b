"""What `hexareme doctor` looks at: facts of each machine, and what is wrong with them."""
