"""The words of the built-in model's little world: what can be in a scene, and how people ask for it.

Everything that speaks of this world reads it here: the scenes that the model is trained on, the captions that go
with them, the language model of the built-in recogniser, the list of words that the model knows
(`words.txt`) and the model card. Standard library only.

The order of the subjects and of the backgrounds is part of the held-out rule, and thereby of every trained weight.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent.parent.parent / "models" / "builtin"

# ------------------------------------------------------------------------------------------------ what there is

GLYPHS = {  # kind: {subject: its character in Noto Color Emoji}
    "food": {
        "apple": "🍎", "banana": "🍌", "orange": "🍊", "lemon": "🍋", "strawberry": "🍓", "watermelon": "🍉",
        "cherry": "🍒", "pineapple": "🍍", "peach": "🍑", "pear": "🍐", "avocado": "🥑", "carrot": "🥕",
        "corn": "🌽", "broccoli": "🥦", "mushroom": "🍄", "burger": "🍔", "pizza": "🍕", "hot dog": "🌭",
        "taco": "🌮", "sandwich": "🥪", "bread": "🍞", "cheese": "🧀", "cake": "🎂", "cupcake": "🧁",
        "donut": "🍩", "cookie": "🍪", "ice cream": "🍦", "coffee": "☕", "egg": "🍳", "popcorn": "🍿",
        "croissant": "🥐", "fries": "🍟",
    },
    "animal": {
        "cat": "🐈", "dog": "🐕", "horse": "🐎", "cow": "🐄", "pig": "🐖", "sheep": "🐑", "chicken": "🐔",
        "chick": "🐥", "duck": "🦆", "owl": "🦉", "bird": "🐦", "parrot": "🦜", "penguin": "🐧", "fish": "🐟",
        "dolphin": "🐬", "whale": "🐳", "shark": "🦈", "octopus": "🐙", "crab": "🦀", "turtle": "🐢",
        "crocodile": "🐊", "snake": "🐍", "frog": "🐸", "butterfly": "🦋", "bee": "🐝", "ladybug": "🐞",
        "snail": "🐌", "elephant": "🐘", "lion": "🦁", "tiger": "🐅", "monkey": "🐒", "bear": "🐻",
        "panda": "🐼", "rabbit": "🐇", "mouse": "🐁", "fox": "🦊", "wolf": "🐺", "giraffe": "🦒", "zebra": "🦓",
        "camel": "🐪", "dinosaur": "🦕", "dragon": "🐉", "unicorn": "🦄",
    },
    "thing": {
        "car": "🚗", "bus": "🚌", "truck": "🚚", "train": "🚂", "bicycle": "🚲", "motorcycle": "🏍",
        "airplane": "✈", "helicopter": "🚁", "rocket": "🚀", "boat": "⛵", "ship": "🚢", "tractor": "🚜",
        "house": "🏠", "castle": "🏰", "tree": "🌳", "palm tree": "🌴", "christmas tree": "🎄", "cactus": "🌵",
        "sunflower": "🌻", "tulip": "🌷", "rose": "🌹", "flower": "🌸", "sun": "☀", "moon": "🌙", "star": "⭐",
        "snowman": "⛄", "fire": "🔥", "heart": "❤", "balloon": "🎈", "gift": "🎁", "soccer ball": "⚽",
        "basketball": "🏀", "guitar": "🎸", "piano": "🎹", "drum": "🥁", "trumpet": "🎺", "violin": "🎻",
        "book": "📖", "key": "🔑", "diamond": "💎", "crown": "👑", "hat": "🎩", "umbrella": "☂", "shoe": "👟",
        "camera": "📷", "light bulb": "💡", "robot": "🤖", "ghost": "👻", "alien": "👽", "pumpkin": "🎃",
        "teddy bear": "🧸", "clock": "⏰", "computer": "💻", "phone": "📱", "ufo": "🛸",
    },
}  # fmt: skip
GLYPH = {subject: glyph for kind in GLYPHS.values() for subject, glyph in kind.items()}
SUBJECTS = tuple(GLYPH)
KIND = {subject: kind for kind, subjects in GLYPHS.items() for subject in subjects}

SYNONYMS: Mapping[str, Sequence[str]] = {
    "burger": ["hamburger", "cheeseburger"], "donut": ["doughnut"], "cookie": ["biscuit"],
    "cake": ["birthday cake"], "pizza": ["slice of pizza", "pizza slice"], "hot dog": ["hotdog"],
    "ice cream": ["ice cream cone"], "coffee": ["cup of coffee", "cup of tea", "coffee cup"],
    "egg": ["fried egg"], "fries": ["french fries"], "corn": ["ear of corn"], "mushroom": ["toadstool"],
    "pumpkin": ["jack o lantern"],
    "cat": ["kitty", "kitten"], "dog": ["puppy"], "horse": ["pony"], "pig": ["piggy"], "sheep": ["lamb"],
    "chicken": ["hen"], "rabbit": ["bunny"], "bear": ["brown bear"], "bird": ["blue bird"],
    "dinosaur": ["brontosaurus"], "crocodile": ["alligator"], "ladybug": ["ladybird"], "whale": ["blue whale"],
    "car": ["automobile"], "bicycle": ["bike"], "motorcycle": ["motorbike"],
    "airplane": ["plane", "jet", "aeroplane"], "rocket": ["spaceship", "rocket ship", "spacecraft"],
    "boat": ["sailboat", "sailing boat"], "truck": ["lorry"], "train": ["locomotive", "steam train"],
    "ship": ["cruise ship"], "house": ["home", "cottage"], "gift": ["present"],
    "soccer ball": ["football", "ball"], "hat": ["top hat"], "shoe": ["sneaker"], "light bulb": ["lamp"],
    "teddy bear": ["teddy"], "clock": ["alarm clock"], "computer": ["laptop"],
    "phone": ["smartphone", "mobile phone"], "ufo": ["flying saucer"], "flower": ["blossom"], "fire": ["flame"],
    "tree": ["oak tree"], "diamond": ["gem", "jewel"], "moon": ["crescent moon"],
    "alien": ["extraterrestrial"], "star": ["yellow star"],
}  # fmt: skip

MASS = frozenset({"corn", "broccoli", "bread", "cheese", "fries", "fire", "popcorn"})  # no article, no counting
UNIQUE = frozenset({"sun", "moon"})  # "the sun"; no counting

HUES = {"red": 0, "orange": 26, "yellow": 50, "green": 120, "blue": 215, "purple": 275, "pink": 325}  # degrees
PAINTABLE = (  # subjects that can have any hue
    "car", "truck", "apple", "heart", "balloon", "butterfly", "bird", "cat", "fish", "tulip", "rose", "crown",
    "umbrella", "dragon", "star", "shoe", "helicopter", "dinosaur", "motorcycle", "gift",
)  # fmt: skip

PLAIN = {  # backgrounds of one colour (sRGB)
    "white": (248, 248, 248), "black": (18, 18, 20), "gray": (150, 152, 155), "red": (214, 48, 49),
    "orange": (245, 145, 40), "yellow": (250, 215, 70), "green": (70, 175, 85), "blue": (60, 125, 230),
    "purple": (140, 80, 200), "pink": (250, 160, 195), "brown": (135, 90, 55), "cream": (250, 240, 222),
}  # fmt: skip
UNSAID = "cream"  # the background of a caption that names none

SETTINGS: Mapping[str, Sequence[str]] = {  # setting: phrases for it
    "night": ["at night", "under the stars", "under a starry sky", "in the night sky", "at midnight"],
    "space": ["in space", "in outer space", "among the planets", "floating in space", "in the galaxy"],
    "beach": ["on the beach", "at the beach", "on a sandy beach", "by the sea", "on the sand"],
    "ocean": ["on the ocean", "on the sea", "on the water", "on the waves", "at sea"],
    "underwater": ["under water", "underwater", "under the sea", "at the bottom of the sea"],
    "snow": ["in the snow", "on the snow", "in winter", "in a snowy landscape", "on a snowy day"],
    "forest": ["in a forest", "in the forest", "in the woods", "among the trees", "in the jungle"],
    "meadow": ["in a meadow", "on the grass", "in a field", "in the garden", "in a park", "on a green field"],
    "desert": ["in the desert", "on the sand dunes", "in a desert"],
    "mountains": ["in the mountains", "in front of mountains", "with mountains behind"],
    "sunset": ["at sunset", "in front of a sunset", "in the evening sun", "at sunrise", "at dusk"],
    "city": ["in the city", "in a city", "on the street", "in front of skyscrapers", "in town", "downtown"],
    "clouds": ["in the sky", "in the clouds", "among the clouds", "in a blue sky", "above the clouds"],
    "table": ["on a table", "on a wooden table", "on the table", "in the kitchen", "on a desk"],
}
BACKGROUNDS = (*PLAIN, *SETTINGS)

# --------------------------------------------------------------------------------------------- captions

# Frequent phrases are listed several times, since all entries have equal probability.
PREFIXES = (
    *[""] * 4, "draw ", "draw me ", "please draw ", "can you draw ", "could you draw me ", "paint ", "paint me ",
    "show me ", "make ", "make me ", "create ", "generate ", "i want ", "i want to see ", "i would like ",
    "i'd like to see ", "imagine ", "give me ", "a picture of ", "a picture of ", "an image of ", "a drawing of ",
    "a photo of ", "a painting of ", "draw a picture of ", "draw me a picture of ", "make a picture of ",
    "show me a picture of ", "create an image of ", "generate an image of ", "a picture showing ", "there is ",
    "let's see ",
)  # fmt: skip
ADJECTIVES: Mapping[str, Sequence[str]] = {
    "food": ["delicious", "tasty", "yummy", "fresh", "nice", "juicy"],
    "animal": ["cute", "happy", "beautiful", "funny", "lovely", "friendly", "wild", "adorable"],
    "thing": ["beautiful", "nice", "cool", "pretty", "old", "new", "magical", "fancy"],
}
SIZES: Mapping[str, Sequence[str]] = {
    "small": ["small", "small", "tiny", "little"],
    "big": ["big", "big", "large", "huge", "giant"],
}
COUNTS: Mapping[int, Sequence[str]] = {
    2: ["two", "two", "two", "a pair of", "a couple of", "2"],
    3: ["three", "three", "three", "3"],
}
JOINS = ("and", "and", "and", "next to", "with", "beside")
ON_PLAIN = (
    "on a {} background", "on a {} background", "with a {} background", "against a {} background",
    "in front of a {} background", "in front of a {} wall", "on {}", "the background is {}",
    "over a plain {} background",
)  # fmt: skip
SPELLINGS = {"gray": ("grey", "gray")}
ENDINGS = {"": 0.60, ".": 0.28, "!": 0.04, " please": 0.05, "?": 0.03}

# Words without a meaning for the picture.
HARMLESS = frozenset(
    {
        "a", "an", "and", "are", "as", "at", "be", "by", "can", "could", "do", "for", "from", "has", "have", "here",
        "i", "in", "is", "it", "its", "just", "like", "me", "my", "of", "on", "one", "or", "our", "please", "so",
        "some", "that", "the", "their", "there", "these", "this", "to", "us", "very", "want", "we", "will", "with",
        "would", "you", "your",
    }
)  # fmt: skip

# ---------------------------------------------------------------------------------------------------- a scene

# Kinds of scene, and their share of prompts.
FEATURES: Mapping[str, float] = {"single": 0.68, "size": 0.12, "colour": 0.07, "count": 0.06, "pair": 0.07}


class Subject(NamedTuple):
    """One thing in a scene; `colour` is one of HUES, or None for the glyph's own colours."""

    name: str
    colour: str | None = None


