"""The user's own words: `vocabulary.txt`, the names that a recogniser should expect, and `replacements.csv`, what is
written instead of what it heard. Both lie in the program's folder, and neither has to be there.

    words = own_words.vocabulary(settings.vocabulary)
    corrections = own_words.Corrections(settings.replacements)
    corrections.applied("um, a sorblacks on the beach", "en")     # "a Zorblax on the beach"

Only spoken text is corrected, never a typed prompt.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from helpers.core.errors import UserError
from helpers.core.settings import Settings
from helpers.core.text import printable
from helpers.words.repetition import UNSPACED

FILLERS = Path(__file__).with_name("fillers.json")

LARGEST = 1 << 20  # bytes of a file
MOST_WORDS = 500  # of vocabulary.txt
MOST_ROWS = 5000  # of replacements.csv
LONGEST = 100  # characters of a name, or of what was heard
LONGEST_MEANT = 500  # characters

# Other programs' lists have these two columns, in either order, and a tab or a comma between them. Talon's
# words_to_replace.csv is the one with the meant word first.
_HEARD = {"heard", "original", "from", "spoken", "spoken form", "source", "wrong", "incorrect", "misspelling", "find"}
_MEANT = {"meant", "replacement", "to", "written", "output", "target", "corrected", "correct", "replace"}


def vocabulary(path: Path = Settings.vocabulary) -> tuple[str, ...]:
    """The names in a file: one on each line; an empty line, and one that begins with #, is skipped.

    Raises: UserError 65 for a bad line, with its number; 66 if a file other than the default one is missing.
    """
    words: dict[str, None] = {}
    for number, line in _lines(path, Settings.vocabulary):
        if not re.search(r"[^\W\d_]", line):
            raise _bad(path, number, "a name needs a letter")
        if len(line) > LONGEST:
            raise _bad(path, number, f"longer than {LONGEST} characters")
        words[line] = None
        if len(words) > MOST_WORDS:
            raise _bad(path, number, f"more than {MOST_WORDS} names")
    return tuple(words)


def replacements(path: Path = Settings.replacements) -> dict[str, str]:
    """What is meant by what was heard (in lower case, with single spaces), from a file with two columns.

    Columns are separated by commas, or by tabs if the first line has one. A first line with the names of the columns
    may give their order. An empty second column deletes what was heard. Of two rows for the same words, the last
    counts.

    Raises: UserError 65 for a bad row, with its number; 66 if a file other than the default one is missing.
    """
    rules: dict[str, str] = {}
    tab, swapped, first = False, False, True
    for number, line in _lines(path, Settings.replacements):
        tab = tab or (first and "\t" in line)
        try:
            cells = next(csv.reader([line], delimiter="\t" if tab else ",", skipinitialspace=True, strict=True))
        except csv.Error as error:
            raise _bad(path, number, str(error)) from error
        if len(cells) != 2:
            raise _bad(path, number, f"{len(cells)} columns instead of 2 (heard,meant)")
        heard, meant = (printable(cell) for cell in cells)
        names = heard.casefold(), meant.casefold()
        swaps = names[0] in _MEANT and names[1] in _HEARD
        if first and (swaps or (names[0] in _HEARD and names[1] in _MEANT)):
            swapped = swaps
        else:
            if swapped:
                heard, meant = meant, heard
            if not heard:
                raise _bad(path, number, "what was heard is empty")
            if len(heard) > LONGEST or len(meant) > LONGEST_MEANT:
                raise _bad(path, number, f"longer than {LONGEST} characters (heard) or {LONGEST_MEANT} (meant)")
            rules[heard.casefold()] = meant
            if len(rules) > MOST_ROWS:
                raise _bad(path, number, f"more than {MOST_ROWS} rows")
        first = False
    return rules


def _lines(path: Path, default: Path) -> Iterator[tuple[int, str]]:
    """(number, text) of each line that says something."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError as error:
        if path == default:
            return
        raise UserError(os.EX_NOINPUT, f"there is no file {path}", "Check the name.") from error
    except OSError as error:
        raise UserError(os.EX_NOINPUT, f"cannot read {path}: {error.strerror}", "Check the file.") from error
    if len(data) > LARGEST:
        raise UserError(os.EX_DATAERR, f"{path} is larger than 1 MiB", "Keep only the words that you use.")
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        try:
            line = raw.decode().replace("\0", " ").strip(" \r\n")
        except UnicodeDecodeError as error:
            raise _bad(path, number, "not UTF-8") from error
        if line.strip() and not line.startswith("#"):
            yield number, line if "\t" in line else printable(line)


