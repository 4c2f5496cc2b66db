# shellcheck shell=bash disable=SC2154
# The installer's steps on a Mac: the app that has the microphone permission, the Quick Action that opens the app, and
# its hotkey. linux.sh has the same functions. They use only tools of macOS, no Python: it may not be installed yet, or
# may be removed already. Sourced by shortcut_install.sh, whose functions it uses.

app_name='Audio to Image'
app=$home/Applications/$app_name.app
app_id=org.audio-to-image.app
workflow=$home/Library/Services/$app_name.workflow
service="(null) - $app_name - runWorkflowAsService" # (null): like Automator's services, it has no CFBundleIdentifier
pbs=${A2I_PBS:-/System/Library/CoreServices/pbs}
plist_buddy=${A2I_PLIST_BUDDY:-/usr/libexec/PlistBuddy}

system_check() { # prints errors to stdout, warnings to stderr
  local version free memory chip code=0
  version=$(sw_vers -productVersion)
  if [ "${version%%.*}" -lt 14 ]; then
    printf 'macOS %s is too old: macOS 14 or newer is necessary\n' "$version"
    printf '  update it: System Settings > General > Software Update\n'
    code=1
  fi
  if [ "$(sysctl -n sysctl.proc_translated 2>/dev/null)" = 1 ]; then
    printf 'this terminal runs under Rosetta: everything would be installed for an Intel processor\n'
    printf '  arch -arm64 ./shortcut_install.sh\n'
    code=1
  fi
  free=$(df -Pk "$root" | awk 'NR == 2 {print int($4 / 1048576)}')
  if [ "$free" -lt 2 ] && [ ! -x "$python" ]; then
    printf 'the disk has only %s GB of free space: the packages and the smallest models need 2 GB\n' "$free"
    printf '  free some disk space, then run ./shortcut_install.sh\n'
    code=1
  fi
  memory=$(($(sysctl -n hw.memsize) / 1073741824))
  [ "$memory" -ge 8 ] || warn "this Mac has $memory GB of memory: the large image models need 8 GB"
  chip=$(sysctl -n machdep.cpu.brand_string)
  case $chip in Apple*) ;; *) warn "$chip has no Neural Engine: pictures are drawn on the CPU, which is slow" ;; esac
  return "$code"
}

# --- the app ---
# macOS gives the microphone permission to the *responsible* process: the app that LaunchServices started, for all of its
# child processes. (So a hotkey daemon is asked on behalf of ffmpeg in its scripts: asmvik/skhd #308, jackielii/skhd.zig
# #43; a terminal on behalf of its tools: umputun/agterm #143.) Without NSMicrophoneUsageDescription in its Info.plist an
# app is denied without a question; without the hardened runtime it needs no entitlement. The permission depends on the
# signature, and an ad-hoc signature changes with every byte of the app. So we sign an applet once, and rebuild it only
# when its recipe changes: then the user is asked again. The applet is hotkey.applescript; the command that it starts is
# in a file (app_launcher), so that no path becomes AppleScript source.

app_launcher() { # the script that the applet runs
  printf '#!/bin/bash\n# Ends with the last program that the press has started: all of them hold fd 6.\n'
  printf '%s 6>&1 >/dev/null 2>&1 | cat\n' "$(quote "$root/helpers/press.sh")"
}

app_plist() { # name, type and value of each key set in its Info.plist; do not bump the version (see above)
  cat <<EOF
CFBundleIdentifier -string $app_id
CFBundleName -string $app_name
CFBundleShortVersionString -string 1.0
AudioToImageRoot -string $root
LSUIElement -bool YES
NSMicrophoneUsageDescription -string You describe the picture that you want to see. Nothing of it leaves this Mac.
EOF
}

app_recipe() { # everything that the app is made from; a copy is in the signed app
  cat -- "$root/helpers/install/hotkey.applescript"
  app_launcher
  app_plist
}

