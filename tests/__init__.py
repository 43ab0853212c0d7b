"""Tests."""

from hypothesis import settings

# No deadline for an example: the first one of a fresh process pays for imports, and the machine may be busy.
settings.register_profile("hexareme", parent=settings.default, deadline=None)
settings.load_profile("hexareme")
