"""The shell's own parts: supervisor of the stages, session, environment, hotkey, and small Python programs that
pipeline.sh calls.

Imports core, catalog and the registry of draw's engines.
"""
