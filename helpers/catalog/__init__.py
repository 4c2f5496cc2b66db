"""The model catalogue, downloads from the hub, archives, and checks of model files.

Imports core.
"""
