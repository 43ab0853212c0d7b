"""Tests of the layout-free checkpoint."""
