# shellcheck shell=bash
# Functions for macOS. linux.sh has the same functions.

can_open() { # whether there is a desktop that can show a picture
  [ -z "${SSH_CONNECTION:-}" ]
}

open_picture() { # <file>
  open "$1"
}

package_manager() { # prints its name as in helpers/core/packages.txt; fails if there is none
  command -v brew >/dev/null && printf brew
}

no_package_manager() { # <ffmpeg or python>: prints how to install it without Homebrew
  printf 'install Homebrew (https://brew.sh), then: %s' "$(package_hint "$1" brew)"
}

notify() { # <title> <text> [picture]: opens the picture at once, since a click on the notification cannot
  osascript -e 'on run argv' -e 'display notification (item 2 of argv) with title (item 1 of argv)' -e 'end run' \
    -- "$1" "$2" >/dev/null 2>&1 </dev/null
  [ -z "${3:-}" ] || open_picture "$3"
}

play_sound() { # <start or stop>: of a recording
  local name=Tink
  [ "$1" = start ] || name=Pop
  afplay "/System/Library/Sounds/$name.aiff" >/dev/null 2>&1 </dev/null &
}
