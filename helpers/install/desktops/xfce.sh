# shellcheck shell=bash disable=SC2154
# The hotkey in Xfce: one property, named after the hotkey.

xfce_channel=(xfconf-query -c xfce4-keyboard-shortcuts)

xfce_property() { printf '/commands/custom/%s%s' "$(modifiers '<Primary>' '<Alt>' '<Shift>' '<Super>')" "$(keysym)"; }

xfce_bind() {
  [ "$dry" != 0 ] || printf '%s\n' "$(xfce_property)" >"$kept/xfce-property" # undo may run with another hotkey
  act "${xfce_channel[@]}" -p "$(xfce_property)" -n -t string -s "$(press_command)" || return 69
}

xfce_bound() { [ "$("${xfce_channel[@]}" -p "$(xfce_property)" 2>/dev/null)" = "$(press_command)" ]; }

xfce_unbind() {
  local property
  property=$(cat -- "$kept/xfce-property" 2>/dev/null) && command -v xfconf-query >/dev/null || return 0
  "${xfce_channel[@]}" -l >/dev/null 2>&1 || return 69 # outside the session every property looks missing
  case $("${xfce_channel[@]}" -p "$property" 2>/dev/null) in
    *"/helpers/press.sh'") act "${xfce_channel[@]}" -p "$property" -r || return 69 ;; # otherwise it belongs to something else now
  esac
  act rm -f -- "$kept/xfce-property"
}

xfce_owner() { # each line: a property, spaces, its value (a command, or an action of the window manager)
  local name value ours
  ours=$(cat -- "$kept/xfce-property" 2>/dev/null) # our own property, even if this folder was moved since then
  "${xfce_channel[@]}" -lv 2>/dev/null | while read -r name value; do
    case $name in
      /commands/custom/* | /xfwm4/custom/*)
        [ "$name" = "$ours" ] || printf "%s\t'%s'\n" "$value" "${name##*/}"
        ;;
    esac
  done | accelerators owners "$key"
}
