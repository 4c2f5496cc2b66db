# shellcheck shell=bash disable=SC2154
# The installer's steps that are the same on every system: system, ffmpeg, environment, models, selftest. For each step
# NAME there are NAME_plan, NAME_is_done, NAME_do, NAME_undo and NAME_status. They use shortcut_install.sh's functions.

# ---- system: the platform's checks (system_check prints problems; it returns 1 if the program cannot work here)

system_plan() { :; }

system_is_done() {
  local problems
  problems=$(system_check) && [ -z "$problems" ]
}

system_do() { system_check >&2 || return 69; }

system_status() {
  local problems
  problems=$(system_check 2>&1)
  printf '%s' "${problems:-suitable}" | tr '\n' ' '
}

# ---- ffmpeg: from Homebrew or the system's packages; without permission for that, the copy in .venv is used

may_install() { # Homebrew needs a normal user, the others need root
  case $(package_manager) in
    '') return 1 ;;
    brew) [ "$(id -u)" -ne 0 ] ;;
    *) [ "$(id -u)" -eq 0 ] || { command -v sudo >/dev/null && { can_type || sudo -n true 2>/dev/null; }; } ;;
  esac
}

as_admin() { # <command…>
  if [ "$(package_manager)" = brew ] || [ "$(id -u)" -eq 0 ]; then
    act "$@"
  else
    say "FFmpeg is a package of the system: sudo asks for your password to run $(printf '%q ' "$@")"
    if can_type; then act sudo "$@"; else act sudo -n "$@"; fi
  fi
}

installed_packages() {
  case $(package_manager) in
    apt-get) dpkg-query -W -f '${db:Status-Abbrev}${binary:Package}\n' | sed -n 's/^ii *//p' ;;
    dnf | zypper) rpm -qa --qf '%{NAME}\n' ;;
    pacman) pacman -Qq ;;
    brew) brew list --formula -1 ;;
  esac | LC_ALL=C sort -u
}

ffmpeg_plan() { printf '%s (about 100 MB with what it needs)\n' "$(package_hint ffmpeg)"; }

ffmpeg_is_done() {
  [ ! -e "$state/packages" ] && { command -v ffmpeg >/dev/null || ! may_install; }
}

ffmpeg_do() {
  local before=$state/packages code=0 package install
  if [ "$dry" = 0 ] && [ ! -e "$before" ]; then # lets us find its dependencies afterwards, even after an interruption
    mkdir -p -- "$state" && installed_packages >"$before.part" && mv -- "$before.part" "$before" || return 73
  fi
  if ! command -v ffmpeg >/dev/null; then
    read -r -a install <<<"$(package_row | cut -d '|' -f 3) $(package_row | cut -d '|' -f 4)"
    case $(package_manager) in
      apt-get)
        install=(env DEBIAN_FRONTEND=noninteractive "${install[@]}")
        as_admin "${install[@]}" >&2 || { as_admin apt-get update -q >&2 && as_admin "${install[@]}" >&2; } || code=$?
        ;;
      *) as_admin "${install[@]}" >&2 || code=$? ;;
    esac
  fi
  [ "$dry" = 0 ] || return 0
  while IFS= read -r package; do
    [ -z "$package" ] || journal package "$package"
  done <<<"$(installed_packages | LC_ALL=C comm -13 "$before" -)"
  rm -f -- "$before"
  [ "$code" -eq 0 ] || {
    say "FFmpeg could not be installed: the copy in .venv reads files, but the microphone may need the system's FFmpeg"
    say "  run $(package_hint ffmpeg), then ./shortcut_install.sh"
    return 69
  }
}

ffmpeg_undo() {
  local packages=() package
  [ ! -e "$state/packages" ] || act rm -f -- "$state/packages"
  while IFS= read -r package; do
    [ -z "$package" ] || packages+=("$package")
  done <<<"$(journal_of package)"
  [ "${#packages[@]}" -gt 0 ] || return 0
  case $(package_manager) in # they refuse to remove packages that other programs need
    apt-get) as_admin dpkg -P "${packages[@]}" >&2 ;;
    dnf | zypper) as_admin rpm -e "${packages[@]}" >&2 ;;
    pacman) as_admin pacman -R --noconfirm "${packages[@]}" >&2 ;;
    brew) act brew uninstall "${packages[@]}" >&2 ;;
  esac || warn "FFmpeg and its packages stay: another program needs them, or only an administrator may remove them: ${packages[*]}"
}

