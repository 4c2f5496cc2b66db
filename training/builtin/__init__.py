"""How the built-in models are made (the pictures and the recogniser's language model): `python -m training.builtin`.

Weights, card and figures stay in models/builtin. Imports helpers; nothing in helpers imports it.
"""
