"""Reads checkpoints: folders in the layout of diffusers, their configuration and weights.

Imports core and catalog.
"""
