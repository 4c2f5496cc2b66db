#!/usr/bin/env bash
# Every test, on a machine that has nothing but Python, git and a package manager:  tests/run.sh [pytest arguments]
# What is missing is installed: bats, ShellCheck, FFmpeg, a headless sound server and voices from the system's packages
# (as root, or with sudo), pytest and the frameworks that results are compared with into .venv-test.
set -u -o pipefail

# Programs, two more voices, the font that the scenes are drawn with, and what keeps the keys of the desktops, by the
# names of Debian's packages
PACKAGES='bats shellcheck ffmpeg espeak-ng flite festival festvox-kallpc16k festvox-us-slt-hts pulseaudio pulseaudio-utils
  tmux procps strace fonts-noto-color-emoji
  dbus libglib2.0-bin gsettings-desktop-schemas gnome-settings-daemon-common dconf-gsettings-backend dconf-cli
  cinnamon-desktop-data libkf5config-bin libkf5globalaccel-bin xvfb xdotool xfconf libxfconf-0-3 sway wtype
  desktop-file-utils'

install_packages() {
  local package missing='' admin=''
  command -v dpkg-query >/dev/null || { # a Mac, say: the tests skip what they cannot run there
    command -v bats >/dev/null && command -v shellcheck >/dev/null && return
    printf 'tests: install bats and ShellCheck first, for example: brew install bats-core shellcheck\n' >&2
    return 1
  }
  for package in $PACKAGES; do
    [ "$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null)" = 'install ok installed' ] || missing="$missing $package"
  done
  if [ -z "$missing" ]; then return; fi
  printf 'tests: installing%s\n' "$missing" >&2
  [ "$(id -u)" -eq 0 ] || admin=sudo
  # shellcheck disable=SC2086
  $admin apt-get update -qq && $admin env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >/dev/null
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
  case ${1:-} in -h | --help) sed -n '2,5s/^# //p' "${BASH_SOURCE[0]}" && return ;; esac
  cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit
  install_packages && install_python || exit 69
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
