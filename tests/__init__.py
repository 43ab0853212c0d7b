"""Tests."""

from hypothesis import HealthCheck, settings

# No deadline for an example, nor for drawing it: the first one of a fresh process pays for imports, and the machine may be busy.
settings.register_profile("hexareme", parent=settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hexareme")
