"""Writes `words.txt` (from the vocabulary) and the generated part of the model card, `README.md` (from the evaluation).

After a change of either: python -m training.builtin.card
"""

from __future__ import annotations

import json
from typing import Any

from training.builtin import vocabulary
from training.builtin.vocabulary import FOLDER, PLAIN, SETTINGS, SPELLINGS, SUBJECTS, SYNONYMS, UNSAID

BEGIN, END = "<!-- made by card.py: begin -->", "<!-- made by card.py: end -->"
CARD, WORDS, EVALUATION = FOLDER / "README.md", FOLDER / "words.txt", FOLDER / "evaluation.json"


def _kinds() -> list[str]:
    lines = []
    for kind, glyphs in vocabulary.GLYPHS.items():
        names = []
        for name in glyphs:
            others = SYNONYMS.get(name, ())
            names.append(f"{name} ({', '.join(others)})" if others else name)
        lines.append(f"- **{kind}**: {', '.join(names)}")
    return lines


def _vocabulary() -> list[str]:
    colours = ["/".join(SPELLINGS.get(name, (name,))) for name in PLAIN if name != UNSAID]
    lines = [f"{len(SUBJECTS)} subjects, with other words for them in brackets:", "", *_kinds(), ""]
    lines += [f"Plain backgrounds (“on a blue background”, “in front of a blue wall”): {', '.join(colours)}.", ""]
    lines += ["Settings, and every way to say them:", ""]
    lines += [f"- **{name}**: {', '.join(ways)}" for name, ways in SETTINGS.items()]
    lines += [""]
    adjectives = sorted({word for words in vocabulary.ADJECTIVES.values() for word in words})
    lines += [f"Adjectives that are accepted and change nothing: {', '.join(adjectives)}.", ""]
    sizes = dict.fromkeys(word for words in vocabulary.SIZES.values() for word in words)
    lines += [f"Sizes, for a single subject: {', '.join(sizes)}.", ""]
    lines += [f"Colours ({', '.join(vocabulary.HUES)}) for: {', '.join(vocabulary.PAINTABLE)}.", ""]
    lines += ["Numbers: two or three of one kind (“two cats”, “a pair of dragons”, “three apples”).", ""]
    return [*lines, f"Pairs (“a cat and a dog”), with {', '.join(dict.fromkeys(vocabulary.JOINS))}.", ""]


def _share(figures: dict[str, Any], name: str) -> str:
    return f"{round(figures[name] * figures['pictures'])} of {figures['pictures']}"


KINDS = {  # feature: what it is called
    "everything": "**the model**",
    "single": "· one subject",
    "size": "· small or big",
    "colour": "· in a colour",
    "count": "· two or three of a kind",
    "pair": "· two different ones",
}
COLUMNS = {"subjects": "subjects", "number": "number", "colour": "colour", "size": "size", "background": "background"}
COLUMNS |= {"all": "everything"}


def _figures(result: dict[str, Any]) -> list[str]:
    rows = {name: result["right"][feature] for feature, name in KINDS.items() if feature in result["right"]}
    rows |= {f"control: {name}": row for name, row in result["controls"].items()}
    lines = [
        f"{result['prompts']} captions with combinations that were not in the training data, "
        f"seeds 0…{result['prompts'] - 1}, {result['sampler']}; "
        "the same captions and seeds every time, none chosen by hand. Correct are:",
        "",
        f"| | {' | '.join(COLUMNS.values())} |",
        f"| ---{' | ---' * len(COLUMNS)} |",
    ]
    lines += [f"| {name} | {' | '.join(_share(row, key) for key in COLUMNS)} |" for name, row in rows.items()]
    steps = [f"{number}: {_share(row, 'all')}" for number, row in result["steps"].items()]
    failed = [f"{name} ({right} of {asked})" for name, (right, asked) in result["subjects not always right"].items()]
    return [
        *lines,
        "",
        f"Everything correct by the number of steps, for the first of these captions: {'; '.join(steps)}.",
        "",
        "The PSNR of the decoder alone, on rendered scenes that were not in the training data: "
        f"{result['decoder PSNR']:.1f} dB.",
        "",
        f"Subjects that were not always correct: {', '.join(failed) or 'none'}.",
    ]


def generated() -> str:
    """The generated part of the card, with its marks."""
    result = json.loads(EVALUATION.read_text(encoding="utf-8"))
    parts = [BEGIN, "", "### What it knows", "", *_vocabulary(), "### Figures", "", *_figures(result), "", END]
    return "\n".join(parts)


def card() -> str:
    """The text of the model card, with its generated part up to date."""
    before, _, rest = CARD.read_text(encoding="utf-8").partition(BEGIN)
    return before + generated() + rest.partition(END)[2]


if __name__ == "__main__":
    WORDS.write_text(vocabulary.words_file(), encoding="utf-8")
    CARD.write_text(card(), encoding="utf-8")
