# shellcheck shell=bash disable=SC2154
# The installer's steps on Linux: the entry in the menu, the hotkey in the desktop. darwin.sh has the same functions.
# Each desktop NAME has four functions in desktops/: NAME_bind, NAME_bound (whether the hotkey runs our command),
# NAME_unbind and NAME_owner, which prints what else uses the hotkey. They do nothing if there is nothing to do.

. "$root/helpers/install/desktops/gnome.sh"
. "$root/helpers/install/desktops/kde.sh"
. "$root/helpers/install/desktops/xfce.sh"
. "$root/helpers/install/desktops/tiling.sh"

data_home=${XDG_DATA_HOME:-$home/.local/share}
config_home=${XDG_CONFIG_HOME:-$home/.config}
kept=$root/.cache/install/before # backups that undo needs

system_check() {
  local memory free
  memory=$(sed -n 's/^MemTotal: *\([0-9]*\) kB$/\1/p' /proc/meminfo 2>/dev/null)
  if [ -z "$memory" ]; then
    printf 'this is neither macOS nor Linux\n'
    return 1
  fi
  if [ "$memory" -lt 1900000 ]; then # KiB: 2 GB minus the kernel's own memory
    printf 'this machine has %d MB of memory, 2 GB are necessary\n' "$((memory / 1024))"
    return 1
  fi
  if [ ! -e "$root/.venv/whole" ]; then
    free=$(df -Pk -- "$root" | awk 'END { print $4 }')
    if [ "$free" -lt 3000000 ]; then
      printf 'the disk has only %d MB of free space for %s, 3 GB are necessary\n' "$((free / 1024))" "$root"
      printf '  free some disk space, then run ./shortcut_install.sh\n'
      return 1
    fi
  fi
}

# ---- the hotkey in the notation of each desktop

modifiers() { # <ctrl> <alt> <shift> <cmd>: prints the modifiers of the hotkey, with these names
  case +$key in *+ctrl+*) printf '%s' "$1" ;; esac
  case +$key in *+alt+*) printf '%s' "$2" ;; esac
  case +$key in *+shift+*) printf '%s' "$3" ;; esac
  case +$key in *+cmd+*) printf '%s' "$4" ;; esac
}

keysym() { # prints the key without modifiers, as X and Wayland call it: i, 7, space, F5
  local last=${key##*+}
  case $last in
    f[0-9]*) printf 'F%s' "${last#f}" ;;
    *) printf '%s' "$last" ;;
  esac
}

key_name() { printf '%s%s' "$(modifiers Ctrl+ Alt+ Shift+ Super+)" "$(keysym | tr '[:lower:]' '[:upper:]')"; }

accelerators() { # <command> [argument]
  local program=$python
  [ -x "$program" ] || program=python3
  "$program" "${isolated[@]}" "$root/helpers/install/desktops/accelerators.py" "$@"
}

# The command of the hotkey, quoted for a shell. Without backslashes, which some desktops interpret themselves.
press_command() { printf "'%s'" "$(printf '%s' "$root/helpers/press.sh" | sed "s/'/'\"'\"'/g")"; }

# Exec has quoting rules, and then the escapes of any string (Desktop Entry 1.5). Its first word must be a plain path:
# GLib does not replace %% when it looks for that program. So bash comes first.
desktop_file() { # [line …]
  local program
  program=$(printf '%s' "$root/helpers/press.sh" | sed 's/[\\"`$]/\\&/g; s/\\/\\\\/g; s/%/%%/g')
  printf '%s\n' '[Desktop Entry]' Type=Application 'Name=Audio to Image' 'Comment=Speak, and see the picture' \
    "Exec=/usr/bin/env bash \"$program\"" Icon=audio-input-microphone 'Categories=Graphics;' StartupNotify=false "$@"
}

# ---- the user's files, in which we add one line

keep_file() { # <file>: makes a backup before the first change
  if [ "$dry" = 0 ] && [ -e "$1" ] && [ ! -e "$(kept_copy "$1")" ]; then cp -p -- "$1" "$(kept_copy "$1")"; fi
}

kept_copy() { printf '%s/line-%s' "$kept" "$(printf '%s' "$1" | cksum | tr ' ' -)"; }

# Restores the backup, byte for byte, if the file without our line has the same lines in any order. Otherwise somebody
# has changed it since then, and it stays.
give_back_file() { # <file>
  local copy
  copy=$(kept_copy "$1")
  if [ ! -e "$copy" ]; then
    if [ -e "$1" ] && ! grep -q '[^[:space:]]' "$1"; then act rm -f -- "$1"; fi # it was created for our line
    return
  fi
  if [ -e "$1" ] && [ "$(grep -v '^$' "$1" | LC_ALL=C sort)" = "$(grep -v '^$' "$copy" | LC_ALL=C sort)" ]; then
    act put "$copy" "$(linked_file "$1")" || return
  fi
  act rm -f -- "$copy"
}

add_line() { # <file> <line>
  local end=''
  [ -z "$(tail -c 1 -- "$1")" ] || end=$'\n'
  { printf '%s%s\n' "$end" "$2" >>"$1"; } 2>/dev/null
}

