"""Spoken examples; make_examples.py makes them."""
