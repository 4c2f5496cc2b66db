"""Text to text: confirmation by a person, repetition and hallucinations of a recogniser.

Imports core.
"""