@dataclass(frozen=True)
class Scene:
    """One picture: one to three subjects from left to right on a background.

    `size` ("", "small" or "big") applies to a single subject.
    """

    subjects: tuple[Subject, ...]
    background: str
    size: str = ""

    @property
    def feature(self) -> str:
        """Which of FEATURES the scene is an example of."""
        names = {subject.name for subject in self.subjects}
        if len(self.subjects) > 1:
            return "count" if len(names) == 1 else "pair"
        return "colour" if self.subjects[0].colour else "size" if self.size else "single"


# Pairs of subject and background that examples use, and so training never does.
_HELD_OUT = {
    ("burger", "blue"), ("cat", "beach"), ("castle", "sunset"), ("unicorn", "forest"), ("penguin", "night"),
    ("robot", "city"), ("elephant", "desert"), ("guitar", "purple"), ("christmas tree", "snow"), ("tiger", "pink"),
    ("bicycle", "green"), ("ice cream", "beach"), ("ghost", "night"), ("horse", "desert"), ("whale", "ocean"),
    ("teddy bear", "orange"), ("pineapple", "space"), ("bus", "city"), ("pumpkin", "night"), ("donut", "brown"),
    ("owl", "mountains"), ("crown", "white"), ("shark", "clouds"), ("lion", "sunset"), ("piano", "underwater"),
}  # fmt: skip


