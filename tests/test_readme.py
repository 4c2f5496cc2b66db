"""README and docs/ say what the programs do: options, models, messages, commands, settings and links are checked."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark import faults
from helpers.catalog import catalog
from helpers.core.extras import EXTRAS
from helpers.core.paths import ROOT
from helpers.core.settings import OPTIONS
from helpers.draw import engines, samplers
from helpers.listen.recognisers import RECOGNISERS
from helpers.words import stop_phrases

README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(DOCS.glob("*.md")),
    ROOT / "models" / "builtin" / "README.md",
    ROOT / "examples" / "README.md",
]
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
FOLDERS = ("helpers", "benchmark", "training", "tests")
SOURCES = [path for pattern in ("*.py", "*.sh") for path in ROOT.glob(pattern)]
SOURCES += [path for folder in FOLDERS for pattern in ("*.py", "*.sh") for path in (ROOT / folder).rglob(pattern)]
PROGRAM = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES if "tests" not in path.relative_to(ROOT).parts)
LONGEST = 180  # lines of the README


def block(page: Path, name: str) -> str:
    """What stands between <!-- name --> and <!-- /name -->."""
    found = re.search(f"<!-- {name} -->\n(.*?)<!-- /{name} -->", page.read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"{page.name} has no block {name}"
    return found[1]


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_options_are_those_of_help() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("A2I_")}
    command = ["bash", str(ROOT / "pipeline.sh"), "--help"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True).stdout
    assert block(README, "options") == f"```\n{said}```\n"


def test_models_are_those_of_the_catalogue() -> None:
    assert block(DOCS / "models.md", "models").strip() == catalog.markdown_table()


def test_engines_and_samplers_are_those_of_the_registries() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|", block(DOCS / "models.md", "engines"), re.MULTILINE)
    assert rows == list(engines.ENGINES)
    assert re.findall("`(.+?)`", block(DOCS / "pictures.md", "samplers")) == list(samplers.SAMPLERS)
    assert set(engines.SPELLINGS) <= set(re.findall(r"`(\w+)` \(for `\w+`\)", TEXTS["docs/models.md"]))


def test_stop_phrases_are_those_of_the_program() -> None:
    rows = re.findall(r"^\| (\w\w)\b.*? \| (.+?) \|$", block(DOCS / "recording.md", "phrases"), re.MULTILINE)
    assert dict(rows) == stop_phrases.PHRASES


# ---- messages


def messages() -> list[str]:
    return re.findall(r"^\| `(.+?)` \|", block(DOCS / "troubleshooting.md", "troubleshooting"), re.MULTILINE)


def test_there_are_messages() -> None:
    assert len(messages()) >= 10


@pytest.mark.parametrize("message", messages())
def test_messages_are_said_by_a_program(message: str) -> None:
    for part in re.split("…", message.partition(": ")[2] or message):
        assert part.strip() in PROGRAM, f"no program says: {part}"


@pytest.mark.parametrize("page", sorted(DOCS.glob("first-*.md")), ids=lambda page: page.name)
def test_what_a_first_run_shows_is_said_by_a_program(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    quoted = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    said = [span for span in quoted if " " in span and not re.match(r"\./|\.venv/|A2I_", span)]
    assert len(said) >= 3
    for part in (part.strip() for span in said for part in span.removeprefix("generate: ").split("…")):
        assert part in PROGRAM, f"no program says: {part}"


# ---- links


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> list[tuple[str, str]]:
    found = (
        (name, link) for name, text in TEXTS.items() for link in re.findall(r'\]\(([^)\s]+)\)|src="([^"]+)"', text)
    )
    every = {(name, first or second) for name, (first, second) in found}
    return sorted((name, link) for name, link in every if not link.startswith("http"))


@pytest.mark.parametrize(("page", "link"), links())
def test_links_lead_somewhere(page: str, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = (ROOT / page).parent / path if path else ROOT / page
    assert target.exists()
    assert not anchor or anchor in anchors(target.read_text(encoding="utf-8"))


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = {README}, [README]
    while waiting:
        page = waiting.pop()
        for name, link in links():
            target = (page.parent / link.partition("#")[0]).resolve()
            if ROOT / name == page and target.suffix == ".md" and target not in reached:
                reached.add(target)
                waiting.append(target)
    assert set(PAGES) <= reached


FILES = re.compile(r"`((?:helpers|tests|models|docs|training|benchmark|examples)/[\w./*-]+)`")


@pytest.mark.parametrize("path", sorted({path for text in TEXTS.values() for path in FILES.findall(text)}))
def test_files_that_pages_name_exist(path: str) -> None:
    made = path.startswith("models/downloaded")
    assert made or any(ROOT.glob(path.rstrip("/")))


# ---- commands and settings


@pytest.mark.parametrize("name", sorted({name for text in TEXTS.values() for name in re.findall(r"A2I_[A-Z_]+", text)}))
def test_settings_exist(name: str) -> None:
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("*.bats"))
    assert name.removeprefix("A2I_").lower() in OPTIONS or name in PROGRAM + tests


def commands() -> list[tuple[str, str]]:
    """(page, command): each line of a code block, and each code in a sentence, that starts a program of ours."""
    found = set()
    for name, text in TEXTS.items():
        blocks = re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        lines = [line for part in blocks for line in part.splitlines()]
        lines += [line[4:] for line in text.splitlines() if line.startswith("    ")]
        lines += re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
        for line in lines:
            if re.search(r"(?:^|[ (])(?:\./\w+\.(?:sh|py)|\S*python -m)", line) and not line.startswith("Usage:"):
                found.add((name, " ".join(line.partition("  #")[0].split())))
    return sorted(found)


def test_commands_are_found() -> None:
    assert len(commands()) > 50


@functools.cache
def help_of(script: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("A2I_")}
    interpreter = sys.executable if script.endswith(".py") else "bash"
    command = [interpreter, str(ROOT / script), "--help"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def described(words: list[str]) -> str:
    """The text in which the options of a command must be; empty for a program that is not ours."""
    for index, word in enumerate(words):
        if word in ("./pipeline.sh", "./shortcut_install.sh", "./download_model.py"):
            return help_of(word)
        if word == "-m" and index and words[index - 1].endswith("python"):
            module = words[index + 1]
            if module in ("pytest", "pip", "venv"):
                return ""
            path = ROOT.joinpath(*module.split("."))
            files = [file for file in (path / "__main__.py", path.with_suffix(".py")) if file.is_file()]
            assert files, f"there is no {module}"
            return "\n".join(file.read_text(encoding="utf-8") for file in files)
    return ""


@pytest.mark.parametrize(("page", "command"), commands())
def test_commands_have_the_options_that_pages_name(page: str, command: str) -> None:
    own = re.split(r"[|>]|\)\"", command[command.find("./pipeline.sh") if "./pipeline.sh" in command else 0 :])[0]
    words = own.replace('"', " ").split()
    text = described(words)
    for option in (word.partition("=")[0] for word in words if re.match("--?[a-z]", word) and word != "-m"):
        assert not text or re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text), f"{option} is no option of it"


@pytest.mark.parametrize(("page", "command"), [one for one in commands() if "./download_model.py" in one[1]])
def test_models_that_pages_download_are_in_the_catalogue(page: str, command: str) -> None:
    names = {word for word in command.partition("./download_model.py")[2].split() if word != "list" and word[0] != "-"}
    assert names <= set(catalog.read().entries)


def test_recognisers_are_those_of_the_registry() -> None:
    named = dict(re.findall(r"^\| `([\w-]+)`.*\| (.+?) \|$", block(DOCS / "models.md", "recognisers"), re.MULTILINE))
    assert set(named) == set(RECOGNISERS)
    for name, kind in RECOGNISERS.items():
        assert (f"`{kind.extra}`" in named[name]) == bool(kind.extra)


def test_extras_are_those_of_the_registry() -> None:
    named = {extra for text in TEXTS.values() for extra in re.findall(r"--extra ([a-z-]+)", text)}
    assert named == set(EXTRAS)
    rows = re.findall(r"^\| `([\w-]+)` \| (.+?) \|", TEXTS["docs/install.md"], re.MULTILINE)
    assert rows == [(name, extra.size) for name, extra in EXTRAS.items()]


def test_the_stage_of_the_example_keeps_the_contract(tmp_path: Path) -> None:
    example = block(DOCS / "stages.md", "example").removeprefix("```sh\n").removesuffix("```\n")
    script = tmp_path / "add-golden-light.sh"
    script.write_text(example, encoding="utf-8")
    said = subprocess.run(["sh", str(script)], input="a cat\n a \\dog\n", capture_output=True, text=True, check=True)
    assert said.stdout == "a cat, golden light\n a \\dog, golden light\n"


def test_the_faults_page_shows_what_is_stored() -> None:
    page, rows = faults.PAGE.read_text(encoding="utf-8"), faults.stored()
    block = faults.BLOCK.search(page)
    assert block and block[0] == faults.table(rows)
    for row in rows:
        assert faults.claims(ROOT / faults.file_of(row)).get(row.test.split("::")[1]) == row.claim, row.test