remove_line() { # <file> <line>
  local file part
  file=$(linked_file "$1")
  part=$(part_of "$file")
  cp -p -- "$file" "$part" && { grep -vxF -- "$2" "$file" >"$part" || [ $? -eq 1 ]; } && mv -f -- "$part" "$file"
}

# ---- the steps

desktop() { # prints the running desktop; nothing if it is unknown
  [ -z "${SWAYSOCK:-}" ] || { printf sway && return; }
  [ -z "${HYPRLAND_INSTANCE_SIGNATURE:-}" ] || { printf hyprland && return; }
  case $(printf ':%s:%s:' "${XDG_CURRENT_DESKTOP:-}" "${XDG_SESSION_DESKTOP:-}" | tr '[:upper:]' '[:lower:]') in
    *:kde:* | *plasma*) printf kde ;;
    *cinnamon*) printf cinnamon ;;
    *xfce*) printf xfce ;;
    *gnome* | *unity* | *budgie*) printf gnome ;;
    *:sway:*) printf sway ;;
    *hyprland*) printf hyprland ;;
    *) [ -z "${KDE_SESSION_VERSION:-}" ] || printf kde ;;
  esac
}

desktop_name() { # <desktop>
  case $1 in
    kde) printf 'KDE Plasma' ;;
    gnome) printf GNOME ;;
    xfce) printf Xfce ;;
    cinnamon) printf Cinnamon ;;
    hyprland) printf Hyprland ;;
    *) printf '%s' "$1" ;;
  esac
}

has_menu() { [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}${XDG_CURRENT_DESKTOP:-}" ]; }

app_file() { printf '%s/applications/audio-to-image.desktop' "$data_home"; }
app_plan() { app_is_done || printf 'add Audio to Image to the menu of the desktop (1 kB)\n'; }
app_is_done() { ! has_menu || desktop_file | cmp -s - "$(app_file)"; }

app_do() {
  ! has_menu || desktop_file | write_file "$(app_file)" 644 || {
    say "cannot write $(app_file)"
    say "  ./pipeline.sh works without the entry in the menu"
    return 73
  }
}

app_undo() { [ ! -e "$(app_file)" ] || restore_file "$(app_file)"; }

app_status() {
  if [ -e "$(app_file)" ]; then printf 'in the menu: %s\n' "$(app_file)"; else printf 'not in the menu\n'; fi
}

shortcut_mark() { printf 'keyboard shortcut (%s)' "$1"; } # <desktop>: its name in the journal

shortcut_plan() {
  local name owner
  if shortcut_is_done; then return 0; fi
  name=$(desktop)
  if [ -z "$name" ]; then
    printf 'show how to bind %s: this desktop is not supported\n' "$(key_name)"
    return
  fi
  owner=$("${name}_owner" | head -n 1)
  if [ -n "$owner" ]; then
    printf 'none: %s belongs to "%s"; choose another hotkey with --key KEY\n' "$(key_name)" "$owner"
  else
    printf 'bind %s in %s\n' "$(key_name)" "$(desktop_name "$name")"
  fi
}

shortcut_is_done() {
  local name
  name=$(desktop)
  if [ -z "$name" ]; then journalled setting "$(shortcut_mark 'by hand')"; else "${name}_bound" 2>/dev/null; fi
}

shortcut_do() {
  local name owner code=0
  name=$(desktop)
  if [ -z "$name" ]; then
    journal setting "$(shortcut_mark 'by hand')"
    say "This desktop is not supported. In its keyboard settings, bind $(key_name) to this command:"
    say "  $(press_command)"
    return 0
  fi
  owner=$("${name}_owner" | head -n 1)
  if [ -n "$owner" ]; then
    say "$(key_name) belongs to \"$owner\" in $(desktop_name "$name"), so it was not changed"
    say "  choose another hotkey: ./shortcut_install.sh --key KEY"
    return 69
  fi
  if journalled setting "$(shortcut_mark "$name")"; then "${name}_unbind" || return; fi # the hotkey or the folder has changed
  [ "$dry" != 0 ] || mkdir -p -- "$kept" || return 73
  journal setting "$(shortcut_mark "$name")"
  "${name}_bind" || code=$?
  if [ "$code" -eq 0 ] && [ "$dry" = 0 ] && ! "${name}_bound"; then code=69; fi
  if [ "$code" -ne 0 ]; then
    say "$(key_name) could not be bound in $(desktop_name "$name")"
    say "  run ./shortcut_install.sh inside the desktop, or bind it there to $(press_command)"
  fi
  return "$code"
}

shortcut_undo() {
  local name code=0
  for name in gnome cinnamon kde xfce sway hyprland; do
    if journalled setting "$(shortcut_mark "$name")"; then
      "${name}_unbind" || {
        code=$?
        say "the hotkey could not be removed from $(desktop_name "$name")"
        say "  run this again inside the desktop"
      }
    fi
  done
  return "$code"
}

shortcut_status() {
  local name
  name=$(desktop)
  if [ -z "$name" ]; then
    printf 'this desktop is not supported; bind %s to %s\n' "$(key_name)" "$(press_command)"
  elif shortcut_is_done; then
    printf '%s in %s\n' "$(key_name)" "$(desktop_name "$name")"
  else
    printf 'no hotkey in %s\n' "$(desktop_name "$name")"
  fi
}
