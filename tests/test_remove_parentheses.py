"""remove_parentheses: what nobody said goes, what somebody may have said stays, and every line stays a line."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmark import spoken_prompts
from helpers.core.text import printable
from remove_parentheses import LISTS, is_annotation, lists, remove_parentheses

ROOT = Path(__file__).resolve().parent.parent
FILTER = [sys.executable, str(ROOT / "remove_parentheses.py")]
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("A2I_", "PYTHON"))}

UNSAID = """\
[BLANK_AUDIO]|[ Silence ]|[Silence]|[SILENT]|[MUSIC]|[Music]|[MUSIC PLAYING]|[Applause]|[Applause from the left]|[LAUGH]
[SIGH]|[Bell]|[typing]|[inaudible]|[no speech]|[BLANK AUDIO]|[無音]|[музыка]|[_BEG_]|[_TT_500]|[_EOT_]|[SPEAKER_TURN]
(background music)|(music)|(Music)|(upbeat music)|(laughing)|(Wind Whooshing)|(Typing sounds)|(笑)|(шум ветра)|(музыка)
* DING *|*laughs*|*sighs*|*coughs*|*Musik*|♪|♪♪♪|♩|♫|♬|♭|♮|♯|♪ upbeat music ♪|>> |>>> |- |-- |...|.|?!|[текст на русском
<|nospeech|>|<|startoftranscript|>|<|en|>|<|transcribe|>|<|notimestamps|>|<|0.00|>|<|endoftext|>|<|en|><|0.00|><|2.00|>
[[BLANK_AUDIO]]|((music))|([MUSIC])|[music (soft)]|[ [Music] [Applause] ]|(sighs) (door slams)|(speaking in foreign)
【音楽】|（笑）|（拍手）|［音乐］|(음악)|(موسيقى)|(müzik çalıyor)|(Musik spielt im Hintergrund)|(rires)
(música de fondo)|[BLANK_AUDIO|BLANK_AUDIO]|(music|music)|[[|()|[ ]|( )|♪ [Music] ♪|(upbeat music) [BLANK_AUDIO] *sighs*
Thanks for watching!|thank you for watching|THANKS FOR WATCHING...|Thank you so much for joining us.|Please subscribe!
Don't forget to subscribe.|Subtitles by the Amara.org community|Transcription by CastingWords|I'll see you next time.
Thanks for watching! Thanks for watching!|Thanks for watching. Please subscribe.|Thank you. Thanks for watching!
Untertitel im Auftrag des ZDF für funk, 2017|Untertitelung des ZDF, 2020|Vielen Dank fürs Zuschauen!|Copyright WDR 2021
Sous-titrage ST' 501|Sous-titres réalisés par la communauté d'Amara.org|¡Suscríbete al canal!|Gracias por ver el video.
Altyazı M.K.|Субтитры сделал DimaTorzok|Редактор субтитров А.Семкин Корректор А.Егорова|Продолжение следует...
ご視聴ありがとうございました。|次の動画でお会いしましょう|시청해주셔서 감사합니다!|字幕由Amara.org社区提供|谢谢观看
you you you [BLANK_AUDIO]|Thank you. (music)|Thank you. Thank you. Thank you.|Music Playing|Bell Rings"""

SAID = """\
a delicious burger on a blue background
a heart with an arrow (red)
a sign that says thanks for watching
a sign that says "Thanks for watching!" on a wall
5 * 3
5 * 3 * 2 = 30
a*b*c
you
Thank you.
cat - dog
a well-known cat, half-asleep
-5 degrees, a thermometer
a man (with a laughing face) in the rain
a house (a dog barking in front of it)
a band (the one playing music) on a stage
a shop (music store) at night
the amara.org logo
a red car < a blue car > a bus
3 > 2 and 2 < 3
「ありがとう」と書かれた看板
赤い車（笑顔の少女）
a cat… on a mat
$(rm -rf /) `ls` "quotes" 'single' \\ {braces}
🍔
C# and F#, 50% & more
a silence so deep that music sounds
see you next time on a neon sign
Speaker of the house: a portrait
ein Hund (braun) auf einer Wiese
אדום (מכונית)
1, 2, 3"""

MIXED = {
    "a cat [MEOW] on a mat": "a cat on a mat",
    "a cat (meowing) on a mat": "a cat on a mat",
    "[BLANK_AUDIO] a red car": "a red car",
    "a red car [BLANK_AUDIO].": "a red car.",
    "*sighs* a red car, (laughs), on a road": "a red car, on a road",
    "(laughs), a red car": "a red car",
    "♪ a red car ♪": "a red car",
    "♪ upbeat music ♪ a cat": "a cat",
    ">> a dog >> and a cat": "a dog and a cat",
    "- cat - dog": "cat - dog",
    "-- Draw a house": "Draw a house",
    "-Draw a house": "Draw a house",
    "SPEAKER 1: a house": "a house",
    "[SPEAKER_00]: a house": "a house",
    "(a (music) b) c": "(a b) c",
    "a heart (red) (music)": "a heart (red)",
    "[music (soft] a dog": "a dog",
    "a [music (soft) dog": "a music (soft) dog",
    "BLANK_AUDIO] a red car": "a red car",
    "a red [car": "a red car",
    "a red (car on a road": "a red car on a road",
    "a red car) on a road": "a red car on a road",
    "a red car (laughing": "a red car",
    "laughing) a red car": "a red car",
    "<|en|><|0.00|> a burger<|2.40|><|endoftext|>": "a burger",
    "【音楽】赤い車": "赤い車",
    "（笑）赤い車": "赤い車",
    "(музыка) красная машина": "красная машина",
    "<i>a red car</i>": "a red car",
    "a **red** car": "a **red** car",
    "* DING * a bell": "a bell",
    "[00:00:00.000 --> 00:00:04.000]   a red car": "a red car",
    "a red car. Thanks for watching!": "a red car. Thanks for watching!",
    "\ufeffa\tred\u2028car\r\n": "a red car",
    "a\0red\x1b \x07 car": "a red car",
    "a burger a burger (music) a burger a burger a burger": "a burger",
    "Thank you. Thank you. Thank you. Thank you. Thank you.": "",
}


@pytest.mark.parametrize(
    "text", [text for line in UNSAID.splitlines() for text in line.split("|") if "<" not in line and text]
)
def test_nobody_said(text: str) -> None:
    assert remove_parentheses(text) == ""


@pytest.mark.parametrize("text", re.findall(r"(?:<\|[^|]+\|>)+", UNSAID))
def test_special_tokens(text: str) -> None:
    assert remove_parentheses(text) == ""
    assert remove_parentheses(f"{text} a cat {text}") == "a cat"


@pytest.mark.parametrize("text", SAID.splitlines())
def test_somebody_said(text: str) -> None:
    assert remove_parentheses(text) == text


@pytest.mark.parametrize("text", MIXED)
def test_both(text: str) -> None:
    assert remove_parentheses(text) == MIXED[text]


def test_lists_are_used() -> None:
    known = lists()
    assert len(known.whole) > 300 and len(known.sentences) > 70 and len(known.doubtful) > 20
    for annotation in known.whole:
        assert is_annotation(annotation), annotation
        assert remove_parentheses(f"a cat ({annotation.capitalize()}) on a mat") == "a cat on a mat", annotation
    assert not known.sentences & known.doubtful
    for sentence in known.sentences:
        assert remove_parentheses(sentence) == ""
        assert remove_parentheses(f"a sign: {sentence}") == f"a sign: {sentence}"


# -------------------------------------------------------------------------------------------------- properties

reproducible = settings(deadline=None, derandomize=True)

MARKS = [
    "[",
    "]",
    "(",
    ")",
    "（",
    "）",
    "【",
    "】",
    "「",
    "」",
    "*",
    "**",
    "♪",
    "<|",
    "|>",
    ">>",
    "-",
    "<i>",
    "</i>",
    "{\\",
    "}",
]
WORDS = [
    "music",
    "MUSIC",
    "laughs",
    "a",
    "red",
    "car",
    "you",
    "thank you",
    "5",
    "笑",
    "музыка",
    ",",
    ".",
    "...",
    ":",
    "_",
]
crowded = st.lists(st.sampled_from([*MARKS, *WORDS, " ", " "]), max_size=25).map("".join)
plain = st.lists(st.from_regex(r"[a-z]{1,8}", fullmatch=True), min_size=1, max_size=8, unique=True).map(" ".join)


@reproducible
@given(st.one_of(st.text(), crowded))
@example("(*x* music)")
@example("*mu[x]sic*")
def test_filtered_twice_is_filtered_once(text: str) -> None:
    once = remove_parentheses(text)
    assert remove_parentheses(once) == once


@reproducible
@given(st.one_of(st.text(), crowded))
def test_one_printable_line(text: str) -> None:
    result = remove_parentheses(text)
    assert result == printable(result)
    assert len(result.splitlines()) <= 1


@reproducible
@given(plain)
def test_plain_words_stay(text: str) -> None:
    assert remove_parentheses(text) in (text, "")
    assert remove_parentheses(f"zebra {text}") == f"zebra {text}"


@reproducible
@given(plain, plain, st.sampled_from(["[{}]", "({})", "*{}*", "[ {} ]", "（{}）", "【{}】", "[({})]"]), st.data())
def test_an_annotation_goes_and_leaves_the_rest(before: str, after: str, brackets: str, data: st.DataObject) -> None:
    annotation = data.draw(st.sampled_from(sorted(lists().whole)))
    assert (
        remove_parentheses(f"zebra {before} {brackets.format(annotation)} {after} zebra")
        == f"zebra {before} {after} zebra"
    )


@reproducible
@given(plain, st.sampled_from("()[]（）「」"), st.integers(0, 60))
def test_a_lone_bracket_costs_no_word(text: str, bracket: str, place: int) -> None:
    words = f"zebra {text} with no one in it".split(" ")
    broken = [*words[: place % len(words)], bracket, *words[place % len(words) :]]
    left = remove_parentheses(" ".join(broken)).split(" ")
    if bracket in "[" and place % len(words) == 0:
        return  # an utterance that begins with an open square bracket is one annotation
    assert left == words


# ------------------------------------------------------------------------- every form that is known, in what people say

BRACKETS = ["[{}]", "({})", "*{}*", "( {} )", "（{}）", "【{}】", "♪ {} ♪", "[({})]", "[{}", "<|{}|>"]
MARKS_ALONE = ["[BLANK_AUDIO]", "<|en|>", "<|0.00|>", "♪♪", "♫", "[_TT_500]", "[ Silence ]", "<i>", "</i>", ">>"]


def invented_forms() -> Iterator[str]:
    """Every annotation of hallucinations.json in one bracket after the other, as the recogniser may write it."""
    data = json.loads(LISTS.read_text(encoding="utf-8"))
    patterns = [p for kind in ("annotations", "annotation_parts") for texts in data[kind].values() for p in texts]
    tails = ["", *(f" {tail}" for tail in data["annotation_tails"])]
    for number, (pattern, brackets) in enumerate(itertools.product(patterns, BRACKETS[:-2])):
        text = pattern.replace("*", ("", "soft", "heavy distant")[number % 3]).strip()
        text += tails[number % len(tails)] if pattern.isascii() and len(text.split()) < 4 else ""
        yield brackets.format((text, text.upper(), text.capitalize())[number % 3])
    yield from MARKS_ALONE


def invented_cases(number: int) -> Iterator[tuple[str, str]]:
    """So many lines that a recogniser may write, each with what was said."""
    chance, known = random.Random(6), lists()
    people = [prompt.text for prompt in spoken_prompts.PROMPTS] + [
        t for t in SAID.splitlines() if re.match("[a-z ]+$", t)
    ]
    forms = itertools.cycle(invented_forms())
    sentences = itertools.cycle(sorted(known.sentences))
    for case in range(number):
        words = chance.choice([text for text in people if " " in text]).split(" ")
        said = " ".join(words)
        if case % 10 == 7:  # sentences that nobody said: the whole utterance, or in one
            invention = chance.choice(["{}", "{}.", "{}!"]).format(next(sentences).capitalize())
            doubtful = chance.choice(["", "Thank you. ", "Bye. ", "You "])
            yield f"{doubtful}{invention}", ""
            yield f"{said}. {invention}", f"{said}. {invention}"
        elif case % 10 == 8:  # a loop
            start = chance.randrange(len(words))
            end = chance.randint(start + 1, len(words))
            phrase = " ".join(words[start:end])
            loop = " ".join([phrase] * chance.randint(4, 12))
            broken = " ".join(words[start : chance.randint(start, end - 1)]) if end == len(words) else ""
            yield " ".join([*words[:start], loop, broken, *words[end:]]), said
        elif case % 10 == 9:  # a loop of annotations and nothing else
            yield " ".join(next(forms) for _ in range(chance.randint(1, 6))), ""
        else:
            for _ in range(chance.randint(1, 3)):
                words.insert(chance.randint(0, len(words)), next(forms))
            yield " ".join(words), said


def test_ten_thousand_lines() -> None:
    """Nothing invented stays, no word of the speaker's goes, twice is once, line for line."""
    cases = list(invented_cases(10_000))
    assert len(set(invented_forms())) > 3000
    for text, said in cases:
        assert (remove_parentheses(text), text) == (said, text)
        assert remove_parentheses(said) == said
    done = run("\n".join(text for text, _ in cases).encode(), A2I_QUIET="1")
    assert done.stdout.decode().split("\n") == [*(said for _, said in cases), ""]


@pytest.mark.parametrize(
    "unit",
    ["(", ")", "[", "()", "[(", "(a ", "a) ", "*", "* ", "*a", "* a ", "♪", "♪a", "<|", "<|a|>", "<", "<i", ">", ">> ",
     "-", "- ", "speaker ", "you ", "thanks for watching ", "music ", "a b", "((music) ", ", ,", "笑", "{\\", "_"],
)  # fmt: skip
def test_a_long_line_takes_a_moment(unit: str) -> None:
    text = unit * (200_000 // len(unit))
    for line in (text, f"({text})"):
        began = time.process_time()
        remove_parentheses(line)
        assert time.process_time() - began < 2


# ------------------------------------------------------------------------------------------------- the program


def run(text: bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        FILTER, input=text, capture_output=True, env={**CLEAN, **environment}, cwd="/", timeout=60, check=False
    )


def test_line_for_line() -> None:
    done = run(b"a red car [Music]\r\n[BLANK_AUDIO]\n\n  a blue\xff car\0\xe2\x80\xa8now\nlast")
    assert done.returncode == 0
    assert done.stdout.decode() == "a red car\n\n\na blue\ufffd car now\nlast\n"
    assert done.stderr.decode() == "nothing was said: [BLANK_AUDIO]\nnothing was said\n"
    assert run(b"cat\n[Music]\n", A2I_QUIET="1").stderr == b""


def test_lines_keep_their_marks_in_a_session_alone(tmp_path: Path) -> None:
    marked = b"\x1e3 spoken\x1fa \x1e4 typed\x1fcat\n\x1e4 spoken\x1f[Music]\nplain\n"
    assert run(marked).stdout == b"a cat\n\nplain\n"
    kept = b"\x1e3 spoken\x1fa cat\n\x1e4 spoken\x1f\nplain\n"
    assert run(marked, A2I_SESSION=str(tmp_path)).stdout == kept


def test_nothing_in_any_line() -> None:
    done = run(b"[BLANK_AUDIO]\n")
    assert (done.returncode, done.stdout) == (65, b"\n")
    first, second = done.stderr.decode().splitlines()
    assert first == "remove_parentheses: nothing was said: [BLANK_AUDIO]" and second.startswith("  Speak up")
    done = run(b"[Music]\n(laughs)\n")
    assert (done.returncode, done.stdout) == (65, b"\n\n")
    assert done.stderr.decode().startswith(
        "nothing was said: [Music]\nremove_parentheses: nothing was said: (laughs)\n"
    )


def test_no_line(tmp_path: Path) -> None:
    done = run(b"")
    assert (done.returncode, done.stdout) == (65, b"")
    assert b"no text arrived" in done.stderr
    assert run(b"", A2I_SESSION=str(tmp_path)).stderr == b""
    assert (tmp_path / "remove_parentheses.error").read_text().startswith("remove_parentheses: no text arrived")


def test_in_a_loop_nobody_has_to_say_anything() -> None:
    for text, told in ((b"", b""), (b"\n", b""), (b"[Music]\n", b"nothing was said: [Music]\n")):
        done = run(text, A2I_LOOP="1")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"\n" * len(text[:1]), told)


def test_a_line_is_out_before_the_next_is_in() -> None:
    process = subprocess.Popen(FILTER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=CLEAN)
    assert process.stdin and process.stdout
    for line in (b"a cat\n", b"a dog\n"):
        process.stdin.write(line)
        process.stdin.flush()
        assert process.stdout.readline() == line
    process.stdin.close()
    assert process.wait(timeout=5) == 0


def test_the_next_stage_is_gone() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        FILTER, input=b"a cat\n", stdout=writing, stderr=subprocess.PIPE, env=CLEAN, timeout=10, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_starts_quickly() -> None:
    def seconds(command: list[str]) -> float:  # of the processor: the machine may be busy
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, input=b"a cat\n", capture_output=True, env=CLEAN, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    bare = min(seconds([sys.executable, "-c", ""]) for _ in range(5))
    assert min(seconds(FILTER) for _ in range(5)) < bare + 0.06
    assert min(seconds([*FILTER, "--help"]) for _ in range(5)) < bare + 0.06
