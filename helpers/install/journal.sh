# shellcheck shell=bash disable=SC2154
# The installer's journal ($state/journal) and its backups ($state/before): --uninstall needs both.
# Everything outside the repository is noted in the journal before it is made. After an interruption, the next run thus
# knows what there may be. Uses state, dry, act, say, warn and linked_file of shortcut_install.sh, which sources it.

journalled() { grep -qxF -- "$1 $2" "$state/journal" 2>/dev/null; } # <kind> <value>

journal() { # <kind> <value>: call it before the thing is made
  [ "$dry" = 0 ] || return 0
  journalled "$1" "$2" || { mkdir -p -- "$state" && printf '%s %s\n' "$1" "$2" >>"$state/journal"; }
}

journal_of() { # <kind>: prints the values, newest first
  [ ! -e "$state/journal" ] || sed -n '1!G;h;$p' "$state/journal" | sed -n "s/^$1 //p"
}

make_folder() { # <path>: with its parents; --uninstall removes the new ones if they are empty
  [ ! -d "$1" ] || return 0
  make_folder "$(dirname -- "$1")" && journal folder "$1" && act mkdir -- "$1"
}

backup_of() { printf '%s/before/%s' "$state" "$(printf '%s' "$1" | cksum | tr ' ' -)"; } # <path>

put() { # <from> <to>: copies a file atomically
  cp -p -- "$1" "$(part_of "$2")" && mv -f -- "$(part_of "$2")" "$2"
}

part_of() { printf '%s/.%s.part' "$(dirname -- "$1")" "${1##*/}"; } # <path>: its temporary file, which stays if we are killed while writing

write_file() { # <path> <mode>: writes stdin to the file; --uninstall restores the previous content
  local path new=$state/new before
  path=$(linked_file "$1")
  if [ "$dry" != 0 ]; then
    cmp -s - "$path" || say "    write $path"
    cat >/dev/null
    return
  fi
  mkdir -p -- "$state/before" && cat >"$new" && chmod -- "$2" "$new" || return 73
  before=$(backup_of "$path")
  if [ -e "$path" ] && ! journalled file "$path" && ! cmp -s "$new" "$path"; then put "$path" "$before" || return 73; fi
  is_ours "$new" "$path" || cksum <"$new" >>"$before.ours"
  make_folder "$(dirname -- "$path")" && journal file "$path" || return 73
  cmp -s "$new" "$path" || put "$new" "$path" || return 73
  rm -f -- "$new"
}

is_ours() { grep -qxF -- "$(cksum <"$1")" "$(backup_of "$2").ours" 2>/dev/null; } # <file with the content> <path>: did we write it?

restore_file() { # <path>: undoes write_file, unless somebody else has changed the file since then
  local before
  before=$(backup_of "$1")
  [ ! -e "$(part_of "$1")" ] || act rm -f -- "$(part_of "$1")"
  if [ -f "$1" ] && is_ours "$1" "$1"; then
    if [ -e "$before" ]; then act put "$before" "$1"; else act rm -f -- "$1"; fi
  elif [ -f "$1" ] && ! cmp -s "$1" "$before"; then
    warn "$1 was changed after the installation, so it stays"
  fi
}
