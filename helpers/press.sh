#!/usr/bin/env bash
# Keys that an earlier version has bound run this path; ./shortcut_install.sh binds helpers/shell/hotkey.sh.
exec "$(dirname -- "${BASH_SOURCE[0]}")/shell/hotkey.sh" "$@"
