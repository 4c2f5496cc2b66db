#!/usr/bin/env bash
# What the key, the menu entry and the Mac's app run. This path never changes, so that they still work after an update, and
# the app keeps its signature, on which the microphone permission depends. The program itself is shell/hotkey.sh.
case ${BASH_VERSION:+$-} in *p*) ;; *) POSIXLY_CORRECT=1 && exec "${BASH:-bash}" -p -- "$0" "$@" ;; esac # surroundings.sh says why
set -u -o pipefail

main() {
  local path=${BASH_SOURCE[0]} link
  while [ -L "$path" ]; do
    link=$(readlink -- "$path")
    case $link in /*) path=$link ;; *) path=$(dirname -- "$path")/$link ;; esac
  done
  exec "$(dirname -- "$path")/shell/hotkey.sh" "$@"
}

main "$@"