def held_out(scene: Scene) -> bool:
    """Whether training must never see this scene: about one pair of single subject and background in twelve."""
    if len(scene.subjects) != 1:
        return False
    name = scene.subjects[0].name
    spread = SUBJECTS.index(name) * 7 + BACKGROUNDS.index(scene.background) * 5
    return (name, scene.background) in _HELD_OUT or spread % 12 == 3


def _countable(subjects: Sequence[str]) -> list[str]:
    return [subject for subject in subjects if subject not in MASS | UNIQUE]


def sample_scene(
    random: Random,
    subjects: Sequence[str] = SUBJECTS,
    features: Mapping[str, float] = FEATURES,
    *,
    test: bool = False,
) -> Scene:
    """A random scene with one of `features` (feature: weight) of `subjects`; with `test` a held-out one.

    For scenes with several subjects, which are never held out, `test` changes nothing.
    """
    paintable = [subject for subject in PAINTABLE if subject in subjects]
    while True:
        feature = random.choices(list(features), list(features.values()))[0]
        background = random.choice(list(PLAIN if random.random() < 0.5 else SETTINGS))
        size, count = "", 1
        if feature == "pair":
            chosen = [Subject(name) for name in random.sample(subjects, 2)]
        elif feature == "count":
            count = random.choice([2, 2, 3])
            chosen = [Subject(random.choice(_countable(subjects)))] * count
        elif feature == "colour":
            chosen = [Subject(random.choice(paintable), random.choice(list(HUES)))]
        else:
            chosen = [Subject(random.choice(subjects))]
            size = random.choice(list(SIZES)) if feature == "size" else ""
        scene = Scene(tuple(chosen), background, size)
        if len(chosen) > 1 or held_out(scene) == test:
            return scene


