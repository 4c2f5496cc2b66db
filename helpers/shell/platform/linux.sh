# shellcheck shell=bash
# What Linux does its own way. darwin.sh has the same functions.

can_open() { # is there a desktop that could show a picture?
  [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ] && command -v xdg-open >/dev/null
}

open_picture() { # <file>
  xdg-open "$1" >/dev/null 2>&1 </dev/null &
}

package_manager() { # prints its name, as the first column of helpers/core/packages.txt has it; fails where there is none
  local name
  for name in apt-get dnf zypper pacman brew; do
    if command -v "$name" >/dev/null; then printf '%s' "$name" && return; fi
  done
  return 1
}

no_package_manager() { # <ffmpeg or python>: prints what to do where none of those is there
  printf 'install %s with the package manager of your system' "$1"
}

notify() { # <title> <text> [picture]: a click opens it where the notification server can; else it opens by itself
  local body answer
  # It is markup for most servers, and notify-send reads \n, \033 and the like in it (g_strcompress)
  body=$(printf '%s' "$2" | sed 's/&/\&amp;/g; s/</\&lt;/g; s/>/\&gt;/g; s/\\/\\\\/g')
  if [ -z "${3:-}" ]; then
    notify-send -a 'Audio to Image' -- "$1" "$body" >/dev/null 2>&1 </dev/null
    return
  fi
  { # with an action it waits for the click, or until the notification is gone; its first versions know no actions
    answer=$(LANGUAGE=en notify-send -a 'Audio to Image' -i "$3" -A default=Open -- "$1" "$body" 2>&1) || {
      notify-send -a 'Audio to Image' -i "$3" -- "$1" "$body"
      answer=default
    }
    case $answer in *default | *'not supported'*) ! can_open || open_picture "$3" ;; esac # the server may know none, too
  } >/dev/null 2>&1 </dev/null &
}

play_sound() { # start or stop: of a recording; silent where no sound theme is installed
  local name=message player
  [ "$1" = start ] || name=complete
  {
    for player in paplay pw-play; do
      ! "$player" "/usr/share/sounds/freedesktop/stereo/$name.oga" || exit 0
    done
    canberra-gtk-play -i "$name"
  } >/dev/null 2>&1 </dev/null &
}
