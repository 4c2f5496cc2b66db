"""Text to text: confirmation by the user; removal of a recogniser's repetitions and hallucinations.

Imports core.
"""