ffmpeg_status() {
  command -v ffmpeg || printf 'only the copy in .venv, which reads files; the microphone may need: %s' "$(package_hint ffmpeg)"
}

ffmpeg_caveat() {
  command -v ffmpeg >/dev/null ||
    warn "no FFmpeg, and no permission to install it. Files work, but the microphone may need it: $(package_hint ffmpeg)"
}

# ---- environment: the pinned Python packages in .venv; the system's Python stays as it is

without_pytorch=0 # 1 if PyTorch could not be installed

wants_pytorch() { # there is an NVIDIA GPU, and a package that it needs is missing in .venv
  local program=$python
  [ "$platform" = linux ] || return 1
  case ${A2I_ENGINE:-torch} in torch | cuda) ;; *) return 1 ;; esac
  [ -x "$program" ] || program=$(base_python) || return 1
  (cd -- "$root" && "$program" "${isolated[@]}" -c 'import sys; from helpers.draw.engines import nvidia
sys.exit(not (nvidia.has_driver() and (sys.argv[1] != sys.executable or nvidia.missing())))' "$python") 2>/dev/null
}

environment_plan() {
  local list=''
  if environment_is_whole; then
    :
  elif is_repairable; then
    list=', repair the Python packages'
  else
    list=', the Python packages (about 450 MB)'
  fi
  ! wants_pytorch || list="$list, PyTorch for the NVIDIA GPU (about 6 GB; set A2I_ENGINE=openvino to skip it)"
  printf '%s, in .venv\n' "${list#, }"
}

environment_is_done() { environment_is_whole && ! wants_pytorch; }

environment_do() {
  if environment_is_whole; then
    :
  elif [ "$dry" != 0 ]; then
    act "$(base_python || printf python3)" -m venv "$root/.venv"
    act "$python" -m pip install -e .
  else
    (ensure_environment) || return # a subshell, since it calls exit on failure
  fi
  wants_pytorch || return 0
  if [ "$dry" != 0 ]; then
    act "$python" -m pip install -e '.[torch]'
  elif ! (install_extra torch); then # a subshell for the same reason
    without_pytorch=1
    warn "pictures are drawn on the CPU, not on the NVIDIA GPU. Try again later: ./shortcut_install.sh"
  fi
}

environment_undo() {
  local path
  for path in .venv/whole .venv .venv.lock audio_to_image.egg-info; do
    # a developer's .venv-test also uses the egg-info
    [ ! -e "$root/$path" ] || { [ "$path" = audio_to_image.egg-info ] && [ -e "$root/.venv-test" ]; } ||
      act rm -rf -- "${root:?}/$path" || return 73
  done
}

environment_status() {
  local extras
  if environment_is_whole; then printf '%s in .venv' "$("$python" -V)"; else printf 'missing or incomplete'; fi
  extras=$(recorded_extras)
  printf '%s' "${extras:+; extras: }${extras//$'\n'/, }"
  ! wants_pytorch || printf '; without PyTorch, so the NVIDIA GPU is not used'
}

# ---- models: those that the user named, or the best ones for this machine

wanted_models() { # prints name, size, here or missing, and folder of each, tab-separated
  local program=$python engine=${A2I_ENGINE:-}
  [ -x "$program" ] || program=$(base_python) || return
  [ "$without_pytorch" = 1 ] || ! wants_pytorch || engine=torch # PyTorch will be installed
  (cd -- "$root" && A2I_ENGINE=$engine "$program" "${isolated[@]}" -m helpers.install.wanted_models ${models[@]+"${models[@]}"})
}

check_models() { # an unknown model name ends the installer before it changes anything
  local error code=0
  [ "${#models[@]}" -gt 0 ] || return 0
  error=$(wanted_models 2>&1 >/dev/null) || code=$?
  [ "$code" -ne 64 ] || {
    printf '%s\n' "$error" >&2
    exit 64
  }
}

models_plan() {
  local name size here folder list='' lines
  lines=$(wanted_models 2>/dev/null) || list=', the models for this machine'
  while IFS=$'\t' read -r name size here folder; do
    [ "$here" != missing ] || list="$list, $name ($size)"
  done <<<"$lines"
  printf 'download %s\n' "${list#, }"
}

models_is_done() {
  local lines
  lines=$(wanted_models) && [ -n "$lines" ] && [ -z "$(cut -f 3 <<<"$lines" | sed -n '/missing/p')" ]
}

