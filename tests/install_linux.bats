#!/usr/bin/env bats
# bats file_tags=slow
# The key on Linux, with the programs of the desktops themselves: GNOME's gsettings on a real dconf, Xfce's xfconf, KDE's
# kwriteconfig5 and its shortcut service, sway. Before there are shortcuts of somebody else; after the installation, a
# second one and the removal they are the same, and all settings are to the byte what they were.

bats_require_minimum_version 1.5.0
load fake_root

setup() {
  here=$(cd "$BATS_TEST_DIRNAME/.." && pwd -P)
  export HOME="$BATS_TEST_TMPDIR/höme"
  unset XDG_DATA_HOME XDG_CONFIG_HOME XDG_CACHE_HOME XDG_CURRENT_DESKTOP XDG_SESSION_DESKTOP SWAYSOCK \
    HYPRLAND_INSTANCE_SIGNATURE KDE_SESSION_VERSION DISPLAY WAYLAND_DISPLAY DBUS_SESSION_BUS_ADDRESS
  export XDG_RUNTIME_DIR="$BATS_TEST_TMPDIR/runtime" LANG=C.UTF-8
  mkdir -p "$HOME/.config" "$XDG_RUNTIME_DIR"
  chmod 700 "$XDG_RUNTIME_DIR"
  make_root
}

make_root() { # [more]: everything that some reader of a command could trip over is in its name
  [ -z "${root:-}" ] || rm -rf "$root"
  make_fake_root "$BATS_TEST_TMPDIR/a \"copy\" & its ümläut's; #, [\\n] <b>${1-" \$HOME 100%"}"
  sed "s/^STEPS=.*/STEPS='app shortcut'/" "$here/shortcut_install.sh" >"$root/shortcut_install.sh" # the rest needs no desktop
  printf '#!/bin/sh\necho pressed >>"%s"\n' "$BATS_TEST_TMPDIR/pressed" >"$root/helpers/shell/hotkey.sh"
  chmod +x "$root/helpers/shell/hotkey.sh"
}

teardown() {
  [ -z "${bus:-}" ] || kill "$bus"
  [ -z "${service:-}" ] || kill "$service" "$screen" 2>/dev/null || true
}

