"""Measurements of speed, size and quality, as tables and plots: `python -m benchmark`; a tool for developers.

Imports helpers and training; neither imports it.
"""
