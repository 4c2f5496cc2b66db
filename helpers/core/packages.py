"""The command that installs a system package: with apt-get, dnf, zypper, pacman or Homebrew.

The table is packages.txt beside this file; package_hint in helpers/shell/environment.sh also reads it.
"""

from __future__ import annotations

import csv
import os
import shutil
import sys
from pathlib import Path


def install_hint(package: str) -> str:
    """The command that installs `package`: a column of the table, or a name that is the same everywhere."""
    with Path(__file__).with_name("packages.txt").open(encoding="utf-8") as table:
        rows = [
            row for row in csv.DictReader(table, delimiter="|") if sys.platform != "darwin" or row["manager"] == "brew"
        ]
    for row in rows:
        if shutil.which(row["manager"]):
            sudo = "" if row["manager"] == "brew" or os.geteuid() == 0 else "sudo "
            return f"{sudo}{row['install']} {row.get(package, package)}"
    if sys.platform == "darwin":
        return f"install Homebrew (https://brew.sh), then: {rows[0]['install']} {rows[0].get(package, package)}"
    return f"install {package} with the package manager of your system"
