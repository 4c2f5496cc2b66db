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
