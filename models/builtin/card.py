"""Writes what follows from the vocabulary and the evaluation: `words.txt`, and the generated part of `README.md`.

After a change of either: python -m models.builtin.card
"""

from __future__ import annotations

import json
from typing import Any

from models.builtin import vocabulary
from models.builtin.vocabulary import FOLDER, KNOWN, PLAIN, SETTINGS, SPELLINGS, SYNONYMS, UNSAID

BEGIN, END = "<!-- made by card.py: begin -->", "<!-- made by card.py: end -->"
CARD, WORDS, EVALUATION = FOLDER / "README.md", FOLDER / "words.txt", FOLDER / "evaluation.json"


def _kinds() -> list[str]:
    lines = []
    for kind, glyphs in vocabulary.GLYPHS.items():
        names = []
        for name in (name for name in glyphs if name in KNOWN.subjects):
            others = SYNONYMS.get(name, ())
            names.append(f"{name} ({', '.join(others)})" if others else name)
        lines.append(f"- **{kind}**: {', '.join(names)}")
    return lines


def _vocabulary() -> list[str]:
    colours = ["/".join(SPELLINGS.get(name, (name,))) for name in PLAIN if name != UNSAID]
    lines = [f"{len(KNOWN.subjects)} subjects, other words for them in brackets:", "", *_kinds(), ""]
    lines += [f"Plain backgrounds (“on a blue background”, “in front of a blue wall”): {', '.join(colours)}.", ""]
    lines += ["Settings, and every way to say them:", ""]
    lines += [f"- **{name}**: {', '.join(ways)}" for name, ways in SETTINGS.items()]
    lines += [""]
    adjectives = sorted({word for words in vocabulary.ADJECTIVES.values() for word in words})
    lines += [f"Adjectives that it takes and that change nothing: {', '.join(adjectives)}.", ""]
    more = {
        "size": f"Sizes: {', '.join(dict.fromkeys(word for words in vocabulary.SIZES.values() for word in words))}.",
        "colour": f"Colours ({', '.join(vocabulary.HUES)}) of: {', '.join(vocabulary.PAINTABLE)}.",
        "count": "Two or three of one kind.",
        "pair": "Two different subjects (“a cat and a dog”).",
    }
    return lines + [line for feature, text in more.items() if feature in KNOWN.features for line in (text, "")]


def _share(figures: dict[str, Any], name: str) -> str:
    return f"{round(figures[name] * figures['pictures'])} of {figures['pictures']}"


def _figures(result: dict[str, Any]) -> list[str]:
    rows = {"the model": result["right"]["everything"]}
    if len(result["right"]) > 2:
        rows |= {f"· {feature}": row for feature, row in result["right"].items() if feature != "everything"}
    rows |= {f"control: {name}": row for name, row in result["controls"].items()}
    lines = [
        f"{result['prompts']} captions of combinations that training never saw, seeds 0…{result['prompts'] - 1}, "
        f"{result['sampler']}; the same seeds and captions every time, none picked by hand:",
        "",
        "| | subjects right | background right | everything right |",
        "| --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        lines.append(f"| {name} | {' | '.join(_share(row, key) for key in ('subjects', 'background', 'all'))} |")
    failed = [f"{name} ({right} of {asked})" for name, (right, asked) in result["subjects not always right"].items()]
    return [*lines, "", f"Subjects that were missed: {', '.join(failed) or 'none'}."]


def generated() -> str:
    """The generated part of the card, with its marks."""
    result = json.loads(EVALUATION.read_text(encoding="utf-8"))
    parts = [BEGIN, "", "### What it knows", "", *_vocabulary(), "### Figures", "", *_figures(result), "", END]
    return "\n".join(parts)


def card() -> str:
    """The text of the model card, with its generated part as it should be."""
    before, _, rest = CARD.read_text(encoding="utf-8").partition(BEGIN)
    return before + generated() + rest.partition(END)[2]


if __name__ == "__main__":
    WORDS.write_text(vocabulary.words_file(), encoding="utf-8")
    CARD.write_text(card(), encoding="utf-8")
