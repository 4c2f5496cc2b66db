# shellcheck shell=bash disable=SC2154
# The commands that install packages of the system. Uses root, package_manager and no_package_manager.

package_row() { # [package manager]: prints its line of helpers/core/packages.txt
  grep -- "^${1:-$(package_manager)}|" "$root/helpers/core/packages.txt"
}

package_hint() { # <ffmpeg or python> [package manager]: prints the command that installs it
  local manager install unattended ffmpeg python
  # shellcheck disable=SC2034 # columns of the table; one package is read by its name
  IFS='|' read -r manager install unattended ffmpeg python <<<"$(package_row "${2:-}")"
  case $manager:$(id -u) in
    :*) no_package_manager "$1" && return ;;
    brew:* | *:0) ;;
    *) install="sudo $install" ;;
  esac
  printf '%s %s' "$install" "${!1}"
}
