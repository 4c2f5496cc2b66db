"""The installer's Python parts: which models it downloads.

Imports draw, catalog and core.
"""
