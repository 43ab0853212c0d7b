"""Tests of tracking: what its receivers hold, and how its process lives and ends."""