root_of() { # <bundle>: prints the copy of this repository that made it, or fails
  if [ -e "$1/Contents/Info.plist" ]; then
    "$plist_buddy" -c 'Print :AudioToImageRoot' "$1/Contents/Info.plist" 2>/dev/null
  elif [ -e "$1" ] && { journalled folder "$1" || journalled file "$1"; }; then
    printf '%s' "$root" # we were interrupted while making it
  else
    return 1
  fi
}

is_ours_to_make() { # <bundle>: true if it does not exist or is ours; otherwise prints whose it is
  local owner
  [ -e "$1" ] || return 0
  if ! owner=$(root_of "$1"); then
    say "$1 exists already, but this installer did not make it"
    say "  rename it, then run ./shortcut_install.sh"
    return 1
  elif [ "$owner" != "$root" ] && [ -e "$owner/shortcut_install.sh" ]; then
    say "another copy of audio-to-image is installed: $owner"
    say "  uninstall it first: $(quote "$owner/shortcut_install.sh") --uninstall"
    return 1
  fi
}

quote() { # <text>: quotes it for any POSIX shell; only bash understands the output of printf %q
  printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"
}

app_is_done() {
  [ "$(app_recipe)" = "$(cat -- "$app/Contents/Resources/recipe" 2>/dev/null)" ] && codesign --verify "$app" 2>/dev/null
}

app_plan() {
  app_is_done || printf 'make %s, which holds the microphone permission (1 MB)\n' "$app"
}

