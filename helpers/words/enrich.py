"""More words for a plain sentence, by rule: for each facet that a prompt does not have (medium, light, view, mood), at
most one phrase, by the kind of what it shows.

    enriched("a dog on the beach", seed=5)     # "a dog on the beach, photograph, warm light, eye level, playful"

For models that read tags: Stable Diffusion 1, 2 and XL. The same seed and kind get the same words, so that a change of
the prompt changes as little of the picture as it can. That pictures become better is not measured.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

from helpers.words import toml
from helpers.words.kinds import kind_of

FILE = Path(__file__).with_name("facets.toml")
AUTO = "auto"  # the name of this style
_SURE = 0.5  # a less certain kind gets no words of its own
_LONGEST = 25  # words; who says more has said what they want


def enriched(prompt: str, seed: int) -> str:
    """`prompt` with the phrases; itself if it says enough already."""
    content = _file()
    words = set(re.findall(r"[\w'-]+", prompt.casefold()))
    if not 1 <= len(prompt.split()) <= _LONGEST:
        return prompt
    kind, certain = kind_of(prompt)
    if certain < _SURE:
        kind = "object"
    random, added = Random(f"{seed} {kind}"), []
    for facet, phrases in content["add"][kind].items():
        chosen = random.choice(phrases or [""])  # drawn although it may not be needed: the others stay the same
        ours = [phrase for kinds in content["add"].values() for phrase in kinds[facet]]
        has = words & set(content["said"][facet]) or any(phrase in prompt.casefold() for phrase in ours)
        if chosen and not has:
            added.append(chosen)
    return ", ".join((prompt.rstrip(" .,;"), *added)) if added else prompt


@lru_cache
def _file() -> dict[str, Any]:
    return toml.read(FILE)
