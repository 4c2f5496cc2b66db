"""Make the built-in recogniser's trigram language model and pronunciation dictionary, from the same captions that the
image model is trained on.

    python -m training.builtin.language_model     # after a change of vocabulary.py: rewrites recogniser/
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

from training.builtin import vocabulary
from training.builtin.vocabulary import FOLDER

RECOGNISER = FOLDER / "recogniser"
LANGUAGE_MODEL, PRONUNCIATIONS = RECOGNISER / "captions.arpa", RECOGNISER / "pronunciations.dict"

SENTENCES = 60_000  # 20,000 gave a word error rate of 6.1 % instead of 5.3 %; 120,000 changed nothing
DISCOUNT = 0.7  # of Kneser-Ney; 0.9 gave the same
RAREST = 2  # rarer trigrams are dropped (bigrams replace them), which halves the file
ORDER = 3

# Spellings that sound the same. The recogniser cannot distinguish them, so it always writes the second one.
SAME_SOUND = {"grey": "gray", "under water": "underwater", "doughnut": "donut", "hotdog": "hot dog"}
COMMAND = "stop listening"  # ends a loop
COMMANDS = 1 / 300  # share of the sentences

NUMBERS = {"2": "two", "3": "three"}

# Words missing in pocketsphinx's CMU dictionary, in its phones.
PRONUNCIATION = {
    "aeroplane": "EH R AH P L EY N",
    "aeroplanes": "EH R AH P L EY N Z",
    "brontosauruses": "B R AO N T AH S AO R AH S IH Z",
    "cactuses": "K AE K T AH S IH Z",
    "kitties": "K IH T IY Z",
    "ladybirds": "L EY D IY B ER D Z",
    "octopuses": "AA K T AH P UH S IH Z",
    "piggies": "P IH G IY Z",
    "snowmans": "S N OW M AE N Z",
    "spacecrafts": "S P EY S K R AE F T S",
    "teddies": "T EH D IY Z",
    "toadstool": "T OW D S T UW L",
    "toadstools": "T OW D S T UW L Z",
    "unicorns": "Y UW N IH K AO R N Z",
}

Ngram = tuple[str, ...]


def spoken(text: str) -> str:
    """`text` as the recogniser would write it: only words, in lower case, with one spelling for each sound."""
    words = " ".join(NUMBERS.get(word, word) for word in vocabulary.split_words(text.replace("’", "'")))
    for spelling, written in SAME_SOUND.items():
        words = re.sub(rf"\b{spelling}(s?)\b", rf"{written}\1", words)
    return words


def sentences(count: int = SENTENCES, seed: int = 0) -> Iterator[str]:
    """`count` random captions without held-out scenes, and the command once per 300 captions."""
    random = Random(seed)
    for _ in range(count):
        yield spoken(vocabulary.caption(vocabulary.sample_scene(random), random))
    yield from [COMMAND] * round(count * COMMANDS)


def all_words() -> list[str]:
    """Every word that the recogniser can write, sorted: those of all captions and of `words.txt`."""
    shipped = (FOLDER / "words.txt").read_text(encoding="utf-8")
    captions = {*vocabulary.caption_words(), *vocabulary.split_words(shipped)}
    return sorted((captions - set(NUMBERS)) | set(COMMAND.split()))


def count_ngrams(texts: Iterable[str]) -> list[Counter[Ngram]]:
    """How often each n-gram occurs, by n from 1 to 3; the first element is empty."""
    counts: list[Counter[Ngram]] = [Counter() for _ in range(ORDER + 1)]
    for text in texts:
        words = ("<s>", *text.split(), "</s>")
        for n in range(1, ORDER + 1):
            counts[n].update(words[i : i + n] for i in range(len(words) - n + 1))
    return counts


def language_model(texts: Iterable[str], words: Iterable[str], rarest: int = RAREST) -> str:
    """A trigram model of `texts` over their words and `words`, in ARPA format.

    Interpolated Kneser-Ney smoothing (Chen and Goodman, An Empirical Study of Smoothing Techniques for Language
    Modeling, 1999, section 2.7) with one discount. Trigrams that occur less than `rarest` times are left out.
    """
    counts = count_ngrams(texts)
    # Below the highest order, Kneser-Ney counts how many different words precede an n-gram, not its occurrences.
    follows: list[Counter[Ngram]] = [Counter() for _ in range(ORDER)] + [counts[ORDER]]
    for n in range(ORDER, 1, -1):
        follows[n - 1].update(ngram[1:] for ngram in counts[n])
        follows[n - 1].update({ngram: count for ngram, count in counts[n - 1].items() if ngram[0] == "<s>"})
    del follows[1][("<s>",)]  # the start mark is not a word

    probability: dict[Ngram, float] = {}
    backoff: dict[Ngram, float] = {}
    vocabulary_ = {(word,) for word in words} | set(follows[1])
    for n in range(1, ORDER + 1):
        by_history: defaultdict[Ngram, list[Ngram]] = defaultdict(list)
        for ngram in follows[n]:
            by_history[ngram[:-1]].append(ngram)
        for history, ngrams in by_history.items():
            total = sum(follows[n][ngram] for ngram in ngrams)
            rest = DISCOUNT * len(ngrams) / total
            if n == 1:
                for word in vocabulary_:
                    probability[word] = max(follows[1][word] - DISCOUNT, 0) / total + rest / len(vocabulary_)
                continue
            backoff[history] = rest
            for ngram in ngrams:
                probability[ngram] = (follows[n][ngram] - DISCOUNT) / total + rest * probability[ngram[1:]]
    for ngram, count in counts[ORDER].items():
        if count < rarest:
            del probability[ngram]
    _renormalise(probability, backoff)
    return _arpa(probability, backoff)


def _renormalise(probability: dict[Ngram, float], backoff: dict[Ngram, float]) -> None:
    """Set each back-off weight so that the probabilities after its history add up to one."""
    seen: defaultdict[Ngram, float] = defaultdict(float)
    below: defaultdict[Ngram, float] = defaultdict(float)
    for ngram, p in probability.items():
        if len(ngram) > 1:
            seen[ngram[:-1]] += p
            below[ngram[:-1]] += probability[ngram[1:]]
    for history in backoff:
        backoff[history] = (1 - seen[history]) / (1 - below[history])


def _arpa(probability: dict[Ngram, float], backoff: dict[Ngram, float]) -> str:
    probability[("<s>",)] = 1e-99  # the format requires this line
    lines = ["\\data\\"]
    orders = [sorted(ngram for ngram in probability if len(ngram) == n) for n in range(1, ORDER + 1)]
    lines += [f"ngram {n}={len(ngrams)}" for n, ngrams in enumerate(orders, 1)]
    for n, ngrams in enumerate(orders, 1):
        lines += ["", f"\\{n}-grams:"]
        for ngram in ngrams:
            line = f"{math.log10(probability[ngram]):.3f} {' '.join(ngram)}"
            lines.append(f"{line} {math.log10(backoff.get(ngram, 1)):.3f}" if n < ORDER else line)
    return "\n".join([*lines, "", "\\end\\", ""])


def pronunciations(words: Iterable[str]) -> str:
    """The pronunciation dictionary of `words`: all variants in the CMU dictionary, or our own.

    Raises: KeyError for a word in neither.
    """
    import pocketsphinx

    dictionary: defaultdict[str, list[str]] = defaultdict(list)
    for line in Path(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict")).read_text("utf-8").splitlines():
        word, phones = line.split(maxsplit=1)
        dictionary[word.partition("(")[0]].append(phones)
    lines = []
    for word in words:
        for variant, phones in enumerate(dictionary.get(word) or [PRONUNCIATION[word]], 1):
            lines.append(f"{word}{f'({variant})' if variant > 1 else ''} {phones}\n")
    return "".join(lines)


def write_files(folder: Path = RECOGNISER) -> None:
    """Write both files into `folder`."""
    words = all_words()
    folder.mkdir(exist_ok=True)
    (folder / PRONUNCIATIONS.name).write_text(pronunciations(words), encoding="utf-8")
    (folder / LANGUAGE_MODEL.name).write_text(language_model(sentences(), words), encoding="utf-8")


if __name__ == "__main__":
    write_files()
