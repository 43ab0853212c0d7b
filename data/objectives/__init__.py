"""Which sample comes when: pure functions of (seed, sample number)."""
