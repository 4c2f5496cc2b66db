"""The conversation about a picture, as a host: what is said or typed becomes pictures, and changes of them.

Imports draw, words and core.
"""
