# shellcheck shell=bash disable=SC2154
# The hotkey in sway and Hyprland: our own file beside the user's configuration, and one line there that includes it.
# We create no configuration: with one, the compositor would no longer use its default.

sway_config() {
  if [ -e "$home/.sway/config" ]; then printf '%s' "$home/.sway/config"; else printf '%s' "$config_home/sway/config"; fi
}

sway_keys() { printf '%s%s' "$(modifiers Ctrl+ Mod1+ Shift+ Mod4+)" "$(keysym)"; }

# "exec exec": with two words after the key sway leaves the quotes to the shell. It treats a backslash as an escape and $ as
# a variable, and replaces variables twice: when it reads the line, and when it runs it.
sway_line() {
  printf 'bindsym %s exec exec %s\n' "$(sway_keys)" "$(press_command | sed 's/\\/\\\\/g; s/\$/$$$$/g')"
}

sway_bind() { include_bind sway "$(sway_config)" include "$(sway_line)" && sway_reload; }
sway_bound() { include_bound "$(sway_config)" include "$(sway_line)"; }
sway_unbind() { include_unbind "$(sway_config)" include && sway_reload; }

sway_reload() {
  if [ -n "${SWAYSOCK:-}" ]; then act swaymsg -q reload 2>/dev/null || warn "sway did not reload its configuration"; fi
}

sway_owner() { # looks at the bindings of the configuration, with its variables replaced
  awk "$put_in"' $1 == "set" { value[$2] = $3 }
    $1 == "bindsym" { for (i = 2; $i ~ /^--/; i++) continue
      print $0 "\t\"" put_in($i) "\"" }' "$(sway_config)" 2>/dev/null | accelerators owners "$key"
}

hyprland_config() { printf '%s' "$config_home/hypr/hyprland.conf"; }

hyprland_line() { # ## stands for a literal #
  printf 'bind = %s, %s, exec, %s\n' "$(modifiers 'CTRL ' 'ALT ' 'SHIFT ' 'SUPER ' | sed 's/ $//')" \
    "$(keysym | tr '[:lower:]' '[:upper:]')" "$(press_command | sed 's/#/##/g')"
}

# Hyprland reloads its configuration by itself.
hyprland_bind() { include_bind Hyprland "$(hyprland_config)" 'source =' "$(hyprland_line)"; }
hyprland_bound() { include_bound "$(hyprland_config)" 'source =' "$(hyprland_line)"; }
hyprland_unbind() { include_unbind "$(hyprland_config)" 'source ='; }

hyprland_owner() {
  awk -F= "$put_in"' /^ *\$/ { name = $1; gsub(/ /, "", name); value[name] = $2 }
    /^ *bind[a-z]* *=/ { split($2, part, ","); keys = put_in(part[1] "+" part[2])
      gsub(/[ _+]+/, "+", keys); print $0 "\t\"" keys "\"" }' "$(hyprland_config)" 2>/dev/null |
    accelerators owners "$key"
}

# awk: replaces the variables of a text; without regular expressions, since their names begin with $
put_in='function put_in(text, name, at) {
  for (name in value) if ((at = index(text, name)))
    text = substr(text, 1, at - 1) value[name] substr(text, at + length(name))
  return text }'

include_file() { printf '%s/audio-to-image.conf' "$(dirname -- "$1")"; } # <configuration>

include_line() { # <configuration> <keyword>: with ~, which both understand, since the home folder's path may have spaces
  local file
  file=$(include_file "$1")
  case $file in "$home"/*) file="~${file#"$home"}" ;; esac
  printf '%s %s\n' "$2" "$file"
}

include_bind() { # <desktop> <configuration> <keyword> <line that binds the key>
  local line
  line=$(include_line "$2" "$3")
  if [ ! -e "$2" ]; then
    say "There is no $2. If we created it, $1 would ignore its default configuration. Create yours, with this line:"
    say "  $4"
    return 69
  fi
  printf '%s\n' "$4" | write_file "$(include_file "$2")" 644 || return 73
  if ! grep -qxF -- "$line" "$2"; then
    keep_file "$2"
    act add_line "$2" "$line" || {
      say "Cannot write $2. Add this line to the file that it is generated from:"
      say "  $line"
      return 73
    }
  fi
}

include_bound() { # <configuration> <keyword> <line>
  [ "$(cat -- "$(include_file "$1")" 2>/dev/null)" = "$3" ] && grep -qxF -- "$(include_line "$1" "$2")" "$1"
}

include_unbind() { # <configuration> <keyword>
  local line
  line=$(include_line "$1" "$2")
  if grep -qxF -- "$line" "$1" 2>/dev/null; then act remove_line "$1" "$line" || return 73; fi
  restore_file "$(include_file "$1")"
  give_back_file "$1"
}
