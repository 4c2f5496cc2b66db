"""The words that end a session with --loop, in some languages. The English ones work in every language."""

from __future__ import annotations

import re

ENGLISH = "stop listening"
PHRASES = {
    "en": ENGLISH,
    "de": "nicht mehr zuhören",
    "es": "deja de escuchar",
    "fr": "arrête d'écouter",
    "it": "smetti di ascoltare",
    "nl": "stop met luisteren",
    "pt": "pare de ouvir",
}


def phrase(language: str, translate: bool) -> str:
    """What to say in `language`; English where the recogniser writes English, and where there is no other phrase."""
    return ENGLISH if translate else PHRASES.get(language, ENGLISH)


def is_stop(text: str) -> bool:
    """Whether `text` says only that the session is over."""
    said = _plain(text)
    return said in {_plain(phrase) for phrase in PHRASES.values()} or said == f"please {ENGLISH}"


def _plain(text: str) -> str:
    return re.sub(r"\W+", " ", text.casefold()).strip()
