"""Spoken examples, made by make_examples.py. Nothing but tests imports it; it imports the voices of benchmark."""
