"""The language model and the dictionary of the built-in recogniser: proper, complete and current."""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from pathlib import Path

import pytest

from training.builtin import language_model, vocabulary
from training.builtin.language_model import LANGUAGE_MODEL, PRONUNCIATIONS, spoken

TEXTS = ["a cat on the beach", "a dog on the beach", "the cat", "a cat in the snow", "a cat in the snow"]
REMEDY = "run: python -m training.builtin.language_model"


def read(arpa: str) -> tuple[dict[tuple[str, ...], float], dict[tuple[str, ...], float]]:
    """Probabilities and back-off weights of a model in ARPA format."""
    probability, backoff = {}, {}
    sections = re.findall(r"\\(\d)-grams:\n(.*?)\n\n", arpa, re.DOTALL)
    for n, body in ((int(n), body) for n, body in sections):
        lines = body.splitlines()
        assert f"ngram {n}={len(lines)}\n" in arpa
        for line in lines:
            score, *words = line.split()
            if n < 3:
                backoff[tuple(words[:n])] = 10 ** float(words.pop())
            probability[tuple(words)] = 10 ** float(score)
    return probability, backoff


@pytest.fixture(scope="module")
def shipped() -> tuple[dict[tuple[str, ...], float], dict[tuple[str, ...], float]]:
    return read(LANGUAGE_MODEL.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_shipped_files_are_current(tmp_path: Path) -> None:
    language_model.write_files(tmp_path)
    for file in (LANGUAGE_MODEL, PRONUNCIATIONS):
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), REMEDY
    assert sum(file.stat().st_size for file in language_model.RECOGNISER.iterdir()) < 1_000_000


def test_every_word_has_a_pronunciation_and_a_probability(
    shipped: tuple[dict[tuple[str, ...], float], dict[tuple[str, ...], float]],
) -> None:
    words = set((vocabulary.FOLDER / "words.txt").read_text(encoding="utf-8").split()) - set(language_model.NUMBERS)
    assert len(words) > 200
    pronounced = {line.split()[0] for line in PRONUNCIATIONS.read_text(encoding="utf-8").splitlines()}
    assert words <= pronounced
    assert {(word,) for word in words} <= set(shipped[0])
    every_caption = vocabulary.caption_words() - set(language_model.NUMBERS)
    assert every_caption <= pronounced
    assert not set(language_model.PRONUNCIATION) - pronounced  # none for a word that is gone


@pytest.mark.parametrize("rarest", [1, 2])
def test_probabilities_add_up_to_one_after_every_history(rarest: int) -> None:
    probability, backoff = read(language_model.language_model(TEXTS, ["unicorn"], rarest))
    words = [ngram[0] for ngram in probability if len(ngram) == 1 and ngram != ("<s>",)]
    assert {"unicorn", "</s>"} < set(words) and len(words) == 10

    def p(*ngram: str) -> float:
        if ngram in probability:
            return probability[ngram]
        return backoff.get(ngram[:-1], 1) * p(*ngram[1:])

    histories = [(), *((word,) for word in (*words, "<s>")), *itertools.product((*words, "<s>"), words)]
    for history in histories:
        assert sum(p(*history, word) for word in words) == pytest.approx(1, abs=0.01), history


def test_the_shipped_probabilities_add_up(
    shipped: tuple[dict[tuple[str, ...], float], dict[tuple[str, ...], float]],
) -> None:
    probability, backoff = shipped
    assert sum(p for ngram, p in probability.items() if len(ngram) == 1) == pytest.approx(1, abs=0.01)
    seen: defaultdict[tuple[str, ...], float] = defaultdict(float)
    below: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for ngram, p in probability.items():
        if len(ngram) == 2:
            seen[ngram[:1]] += p
            below[ngram[:1]] += probability[ngram[1:]]
    for history, total in seen.items():
        assert total + backoff[history] * (1 - below[history]) == pytest.approx(1, abs=0.02), history


def test_what_is_said_often_is_likely() -> None:
    probability, _ = read(language_model.language_model(TEXTS, [], rarest=1))
    assert probability["a", "cat"] > probability["a", "dog"]
    assert probability["the",] > probability["dog",]  # it follows three words, and a dog one
    # Kneser-Ney by hand: "in the snow" is there twice, three words stand after "the", and "snow" ends 1 of 15 bigrams.
    snow = (1 - 0.7) / 15 + 0.7 * 9 / 15 / 9
    the_snow = (1 - 0.7) / 3 + 0.7 * 3 / 3 * snow
    assert probability["snow",] == pytest.approx(snow, rel=0.01)
    assert probability["in", "the", "snow"] == pytest.approx((2 - 0.7) / 2 + 0.7 / 2 * the_snow, rel=0.01)


def test_sentences_are_captions_and_never_held_out() -> None:
    sentences = list(language_model.sentences(3000))
    assert sentences == list(language_model.sentences(3000))
    assert not [text for text in sentences if re.search(r"[^a-z' ]|\bgrey\b|\bunder water\b", text)]
    assert not [text for text in sentences if re.search(r"\bcat\b.*(on|at) the beach", text)]
    assert any("tiger" in text for text in sentences) and any("burger" in text for text in sentences)


def test_spoken() -> None:
    assert spoken("Draw 2 Grey cats, under water!") == "draw two gray cats underwater"
    assert spoken("I’d like 3 doughnuts") == "i'd like three donuts"
    assert math.isclose(sum(language_model.count_ngrams(["a b"])[1].values()), 4)
