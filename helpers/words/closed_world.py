"""What a model with a closed world makes of a prompt: `world.json` in its folder lists what it can draw.

world = closed_world.load(folder)                  # None: the model draws anything
world.read("a fluffy poodle on the beach at noon")
# Reading("a dog on the beach", subjects=["dog"], drawn_as={"poodle": "dog"}, unknown=["fluffy", "noon"], near=[])
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_LONGEST = 6  # words of a phrase
_NEAREST = 3  # things to suggest
_SHORT = 3  # letters; a shorter word suggests nothing
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
# Left out together with an unknown word that follows: "in paris", "my grandmother".
_LEADING = frozenset(
    "a an the my your his her its our their some in on at of by with near under over from to into and or".split()  # noqa: SIM905
)
_GROUND = frozenset({"background", "wall"})  # after a colour


@dataclass(frozen=True)
class Reading:
    """A prompt as the model can read it."""

    text: str  # the prompt without the words that the model does not know, and with those for which it has another
    subjects: list[str] = field(default_factory=list)  # what it shows, once each
    drawn_as: dict[str, str] = field(default_factory=dict)  # {word of the prompt: the subject that is drawn for it}
    unknown: list[str] = field(default_factory=list)  # words that are left out, once each, in lower case
    near: list[str] = field(default_factory=list)  # subjects that are like what is left out, at most three


class World:
    """A model's closed world.

    content: of `world.json`: subjects {name: its plural, and other ways to say it}, settings (phrases), colours, kinds
    {subject: words for kinds of it}, near {subjects: words for things like them}; lists are separated by commas.
    words: every word that the model knows.
    """

    def __init__(self, content: dict[str, Any], words: frozenset[str]) -> None:
        self._words, self._colours = words, set(content["colours"])
        self._settings = dict.fromkeys(content["settings"], "yes")
        self._names: dict[str, str] = {}
        self._plurals: dict[str, str] = {}
        for name, ways in content["subjects"].items():
            self._plurals[name] = ways.split(",")[0]
            for way in (name, *ways.split(",")):
                self._names.setdefault(way, name)
        self._kinds = {word: subject for subject, kinds in content["kinds"].items() for word in kinds.split(",")}
        tables = (self._settings, self._names, self._kinds)
        self._firsts = frozenset(phrase.split()[0] for table in tables for phrase in table)
        self._near = {word: near for near, words in content["near"].items() for word in words.split(",")}
        self._parts = {word: name for way, name in self._names.items() if " " in way for word in way.split()}

    def read(self, prompt: str) -> Reading:
        """The prompt as the model can read it; one in which everything is known stays as it is."""
        found = list(_WORD.finditer(prompt))
        words = [word[0].casefold().replace("’", "'") for word in found]
        settled = self._set_in(words)
        subjects: dict[str, None] = {}
        drawn_as: dict[str, str] = {}
        unknown: dict[str, None] = {}
        near: dict[str, None] = {}
        edits: list[tuple[int, int, str]] = []
        at = 0
        while at < len(words):
            if at in settled:
                at += settled[at]
                continue
            size, name = self._longest(words, at, self._names)
            if name and not self._is_colour(words, at, size):
                subjects[name] = None
                at += size
                continue
            if words[at] in self._words:
                at += 1
                continue
            size, kind = self._longest(words, at, self._kinds)
            start, end = found[at].start(), found[at + max(size, 1) - 1].end()
            if kind:
                said = " ".join(words[at : at + size])
                subjects[kind], drawn_as[said] = None, kind
                edits.append((start, end, kind if said in self._kinds else self._plurals[kind]))
            else:
                unknown[words[at]] = None
                for word in _singulars(words[at]):
                    near.update(dict.fromkeys(filter(None, self._near.get(word, "").split(","))))
                first = at
                while first and words[first - 1] in _LEADING and not self._touches(prompt, found, first):
                    first -= 1
                edits.append((found[first].start(), end, ""))
            at += max(size, 1)
        if not subjects and not near:  # "happy birthday": a birthday cake
            parts = (
                self._parts.get(word) for word in words if word not in _LEADING | self._colours and len(word) > _SHORT
            )
            near.update(dict.fromkeys(filter(None, parts)))
        return Reading(_edited(prompt, edits), list(subjects), drawn_as, list(unknown), list(near)[:_NEAREST])

    def _set_in(self, words: list[str]) -> dict[int, int]:
        """{where a setting starts: its number of words}."""
        found, at = {}, 0
        while at < len(words):
            size, _ = self._longest(words, at, self._settings, exact=True)
            if size:
                found[at] = size
            at += max(size, 1)
        return found

    def _longest(self, words: list[str], at: int, table: dict[str, str], exact: bool = False) -> tuple[int, str]:
        """The number of words of the longest phrase of `table` that starts at word `at`, and its value; 0, "" if none
        does. Not exact: also the plural of a phrase."""
        if self._firsts.isdisjoint(_singulars(words[at])):
            return 0, ""
        for size in range(min(_LONGEST, len(words) - at), 0, -1):
            phrase = " ".join(words[at : at + size])
            for form in (phrase,) if exact else (phrase, *_singulars(phrase)):
                if form in table:
                    return size, table[form]
        return 0, ""

    def _is_colour(self, words: list[str], at: int, size: int) -> bool:
        """Whether an orange is a colour here: of what follows, or of the background."""
        if size > 1 or words[at] not in self._colours:
            return False
        after = words[at + 1] if at + 1 < len(words) else ""
        thing = any(self._longest(words, at + 1, table)[1] for table in (self._names, self._kinds)) if after else False
        before = words[at - 1] if at else ""
        return after in _GROUND or thing or (not after and before in ("on", "is"))

    @staticmethod
    def _touches(prompt: str, found: list[re.Match[str]], at: int) -> bool:
        """Whether more than a space is between word `at` and the one before."""
        return bool(prompt[found[at - 1].end() : found[at].start()].strip())


def _singulars(phrase: str) -> list[str]:
    """What `phrase` may be the plural of."""
    forms = []
    if phrase.endswith("ies"):
        forms.append(phrase[:-3] + "y")
    if phrase.endswith("es"):
        forms.append(phrase[:-2])
    if phrase.endswith("s") and not phrase.endswith("ss"):
        forms.append(phrase[:-1])
    if phrase.endswith("men"):
        forms.append(phrase[:-3] + "man")
    return [phrase, *forms]


def _edited(prompt: str, edits: list[tuple[int, int, str]]) -> str:
    """`prompt` with each part from start to end replaced; spaces and commas are put in order."""
    if not edits:
        return prompt
    text, at = "", 0
    for start, end, new in edits:
        text += prompt[at : max(start, at)] + new
        at = end
    text += prompt[at:]
    text = " ".join(text.split())  # first: the patterns would be slow on long runs of spaces
    text = re.sub(r" ([,.;!?])", r"\1", re.sub(r"(?:[,;] ?){2,}", ", ", text))
    return " ".join(text.split()).strip(" ,;")


def load(folder: Path) -> World | None:
    """The closed world of the model in `folder`, None for a model that draws anything."""
    files = folder / "world.json", folder / "words.txt"
    if not all(file.is_file() for file in files):
        return None
    content, words = (file.read_text(encoding="utf-8") for file in files)
    return World(json.loads(content), frozenset(words.split()))