# -------------------------------------------------------------------------------------------------- a caption


def plural(words: str) -> str:
    """The plural of a subject or of one of its synonyms."""
    irregular = {"sheep": "sheep", "fish": "fish", "mouse": "mice", "wolf": "wolves", "octopus": "octopuses"}
    if words in irregular:
        return irregular[words]
    first, of, rest = words.partition(" of ")  # "slice of pizza"
    if of:
        return plural(first) + of + rest
    if words.endswith("y") and words[-2] not in "aeiou":
        return words[:-1] + "ies"
    return words + ("es" if words.endswith(("s", "x", "ch", "sh")) else "s")


def article(words: str) -> str:
    """`words` after their indefinite article."""
    return ("an " if words[0] in "aeiou" and not words.startswith(("unicorn", "ufo")) else "a ") + words


def _noun_phrase(random: Random, subject: Subject, size: str = "", count: int = 1) -> str:
    name, colour = subject
    word = name
    if name in SYNONYMS and not colour and random.random() < 0.5:  # avoids "a green blue bird"
        word = random.choice([name, *SYNONYMS[name]])
    parts = [random.choice(SIZES[size])] if size else []
    if random.random() < 0.25:
        parts.append(random.choice(ADJECTIVES[KIND[name]]))
    if colour:
        parts.append(colour)
    if count > 1:
        return " ".join([random.choice(COUNTS[count]), *parts, plural(word)])
    words = " ".join([*parts, word])
    if name in MASS and word == name:
        return words if random.random() < 0.7 else "some " + words
    if name in UNIQUE and random.random() < 0.6:
        return "the " + words
    u = random.random()
    return words if u < 0.06 else "one " + words if u < 0.1 else article(words)


