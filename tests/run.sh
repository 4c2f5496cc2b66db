#!/usr/bin/env bash
# Every test, on a machine that has nothing but Python, git and a package manager:  tests/run.sh [pytest arguments]
# What is missing is installed: bats, ShellCheck, FFmpeg, a headless sound server and voices from the system's packages
# (as root, or with sudo), pytest and the frameworks that results are compared with into .venv-test.
set -u -o pipefail

# program and the Debian package that brings it
PROGRAMS='bats:bats shellcheck:shellcheck ffmpeg:ffmpeg espeak-ng:espeak-ng flite:flite festival:festival
  pulseaudio:pulseaudio pactl:pulseaudio-utils tmux:tmux pgrep:procps'
# what comes without a program of its own: two voices and the font that the scenes are drawn with
DATA='festvox-kallpc16k festvox-us-slt-hts fonts-noto-color-emoji'

install_programs() {
  local pair missing='' admin=''
  for pair in $PROGRAMS; do
    command -v "${pair%:*}" >/dev/null || missing="$missing ${pair#*:}"
  done
  if [ -z "$missing" ]; then return; fi
  printf 'tests: installing%s\n' "$missing" >&2
  command -v apt-get >/dev/null || {
    printf 'tests: install these first, this system has no apt-get:%s\n' "$missing" >&2
    return 1
  }
  [ "$(id -u)" -eq 0 ] || admin=sudo
  # shellcheck disable=SC2086
  $admin apt-get update -qq && $admin env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing $DATA >/dev/null
}

install_python() { # .venv-test is made anew when the pins change
  local stamp
  stamp=$(cksum <pyproject.toml)
  if [ -r .venv-test/whole ] && [ "$(<.venv-test/whole)" = "$stamp" ]; then return; fi
  printf 'tests: installing the test environment into .venv-test\n' >&2
  rm -rf .venv-test
  python3 -m venv .venv-test && .venv-test/bin/python -m pip install -q --disable-pip-version-check -e '.[dev]' &&
    printf '%s\n' "$stamp" >.venv-test/whole
}

main() {
  local failed=''
  cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit
  install_programs && install_python || exit 69
  export PATH=$PWD/.venv-test/bin:$PATH PYTHONUTF8=1
  printf '== style and types\n'
  ruff check . && ruff format --check . || failed="$failed ruff"
  mypy || failed="$failed mypy"
  printf '== the shell\n'
  bats tests || failed="$failed bats"
  printf '== Python\n'
  python -m pytest -q --durations=10 "$@" || failed="$failed pytest"
  [ -z "$failed" ] || {
    printf 'tests: failed:%s\n' "$failed" >&2
    exit 1
  }
}

main "$@"
