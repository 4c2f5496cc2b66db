"""Which models there are, where they come from, and how they arrive: catalogue, hub, archives, model files.

Imports core.
"""