make_app() { # <bundle>
  local resources=$1/Contents/Resources line name
  rm -rf -- "$1" && mkdir -p -- "${1%/*}" &&
    osacompile -s -o "$1" "$root/helpers/install/hotkey.applescript" || return
  while IFS= read -r line; do
    name=${line%% *} line=${line#* }
    plutil -replace "$name" "${line%% *}" "${line#* }" "$1/Contents/Info.plist" || return
  done <<<"$(app_plist)"
  app_launcher >"$resources/press" && chmod 755 "$resources/press" && app_recipe >"$resources/recipe" || return
  xattr -cr "$1" && codesign --force --sign - "$1" && codesign --verify "$1" # codesign rejects Finder's extended attributes
}

app_do() {
  local part=$state/$app_name.app
  is_ours_to_make "$app" || return 73
  if [ "$dry" != 0 ]; then
    say "    make $app with osacompile, sign it with codesign"
    return
  fi
  if ! make_app "$part"; then
    rm -rf -- "$part"
    say "the app could not be made; see the message of osacompile, plutil or codesign above"
    say "  run ./shortcut_install.sh to try again; ./pipeline.sh works without the app"
    return 69
  fi
  { make_folder "$home/Applications" && journal file "$app" && rm -rf -- "$app" && mv -- "$part" "$app"; } || {
    say "cannot write $app"
    say "  chown $(id -un) $(quote "$home/Applications"), then ./shortcut_install.sh"
    return 73
  }
  say "When you press the key for the first time, macOS asks whether \"$app_name\" may use the microphone: allow it."
}

app_undo() {
  [ "$(root_of "$app")" = "$root" ] || return 0
  # Before the app is removed: tccutil knows only existing apps. It fails if macOS has never asked the user.
  if [ "$dry" = 0 ]; then
    tccutil reset Microphone "$app_id" >/dev/null 2>&1
  else
    act tccutil reset Microphone "$app_id"
  fi
  act rm -rf -- "$app"
}

app_status() {
  if [ ! -e "$app" ]; then
    printf 'not installed\n'
  elif ! codesign --verify "$app" 2>/dev/null; then
    printf '%s, but its signature is broken: run ./shortcut_install.sh to rebuild it\n' "$app"
  else
    printf '%s, signed; its permission: System Settings > Privacy & Security > Microphone\n' "$app"
  fi
}

# --- the Quick Action and its key ---

key_equivalent() { # prints $key as macOS writes it: ctrl+alt+i is ^~i
  local part
  for part in ${key//+/ }; do
    case $part in
      ctrl) printf '^' ;;
      alt) printf '~' ;;
      shift) printf '$' ;;
      cmd) printf '@' ;;
      space) printf ' ' ;;
      f[1-9]*) printf '%b' "\\357\\234\\$(printf '%o' "$((131 + ${part#f}))")" ;; # NSF1FunctionKey is U+F704
      *) printf '%s' "$part" ;;
    esac
  done
}

key_symbols() { # <key equivalent>: as menus show it
  local text=$1 number
  for number in 12 11 10 9 8 7 6 5 4 3 2 1; do
    text=${text/"$(key=f$number key_equivalent)"/F$number}
  done
  printf '%s' "$text" | tr '[:lower:]' '[:upper:]' | sed 's/@/⌘/; s/~/⌥/; s/\^/⌃/; s/\$/⇧/; s/ /Space/'
}

services() { # <entry below NSServicesStatus>: prints it, or fails if it does not exist
  "$plist_buddy" -c "Print :NSServicesStatus$1" /dev/stdin <<<"$(defaults export pbs - 2>/dev/null)" 2>/dev/null
}

bound_key() {
  services ":\"$service\":key_equivalent"
}

services_with_key() { # prints the menu names of other services with the hotkey $key
  services '' | awk -v wanted="$(key_equivalent)" -v ours="$service" '
    function canonical(text, modifiers, i) {
      if (text ~ /^[@~^$]*[A-Z]$/) text = "$" text
      for (i = 1; i <= 4; i++) if (index(text, substr("@~^$", i, 1))) modifiers = modifiers substr("@~^$", i, 1)
      gsub(/[@~^$]/, "", text)
      return modifiers tolower(text)
    }
    /^    [^ ].* = Dict \{$/ { name = substr($0, 5, length($0) - 13) }
    /^        key_equivalent = / {
      sub(/^        key_equivalent = /, "")
      if (name != ours && canonical($0) == canonical(wanted)) { split(name, parts, " - "); print parts[2] }
    }'
}

xml() { # <text>: escaped
  printf '%s' "$1" | sed 's/&/\&amp;/g; s/</\&lt;/g; s/>/\&gt;/g'
}

workflow_info() { # no CFBundleIdentifier: it would change the name of the service
  cat <<EOF
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
  <key>AudioToImageRoot</key><string>$(xml "$root")</string>
  <key>NSServices</key>
  <array><dict>
    <key>NSMenuItem</key><dict><key>default</key><string>$app_name</string></dict>
    <key>NSMessage</key><string>runWorkflowAsService</string>
    <key>NSRequiredContext</key><dict/>
    <key>NSSendFileTypes</key><array/>
    <key>NSSendTypes</key><array/>
  </dict></array>
</dict>
</plist>
EOF
}

open_command() {
  printf '/usr/bin/open -g -a %s' "$(quote "$app")"
}

workflow_document() {
  local template
  template=$(cat -- "$root/helpers/install/document.wflow")
  printf '%s%s%s\n' "${template%%<string>COMMAND<*}<string>" "$(xml "$(open_command)")" "<${template#*<string>COMMAND<}"
}

shortcut_is_done() {
  [ ! -e "$state/unannounced" ] && cmp -s "$workflow/Contents/Info.plist" <(workflow_info) &&
    cmp -s "$workflow/Contents/document.wflow" <(workflow_document) && [ "$(bound_key)" = "$(key_equivalent)" ]
}

shortcut_plan() {
  shortcut_is_done || printf 'bind %s to a Quick Action that opens the app\n' "$(key_symbols "$(key_equivalent)")"
}

shortcut_do() {
  local value symbols others modes
  value=$(key_equivalent)
  symbols=$(key_symbols "$value")
  others=$(services_with_key)
  if [ -n "$others" ]; then
    others=${others//$'\n'/, }
    say "$symbols is already the hotkey of another service: $others"
    say "  choose another one, for example: ./shortcut_install.sh --key ctrl+alt+p"
    return 73
  fi
  is_ours_to_make "$workflow" || return 73
  if pgrep -x 'System Settings' >/dev/null; then
    warn "System Settings is open and may remove the hotkey again: if so, quit it and run ./shortcut_install.sh again"
  fi
  # the repository has moved
  if [ -e "$workflow" ] && [ "$(root_of "$workflow")" != "$root" ]; then act rm -rf -- "$workflow"; fi
  { note_unannounced && workflow_info | write_file "$workflow/Contents/Info.plist" 644 &&
    workflow_document | write_file "$workflow/Contents/document.wflow" 644; } || {
    say "cannot write $workflow"
    say "  chown $(id -un) $(quote "$home/Library/Services"), then ./shortcut_install.sh"
    return 73
  }
  journal setting "pbs NSServicesStatus $service"
  [ "$dry" != 0 ] || services '' >/dev/null || : >"$state/services.unset"
  # Always with -dict-add: without it the entries of all other services are lost. The name has quotes inside, since
  # defaults would parse a leading parenthesis as a list.
  modes='{ContextMenu=1; FinderPreview=1; ServicesMenu=1; TouchBar=1;}'
  { act defaults write pbs NSServicesStatus -dict-add "\"$service\"" \
    "{enabled_context_menu=1; enabled_services_menu=1; key_equivalent=\"$value\"; presentation_modes=$modes;}" &&
    announce_services && { [ "$dry" != 0 ] || [ "$(bound_key)" = "$value" ]; }; } || {
    say "$symbols could not be bound to the Quick Action"
    say "  bind it yourself: System Settings > Keyboard > Keyboard Shortcuts > Services > General > $app_name"
    return 69
  }
  shortcut_hints "$symbols"
}

note_unannounced() { # before a change: after an interruption, the next run must still tell macOS about it
  [ "$dry" != 0 ] || { mkdir -p -- "$state" && : >"$state/unannounced"; }
}

announce_services() {
  act "$pbs" -flush && act "$pbs" -update && { [ "$dry" != 0 ] || rm -f -- "$state/unannounced"; }
}

shortcut_hints() { # <symbols>
  local last=${key##*+} modifiers names='' list=''
  modifiers=${key%"$last"}
  if [ -n "$modifiers" ]; then
    names="$(printf '%s' "${modifiers%+}" | sed 's/+/ + /g') - "
    list="\"$(printf '%s' "${modifiers%+}" | sed 's/+/", "/g')\""
  fi
  say "$1 works in programs that are started from now on; a program's own shortcut has priority. Other ways to bind it:"
  say "  skhd         $names$last : $(open_command)"
  say "  Hammerspoon  hs.hotkey.bind({$list}, \"$last\", function() hs.execute([[$(open_command)]]) end)"
  say "  Raycast      Settings > Extensions > Applications > $app_name > Record Hotkey"
}

shortcut_undo() {
  local settings=$state/pbs.plist
  if [ -e "$workflow" ]; then
    [ "$(root_of "$workflow")" = "$root" ] || return 0
  else
    bound_key >/dev/null || [ -e "$state/unannounced" ] || return 0
  fi
  note_unannounced || return
  if [ "$dry" != 0 ]; then
    say "    remove $service from the NSServicesStatus of pbs"
  elif bound_key >/dev/null; then
    # With defaults: if PlistBuddy changed ~/Library/Preferences/pbs.plist itself, cfprefsd might overwrite it from its
    # memory. The import sets everything that was exported, except this one entry.
    { defaults export pbs "$settings" && "$plist_buddy" -c "Delete :NSServicesStatus:\"$service\"" "$settings" &&
      defaults import pbs "$settings" && ! bound_key >/dev/null; } || {
      say "the hotkey of $app_name could not be removed"
      say "  remove it yourself: System Settings > Keyboard > Keyboard Shortcuts > Services > General"
      return 69
    }
    if [ -e "$state/services.unset" ] && [ "$(services '')" = $'Dict {\n}' ]; then
      defaults delete pbs NSServicesStatus
    fi
  fi
  act rm -rf -- "$workflow" && announce_services
}

shortcut_status() {
  local bound
  if bound=$(bound_key) && [ -e "$workflow" ]; then
    printf '%s, the Quick Action %s\n' "$(key_symbols "$bound")" "$workflow"
  else
    printf 'not installed\n'
  fi
}
