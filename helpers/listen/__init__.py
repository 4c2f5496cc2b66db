"""Sound to text: microphone, FFmpeg, levels, voice activity, end of speech, recognisers.

Imports core, catalog and words.
"""
