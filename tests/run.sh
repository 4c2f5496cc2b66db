#!/usr/bin/env bash
# The tests, on a machine that has nothing but Python, git and a package manager:
#   tests/run.sh --fast   style, types, contracts and the quick tests, in 3 minutes: no PyTorch, desktop or sound server
#   tests/run.sh          all tests, in 15 minutes on two cores; this is what continuous integration runs
#   tests/run.sh --full   all tests at full size, for hours
# What follows goes to pytest:  tests/run.sh --fast -k transcribe
# It installs what is missing: programs from the system's packages (as root, or with sudo), Python packages into .venv-test.
set -u -o pipefail

# By the names of Debian's packages. BASIC is all that --fast needs; the others are voices, a headless sound server, the
# font of the scenes, and what keeps the hotkeys of each desktop.
BASIC='bats shellcheck ffmpeg procps parallel espeak-ng flite festival festvox-kallpc16k festvox-us-slt-hts'
OTHER='pulseaudio pulseaudio-utils tmux strace fonts-noto-color-emoji
  dbus libglib2.0-bin gsettings-desktop-schemas gnome-settings-daemon-common dconf-gsettings-backend dconf-cli
  cinnamon-desktop-data libkf5config-bin libkf5globalaccel-bin xvfb xdotool xfconf libxfconf-0-3 sway wtype
  desktop-file-utils'

install_packages() { # <packages>
  local package missing='' admin=''
  command -v dpkg-query >/dev/null || { # a Mac, say: the tests skip what they cannot run there
    command -v bats >/dev/null && command -v shellcheck >/dev/null && return
    printf 'tests: bats or ShellCheck is missing\n  Install them, for example: brew install bats-core shellcheck\n' >&2
    return 1
  }
  for package in $1; do
    [ "$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null)" = 'install ok installed' ] || missing="$missing $package"
  done
  if [ -z "$missing" ]; then return; fi
  printf 'tests: installing%s\n' "$missing" >&2
  [ "$(id -u)" -eq 0 ] || admin=sudo
  # shellcheck disable=SC2086
  $admin apt-get update -qq && $admin env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >/dev/null
}

install_python() { # <extras>: .venv-test is made anew when a pin changes, and "dev" grows into "dev,reference"
  local pins has=''
  pins=$(sed -n '/^requires-python/,/^\[tool\./p' pyproject.toml | cksum)
  if [ -r .venv-test/whole ]; then has=$(<.venv-test/whole); fi
  case $has in "$pins $1" | "$pins dev,reference") return ;; esac
  printf 'tests: installing the test environment into .venv-test\n' >&2
  if [ "$has" != "$pins dev" ]; then
    rm -rf .venv-test
    python3 -m venv .venv-test || return
  fi
  .venv-test/bin/python -m pip install -q --disable-pip-version-check -e ".[$1]" &&
    printf '%s %s\n' "$pins" "$1" >.venv-test/whole
}

main() {
  local failed='' tier='' jobs='' quick=''
  case ${1:-} in
    -h | --help) sed -n '2,7s/^# //p' "${BASH_SOURCE[0]}" && return ;;
    --fast | --full) tier=$1 && shift ;;
  esac
  cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit
  if [ "$tier" = --fast ]; then
    install_packages "$BASIC" && install_python dev || exit 69
  else
    install_packages "$BASIC $OTHER" && install_python dev,reference || exit 69
  fi
  export PATH=$PWD/.venv-test/bin:$PATH PYTHONUTF8=1
  command -v parallel >/dev/null && jobs='--jobs 2 --no-parallelize-within-files'

  printf '== style, types and contracts\n'
  ruff check . && ruff format --check . || failed="$failed ruff"
  # Without PyTorch, the types of what a user runs; all of them otherwise.
  if [ "$tier" = --fast ]; then mypy ./*.py helpers; else mypy; fi || failed="$failed mypy"
  lint-imports || failed="$failed lint-imports"
  printf '== the shell\n'
  [ "$tier" != --fast ] || quick='--filter-tags !slow'
  # shellcheck disable=SC2086
  bats $jobs $quick tests || failed="$failed bats"
  printf '== Python\n'
  # One thread of PyTorch in each of the two processes: more wait for each other.
  # shellcheck disable=SC2086
  OMP_NUM_THREADS=1 python -m pytest -q -n 2 --dist worksteal --durations=10 $tier "$@" || failed="$failed pytest"
  [ -z "$failed" ] || {
    printf 'tests: failed:%s\n' "$failed" >&2
    exit 1
  }
}

main "$@"
