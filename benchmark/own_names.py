"""Forty sentences with twenty names that no language has, two of each, for the measurement of a vocabulary."""

from __future__ import annotations

NAMES = (
    "Zorblax", "Kwimby", "Flandoria", "Brindlewick", "Mezzorana", "Tarnuvia", "Blorpington", "Xandrel", "Thrindle",
    "Vexley", "Ogdra", "Pomfrizz", "Skellow", "Juniperia", "Drakmoor", "Wimbolo", "Nargul", "Celandria", "Fizzbane",
    "Yolanka",
)  # fmt: skip

FORMS = (
    "a picture of {}",
    "draw me {} on the beach",
    "a red castle in {}",
    "{} in the snow",
    "I want to see {} at night",
    "a happy robot with {}",
    "show me {} in space",
    "a cat and {} in the forest",
)

SENTENCES = tuple(FORMS[(3 * i + 5 * (i // 20)) % len(FORMS)].format(NAMES[i % 20]) for i in range(40))