def _bad(path: Path, number: int, problem: str) -> UserError:
    return UserError(os.EX_DATAERR, f"{path}, line {number}: {problem}", "Correct this line, or delete it.")


class Corrections:
    """Replaces what was heard by what is meant, and removes fillers, in one pass: a replacement is not read again."""

    def __init__(self, path: Path = Settings.replacements) -> None:
        """Raises what `replacements` raises."""
        self._rules = replacements(path)
        self._fillers: dict[str, list[str]] = json.loads(FILLERS.read_text(encoding="utf-8"))["fillers"]
        self._patterns: dict[str, re.Pattern[str]] = {}

    def applied(self, text: str, language: str) -> str:
        """`text` with the replacements, and without the fillers of `language` (a code; unknown: no fillers)."""
        if language not in self._patterns:
            self._patterns[language] = self._pattern(language)
        out = ""
        capital = False  # whether a filler took the capital letter of the sentence with it
        end = 0
        for found in self._patterns[language].finditer(text):
            between, end = text[end : found.start()], found.end()
            out, capital = _joined(out, between, capital)
            said = found[0]
            if found.lastgroup == "rule":
                key = " ".join(said.casefold().split())
                out, capital = _joined(out, self._rules.get(key, said), capital)
            elif len(said.rstrip()) > 1 and found["filler"].isupper():  # UM and ER are abbreviations
                out += said
            else:
                begins = not out.strip() or out.rstrip()[-1] in ".!?"
                capital = capital or (begins and found["filler"][0].isupper())
                out = _without_filler(out, found["after"])
        if end and not text[end:].strip():
            out = out.rstrip(" ,;:—–-")  # what separated a last filler from the rest
        out, _ = _joined(out, text[end:], capital)
        return re.sub(r"\s+", " ", out).strip()

    def _pattern(self, language: str) -> re.Pattern[str]:
        rules = "|".join(map(_whole, sorted(self._rules, key=len, reverse=True)))
        fillers = "|".join(map(re.escape, sorted(self._fillers.get(language, ()), key=len, reverse=True)))
        parts = [f"(?P<rule>{rules})"] if rules else []
        if fillers:
            before, behind = r"(?<![\w'’-])", r"(?![\w'’]|-\w)"
            parts.append(rf"{before}(?P<filler>{fillers}){behind}(?P<after>[,;.:…!?—–、，。！？-]*)\s*")
        return re.compile("|".join(parts) or r"(?!)", re.IGNORECASE)


def _whole(heard: str) -> str:
    """A pattern for `heard` as whole words; in scripts without spaces, anywhere."""
    inside = rf"\w(?<![{UNSPACED}])"
    before = rf"(?<!{inside})" if re.match(inside, heard) else ""
    behind = rf"(?!{inside})" if re.match(inside, heard[-1]) else ""
    return before + r"\s+".join(map(re.escape, heard.split())) + behind


def _joined(out: str, more: str, capital: bool) -> tuple[str, bool]:
    """`out` and `more`, which begins with a capital letter if `capital`; and whether the capital is still to come."""
    if capital and more.strip():
        begin = len(more) - len(more.lstrip())
        return out + more[:begin] + more[begin].upper() + more[begin + 1 :], False
    return out + more, capital


def _without_filler(out: str, after: str) -> str:
    """`out` before a filler, with the punctuation `after` it where `out` has none of its own."""
    before = out.rstrip()
    if not before:
        return ""
    if before[-1] in ",;:、，—–-" and after[:1] in tuple(".!?…。！？"):
        return f"{before[:-1].rstrip()}{after} "
    return f"{before}{after} " if before[-1].isalnum() and after else f"{before} "
