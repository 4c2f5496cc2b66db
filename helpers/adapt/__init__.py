"""Checkpoints as people bring them: folders in the layout of diffusers, their configuration and weights.

Imports core and catalog.
"""
