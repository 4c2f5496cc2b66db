# shellcheck shell=bash disable=SC2154
# The hotkey in GNOME (and Budgie, Unity), and in Cinnamon, which has the same settings under other names. The list of
# custom shortcuts belongs to the user: we add and remove only our entry, and keep the others and their order.

gnome_bind() { gsettings_of gnome bind; }
gnome_bound() { gsettings_of gnome bound; }
gnome_unbind() { gsettings_of gnome unbind; }
gnome_owner() { gsettings_of gnome owner; }
cinnamon_bind() { gsettings_of cinnamon bind; }
cinnamon_bound() { gsettings_of cinnamon bound; }
cinnamon_unbind() { gsettings_of cinnamon unbind; }
cinnamon_owner() { gsettings_of cinnamon owner; }

gsettings_of() { # <desktop> <action>: runs gsettings_<action> with the desktop's names
  local list path entry ours binding
  "$1_names" && "gsettings_$2"
}

gnome_names() {
  list=(org.gnome.settings-daemon.plugins.media-keys custom-keybindings)
  path=/org/gnome/settings-daemon/plugins/media-keys/custom-keybindings/audio-to-image/ entry=$path
  ours=org.gnome.settings-daemon.plugins.media-keys.custom-keybinding:$path
  binding=$(gvariant_string "$(gtk_key)")
}

cinnamon_names() {
  list=(org.cinnamon.desktop.keybindings custom-list)
  path=/org/cinnamon/desktop/keybindings/custom-keybindings/audio-to-image/ entry=audio-to-image
  ours=org.cinnamon.desktop.keybindings.custom-keybinding:$path
  binding="[$(gvariant_string "$(gtk_key)")]"
}

gtk_key() { printf '%s%s' "$(modifiers '<Control>' '<Alt>' '<Shift>' '<Super>')" "$(keysym)"; }

gvariant_string() { printf '"%s"' "$(printf '%s' "$1" | sed 's/[\\"]/\\&/g')"; }

gsettings_bind() {
  local before new
  before=$(gsettings get "${list[@]}") && new=$(accelerators add "$entry" <<<"$before") || return 69
  case $before in
    *"'$entry'"*) ;;
    *\[\]) # empty by default, or emptied by the user (dconf knows): undo needs to know which
      if [ "$dry" = 0 ] && [ -n "$(dconf read "${path%/audio-to-image/}" 2>/dev/null)" ]; then : >"$kept/empty-list"; fi
      ;;
  esac
  act gsettings set "$ours" name "'Audio to Image'" &&
    act gsettings set "$ours" command "$(gvariant_string "$(press_command)")" &&
    act gsettings set "$ours" binding "$binding" &&
    act gsettings set "${list[@]}" "$new" || return 69 # last: when the list changes, the desktop reads the other keys
}

gsettings_listed() {
  case $(gsettings get "${list[@]}" 2>/dev/null) in *"'$entry'"*) ;; *) return 1 ;; esac
}

gsettings_bound() {
  gsettings_listed &&
    [ "$(gsettings get "$ours" command | accelerators text)" = "$(press_command)" ] &&
    [ "$(gsettings get "$ours" binding | accelerators text)" = "$(gtk_key)" ]
}

gsettings_unbind() {
  local now
  now=$(gsettings get "${list[@]}" 2>/dev/null) || return 0 # this desktop is no longer installed
  now=$(accelerators remove "$entry" <<<"$now") || return 69
  if [ "$now" = '@as []' ] && [ ! -e "$kept/empty-list" ]; then
    act gsettings reset "${list[@]}"
  else
    act gsettings set "${list[@]}" "$now"
  fi && act gsettings reset-recursively "$ours" || return 69
  [ "$dry" != 0 ] || ! gsettings_listed || return 69 # outside the session gsettings fails silently
  [ ! -e "$kept/empty-list" ] || act rm -f -- "$kept/empty-list"
}

gsettings_owner() {
  local schema other
  { # the desktop's shortcuts, then the user's
    for schema in org.gnome.settings-daemon.plugins.media-keys org.gnome.desktop.wm.keybindings \
      org.gnome.shell.keybindings org.gnome.mutter.keybindings org.gnome.mutter.wayland.keybindings \
      org.cinnamon.desktop.keybindings.wm org.cinnamon.desktop.keybindings.media-keys; do
      case $schema in org."${list[0]#org.}"* | org.gnome.*) ;; *) continue ;; esac
      gsettings list-recursively "$schema" 2>/dev/null | sed 's/^[^ ]* \([^ ]*\) /\1\t/'
    done
    gsettings get "${list[@]}" | accelerators all | while IFS= read -r other; do
      [ "$other" != "$entry" ] || continue
      other=${ours%%:*}:${path%audio-to-image/}$(basename -- "$other")/
      printf '%s\t%s\n' "$(gsettings get "$other" name | accelerators text)" "$(gsettings get "$other" binding)"
    done
  } | accelerators owners "$key"
}
