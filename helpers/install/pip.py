"""Runs pip for our .venv:  .venv/bin/python -I helpers/install/pip.py install -e .

The user's settings of pip that reach the network are kept (index, proxy, certificates …), from variables and from
pip.conf. All others are left out: `user`, `target`, `prefix`, `no-deps`, `dry-run` and the like would install something
else, or somewhere else. Python's own variables do not reach pip either.

It imports nothing of ours: the environment may be empty.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping

# https://pip.pypa.io/en/stable/cli/pip/ and …/cli/pip_install/, "Options"; `timeout` is also called default-timeout
KEPT = (
    "index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "proxy", "cert", "client-cert", "timeout",
    "default-timeout", "retries", "resume-retries", "keyring-provider", "use-feature", "use-deprecated",
)  # fmt: skip
FEATURES = ("truststore", "legacy-certs")  # of use-feature and use-deprecated, those that are about the network


def kept(environ: Mapping[str, str], listed: Iterable[str]) -> dict[str, str]:
    """The variables for pip. environ: the user's; listed: the lines of `pip config list`, such as
    `global.index-url='https://…'`, of which a section `install` has precedence."""
    found: dict[str, str] = {}
    for line in sorted(listed, key=lambda line: line.startswith("install.")):
        place, _, value = line.partition("=")
        section, _, name = place.partition(".")
        if section in ("global", "install"):
            try:
                found[name.lower().replace("_", "-")] = str(ast.literal_eval(value))
            except (ValueError, SyntaxError):
                continue
    found |= {name[4:].lower().replace("_", "-"): value for name, value in environ.items() if name.startswith("PIP_")}
    for name in ("use-feature", "use-deprecated"):
        found[name] = " ".join(word for word in found.get(name, "").split() if word in FEATURES)
    return {f"PIP_{name.upper().replace('-', '_')}": found[name] for name in KEPT if found.get(name)}


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without the variables of pip and Python."""
    return {name: value for name, value in environ.items() if not name.startswith(("PIP_", "PYTHON"))}


def main(arguments: list[str]) -> None:
    plain = environment(os.environ)
    pip = [sys.executable, "-I", "-m", "pip"]
    files = {name: value for name, value in os.environ.items() if name == "PIP_CONFIG_FILE"}
    run = subprocess.run([*pip, "config", "list"], env=plain | files, stdout=subprocess.PIPE, text=True, check=False)
    settings = kept(os.environ, run.stdout.splitlines())
    # PIP_NO_CACHE_DIR: otherwise pip writes into the home directory
    ours = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_CACHE_DIR": "1",
        "PIP_NO_INPUT": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    sys.stdout.flush()
    os.execve(sys.executable, [*pip, *arguments], plain | settings | ours)


if __name__ == "__main__":
    main(sys.argv[1:])
