# shellcheck shell=bash
# Functions for Linux. darwin.sh has the same functions.

can_open() { # whether there is a desktop that can show a picture
  [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ] && command -v xdg-open >/dev/null
}

open_picture() { # <file>
  xdg-open "$1" >/dev/null 2>&1 </dev/null &
}

package_manager() { # prints its name as in helpers/core/packages.txt; fails if there is none
  local name
  for name in apt-get dnf zypper pacman brew; do
    if command -v "$name" >/dev/null; then printf '%s' "$name" && return; fi
  done
  return 1
}

no_package_manager() { # <ffmpeg or python>: prints how to install it without a known package manager
  printf 'install %s with the package manager of your system' "$1"
}

notify() { # <title> <text> [picture]: a click opens the picture; if the server has no actions, it opens at once
  local body answer
  # Most servers treat the text as markup, and notify-send expands \n, \033 and the like (g_strcompress)
  body=$(printf '%s' "$2" | sed 's/&/\&amp;/g; s/</\&lt;/g; s/>/\&gt;/g; s/\\/\\\\/g')
  if [ -z "${3:-}" ]; then
    notify-send -a 'Audio to Image' -- "$1" "$body" >/dev/null 2>&1 </dev/null
    return
  fi
  { # -A waits for a click, or until the notification closes; old versions of notify-send have no -A
    answer=$(LANGUAGE=en notify-send -a 'Audio to Image' -i "$3" -A default=Open -- "$1" "$body" 2>&1) || {
      notify-send -a 'Audio to Image' -i "$3" -- "$1" "$body"
      answer=default
    }
    case $answer in *default | *'not supported'*) ! can_open || open_picture "$3" ;; esac # the server may not support actions either
  } >/dev/null 2>&1 </dev/null &
}

play_sound() { # <start or stop>: of a recording; silent if no sound theme is installed
  local name=message player
  [ "$1" = start ] || name=complete
  {
    for player in paplay pw-play; do
      ! "$player" "/usr/share/sounds/freedesktop/stereo/$name.oga" || exit 0
    done
    canberra-gtk-play -i "$name"
  } >/dev/null 2>&1 </dev/null &
}
