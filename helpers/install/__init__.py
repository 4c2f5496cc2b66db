"""The installer's Python parts: which models it fetches.

Imports draw, catalog and core.
"""
