"""Text to picture: model choice, samplers, tokenizer, safety filter, PNG and run folder; engines in `engines`.

Imports core, catalog and adapt.
"""
