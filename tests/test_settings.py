"""Settings is the one list of options: the shell's table, its checks and --help agree with it."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.core.settings import OPTIONS, Choice, Settings, add_options, variable, with_arguments
from helpers.draw.samplers import SAMPLERS
from helpers.shell import options

SHELL = os.environ.get("A2I_TEST_BASH", "bash")
OF_THE_SHELL = {
    "--enrich",
    "--stop",
    "--list-devices",
    "--doctor",
    "--no-open",
    "--no-translate",
    "--help",
    "--version",
}  # options of pipeline.sh alone


def test_the_table_of_the_shell_is_made_from_settings() -> None:
    assert options.FILE.read_text(encoding="utf-8") == options.table()


def test_help_shows_every_option_and_no_other() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("A2I_")}
    done = subprocess.run([SHELL, str(ROOT / "pipeline.sh"), "--help"], env=environment, capture_output=True, text=True)
    shown = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*|(?<![\w-])-[A-Z]\b", done.stdout))
    short = {flag for option in OPTIONS.values() for flag in option.flags}
    assert shown == short | OF_THE_SHELL | {"-h", "-V"}
    assert len({flag for flag in shown if flag.startswith("--")}) <= 40


CHECK = """
wrong() { printf 'wrong\\n'; }
. "$1/helpers/shell/options.sh"
. "$1/helpers/shell/values.sh"
shift
while [ $# -gt 0 ]; do
  find_option "$1" && [ "$(check_value "$1" "$2")" = '' ] && printf 'right\\n' || printf 'wrong\\n'
  shift 2
done
"""


def accepted_by_the_shell(values: list[tuple[str, str]]) -> list[bool]:
    arguments = [part for pair in values for part in pair]
    done = subprocess.run(
        [SHELL, "-u", "-c", CHECK, "check", str(ROOT), *arguments], capture_output=True, text=True, check=True
    )
    assert not done.stderr
    return [line == "right" for line in done.stdout.splitlines()]


def accepted_by_python(name: str, text: str) -> bool:
    try:
        OPTIONS[name].kind(text)
    except ValueError:
        return False
    return True


CHECKED = [
    name for name, option in OPTIONS.items() if type(option.kind).__name__ in ("Number", "Size", "Choice", "Language")
]
NUMBERS = (
    "0 00 1 -1 +1 1.0 1. .1 . .. 0.1 0.09999 0.1000000001 0.2 3600 3600.0 3600.1 3600.0000000001 10 10.01 100 100.5"
)
LARGE = "1000 1001 4294967295 4294967296 9999999999 99999999999 1e3 0x10 ١ 12345678901.5 1.12345678901"
SIZES = "512 512x 512x512 16x16 15x16 16x15 9999x9999 10000x64 12345x64 123456x64 00064x64 64x64x64 64X64 x"
WORDS = "en de-CH pt_BR EN auto english e e1 12 -de dpm++ dpm euler-ancestral ddim ddim: * ? soon"
EDGES = (*" ".join((NUMBERS, LARGE, SIZES, WORDS)).split(), " ", "1 2", "ddim euler", "\n1", "1\n")


def test_the_shell_takes_the_same_values() -> None:
    values = [(name, text) for name in CHECKED for text in EDGES]
    by_the_shell = accepted_by_the_shell([(variable(name), text) for name, text in values])
    different = [pair for pair, taken in zip(values, by_the_shell, strict=True) if taken != accepted_by_python(*pair)]
    assert different == []


@settings(max_examples=5, deadline=None, phases=[Phase.generate])  # a start of the shell each: no shrinking
@given(
    st.lists(
        st.tuples(st.sampled_from(CHECKED), st.text("0123456789.x-+aeduq ", min_size=1, max_size=14)),
        min_size=100,
        max_size=100,
    )
)
def test_the_shell_takes_the_same_values_whatever_they_are(values: list[tuple[str, str]]) -> None:
    by_the_shell = accepted_by_the_shell([(variable(name), text) for name, text in values])
    assert [pair for pair, taken in zip(values, by_the_shell, strict=True) if taken != accepted_by_python(*pair)] == []


def test_samplers_are_those_that_there_are() -> None:
    assert OPTIONS["sampler"].kind == Choice(tuple(SAMPLERS))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("A2I_TIME", "0", "A2I_TIME: not a number from 0.1 to 3600: '0'"),
        ("A2I_SIZE", "12345x64", "A2I_SIZE: not WIDTHxHEIGHT from 16x16 to 9999x9999: '12345x64'"),
        ("A2I_SAMPLER", "x", "A2I_SAMPLER: not one of ddim, euler, euler-ancestral, dpm++, lcm: 'x'"),
    ],
)
def test_a_wrong_variable_is_named(name: str, text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        Settings.from_environment({name: text})
    assert (error.value.code, error.value.message) == (64, message)


def test_values_of_the_environment() -> None:
    given = Settings.from_environment(
        {"A2I_SEED": "7", "A2I_LOOP": "0", "A2I_SAFE": "1", "A2I_SIZE": "64x96", "A2I_STEPS": "", "A2I_SESSION": "/s"}
    )
    assert (given.seed, given.loop, given.safe, given.size, given.steps) == (7, False, True, (64, 96), None)
    assert given.control == given.session == Path("/s")


def test_defaults_pass_the_parser() -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_options(parser, Settings(), *OPTIONS)
    assert with_arguments(Settings(), parser.parse_args([])) == Settings()
