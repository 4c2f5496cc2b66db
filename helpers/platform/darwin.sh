# shellcheck shell=bash
# What macOS does its own way. linux.sh has the same functions.

can_open() { # is there a desktop that could show a picture?
  [ -z "${SSH_CONNECTION:-}" ]
}

open_picture() { # <file>
  open "$1"
}

python_remedy() { # how a person gets a Python that serves
  printf 'brew install python@3.12'
}
