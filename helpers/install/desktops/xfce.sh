# shellcheck shell=bash disable=SC2154
# The key in Xfce: one property, named after the key.

xfce_channel=(xfconf-query -c xfce4-keyboard-shortcuts)

xfce_property() { printf '/commands/custom/%s%s' "$(modifiers '<Primary>' '<Alt>' '<Shift>' '<Super>')" "$(keysym)"; }

xfce_bind() {
  [ "$dry" != 0 ] || printf '%s\n' "$(xfce_property)" >"$kept/xfce-property" # undo may come with another key
  act "${xfce_channel[@]}" -p "$(xfce_property)" -n -t string -s "$(press_command)" || return 69
}

xfce_bound() { [ "$("${xfce_channel[@]}" -p "$(xfce_property)" 2>/dev/null)" = "$(press_command)" ]; }

xfce_unbind() {
  local property
  property=$(cat -- "$kept/xfce-property" 2>/dev/null) && command -v xfconf-query >/dev/null || return 0
  "${xfce_channel[@]}" -l >/dev/null 2>&1 || return 69 # outside the session it cannot be told from one that is not there
  case $("${xfce_channel[@]}" -p "$property" 2>/dev/null) in
    *"/helpers/press.sh'") act "${xfce_channel[@]}" -p "$property" -r || return 69 ;; # else it is somebody else's by now
  esac
  act rm -f -- "$kept/xfce-property"
}

xfce_owner() { # lines are a property, spaces, its value: commands, and what the window manager does
  local name value ours
  ours=$(cat -- "$kept/xfce-property" 2>/dev/null) # it may run what was ours before this folder was moved
  "${xfce_channel[@]}" -lv 2>/dev/null | while read -r name value; do
    case $name in
      /commands/custom/* | /xfwm4/custom/*)
        [ "$name" = "$ours" ] || printf "%s\t'%s'\n" "$value" "${name##*/}"
        ;;
    esac
  done | accelerators owners "$key"
}