start_bus() {
  local both
  both=$(dbus-daemon --session --fork --print-address=1 --print-pid=1 3>&-)
  export DBUS_SESSION_BUS_ADDRESS=${both%%$'\n'*}
  bus=${both##*$'\n'}
}

needs() { command -v "$1" >/dev/null || skip "there is no $1 here"; }

installer() { "${A2I_TEST_BASH:-bash}" "$root/shortcut_install.sh" "$@" </dev/null; }

tree() { (cd "$HOME" && find . ! -path './.cache*' -exec ls -ld --time-style=full-iso {} + && find . -type f -exec cksum {} +); }

press_is_reached() { # within five seconds; the press is forgotten
  for _ in {1..50}; do
    if [ -e "$BATS_TEST_TMPDIR/pressed" ]; then
      rm "$BATS_TEST_TMPDIR/pressed"
      return
    fi
    sleep 0.1
  done
  return 1
}

# ---- GNOME

media=org.gnome.settings-daemon.plugins.media-keys
folder=/org/gnome/settings-daemon/plugins/media-keys/custom-keybindings

gnome() {
  needs gsettings
  needs dconf
  export XDG_CURRENT_DESKTOP=ubuntu:GNOME
  start_bus
}

foreign_in_gnome() { # three of them, with everything in a name that a parser could trip over
  gsettings set $media.custom-keybinding:$folder/custom0/ name "'Terminal'"
  gsettings set $media.custom-keybinding:$folder/custom0/ command "'xterm'"
  gsettings set $media.custom-keybinding:$folder/custom0/ binding "'<Super>t'"
  gsettings set "$media.custom-keybinding:$folder/it's, [mine]/" name "\"Bob's \\\"player\\\" ü\""
  gsettings set "$media.custom-keybinding:$folder/it's, [mine]/" binding "'<Super>p'"
  gsettings set org.gnome.desktop.wm.keybindings close "['<Alt>F4', '<Super>q']"
  gsettings set $media custom-keybindings "['$folder/custom0/', \"$folder/it's, [mine]/\"]"
}

@test "GNOME: the key is added to the list of others, and taken out of it to the byte" {
  gnome
  foreign_in_gnome
  before=$(dconf dump /)
  home_before=$(tree)
  run installer --yes
  [ "$status" -eq 0 ]
  [ "$(gsettings get $media custom-keybindings)" = "['$folder/custom0/', \"$folder/it's, [mine]/\", '$folder/audio-to-image/']" ]
  [ "$(gsettings get $media.custom-keybinding:$folder/audio-to-image/ binding)" = "'<Control><Alt>i'" ]
  [ "$(dconf dump / | grep -cF -f <(grep -v '^$\|custom-keybindings=' <<<"$before"))" -ge "$(grep -vc '^$\|custom-keybindings=' <<<"$before")" ]
  during=$(dconf dump /)
  run installer --yes
  [ "$status" -eq 0 ]
  [[ $output = *"everything is in place"* ]]
  [ "$(dconf dump /)" = "$during" ]
  run installer --yes --uninstall
  [ "$status" -eq 0 ]
  [ "$(dconf dump /)" = "$before" ]
  [ "$(tree | grep -v ' \./\?$\| \.$\| \./\.config$\|dconf' | sort)" = "$(grep -v ' \./\?$\| \.$\| \./\.config$\|dconf' <<<"$home_before" | sort)" ]
}

@test "GNOME: the command of the key runs, whatever is in the name of the folder" {
  gnome
  installer --yes
  command=$(gsettings get $media.custom-keybinding:$folder/audio-to-image/ command |
    python3 "$root/helpers/install/desktops/accelerators.py" text)
  sh -c "$command" && press_is_reached
  # GLib splits it without a shell
  python3 -c 'import shlex, subprocess, sys; subprocess.run(shlex.split(sys.argv[1]), check=True)' "$command"
  press_is_reached
}

@test "GNOME: a list that was never set is unset again, one that was emptied is empty again" {
  gnome
  gsettings set org.gnome.desktop.wm.keybindings close "['<Alt>F4']"
  for _ in unset emptied; do
    before=$(dconf dump /)
    installer --yes
    [ "$(dconf dump /)" != "$before" ]
    installer --yes --uninstall
    [ "$(dconf dump /)" = "$before" ]
    make_root
    gsettings set $media custom-keybindings '[]'
  done
}

@test "GNOME: what came in the meantime stays" {
  gnome
  installer --yes
  gsettings set $media custom-keybindings "['$folder/audio-to-image/', '$folder/new/']"
  gsettings set $media.custom-keybinding:$folder/new/ binding "'<Super>n'"
  installer --yes --uninstall
  [ "$(gsettings get $media custom-keybindings)" = "['$folder/new/']" ]
  [ "$(gsettings get $media.custom-keybinding:$folder/new/ binding)" = "'<Super>n'" ]
  [[ $(dconf dump /) != *audio-to-image* ]]
}

@test "GNOME: a key that somebody has stays theirs, however it is written, and the plan says whose it is" {
  gnome
  gsettings set $media.custom-keybinding:$folder/custom0/ name "\"Bob's\""
  gsettings set $media.custom-keybinding:$folder/custom0/ binding "'<Alt><Primary>I'"
  gsettings set $media custom-keybindings "['$folder/custom0/']"
  before=$(dconf dump /)
  run installer --yes
  [ "$status" -ne 0 ]
  [[ $output = *"Ctrl+Alt+I belongs to \"Bob's\""*"==> shortcut"*"./shortcut_install.sh --key KEY"* ]]
  [ "$(dconf dump /)" = "$before" ]
  run installer --yes --key super+shift+f5
  [ "$status" -eq 0 ]
  [ "$(gsettings get $media.custom-keybinding:$folder/audio-to-image/ binding)" = "'<Shift><Super>F5'" ]
  run installer --yes --key cmd+l # GNOME's own
  [ "$status" -ne 0 ]
  [[ $output = *'belongs to "screensaver"'* ]]
}

@test "GNOME: another key takes the place of the first" {
  gnome
  foreign_in_gnome
  before=$(dconf dump /)
  installer --yes
  installer --yes --key ctrl+alt+space
  [ "$(gsettings get $media.custom-keybinding:$folder/audio-to-image/ binding)" = "'<Control><Alt>space'" ]
  [ "$(gsettings get $media custom-keybindings | grep -o audio-to-image | wc -l)" -eq 1 ]
  installer --yes --uninstall
  [ "$(dconf dump /)" = "$before" ]
}

@test "GNOME: outside its session the key can be neither bound nor taken out, and that is said" {
  gnome
  installer --yes
  before=$(dconf dump /)
  run env -u DBUS_SESSION_BUS_ADDRESS "${A2I_TEST_BASH:-bash}" "$root/shortcut_install.sh" --yes --uninstall </dev/null
  [ "$status" -eq 69 ]
  [[ $output = *"the hotkey could not be removed from GNOME"*"run this again inside the desktop"* ]]
  [ "$(dconf dump /)" = "$before" ]
  make_root
  run env -u DBUS_SESSION_BUS_ADDRESS "${A2I_TEST_BASH:-bash}" "$root/shortcut_install.sh" --yes --key f9 </dev/null
  [ "$status" -eq 69 ]
  [[ $output = *"F9 could not be bound in GNOME"*"inside the desktop"* ]]
}

@test "GNOME: --dry-run changes nothing" {
  gnome
  foreign_in_gnome
  before=$(dconf dump /)$(tree)
  run installer --dry-run
  [ "$status" -eq 0 ]
  [[ $output = *"gsettings set $media custom-keybindings"* ]]
  [ "$(dconf dump /)$(tree)" = "$before" ]
}

@test "Cinnamon: the same in its own settings" {
  needs gsettings
  needs dconf
  start_bus
  gsettings list-schemas | grep -qx org.cinnamon.desktop.keybindings || skip "Cinnamon's settings are not here"
  export XDG_CURRENT_DESKTOP=X-Cinnamon
  theirs=org.cinnamon.desktop.keybindings.custom-keybinding:/org/cinnamon/desktop/keybindings/custom-keybindings/custom0/
  gsettings set org.cinnamon.desktop.keybindings custom-list "['__dummy__', 'custom0']"
  gsettings set $theirs name "'Terminal'"
  gsettings set $theirs binding "['<Super>t', '<Control><Alt>x']"
  before=$(dconf dump /)
  run installer --yes
  [ "$status" -eq 0 ]
  [ "$(gsettings get org.cinnamon.desktop.keybindings custom-list)" = "['__dummy__', 'custom0', 'audio-to-image']" ]
  run installer --yes --key ctrl+alt+x
  [ "$status" -ne 0 ]
  [[ $output = *'belongs to "Terminal"'* ]]
  installer --yes --uninstall
  [ "$(dconf dump /)" = "$before" ]
}

# ---- KDE

kde() { # <version>
  needs kwriteconfig5
  make_root ''
  export XDG_CURRENT_DESKTOP=KDE KDE_SESSION_VERSION=$1
  settings=$HOME/.config/kglobalshortcutsrc
  printf '%s\n' '[kwin]' '_k_friendly_name=KWin' 'Window Close=Alt+F4,Alt+F4,Close Window' \
    'Overview=Meta+W\tMeta+Tab,none,Übersicht' '' >"$settings"
  if [ "$1" = 5 ]; then
    printf '%s\n' '[net.local.bash.desktop]' '_k_friendly_name=bash' '_launch=Meta+T,none,bash' >>"$settings"
  else
    printf '%s\n' '[services][net.local.bash.desktop]' '_launch=Meta+T' >>"$settings"
  fi
}

kde_round() { # install, again, remove: nothing of others changes, and the home is what it was
  before=$(tree)
  others=$(grep '=' "$settings" | LC_ALL=C sort)
  run installer --yes
  [ "$status" -eq 0 ]
  [ "$(comm -23 <(echo "$others") <(grep '=' "$settings" | LC_ALL=C sort))" = "" ]
  during=$(tree)
  run installer --yes
  [ "$status" -eq 0 ]
  [[ $output = *"everything is in place"* ]]
  [ "$(tree)" = "$during" ]
  desktop-file-validate "$HOME/.local/share/kglobalaccel/audio-to-image.desktop" "$HOME/.local/share/applications/audio-to-image.desktop"
}

kde_gone() {
  run installer --yes --uninstall
  [ "$status" -eq 0 ]
  [ ! -e "$HOME/.local" ]
  [ "$(tree | grep cksum)" = "$(grep cksum <<<"$before")" ]
  cmp "$settings" "$BATS_TEST_TMPDIR/settings"
}

@test "Plasma 5 without its service: the key is written for the next login" {
  kde 5
  cp "$settings" "$BATS_TEST_TMPDIR/settings"
  kde_round
  [ "$(kreadconfig5 --file kglobalshortcutsrc --group audio-to-image.desktop --key _launch)" = "Ctrl+Alt+I,none,Audio to Image" ]
  kde_gone
}

@test "Plasma 6 without its service: the key is among the services" {
  kde 6
  mkdir "$BATS_TEST_TMPDIR/bin" # the same program and the same files, by its newer name
  ln -s "$(command -v kwriteconfig5)" "$BATS_TEST_TMPDIR/bin/kwriteconfig6"
  ln -s "$(command -v kreadconfig5)" "$BATS_TEST_TMPDIR/bin/kreadconfig6"
  PATH=$BATS_TEST_TMPDIR/bin:$PATH
  cp "$settings" "$BATS_TEST_TMPDIR/settings"
  kde_round
  grep -qxF '[services][audio-to-image.desktop]' "$settings"
  [ "$(kreadconfig5 --file kglobalshortcutsrc --group services --group audio-to-image.desktop --key _launch)" = Ctrl+Alt+I ]
  kde_gone
}

@test "KDE: shortcuts that were never changed have no file before, and none after" {
  kde 5
  rm "$settings"
  installer --yes
  [ -s "$settings" ]
  installer --yes --uninstall
  [ ! -e "$settings" ]
  [ ! -e "$HOME/.local" ]
}

@test "KDE: what came in the meantime stays" {
  kde 5
  installer --yes
  kwriteconfig5 --file kglobalshortcutsrc --group kwin --key Overview 'Meta+O,none,Übersicht'
  installer --yes --uninstall
  [ "$(kreadconfig5 --file kglobalshortcutsrc --group kwin --key Overview)" = 'Meta+O,none,Übersicht' ]
  [ "$(kreadconfig5 --file kglobalshortcutsrc --group kwin --key 'Window Close')" = 'Alt+F4,Alt+F4,Close Window' ]
  run ! grep -q audio-to-image "$settings"
}

@test "KDE: a key that somebody has stays theirs" {
  kde 5
  run installer --yes --key cmd+w
  [ "$status" -ne 0 ]
  [[ $output = *'Super+W belongs to "[kwin] Overview"'* ]]
  run ! grep -q audio-to-image "$settings"
}

@test "Plasma 5, whose service ends when a command has a percent sign in it, is left alone then" {
  kde 5
  make_root
  run installer --yes
  [ "$status" -eq 69 ]
  [[ $output = *"Plasma 5 cannot start programs in a folder with % or \$ in its name"* ]]
  run ! grep -q audio-to-image "$settings"
}

@test "Plasma 5 with its service: the key works at once, when it is really pressed" {
  kde 5
  needs kglobalaccel5
  needs Xvfb
  needs xdotool
  start_bus
  cp "$settings" "$BATS_TEST_TMPDIR/settings"
  Xvfb -displayfd 4 -screen 0 320x240x8 4>"$BATS_TEST_TMPDIR/display" 2>/dev/null 3>&- &
  screen=$!
  until [ -s "$BATS_TEST_TMPDIR/display" ]; do sleep 0.1; done
  export DISPLAY
  DISPLAY=:$(cat "$BATS_TEST_TMPDIR/display")
  kglobalaccel5 >/dev/null 2>&1 3>&- &
  service=$!
  until dbus-send --session --print-reply --dest=org.kde.kglobalaccel /kglobalaccel org.kde.KGlobalAccel.allComponents >/dev/null 2>&1; do
    sleep 0.1
  done
  installer --yes
  sleep 1
  grep -qxF '_launch=Ctrl+Alt+I,none,Audio to Image' "$settings"
  xdotool key ctrl+alt+i
  press_is_reached
  run installer --yes
  [ "$status" -eq 0 ]
  [[ $output = *"everything is in place"* ]]
  run installer --yes --key cmd+t
  [ "$status" -ne 0 ]
  [[ $output = *'belongs to "bash: bash"'* ]]
  installer --yes --key ctrl+alt+shift+f5
  xdotool key ctrl+alt+shift+F5
  press_is_reached
  xdotool key ctrl+alt+i
  sleep 0.5
  [ ! -e "$BATS_TEST_TMPDIR/pressed" ]
  installer --yes --uninstall
  xdotool key ctrl+alt+shift+F5
  sleep 1
  [ ! -e "$BATS_TEST_TMPDIR/pressed" ]
  [ ! -e "$HOME/.local" ]
  run ! grep -q audio-to-image "$settings"
  cmp "$settings" "$BATS_TEST_TMPDIR/settings"
}

# ---- Xfce

@test "Xfce: one property more, then the same as before" {
  needs xfconf-query
  export XDG_CURRENT_DESKTOP=XFCE
  start_bus
  channel=(xfconf-query -c xfce4-keyboard-shortcuts)
  "${channel[@]}" -p /commands/custom/override -n -t bool -s true
  "${channel[@]}" -p '/commands/custom/<Super>e' -n -t string -s "thunar --name='a \"b\" & <c>'"
  "${channel[@]}" -p '/commands/custom/<Alt>F2' -n -t string -s 'xfce4-appfinder --collapsed'
  "${channel[@]}" -p '/xfwm4/custom/<Primary><Alt>d' -n -t string -s show_desktop_key
  before=$("${channel[@]}" -lv | tr -s ' ' | sort)
  run installer --yes
  [ "$status" -eq 0 ]
  command=$("${channel[@]}" -p '/commands/custom/<Primary><Alt>i')
  sh -c "$command" && press_is_reached
  during=$("${channel[@]}" -lv | tr -s ' ' | sort)
  [ "$(comm -13 <(echo "$before") <(echo "$during") | wc -l)" -eq 1 ]
  [ -z "$(comm -23 <(echo "$before") <(echo "$during"))" ]
  run installer --yes
  [ "$status" -eq 0 ]
  [ "$("${channel[@]}" -lv | tr -s ' ' | sort)" = "$during" ]
  mv "$root" "$BATS_TEST_TMPDIR/moved"
  root=$BATS_TEST_TMPDIR/moved
  installer --yes
  command="'$root/helpers/press.sh'"
  [ "$("${channel[@]}" -p '/commands/custom/<Primary><Alt>i')" = "$command" ]
  installer --yes --key ctrl+alt+f9
  [ "$("${channel[@]}" -p '/commands/custom/<Primary><Alt>F9')" = "$command" ]
  run installer --yes --key ctrl+alt+d
  [ "$status" -ne 0 ]
  [[ $output = *'belongs to "show_desktop_key"'* ]]
  installer --yes --uninstall
  [ "$("${channel[@]}" -lv | tr -s ' ' | sort)" = "$before" ]
}

@test "Xfce: a key that was given away in the meantime stays with its new owner" {
  needs xfconf-query
  export XDG_CURRENT_DESKTOP=XFCE
  start_bus
  installer --yes
  run env -u DBUS_SESSION_BUS_ADDRESS "${A2I_TEST_BASH:-bash}" "$root/shortcut_install.sh" --yes --uninstall </dev/null
  [ "$status" -eq 69 ]
  [[ $output = *"the hotkey could not be removed from Xfce"* ]]
  xfconf-query -c xfce4-keyboard-shortcuts -p '/commands/custom/<Primary><Alt>i' -s inkscape
  installer --yes --uninstall
  [ "$(xfconf-query -c xfce4-keyboard-shortcuts -p '/commands/custom/<Primary><Alt>i')" = inkscape ]
}

# ---- sway and Hyprland

@test "sway: one line in the configuration, a file beside it, and both are gone again" {
  export SWAYSOCK=$BATS_TEST_TMPDIR/socket
  mkdir -p "$BATS_TEST_TMPDIR/bin" "$HOME/.config/sway"
  printf '#!/bin/sh\n[ "$*" = "-q reload" ] && echo >>"%s"\n' "$BATS_TEST_TMPDIR/reloaded" >"$BATS_TEST_TMPDIR/bin/swaymsg"
  chmod +x "$BATS_TEST_TMPDIR/bin/swaymsg"
  PATH=$BATS_TEST_TMPDIR/bin:$PATH
  printf 'set $mod Mod4\nbindsym $mod+Return exec foot\nbindsym --release $mod+Ctrl+x exec "a"' >"$BATS_TEST_TMPDIR/dotfiles"
  ln -s "$BATS_TEST_TMPDIR/dotfiles" "$HOME/.config/sway/config" # and no line end after the last line
  cp "$BATS_TEST_TMPDIR/dotfiles" "$BATS_TEST_TMPDIR/before"
  before=$(tree)
  run installer --yes
  [ "$status" -eq 0 ]
  [ -e "$BATS_TEST_TMPDIR/reloaded" ]
  [ "$(cat "$BATS_TEST_TMPDIR/dotfiles")" = "$(cat "$BATS_TEST_TMPDIR/before")
include ~/.config/sway/audio-to-image.conf" ]
  run installer --yes
  [ "$status" -eq 0 ]
  [ "$(grep -c include "$BATS_TEST_TMPDIR/dotfiles")" -eq 1 ]
  installer --yes --uninstall
  cmp "$BATS_TEST_TMPDIR/dotfiles" "$BATS_TEST_TMPDIR/before"
  [ -L "$HOME/.config/sway/config" ]
  [ "$(ls "$HOME/.config/sway")" = config ]
  make_root
  run installer --yes --key cmd+ctrl+x
  [ "$status" -ne 0 ]
  [[ $output = *'belongs to "bindsym --release'* ]]
  cmp "$BATS_TEST_TMPDIR/dotfiles" "$BATS_TEST_TMPDIR/before"
}

@test "sway: what came in the meantime stays" {
  export SWAYSOCK=$BATS_TEST_TMPDIR/socket
  mkdir -p "$HOME/.config/sway"
  printf 'a\n\nb\n' >"$HOME/.config/sway/config"
  installer --yes
  printf '\nc\n' >>"$HOME/.config/sway/config"
  installer --yes --uninstall
  [ "$(cat "$HOME/.config/sway/config")" = $'a\n\nb\n\nc' ]
}

@test "sway itself reads the line and runs the command when the key is pressed" {
  needs sway
  needs wtype
  mkdir -p "$HOME/.config/sway"
  printf 'set $HOME /nowhere\n' >"$HOME/.config/sway/config" # a variable of sway that is a part of our folder's name
  SWAYSOCK=none installer --yes
  if [ "$(id -u)" -eq 0 ]; then # which sway refuses to be
    chmod -R a+rwX "$BATS_TEST_TMPDIR" && chown nobody "$XDG_RUNTIME_DIR"
    for outer in "$BATS_TEST_TMPDIR" "$BATS_FILE_TMPDIR" "$BATS_RUN_TMPDIR"; do chmod a+x "$outer" "${outer%/*}"; done
    as=(runuser -u nobody -- env HOME="$HOME")
  fi
  export WLR_BACKENDS=headless WLR_LIBINPUT_NO_DEVICES=1 WLR_RENDERER=pixman
  [ -z "$(${as[@]+"${as[@]}"} sway -C 2>&1 | grep -i 'error on line')" ]
  ${as[@]+"${as[@]}"} sway >"$BATS_TEST_TMPDIR/log" 2>&1 3>&- &
  service=$! screen=$!
  for _ in {1..100}; do if [ -S "$XDG_RUNTIME_DIR/wayland-1" ]; then break; fi; sleep 0.1; done
  for _ in {1..10}; do
    WAYLAND_DISPLAY=wayland-1 ${as[@]+"${as[@]}"} wtype -M ctrl -M alt -P i -s 100 -p i -m alt -m ctrl || true
    if press_is_reached; then return; fi
  done
  cat "$BATS_TEST_TMPDIR/log"
  return 1
}

@test "sway and Hyprland: a configuration that is not there is not made, but said" {
  SWAYSOCK=none run installer --yes
  [ "$status" -ne 0 ]
  [[ $output = *"bindsym Ctrl+Mod1+i exec exec "* ]]
  [ ! -e "$HOME/.config/sway" ]
  make_root
  HYPRLAND_INSTANCE_SIGNATURE=x run installer --yes
  [ "$status" -ne 0 ]
  [[ $output = *"bind = CTRL ALT, I, exec, "* ]]
  [ ! -e "$HOME/.config/hypr" ]
}

@test "Hyprland: one line in the configuration, a file beside it, and both are gone again" {
  export HYPRLAND_INSTANCE_SIGNATURE=x
  mkdir -p "$HOME/.config/hypr"
  printf '$mainMod = SUPER\nbind = $mainMod, Q, exec, kitty\nbindel = CTRL SHIFT, F5, exec, x # sound\n' >"$HOME/.config/hypr/hyprland.conf"
  before=$(tree)
  run installer --yes
  [ "$status" -eq 0 ]
  grep -qxF 'source = ~/.config/hypr/audio-to-image.conf' "$HOME/.config/hypr/hyprland.conf"
  [[ $(cat "$HOME/.config/hypr/audio-to-image.conf") = "bind = CTRL ALT, I, exec, '"*'; ##, [\n]'* ]]
  command=$(sed 's/^bind = CTRL ALT, I, exec, //; s/##/#/g' "$HOME/.config/hypr/audio-to-image.conf")
  sh -c "$command" && press_is_reached
  run installer --yes --key cmd+q
  [ "$status" -ne 0 ]
  [[ $output = *'belongs to "bind = $mainMod, Q'* ]]
  run installer --yes --key ctrl+shift+f5
  [ "$status" -ne 0 ]
  installer --yes --uninstall
  [ "$(tree | sed 's/^d.* \.\//d /; s/^-.* \.\//- /')" = "$(sed 's/^d.* \.\//d /; s/^-.* \.\//- /' <<<"$before")" ]
}

# ---- the rest

@test "a desktop that is not known is told in plain words what to bind, once" {
  run installer --yes
  [ "$status" -eq 0 ]
  [[ $output = *"bind Ctrl+Alt+I to this command:"* ]]
  [ ! -e "$HOME/.local" ]
  run installer --yes
  [[ $output != *"to this command"* ]]
}

@test "the entry of the menu is valid and starts the program, whatever is in the name of the folder" {
  needs gio
  DISPLAY=:9 installer --yes
  file=$HOME/.local/share/applications/audio-to-image.desktop
  desktop-file-validate "$file"
  gio launch "$file"
  press_is_reached
  installer --yes --uninstall
  [ ! -e "$HOME/.local" ]
}

@test "a machine that is too small is named" {
  for bad in 'sed:echo 1000000:memory, 2 GB' 'df:printf "x 1 1 1000\n":of free space'; do
    mkdir -p "$BATS_TEST_TMPDIR/bin"
    printf '#!/bin/sh\n%s\n' "$(cut -d: -f2 <<<"$bad")" >"$BATS_TEST_TMPDIR/bin/${bad%%:*}"
    chmod +x "$BATS_TEST_TMPDIR/bin/${bad%%:*}"
    rm -f "$root/.venv/whole"
    run env PATH="$BATS_TEST_TMPDIR/bin:$PATH" "${A2I_TEST_BASH:-bash}" -c 'root=$1 home=$HOME; . "$root/helpers/install/linux.sh"; system_check' _ "$root"
    [ "$status" -eq 1 ] && [[ $output = *"${bad##*:}"* ]]
    rm "$BATS_TEST_TMPDIR/bin/${bad%%:*}"
  done
  run "${A2I_TEST_BASH:-bash}" -c 'root=$1 home=$HOME; . "$root/helpers/install/linux.sh"; system_check' _ "$root"
  [ "$status" -eq 0 ]
  [ -z "$output" ]
}
