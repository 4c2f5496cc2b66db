# shellcheck shell=bash
# What Linux does its own way. darwin.sh has the same functions.

can_open() { # is there a desktop that could show a picture?
  [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ] && command -v xdg-open >/dev/null
}

open_picture() { # <file>
  xdg-open "$1" >/dev/null 2>&1 </dev/null &
}

python_remedy() { # how a person gets a Python that serves
  if command -v apt-get >/dev/null; then
    printf 'sudo apt-get install python3 python3-venv'
  elif command -v dnf >/dev/null; then
    printf 'sudo dnf install python3'
  elif command -v pacman >/dev/null; then
    printf 'sudo pacman -S python'
  else
    printf 'install Python 3.10 to 3.13 with its venv module'
  fi
}