models_do() {
  local name size here folder result code=0
  while IFS=$'\t' read -r name size here folder; do
    [ "$here" = missing ] || continue
    make_folder "${folder%/*}" && journal model "$folder" || return 73
    result=0
    act "$python" "${isolated[@]}" "$root/download_model.py" "$name" >&2 </dev/null || result=$?
    case $result in
      0) ;;
      69) warn "$name was not downloaded; the built-in model is used until then. Try again later: ./download_model.py $name" ;;
      *) code=$result ;;
    esac
  done <<<"$(wanted_models)"
  [ "$dry" != 0 ] || : >"$root/.cache/speech-model-offered" # the pipe must not offer it again
  return "$code"
}

model_folders() { # prints what --uninstall --models removes: models in this folder, and those downloaded to A2I_MODELS
  local folder
  { journal_of model && printf '%s\n' "$root"/models/downloaded/*; } | sort -u | while IFS= read -r folder; do
    [ ! -e "$folder" ] || printf '%s\n' "$folder"
  done
}

models_undo() {
  local folder part code=0
  while IFS= read -r folder; do # partial downloads
    part=${folder%/*}/.incoming
    if [ -n "$folder" ] && [ -e "$part" ]; then
      act rm -rf -- "$part/${folder##*/}" || code=73
      [ -n "$(ls -A -- "$part")" ] || act rmdir -- "$part"
    fi
  done <<<"$(journal_of model)"
  [ "$with_models" = 1 ] || return "$code"
  while IFS= read -r folder; do
    [ -z "$folder" ] || act rm -rf -- "$folder" || code=73
  done <<<"$(model_folders)"
  while IFS= read -r folder; do # what was learned of them at the first download (helpers/catalog/lock.py)
    part=${folder%/*}/.lock
    if [ -n "$folder" ] && [ -e "$part" ]; then
      act rm -f -- "$part/${folder##*/}.json" || code=73
      [ -n "$(ls -A -- "$part")" ] || act rmdir -- "$part"
    fi
  done <<<"$(journal_of model)"
  [ ! -d "$root/models/downloaded" ] || act rm -rf -- "$root/models/downloaded" || code=73
  return "$code"
}

models_status() {
  local name size here folder list=''
  while IFS=$'\t' read -r name size here folder; do list="$list, $name ($here)"; done <<<"$(wanted_models 2>/dev/null)"
  printf '%s' "${list#, }"
}

# ---- selftest: draw one picture from one recording, with the files of the repository

selftest_plan() { printf 'draw one picture from examples/burger.wav\n'; }

selftest_stamp() { # a checksum of what was tested: the programs and the environment
  { cat -- "$root/.venv/whole" "$root/pipeline.sh" "$root"/*.py "$root"/helpers/*/*.* "$root"/helpers/draw/engines/*.py; } |
    cksum
}

selftest_is_done() { environment_is_done && selftest_is_right; } # run it again if the environment is going to change

selftest_is_right() { environment_is_whole && [ "$(selftest_stamp)" = "$(cat -- "$state/selftest" 2>/dev/null)" ]; }

selftest_do() {
  local folder=$state/selftest.pictures picture name code=0
  if [ "$dry" != 0 ]; then
    act "$root/pipeline.sh" --input "$root/examples/burger.wav" --model builtin
    return
  fi
  rm -rf -- "$folder" # left by a run that was killed
  mkdir -p -- "$folder" || return 73
  picture=$(
    for name in ${!A2I_*}; do
      case $name in (A2I_MODELS | A2I_TEST_BASH) ;; (*) unset "$name" ;; esac # bash 3.2 needs both parentheses here
    done
    "$BASH" "$root/pipeline.sh" --input "$root/examples/burger.wav" --model builtin --whisper builtin --seed 1 \
      --output "$folder" --no-open </dev/null
  ) || code=$?
  if [ "$code" -eq 0 ]; then # the signature of a PNG file
    [ "$(head -c 8 -- "$picture" | od -An -tx1 | tr -d ' \n')" = 89504e470d0a1a0a ] || code=70
  fi
  if [ "$code" -eq 0 ]; then
    say "a picture was drawn: $picture ($(($(wc -c <"$picture"))) bytes, removed again)"
    selftest_stamp >"$state/selftest.part" && mv -- "$state/selftest.part" "$state/selftest"
  else
    say "no picture was drawn from examples/burger.wav (exit code $code)"
    say "  to see why: ./pipeline.sh --input examples/burger.wav --model builtin --verbose"
  fi
  rm -rf -- "$folder"
  return "$code"
}

selftest_undo() { :; }

selftest_status() {
  if selftest_is_right; then printf 'a picture was drawn with this installation'; else printf 'not run with this installation'; fi
}
