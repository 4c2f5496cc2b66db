"""The state of a conversation about pictures: an utterance in, an intent out."""

from __future__ import annotations

import pytest

from helpers.words import edits
from helpers.words.conversation import Conversation, Intent
from helpers.words.grammar import Grammar, all_of

ENGLISH, GERMAN = all_of("auto")[1], all_of("auto")[0]


def talk(*utterances: str, grammar: Grammar = ENGLISH) -> tuple[Conversation, Intent]:
    """A conversation whose pictures have the seeds 100, 101 … and the last intent."""
    state, intent = Conversation([grammar]), Intent("say")
    for utterance in utterances:
        intent = state.hear(utterance)
        if intent.kind in ("draw", "tone"):
            assert state.now
            state.drew((seed, None) for seed in range(100, 100 + state.now.request.count))
    return state, intent


def prompt(*utterances: str, grammar: Grammar = ENGLISH) -> str:
    now = talk(*utterances, grammar=grammar)[0].now
    return now.request.prompt if now else ""


def test_the_languages_are_as_the_test_takes_them() -> None:
    assert (ENGLISH.say["without"], GERMAN.say["without"]) == ("without {}", "ohne {}")


def test_a_prompt_is_edited_with_the_same_noise() -> None:
    state, intent = talk("a red car on the beach", "at night", "make it blue")
    assert intent.kind == "draw"
    assert state.now
    assert (state.now.request.prompt, state.now.request.noise) == ("a blue car on the beach at night", (100, None))
    assert state.now.before
    assert state.now.before.request.prompt == "a red car on the beach at night"


@pytest.mark.parametrize(
    ("said", "becomes"),
    {
        "make it blue": "a blue car and a small dog on the beach",
        "make the dog white": "a red car and a small white dog on the beach",
        "instead of the dog a cat": "a red car and a small cat on the beach",
        "an owl instead of the car": "a red owl and a small dog on the beach",
        "at night": "a red car and a small dog on the beach at night",
        "add a tree": "a red car and a small dog on the beach and a tree",
        "with a hat": "a red car and a small dog on the beach with a hat",
        "without the dog": "a red car on the beach",
        "without the car": "a small dog on the beach",
        "more detail": "a red car and a small dog on the beach, highly detailed",
    }.items(),
)
def test_words_are_changed(said: str, becomes: str) -> None:
    assert prompt("a red car and a small dog on the beach", said) == becomes


@pytest.mark.parametrize(
    ("said", "becomes"),
    {
        "mach es blau": "ein blaues Auto und ein Hund am Strand",
        "statt dem Hund eine Katze": "ein rotes Auto und eine Katze am Strand",
        "ohne den Hund": "ein rotes Auto am Strand",
        "bei Nacht": "ein rotes Auto und ein Hund am Strand bei Nacht",
        "mach den Hund weiß": "ein rotes Auto und ein Hund am Strand, Hund weiß",
    }.items(),
)
def test_german_words_are_changed(said: str, becomes: str) -> None:
    assert prompt("ein rotes Auto und ein Hund am Strand", said, grammar=GERMAN) == becomes


def test_a_new_time_replaces_the_old_one() -> None:
    assert prompt("a boat at sunset", "at night", "in winter", "in the rain", "at dawn") == (
        "a boat in winter in the rain at dawn"
    )


def test_nothing_is_left_of_a_prompt_without_its_only_thing() -> None:
    assert edits.removed(ENGLISH, "a boat on the sea", "boat") == "a boat on the sea"
    now = talk("a boat on the sea", "without the boat")[0].now
    assert now
    assert now.request.options.without == ("boat",)


def test_it_walks_back_and_forward_and_drops_what_was_ahead() -> None:
    state, _ = talk("a car", "at night", "make it blue", "back", "back")
    assert state.now
    assert state.now.request.prompt == "a car"
    assert state.hear("back") == Intent("say", "this is the first picture")
    assert state.hear("forward").kind == "show"
    state.hear("in winter")
    state.drew([(1, None)])
    assert state.now.request.prompt == "a car at night in winter"
    assert state.hear("forward") == Intent("say", "this is the last picture")


def test_a_number_chooses_and_the_next_change_starts_from_it() -> None:
    state, intent = talk("a car", "four of them", "number three")
    assert intent == Intent("show", "number 3")
    state.hear("at night")
    assert state.now
    assert (state.now.request.noise, state.now.request.count) == ((102, None), 1)
    assert state.now.before
    assert state.now.before.picture == 3
    assert talk("a car", "number two")[1] == Intent("say", "there is one picture, no number 2")


def test_again_has_other_noise_and_more_has_noise_like_it() -> None:
    now = talk("a car", "two of them", "again")[0].now
    assert now
    assert (now.request.noise, now.request.count) == (None, 2)
    now = talk("a car", "two of them", "more like number two")[0].now
    assert now
    assert (now.request.noise, now.request.count, now.request.varied) == ((101, None), 4, True)


def test_tones_add_up_and_stay() -> None:
    state, intent = talk("a car", "darker", "much warmer")
    assert intent.kind == "tone"
    assert state.now
    assert state.now.request.tones == ("darker", "warmer", "warmer")
    redrawn = state.in_words_of("warmer")
    assert redrawn
    assert (redrawn.prompt, redrawn.tones, redrawn.noise) == ("a car, warm colors", ("darker",), (100, None))
    state.hear("make it blue")
    assert state.now.request.tones == ("darker", "warmer", "warmer")


def test_options_are_kept_until_a_new_prompt() -> None:
    state, _ = talk("a car, wide, no people", "at night", "as an oil painting", "square")
    assert state.now
    options = state.now.request.options
    assert (options.shape, options.without, options.style) == ("square", ("people",), "oil painting")
    state.hear("a boat")
    assert not state.now.request.options


def test_without_a_picture_only_what_can_be_nothing_else_is_a_command() -> None:
    assert talk("darker")[1] == Intent("say", "there is no picture yet: say what you want to see")
    assert talk("at night")[1].kind == "draw"  # a new picture of this
    assert talk("a cat", "what did you hear?")[1].said == "heard: a cat; the prompt: a cat"
    assert talk("stop")[1].kind == "stop"


def test_a_command_may_have_options() -> None:
    now = talk("a car", "at night, wide, two of them")[0].now
    assert now
    assert (now.request.prompt, now.request.options.shape, now.request.count) == ("a car at night", "wide", 2)


def test_a_step_that_failed_is_taken_back() -> None:
    state, _ = talk("a car")
    state.hear("at night")
    state.failed()
    assert state.now
    assert state.now.request.prompt == "a car"
    state.failed()
    assert state.now is None


def test_saving_and_copying_name_a_picture() -> None:
    state, intent = talk("a car", "two of them", "save the second one")
    assert (intent.kind, intent.step and intent.step.picture) == ("save", 2)
    assert state.hear("copy it").step == state.now


def test_options_in_prompts_can_be_turned_off() -> None:
    state = Conversation([ENGLISH], takes_options=False)
    state.hear("a car, wide")
    assert state.now
    assert state.now.request.prompt == "a car, wide"
