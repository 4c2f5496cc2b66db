# shellcheck shell=bash disable=SC2154
# The hotkey in KDE Plasma 5 and 6. Its shortcut service binds a desktop file in kglobalaccel/ over D-Bus, immediately,
# and writes kglobalshortcutsrc itself. If it does not answer, we write that file, for the next login.

kde_file() { printf '%s/kglobalaccel/audio-to-image.desktop' "$data_home"; }
kde_settings() { printf '%s/kglobalshortcutsrc' "$config_home"; }
kde_key() { printf '%s%s' "$(modifiers Ctrl+ Alt+ Shift+ Meta+)" "$(keysym | tr '[:lower:]' '[:upper:]')"; }

kde_call() { # <method> [arguments]
  local method=org.kde.KGlobalAccel.$1
  shift
  dbus-send --session --print-reply --reply-timeout=3000 --dest=org.kde.kglobalaccel \
    /kglobalaccel "$method" "$@" 2>/dev/null
}

kde_tell() { kde_call "$@" >/dev/null; }

kde_answers() {
  [ -n "${DBUS_SESSION_BUS_ADDRESS:-}" ] && kde_tell allComponents
}

kde_number() { # prints the hotkey as Qt's number: Qt::Key plus Qt::KeyboardModifier
  local letter held
  letter=$(keysym | tr '[:lower:]' '[:upper:]')
  case $letter in
    SPACE) letter=32 ;;
    F[0-9]*) letter=$((0x01000030 + ${letter#F} - 1)) ;;
    *) letter=$(printf '%d' "'$letter") ;;
  esac
  held=$(modifiers '+ 0x04000000' '+ 0x08000000' '+ 0x02000000' '+ 0x10000000')
  printf '%d' "$((${letter}${held}))"
}

kde_id=array:string:'audio-to-image.desktop,_launch,Audio to Image,Audio to Image'

kde_version() { # of the running session, otherwise of the installed tools
  if [ -n "${KDE_SESSION_VERSION:-}" ]; then
    printf '%s' "$KDE_SESSION_VERSION"
  elif command -v kwriteconfig6 >/dev/null; then
    printf 6
  else
    printf 5
  fi
}

kde_groups() { # <version>: sets groups, the place of the hotkey in kglobalshortcutsrc
  groups=(--file kglobalshortcutsrc --group audio-to-image.desktop)
  [ "$1" = 5 ] || groups=(--file kglobalshortcutsrc --group services --group audio-to-image.desktop)
}

kde_bind() {
  local version groups
  version=$(kde_version)
  case $version$root in
    5*[%\$]*) # its service expands these characters; kglobalaccel 5.103 crashes on a last word with %
      say "Plasma 5 cannot start programs in a folder with % or \$ in its name: $root"
      say "  rename the folder, then run ./shortcut_install.sh"
      return 69
      ;;
  esac
  keep_file "$(kde_settings)"
  desktop_file X-KDE-GlobalAccel-CommandShortcut=true | write_file "$(kde_file)" 644 || return 73
  if kde_answers; then
    act kde_tell doRegister "$kde_id" &&
      act kde_tell setShortcut "$kde_id" "array:int32:$(kde_number)" uint32:6 || return 69 # SetPresent, NoAutoloading
  else
    kde_groups "$version"
    if [ "$version" = 5 ]; then
      act kwriteconfig5 "${groups[@]}" --key _k_friendly_name 'Audio to Image' &&
        act kwriteconfig5 "${groups[@]}" --key _launch "$(kde_key),none,Audio to Image"
    else
      act "kwriteconfig$version" "${groups[@]}" --key _launch "$(kde_key)"
    fi || return 69
    say "The key works from your next login on."
  fi
}

kde_bound() {
  local version groups
  desktop_file X-KDE-GlobalAccel-CommandShortcut=true | cmp -s - "$(kde_file)" || return 1
  if kde_answers; then
    kde_call shortcut "$kde_id" | grep -q "int32 $(kde_number)\$"
  else
    version=$(kde_version)
    kde_groups "$version"
    case $("kreadconfig$version" "${groups[@]}" --key _launch 2>/dev/null) in
      "$(kde_key)" | "$(kde_key),"*) ;;
      *) return 1 ;;
    esac
  fi
}

kde_unbind() {
  local version groups name
  if kde_answers && kde_call shortcut "$kde_id" | grep -q int32; then
    act kde_tell unregister string:audio-to-image.desktop string:_launch || return 69
    [ "$dry" != 0 ] || sleep 1 # the service writes its file half a second later
  fi
  for version in 5 6; do
    kde_groups "$version"
    command -v "kwriteconfig$version" >/dev/null || continue
    grep -q '^\[.*audio-to-image\.desktop\]$' "$(kde_settings)" 2>/dev/null || continue
    for name in _k_friendly_name _launch; do act "kwriteconfig$version" "${groups[@]}" --key "$name" --delete ''; done
  done
  restore_file "$(kde_file)"
  give_back_file "$(kde_settings)"
}

kde_owner() {
  if kde_answers; then # six strings per shortcut: action, its name, component, its name, context, its name
    kde_call getGlobalShortcutsByKey "int32:$(kde_number)" | awk -F '"' '/^ *string "/ { name[count++ % 6] = $2
      if (count % 6 == 0 && name[2] != "audio-to-image.desktop") print name[3] ": " name[1] }'
  else # NAME=KEY, more keys after tabs, then a comma and the default
    awk -v "key=$(kde_key)" '/^\[/ { group = $0 }
      group !~ /audio-to-image\.desktop/ { split($0, part, /[=,]/); n = split(part[2], keys, /\\t/)
        for (i = 1; i <= n; i++) if (keys[i] == key) print group " " part[1] }' "$(kde_settings)" 2>/dev/null
  fi
}
