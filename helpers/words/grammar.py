"""What people say to a picture, as closed grammars: whole phrases only, one file of `languages/` for each language.

    grammar = Grammar.of("en")
    grammar.options("a lighthouse in a storm, four of them")   # Spoken("a lighthouse in a storm", Options(count=4))
    grammar.command("make it blue", "a red car")               # Command("colour", text="blue")
    grammar.command("a back alley", "a red car")               # None: a prompt

A phrase of a file is words with [a word that may be missing], (one|or the other) and {slots}. What does not match as a
whole stays a prompt: to take a prompt for a command is the worse mistake.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path
from typing import Any

from helpers.core.settings import LARGEST_SEED
from helpers.words import toml
from helpers.words.said import Command, Options, Spoken

LANGUAGES = Path(__file__).with_name("languages")
LONGEST = 16  # words of a command; a longer utterance is a prompt
MOST_PICTURES = 16  # by voice
_WORD = re.compile(r"[0-9]+(?=[x×][0-9])|(?<=[0-9])[x×](?=[0-9])|[^\W_]+(?:['’.][^\W_]+)*|,")  # 512x512 is three


class _Text:
    """An utterance as `word word , word `, with the places of its words in the original."""

    def __init__(self, text: str, commas: bool) -> None:
        self.original = text
        found = [one for one in _WORD.finditer(self.original) if commas or one[0] != ","]
        words = [one[0].casefold().replace("’", "'") for one in found]
        self.words, self._found = words, found
        self.plain = "".join(f"{word} " for word in words)
        starts, at = [], 0
        for word in words:
            starts.append(at)
            at += len(word) + 1
        self.starts = [*starts, at]

    def part(self, start: int, end: int) -> str:
        """The original text for the span of `plain`, without a comma at either end."""
        first, last = self.starts.index(start), self.starts.index(end) - 1
        return self.original[self._found[first].start() : self._found[last].end()].strip(" ,") if last >= first else ""

    def before(self, end: int) -> str:
        index = self.starts.index(end)
        return self.original[: self._found[index].start()].strip(" ,;") if index < len(self._found) else self.original

    def after(self, start: int) -> str:
        index = self.starts.index(start)
        return self.original[self._found[index].start() :].strip(" ,;") if index < len(self._found) else ""


class Grammar:
    """The grammar of one language."""

    def __init__(self, content: Mapping[str, Any], styles: Iterable[str] = (), models: Iterable[str] = ()) -> None:
        """content: of a file of `languages/`; styles, models: names that can be said, besides those of the file."""
        self.say: dict[str, str] = content["say"]
        self.content = content
        self._numbers: dict[str, int] = content["numbers"]
        self._ordinals: dict[str, int] = content["ordinals"]
        self._shapes = {_plain(way): name for name, ways in content["shapes"].items() for way in ways}
        self._styles = {_plain(name): name for name in styles}
        self._styles |= {_plain(way): name for name, ways in content["styles"].items() for way in (*ways, name)}
        self._models = {_plain(name): name for name in models}
        lists = content["lists"]
        self.settings: list[list[str]] = [lists["times"], lists["weathers"], lists["seasons"]]
        settings = [phrase for group in (*self.settings, lists["places"]) for phrase in group]
        self._times: dict[str, str] = {}
        for phrase in settings:
            self._times.setdefault(phrase.split()[-1], phrase)
        self.colours = frozenset(lists["colours"])
        self.articles, self.definite, self.determiners, self.joints, self.conjunctions = (
            frozenset(content[key]) for key in ("articles", "definite", "determiners", "joints", "conjunctions")
        )
        self.colour_first: bool = content["colour_first"]
        self.endings: list[str] = content["endings"]
        number = rf"(?:{_either(self._numbers)}|[0-9]{{1,2}} )"
        some = r"[^\s,]+ "
        place = (
            rf"{_either(content['prepositions'])}(?:{_either(content['articles'])})(?:{some}){{1,2}}"
            if "prepositions" in content
            else r"(?!)"
        )
        self._slots = {
            "number": number,
            "count": number,
            "ordinal": _either(self._ordinals),
            "colour": _either(lists["colours"]),
            "colour2": _either(lists["colours"]),
            "place": rf"(?:{_either(settings)}|{place})",
            "time": _either(self._times),
            "absent": _either(lists["absent"]),
            "shape": _either(self._shapes),
            "style": _either(self._styles),
            "style_stil": _either(f"{way}stil" for way in self._styles),  # German: Comicstil
            "style_s": _either(f"{way}{end}" for way in self._styles for end in ("s", "es")),  # eines Holzschnitts
            "long_style": _either(way for way in self._styles if " " in way or len(way) > 10),  # no single thing
            "model": _either(self._models),
            "width": r"[0-9]{2,4} ",
            "height": r"[0-9]{2,4} ",
            "seed": r"[0-9]{1,20} ",
            "thing": rf"{some}(?:{some})??",
            "word": some,
            "gone": rf"(?:{some}){{1,3}}",
            "new": rf"(?:{some}){{1,5}}",
            "name": rf"(?:{some}){{1,4}}",
            "determined": rf"{_either(content['determiners'])}(?:{some}){{1,4}}",
            "phrase": rf"{_either(content['determiners'])}(?:{some}){{1,7}}",
        }
        self._politely, self._strongly = _either(content["politely"]), _either(content["strongly"])
        self._before, self._after = (re.compile(_either(content[key])) for key in ("before", "after"))
        self._not_after = {kind: frozenset(words) for kind, words in content["not_after"].items()}

    @staticmethod
    def of(language: str, styles: Iterable[str] = (), models: Iterable[str] = ()) -> Grammar | None:
        """The grammar of a language, by its code; None for one that has no file."""
        content = _file(language) if re.fullmatch("[a-z]{2,4}", language) else None
        return Grammar(content, styles, models) if content else None

    # ---- templates

    def _pattern(self, template: str) -> str:
        """The regular expression of a phrase; each word of the text ends with a space."""
        out, closing = "", []
        for token in re.findall(r"[\[\](|)]|\{\w+\}|[^\s\[\](|){}]+", template):
            if token in "[(":
                out += "(?:"
                closing.append(")?" if token == "[" else ")")
            elif token in "])":
                out += closing.pop()
            elif token == "|":
                out += "|"
            elif token == "{degree}":
                out += f"(?:{self._politely}|(?P<strong>{self._strongly}))?"
            elif token.startswith("{"):
                out += f"(?P<{token[1:-1]}>{self._slots[token[1:-1]]})"
            else:
                out += re.escape(token.casefold()) + " "
        return out

    @cached_property
    def _commands(self) -> list[tuple[str, re.Pattern[str]]]:
        return self._phrases("commands")

    @cached_property
    def _ends(self) -> list[tuple[str, re.Pattern[str]]]:
        return self._phrases("end")

    @cached_property
    def _begins(self) -> list[tuple[str, re.Pattern[str]]]:
        return self._phrases("start")

    def _phrases(self, part: str) -> list[tuple[str, re.Pattern[str]]]:
        return [
            (kind, re.compile(self._pattern(template)))
            for kind, templates in self.content[part].items()
            for template in templates
        ]

    # ---- options inside an utterance

    def options(self, utterance: str) -> Spoken:
        """The utterance without the options at its start and end, and these; at least one word of it remains."""
        spoken = Spoken(utterance)
        while (found := self._one_option(spoken.text)) is not None:
            text, options = found
            spoken = Spoken(text, options.and_(spoken.options))
        return spoken

    def _one_option(self, utterance: str) -> tuple[str, Options] | None:
        text = _Text(utterance, commas=True)
        for kind, pattern in self._begins:
            found = pattern.match(text.plain)
            if found and (rest := text.after(found.end())) and (options := self._value(kind, found, text)):
                return rest, options
        ends = self._ends_of(text)
        for start, (kind, pattern) in product(text.starts[1:][-LONGEST:], self._ends):  # the leftmost is the longest
            for end in ends:
                found = pattern.fullmatch(text.plain, start, end)
                if not found or not (rest := text.before(start)):
                    continue
                last = text.plain[:start].split()[-1]
                if last in self._not_after.get(kind, ()) and not found[0].startswith(","):
                    continue
                if options := self._value(kind, found, text):
                    return rest, options
        return None

    def _value(self, kind: str, found: re.Match[str], text: _Text) -> Options | None:
        """The option that a match says; None for an impossible value."""
        said = {name: value.strip() for name, value in found.groupdict().items() if value}
        if kind == "count":
            count = self._number(said["count"])
            return Options(count=count) if 1 <= count <= MOST_PICTURES else None
        if kind == "shape":
            return Options(shape=self._shapes[said["shape"]])
        if kind == "size":
            return Options(size=(int(said["width"]), int(said["height"])))
        if kind == "seed":
            if "seed" not in said:
                return Options(same_seed=True)
            return Options(seed=int(said["seed"])) if int(said["seed"]) <= LARGEST_SEED else None
        if kind == "without":
            return Options(without=(text.part(*found.span("absent")),))
        if kind == "fancy":
            return Options(fancy=True)
        if kind == "style":
            return Options(style=self._style(said))
        return Options(model=self._models[said["model"]])

    def _style(self, said: Mapping[str, str]) -> str:
        way = next((said[slot] for slot in ("style", "long_style", "style_stil", "style_s") if slot in said), "")
        forms = (way, way.removesuffix("stil"), way.removesuffix("es"), way.removesuffix("s"))
        return next(self._styles[form] for form in forms if form in self._styles)

    def _number(self, said: str) -> int:
        return self._numbers.get(said) or int(said)

    # ---- commands

    def command(self, utterance: str, prompt: str) -> Command | None:
        """The change that `utterance` asks for, as a whole, of a picture of `prompt`; None if it is a new prompt."""
        text = _Text(utterance, commas=False)
        if not 1 <= len(text.words) <= LONGEST:
            return None
        around = list(product(self._starts_of(text), self._ends_of(text)))
        for kind, pattern in self._commands:
            for start, end in around:
                found = pattern.fullmatch(text.plain, start, end)
                if found and (command := self._command(kind, found, text, prompt)):
                    return command
        return None

    def _starts_of(self, text: _Text) -> list[int]:
        """Where a phrase may start: at the first word, and after each chain of words that may stand before."""
        starts = [0]
        for start in starts:
            for end in text.starts:
                if end > start and end not in starts and self._before.fullmatch(text.plain, start, end):
                    starts.append(end)
        return [start for start in starts if start < len(text.plain)]

    def _ends_of(self, text: _Text) -> list[int]:
        """Where a phrase may end, as `_starts_of`."""
        plain = text.plain.removesuffix(", ")
        ends = [len(plain)]
        for end in ends:
            for start in text.starts:
                if start < end and start not in ends and self._after.fullmatch(plain, start, end):
                    ends += [start, start - 2] if plain[:start].endswith(", ") else [start]
        return [end for end in ends if end > 0]

    def _command(self, kind: str, found: re.Match[str], text: _Text, prompt: str) -> Command | None:
        said = {name: value.strip() for name, value in found.groupdict().items() if value}
        core = text.part(*found.span())
        if kind in ("count", "shape", "size", "seed", "model", "fancy"):
            options = self._value(kind, found, text)
            return Command("change", options=options) if options else None
        command = Command(kind, strong="strong" in said)
        if count := said.get("count"):
            command = replace(command, options=Options(count=self._number(count)))
            if not 1 <= (command.options.count or 0) <= MOST_PICTURES:
                return None
        if number := said.get("number"):
            command = replace(command, number=self._number(number))
        if ordinal := said.get("ordinal"):
            command = replace(command, number=self._ordinals[ordinal])
        if kind == "style":
            return replace(command, text=self._style(said))
        for slot in ("new", "phrase", "determined", "colour", "gone", "absent", "name", "word"):
            if slot in said:
                command = replace(command, text=text.part(*found.span(slot)))
                break
        if "," in command.text:
            return None
        if "thing" in said:
            thing = self.word_of(prompt, said["thing"])
            return replace(command, thing=thing) if thing else None
        if "gone" in said and (thing := self.word_of(prompt, said["gone"])):
            return replace(command, text=thing)
        if kind == "setting":
            return Command("add", text=self._times.get(said.get("time", ""), core[:1].lower() + core[1:]))
        return command

    # ---- words of a prompt

    def word_of(self, prompt: str, said: str) -> str:
        """The word or words of `prompt` that `said` means, as they stand there; "" if it has none. Plural, case and
        articles do not matter."""
        wanted = [self.stem(word) for word in _plain(said).split() if word not in self.articles]
        found = list(_WORD.finditer(prompt))
        stems = [self.stem(one[0].casefold()) for one in found]
        for at in range(len(stems) - len(wanted) + 1):
            if wanted and stems[at : at + len(wanted)] == wanted:
                return prompt[found[at].start() : found[at + len(wanted) - 1].end()]
        return ""

    def stem(self, word: str) -> str:
        """A word without the ending of its plural or case."""
        ending = next((one for one in self.endings if word.endswith(one) and len(word) > len(one) + 2), "")
        return word.removesuffix(ending)


def _plain(phrase: str) -> str:
    return " ".join(one[0].casefold().replace("’", "'") for one in _WORD.finditer(phrase))


def _either(phrases: Iterable[str]) -> str:
    """A pattern for any of the phrases, the longest first; each word ends with a space."""
    plain = sorted({_plain(phrase) for phrase in phrases} - {""}, key=len, reverse=True)
    return f"(?:{'|'.join(re.escape(phrase) + ' ' for phrase in plain)})" if plain else "(?!)"


def languages() -> tuple[str, ...]:
    """The codes of the languages that have a grammar."""
    return tuple(sorted(file.stem for file in LANGUAGES.glob("*.toml")))


def all_of(
    language: str, translate: bool = False, styles: Iterable[str] = (), models: Iterable[str] = ()
) -> list[Grammar]:
    """The grammars of the languages that may be spoken. language: as in Settings; auto: all that are here."""
    codes = ("en",) if translate else languages() if language == "auto" else (language,)
    return [found for code in codes if (found := Grammar.of(code, styles, models))]


@lru_cache
def _file(language: str) -> Mapping[str, Any] | None:
    file = LANGUAGES / f"{language}.toml"
    return toml.read(file) if file.is_file() else None
