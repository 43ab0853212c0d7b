"""The one schema, the YAML groups, and how they become plain dataclasses."""
