"""Train the classifier of helpers/words/kinds.py: multinomial logistic regression on prompts by rule, from the nouns of
WordNet 3.1, and on some by hand (prompt_kinds.tsv). It is judged with tests/data/prompt_kinds.tsv, from another source.

    python -m training.prompt_kinds DICT     # WordNet's folder: the files data.noun and index.noun
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np

from helpers.core.paths import ROOT
from helpers.words.kinds import ENDINGS, FILE, KINDS, Features, Model, features, scores
from training.builtin.kinds import WordNet

HAND = Path(__file__).with_name("prompt_kinds.tsv")
HELD_OUT = ROOT / "tests" / "data" / "prompt_kinds.tsv"
# For each kind, words of WordNet's synsets below which its nouns are; the first that fits counts.
ROOTS = (
    (
        "fantasy",
        "imaginary_being spiritual_being mythical_monster mythical_being monster automaton extraterrestrial_being",
    ),
    ("interior", "room"),
    ("clothing", "clothing footwear garment headdress jewelry"),
    ("vehicle", "vehicle craft conveyance"),
    ("building", "building tower bridge house place_of_worship fortification city municipality housing memorial"),
    ("person", "person people social_group gathering"),
    ("animal", "animal"),
    ("food", "food foodstuff beverage edible_fruit vegetable nutriment fruit"),
    ("plant", "plant plant_organ plant_part fungus vegetation flower"),
    (
        "landscape",
        "geological_formation body_of_water land celestial_body atmospheric_phenomenon tract natural_elevation"
        " geographical_area way weather geographic_point shore",
    ),
    ("object", "artifact piece_of_cloth"),
    (
        "abstract",
        "attribute state feeling cognition act event process measure relation psychological_feature phenomenon",
    ),
)
TEMPLATES = (
    "a {}", "a {}", "{}", "two {}s", "a {} {place}", "a {adjective} {}", "a {adjective} {} {place}",
    "the {} with a {other}", "a {} next to a {other}", "a photo of a {}", "a {} wearing a {other}",
    "a {} made of {other}", "a {} in front of a {other}",
)  # fmt: skip
ADJECTIVES = "red blue old small big white black beautiful wooden happy futuristic golden broken green dark".split()  # noqa: SIM905
PLACES = "on the beach|in a forest|at night|on a table|in the rain|in space|in a field|on a hill|in the city|at sunset"
SENSES = 3  # of a noun that are looked at
EACH = 4  # prompts of a noun
HAND_WEIGHT = 12  # times that a prompt made by hand counts
EPOCHS, RATE, DECAY = 4, 0.5, 1e-4


def _kind(wordnet: WordNet, sense: str) -> str:
    """The kind of a synset; "" if none fits, or if it is a name."""
    if wordnet.synsets[sense].words[0][0].isupper():
        return ""
    words = {name.casefold() for synset in wordnet.chain(sense) for name in wordnet.synsets[synset].words}
    return next((kind for kind, roots in ROOTS if words & set(roots.split())), "")


def nouns(wordnet: WordNet, said: set[str]) -> dict[str, str]:
    """{noun: kind} by its first senses; said: words that people say. Of animals and food, the others are taken, too."""
    found = {}
    for word, senses in wordnet.senses.items():
        if "_" in word:
            continue
        kinds = [kind for sense in senses[:SENSES] if (kind := _kind(wordnet, sense))]
        if not kinds or (word not in said and kinds[0] not in ("animal", "food")):
            continue
        concrete = [kind for kind in kinds if kind not in ("abstract", "person")]
        if "animal" in kinds[:2] and kinds[0] in ("person", "food"):  # a whale, an octopus
            found[word] = "animal"
        elif "food" in kinds[:2] and kinds[0] == "plant":  # a banana
            found[word] = "food"
        else:
            found[word] = (concrete or kinds)[0] if kinds[0] == "abstract" else kinds[0]
    return found


def prompts(kinds: dict[str, str], random: Random) -> Iterator[tuple[str, str]]:
    """(prompt, kind) by rule, and those made by hand."""
    names = sorted(kinds)
    for word in names:
        for _ in range(EACH):
            template = random.choice(TEMPLATES)
            text = template.replace("{}s", f"{word}s").replace("{}", word)
            text = text.replace("{place}", random.choice(PLACES.split("|"))).replace(
                "{adjective}", random.choice(ADJECTIVES)
            )
            yield text.replace("{other}", random.choice(names)), kinds[word]
    for _ in range(HAND_WEIGHT):
        yield from read(HAND)


def read(file: Path) -> list[tuple[str, str]]:
    """(prompt, kind) of each line."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [(line.partition("\t")[2], line.partition("\t")[0]) for line in lines if not line.startswith("#")]


def train(examples: list[tuple[Features, int]], random: Random) -> Model:
    """Stochastic gradient descent, one example after the other."""
    words: dict[str, int] = {}
    for seen, _ in examples:
        for word in (seen.head, *seen.others):
            words.setdefault(word, len(words))
    shape = len(words), len(KINDS)
    head, other = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    ending, bias = np.zeros((ENDINGS, len(KINDS)), np.float32), np.zeros(len(KINDS), np.float32)
    for epoch in range(EPOCHS):
        random.shuffle(examples)
        rate = RATE / (1 + epoch)
        for seen, kind in examples:
            row, rows = words[seen.head], [words[word] for word in seen.others]
            total = bias + head[row] + ending[seen.endings].sum(0) + other[rows].sum(0)
            error = np.exp(total - total.max())
            error /= error.sum()
            error[kind] -= 1
            head[row] -= 3 * rate * (error + DECAY * head[row])
            other[rows] -= rate * 0.2 * error
            ending[seen.endings] -= rate * 0.1 * error
    return Model(words, head, other, ending, bias)


def save(model: Model, file: Path) -> None:
    """Write the model with 8-bit weights; words that hardly matter are left out."""
    kept = [word for word, row in model.words.items() if max(np.ptp(model.head[row]), np.ptp(model.other[row])) > 0.5]
    rows = [model.words[word] for word in kept]
    tables = {"head": model.head[rows], "other": model.other[rows], "ending": model.ending, "bias": model.bias}
    scale = np.float32(max(np.abs(table).max() for table in tables.values()) / 127)
    small = {name: (table / scale).round().astype(np.int8) for name, table in tables.items()}
    np.savez_compressed(
        file,
        words=np.frombuffer("\n".join(kept).encode(), np.uint8),
        scale=scale,
        **small,  # type: ignore[arg-type]
    )


def accuracy(model: Model, examples: list[tuple[str, str]]) -> float:
    right = [KINDS[int(scores(model, text).argmax())] == kind for text, kind in examples]
    return sum(right) / len(right)


def main() -> None:
    from pocketsphinx import get_model_path

    dictionary = Path(get_model_path("en-us/cmudict-en-us.dict"))
    said = {line.split()[0] for line in dictionary.read_text(encoding="utf-8").splitlines()}
    random = Random(0)
    kinds = nouns(WordNet(Path(sys.argv[1])), said)
    examples = [(features(text), KINDS.index(kind)) for text, kind in prompts(kinds, random)]
    save(train(examples, random), FILE)
    from helpers.words.kinds import load

    held_out = read(HELD_OUT)
    print(f"{len(kinds)} nouns, {len(examples)} prompts, {FILE.stat().st_size} bytes")
    print(f"right: {accuracy(load(), held_out):.1%} of {len(held_out)} prompts of another source")


if __name__ == "__main__":
    main()
