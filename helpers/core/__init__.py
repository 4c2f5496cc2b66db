"""What every room uses: errors, settings, events, the status line, PCM, facts about this machine.

Imports no other room.
"""
