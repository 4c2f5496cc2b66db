"""What every room uses: errors, settings, events, the terminal's line, PCM, what this machine is.

Imports no other room.
"""