def caption(scene: Scene, random: Random) -> str:
    """What a person might say to get `scene`: lower case, with or without punctuation at the end."""
    first = scene.subjects[0]
    if scene.feature == "pair":
        what = f"{_noun_phrase(random, first)} {random.choice(JOINS)} {_noun_phrase(random, scene.subjects[1])}"
    else:
        what = _noun_phrase(random, first, scene.size, len(scene.subjects))
    ground = scene.background
    if ground == UNSAID or (ground == "white" and random.random() < 0.5):
        where = ""
    elif ground in PLAIN:
        word = random.choice(SPELLINGS.get(ground, (ground,)))
        where = random.choice(ON_PLAIN).format(word).replace(" a orange", " an orange")
    else:
        where = random.choice(SETTINGS[ground])
    if not where:
        text = random.choice(PREFIXES) + what
    elif random.random() < 0.08 and not where.startswith("the "):
        text = f"{where}, {what}"
    else:
        text = random.choice(PREFIXES) + what + random.choice([" ", " ", " ", " ", ", "]) + where
    return text + random.choices(list(ENDINGS), list(ENDINGS.values()))[0]


# ---------------------------------------------------------------------------------------------------- the words


def split_words(text: str) -> list[str]:
    """The words of `text` in lower case, without punctuation; numbers count as words."""
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.lower())


def caption_words() -> frozenset[str]:
    """Every word that `caption` can put into a caption."""
    texts = [word for subject in SUBJECTS for word in (subject, *SYNONYMS.get(subject, ()))]
    texts += [*PREFIXES, *ENDINGS, *ON_PLAIN, *(way for ways in SETTINGS.values() for way in ways)]
    texts += [word for words in ADJECTIVES.values() for word in words]
    texts += [word for ground in PLAIN if ground != UNSAID for word in SPELLINGS.get(ground, (ground,))]
    texts += ["a", "an", "one", "some", "the", *HUES, *JOINS]
    texts += [word for words in (*SIZES.values(), *COUNTS.values()) for word in words]
    texts += [plural(word) for name in _countable(SUBJECTS) for word in (name, *SYNONYMS.get(name, ()))]
    return frozenset(word for text in texts for word in split_words(text))


def words_file() -> str:
    """The text of `words.txt`: every word that the model knows, one per line."""
    return "".join(f"{word}\n" for word in sorted(caption_words() | HARMLESS))


@functools.cache
def _known_words() -> frozenset[str]:
    return frozenset((FOLDER / "words.txt").read_text(encoding="utf-8").split())


def unknown_words(prompt: str) -> list[str]:
    """The words of `prompt` that the model does not know, in order and once each, in lower case."""
    return [word for word in dict.fromkeys(split_words(prompt)) if word.replace("’", "'") not in _known_words()]
