"""Make `world.json` of the built-in model: what it can draw, in every way to say it, and what other things are kinds of
these or near them, from WordNet 3.1 (Fellbaum 1998, WordNet: An Electronic Lexical Database).

    python -m training.builtin.kinds DICT     # WordNet's folder: the files data.noun and index.noun

Only nouns that the CMU pronouncing dictionary has are kept: those that somebody might say.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from training.builtin.vocabulary import (
    FOLDER,
    HUES,
    KIND,
    SETTINGS,
    SUBJECTS,
    SYNONYMS,
    caption_words,
    plural,
)

WORLD = FOLDER / "world.json"
ABOUT = "Kinds and near things are from WordNet 3.1 (wordnet-license.txt). Made by training/builtin/kinds.py."

# WordNet's lexicographer files, by our kinds; the first sense of a subject's name in one of them is meant.
_FILES = {"food": ("13",), "animal": ("05",), "thing": ("06", "20", "17", "18", "27")}
_CONCRETE = {"05", "06", "13", "17", "18", "20"}  # animals, artefacts, food, natural objects, people, plants
_SENSE = {"dolphin": 2}  # its number in WordNet, where that rule would find another thing
_NONE = {"alien", "heart", "fire", "sun", "moon", "ghost", "gift", "key"}  # nothing that people say is a kind of these
_LOWEST = 5  # steps below "entity": things that are near share something lower; above are "object" and "artifact"
_ALONE = 9  # the same where one subject alone is near
_VAGUE = {"instrumentality", "organism", "creation", "covering", "device", "equipment"}  # lower, and still no likeness
_NEAR = 3  # things to suggest
_SENSES = 1  # of an outside word that are looked at: people mean the most frequent one


class _Synset(NamedTuple):
    file: str
    words: list[str]
    above: list[str]  # hypernyms


class WordNet:
    """The nouns of WordNet, read from its text files (wndb(5WN))."""

    def __init__(self, folder: Path) -> None:
        self.senses: dict[str, list[str]] = {}
        for line in _lines(folder / "index.noun"):
            word, _, count, pointers, *rest = line.split()
            self.senses[word] = rest[int(pointers) + 2 :][: int(count)]
        self.synsets: dict[str, _Synset] = {}
        for line in _lines(folder / "data.noun"):
            offset, file, _, count, *rest = line.partition(" | ")[0].split()
            words = rest[: 2 * int(count, 16) : 2]
            at = 2 * int(count, 16) + 1
            links = [rest[i : i + 2] for i in range(at, at + 4 * int(rest[at - 1]), 4)]
            self.synsets[offset] = _Synset(file, words, [to for sign, to in links if sign in ("@", "@i")])

    def chain(self, synset: str) -> list[str]:
        """A synset and all above it, by the first hypernym."""
        found = [synset]
        while above := self.synsets[found[-1]].above:
            found.append(above[0])
        return found


def _lines(path: Path) -> Iterator[str]:
    yield from (line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith(" "))


def _sense(net: WordNet, subject: str) -> str:
    """The synset that a subject's glyph shows, or ""."""
    if subject in _SENSE:
        return net.senses[subject][_SENSE[subject] - 1]
    if subject in _NONE:
        return ""
    for word in (subject, *SYNONYMS.get(subject, ())):
        for synset in net.senses.get(word.replace(" ", "_"), ()):
            if net.synsets[synset].file in _FILES[KIND[subject]]:
                return synset
    return ""


def _sayable() -> set[str]:
    import pocketsphinx

    path = Path(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict"))
    return {line.split()[0] for line in path.read_text("utf-8").splitlines()}


def outside(net: WordNet) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """{subject: words for kinds of it}, {near subjects: words that are near them, and no kinds of any}."""
    senses = {synset: subject for subject in SUBJECTS if (synset := _sense(net, subject))}
    # Every synset above a subject: how many steps down to which subjects.
    below: defaultdict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for synset, subject in senses.items():
        for steps, above in enumerate(net.chain(synset)):
            below[above].append((steps, SUBJECTS.index(subject), subject))
    names = {name for subject in SUBJECTS for name in (subject, *SYNONYMS.get(subject, ()))}
    known, sayable = caption_words(), _sayable()
    kinds: defaultdict[str, list[str]] = defaultdict(list)
    near: defaultdict[str, list[str]] = defaultdict(list)
    for lemma in sorted(net.senses):
        word = lemma.replace("_", " ")
        if not set(word.split()) <= sayable or word in names or len(word) < 3 or (" " not in word and word in known):
            continue
        for synset in net.senses[lemma][:_SENSES]:
            if net.synsets[synset].file not in _CONCRETE or lemma not in net.synsets[synset].words:
                continue  # WordNet writes names of people and places with capitals: Paris
            chain = net.chain(synset)
            if kind := next((senses[above] for above in chain if above in senses), ""):
                kinds[kind].append(word)
                break
            if " " in word:
                continue
            shared = next(above for above in chain if above in below)  # the last one is "entity"
            depth = len(net.chain(shared))
            if depth > (_LOWEST if len(below[shared]) > 1 else _ALONE) and net.synsets[shared].words[0] not in _VAGUE:
                near[",".join(subject for _, _, subject in sorted(below[shared])[:_NEAR])].append(word)
                break
    return kinds, near


def world(folder: Path) -> str:
    """The text of `world.json`."""
    kinds, near = outside(WordNet(folder))
    content = {
        "about": ABOUT,
        "subjects": subjects(),
        "settings": settings(),
        "colours": sorted(HUES),
        "kinds": {subject: ",".join(words) for subject, words in sorted(kinds.items())},
        "near": {subjects: ",".join(words) for subjects, words in sorted(near.items())},
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def subjects() -> dict[str, str]:
    """{subject: its plural and all other ways to say it}."""
    return {
        subject: ",".join(
            [plural(subject), *(way for name in SYNONYMS.get(subject, ()) for way in (name, plural(name)))]
        )
        for subject in SUBJECTS
    }


def settings() -> list[str]:
    """Every way to say a setting."""
    return sorted(way for ways in SETTINGS.values() for way in ways)


if __name__ == "__main__":
    WORLD.write_text(world(Path(sys.argv[1])), encoding="utf-8")
