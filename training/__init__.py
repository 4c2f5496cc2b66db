"""How the models that ship with this repository are made; a tool for developers.

Imports helpers; nothing in helpers imports it.
"""
