"""This machine, checked: what works and what does not, with what to do about it (`--doctor`).

Imports every room but the hosts.
"""
