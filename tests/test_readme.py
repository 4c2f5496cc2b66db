"""The README says what the programs do: its options, its models and its messages are theirs."""

from __future__ import annotations

import os
import re
import subprocess

import fault_figures
import pytest

from helpers.catalog import catalog
from helpers.core.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = [
    "pipeline.sh",
    "*.py",
    "helpers/*.py",
    "helpers/*.sh",
    "helpers/draw/engines/*.py",
    "helpers/shell/platform/*.sh",
]
SOURCE = "\n".join(path.read_text(encoding="utf-8") for pattern in PROGRAMS for path in ROOT.glob(pattern))


def block(name: str) -> str:
    """What stands between <!-- name --> and <!-- /name -->."""
    found = re.search(f"<!-- {name} -->\n(.*?)<!-- /{name} -->", README, re.DOTALL)
    assert found, f"the README has no block {name}"
    return found[1]


def test_options_are_those_of_help() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("A2I_")}
    command = ["bash", str(ROOT / "pipeline.sh"), "--help"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True).stdout
    assert block("options") == f"```\n{said}```\n"


def test_models_are_those_of_the_catalogue() -> None:
    assert block("models").strip() == catalog.markdown_table()


def messages() -> list[str]:
    return re.findall(r"^\| `(.+?)` \|", block("troubleshooting"), re.MULTILINE)


def test_there_are_messages() -> None:
    assert len(messages()) >= 10


@pytest.mark.parametrize("message", messages())
def test_messages_are_said_by_a_program(message: str) -> None:
    for part in re.split("…", message.partition(": ")[2] or message):
        assert part.strip() in SOURCE, f"no program says: {part}"


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([\w./-]+)\)", README))))
def test_links_lead_somewhere(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"A2I_[A-Z_]+", README))))
def test_settings_exist(name: str) -> None:
    assert name in SOURCE or f'"{name.removeprefix("A2I_")}"' in SOURCE


def test_the_faults_page_shows_what_is_stored() -> None:
    page, rows = fault_figures.PAGE.read_text(encoding="utf-8"), fault_figures.stored()
    block = fault_figures.BLOCK.search(page)
    assert block and block[0] == fault_figures.table(rows)
    for row in rows:
        assert f"def {row.test.split('::')[1]}(" in fault_figures.source(row), f"{row.test} is gone"
        assert row.claim in fault_figures.source(row), f"{row.test} claims something else now"
