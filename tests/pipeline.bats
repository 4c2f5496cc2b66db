#!/usr/bin/env bats
# The pipe itself: options, order, exit codes, signals. Its stages are small programs of this file, so that what is
# tested is pipeline.sh and the contract, under the shell in A2I_TEST_BASH (bash by default).

bats_require_minimum_version 1.5.0
load fake_root

setup() {
  make_fake_root "$BATS_TEST_TMPDIR/a copy with ümläuts"
  stages=$BATS_TEST_TMPDIR/stages
  mkdir "$stages"
  fake record 'printf pcm'
  fake transcribe 'cat >/dev/null; printf "a burger [BLANK_AUDIO]\n"'
  fake remove_parentheses 'sed -u "s/ *\[.*\]//"'
  fake generate 'while IFS= read -r line; do printf "/pictures/%s.png\n" "$line"; done'
  export A2I_RECORD="$stages/record" A2I_TRANSCRIBE="$stages/transcribe" A2I_GENERATE="$stages/generate"
  export A2I_REMOVE_PARENTHESES="$stages/remove_parentheses" A2I_OUTPUT=$BATS_TEST_TMPDIR/outputs
}

fake() { # <stage> <script>: a stage that notes its arguments and settings
  printf '#!/bin/bash\nprintf "%%s\\n" "$@" >"%s/%s.arguments"\n%s\n' "$stages" "$1" "$2" >"$stages/$1"
  chmod +x "$stages/$1"
}

pipeline() { "${A2I_TEST_BASH:-bash}" "$root/pipeline.sh" "$@"; }

nothing_left() { # neither a file nor a process of the run
  [ -z "$(ls -A "$A2I_OUTPUT" 2>/dev/null)" ]
  ! pgrep -af "$stages/" >&2
}

@test "the stages pass the text on, and only the path reaches stdout" {
  run --separate-stderr pipeline
  [ "$status" -eq 0 ]
  [ "$output" = "/pictures/a burger.png" ]
  [ -z "$stderr" ]
  nothing_left
}

@test "all stages are started at once" {
  # Each waits for the next one to be there before it ends: started one after another, they would wait for ever.
  fake record "for _ in {1..50}; do [ -e $stages/up ] && exit 0; sleep 0.1; done; exit 70"
  fake generate "touch $stages/up; cat"
  fake transcribe 'cat >/dev/null; echo text'
  run pipeline
  [ "$status" -eq 0 ]
}

@test "a prompt goes to generate alone, exactly as it was written" {
  fake generate 'cat'
  run pipeline --prompt "quotes ' \" \$(touch $stages/run) \`id\` * \\n ünï 🍔 --open"
  [ "$status" -eq 0 ]
  [ "$output" = "quotes ' \" \$(touch $stages/run) \`id\` * \\n ünï 🍔 --open" ]
  [ ! -e "$stages/run" ]
  [ ! -e "$stages/record.arguments" ]
}

@test "a prompt with line breaks is one line" {
  fake generate 'wc -l'
  run pipeline -p $'a burger\non a\r\ntable'
  [ "$status" -eq 0 ]
  [ "$output" -eq 1 ]
}

@test "one input goes through record, its name as one argument and absolute" {
  cd "$BATS_TEST_TMPDIR"
  run pipeline -i '-a file; $(id).wav'
  [ "$status" -eq 0 ]
  [ "$(cat "$stages/record.arguments")" = "--input
$BATS_TEST_TMPDIR/-a file; \$(id).wav" ]
}

@test "several inputs go to transcribe, in order" {
  run pipeline -i /b.wav --input=/a.wav
  [ "$status" -eq 0 ]
  [ "$(cat "$stages/transcribe.arguments")" = "/b.wav
/a.wav" ]
  [ ! -e "$stages/record.arguments" ]
}

@test "options become settings of every stage, and the option beats the environment" {
  fake generate 'cat >/dev/null; env | grep ^A2I_ | grep -vE "SESSION|CONTROL|OUTPUT|RECORD|TRANSCRIBE|PAREN|GENERATE|TEST" | sort'
  A2I_TIME=3 A2I_STEPS=7 run pipeline -t 2.5 -d mic -l de --translate -m sd -w tiny -s 1 -g 3 --negative 'no red' \
    --size 64x96 -c 2 -q
  [ "$status" -eq 0 ]
  [ "$output" = "A2I_COUNT=2
A2I_DEVICE=mic
A2I_GUIDANCE=3
A2I_LANGUAGE=de
A2I_MODEL=sd
A2I_NEGATIVE=no red
A2I_QUIET=1
A2I_SEED=1
A2I_SIZE=64x96
A2I_STEPS=7
A2I_TIME=2.5
A2I_TRANSLATE=1
A2I_WHISPER=tiny" ]
}

@test "an enrich stage is put before generate when there is one" {
  fake enrich 'sed -u "s/$/, golden light/"'
  A2I_ENRICH="$stages/enrich --strong" run pipeline
  [ "$output" = "/pictures/a burger, golden light.png" ]
  [ "$(cat "$stages/enrich.arguments")" = --strong ]
}

@test "wrong options end with 64, one line and the remedy, and start nothing" {
  wrong() {
    run --separate-stderr pipeline "$@"
    [ "$status" -eq 64 ] && [ -z "$output" ] && [ "$(grep -c . <<<"$stderr")" -eq 2 ] || {
      echo "$* → $status: $output$stderr"
      return 1
    }
  }
  wrong --nonsense
  wrong burger
  wrong -t
  wrong -t soon
  wrong --time=1.2.3
  wrong -n 0
  wrong -n 1.5
  wrong -s -1.5
  wrong -c ''
  wrong --size 512
  wrong --size 512x
  wrong --size axb
  wrong -p ''
  wrong -p '   '
  wrong -p text -i file
  wrong -i - -i file
  wrong -i ''
  wrong --quiet=1
  wrong --json --open
  wrong --size 12345x64
  wrong --size=64x15
  wrong --seed 18446744073709551616
  wrong --seed -2
  wrong --time 0
  wrong --time=3600.5
  wrong -c 0
  wrong --guidance abc
  wrong --language 12
  wrong --language english
  wrong --sampler nonsense
  wrong --silence 0.1
  wrong A2I_TIME 5
  wrong --again "$BATS_TEST_FILENAME" -p text
  wrong --again "$BATS_TEST_FILENAME" -i file
  wrong --again "$BATS_TEST_FILENAME" --loop
  [ ! -e "$A2I_OUTPUT" ]
  [ ! -e "$stages/generate.arguments" ]
}

@test "a wrong value in the environment is refused in the same way, unless an option replaces it" {
  A2I_TIME=0 run -64 --separate-stderr pipeline
  [ "$stderr" = "pipeline: A2I_TIME: not a number from 0.1 to 3600: '0'
  ./pipeline.sh --help shows the options" ]
  A2I_SIZE=big run -64 pipeline -p text
  [ ! -e "$stages/generate.arguments" ]
  A2I_TIME=0 A2I_SEED='' run pipeline -t 5
  [ "$status" -eq 0 ]
}

@test "values at the ends of their ranges are taken" {
  run pipeline -t .1 --silence 10. -n 1000 -s 4294967295 -c 001 -g 100 --size 16x9999 -l pt-BR --sampler dpm++ --negative ''
  [ "$status" -eq 0 ]
}

@test "models and engines that do not exist are refused before anything is recorded" {
  mkdir "$root/models"
  cp "$BATS_TEST_DIRNAME/../models/catalog.toml" "$root/models/"
  refused() { # <exit code> <pattern> <options…>
    local code=$1 pattern=$2
    shift 2
    A2I_GENERATE='' A2I_TRANSCRIBE='' run --separate-stderr pipeline "$@"
    [ "$status" -eq "$code" ] && [[ $stderr =~ $pattern ]] || {
      echo "$* → $status: $stderr"
      return 1
    }
  }
  refused 64 "no model is called 'stable-difusion-1-5'.*Did you mean stable-diffusion-1-5" -m stable-difusion-1-5
  refused 64 'base.en-q5_1 draws no pictures' -m base.en-q5_1 -p text
  refused 64 'stable-diffusion-1-5 recognises no speech' -w stable-diffusion-1-5
  refused 66 "no model folder $BATS_TEST_TMPDIR/.*/nowhere" -m "$BATS_TEST_TMPDIR/x/nowhere"
  refused 66 'no speech model /nowhere/ggml.bin' -w /nowhere/ggml.bin
  A2I_ENGINE=abacus refused 64 "A2I_ENGINE: there is no engine 'abacus'" -p text
  [ ! -e "$stages/record.arguments" ]
  [ ! -e "$A2I_OUTPUT" ]
}

@test "a good name starts no Python of its own" {
  mkdir "$root/models"
  cp "$BATS_TEST_DIRNAME/../models/catalog.toml" "$root/models/"
  rm "$root/helpers/shell/names.py"
  A2I_GENERATE='' A2I_ENGINE=cpu run --separate-stderr pipeline -m stable-diffusion-1-5 -p text
  [[ $stderr != *helpers.shell.names* ]]
  A2I_GENERATE='' run --separate-stderr pipeline -m stable-diffusion-0 -p text
  [[ $stderr = *helpers.shell.names* ]]
}

@test "--again gives generate the file, absolute, and nothing else is started" {
  fake generate 'cat; printf "%s\n" "$A2I_AGAIN"'
  cd "$BATS_TEST_TMPDIR"
  : >picture.png
  run pipeline --again picture.png
  [ "$status" -eq 0 ]
  [ "$output" = "$BATS_TEST_TMPDIR/picture.png" ]
  [ ! -e "$stages/record.arguments" ]
  run -66 --separate-stderr pipeline --again ./gone.png
  [[ $stderr = "pipeline: there is no picture $BATS_TEST_TMPDIR/./gone.png"* ]]
}

@test "A2I_APPLE_PYTHON is a path from any folder, or a name on PATH" {
  fake generate 'cat >/dev/null; printf "%s\n" "$A2I_APPLE_PYTHON"'
  cd "$BATS_TEST_TMPDIR"
  export A2I_ENGINE=apple
  A2I_APPLE_PYTHON=bin/python run pipeline -p text
  [ "$output" = "$BATS_TEST_TMPDIR/bin/python" ]
  A2I_APPLE_PYTHON=python3.11 run pipeline -p text
  [ "$output" = python3.11 ]
}

@test "a helper file that is missing is named" {
  rm "$root/helpers/shell/session.sh"
  run -69 --separate-stderr pipeline
  [ "$stderr" = "pipeline: the file helpers/shell/session.sh is missing
  git restore helpers brings it back" ]
}

@test "the first stage that fails gives the exit code and the only message" {
  fake transcribe 'echo "transcribe: no words were heard" >"$A2I_CONTROL/transcribe.error"; exit 65'
  fake generate 'if ! read -r line; then exit 65; fi'
  run --separate-stderr pipeline
  [ "$status" -eq 65 ]
  [ "$stderr" = "transcribe: no words were heard" ]
  nothing_left
}

@test "a stage that fails without a word is named" {
  fake remove_parentheses 'exit 3'
  run --separate-stderr pipeline
  [ "$status" -eq 3 ]
  [ "$stderr" = "pipeline: remove_parentheses failed with exit code 3" ]
}

@test "the cause is the stage that says it, not the one that was first to starve" {
  fake record 'trap "" INT; exec >&-; sleep 0.5; echo "record: broken" >"$A2I_CONTROL/record.error"; exit 66'
  fake transcribe 'cat >/dev/null; exit 65'
  run --separate-stderr pipeline
  [ "$status" -eq 66 ]
  [ "$stderr" = "record: broken" ]
}

@test "a stage that ends without a word leaves the next one to say so" {
  fake transcribe 'cat >/dev/null'
  A2I_REMOVE_PARENTHESES='' run --separate-stderr pipeline
  [ "$status" -eq 65 ]
  [ "${stderr%%$'\n'*}" = "remove_parentheses: no text arrived on stdin" ]
}

recorder_that_keeps() { # two seconds of it
  fake record "python3 -c 'import os, wave
sound = wave.open(os.environ[\"A2I_SESSION\"] + \"/recording-1.wav\", \"wb\")
sound.setparams((1, 2, 16000, 0, \"NONE\", \"\"))
sound.writeframes(bytes(64000))'; printf pcm"
}

@test "what was spoken is kept when no picture came of it" {
  recorder_that_keeps
  fake generate 'cat >/dev/null; exit 69'
  run --separate-stderr pipeline
  [ "$status" -eq 69 ]
  [ "$(ls "$A2I_OUTPUT"/* | tr "\n" " ")" = "prompt.wav run.json transcript.txt " ]
  [[ $stderr = *"The recording is kept: $A2I_OUTPUT/"*"/prompt.wav" ]]
}

@test "a file that was given is not kept once more" {
  recorder_that_keeps
  fake generate 'cat >/dev/null; exit 69'
  run pipeline -i /a/file.wav
  [ "$status" -eq 69 ]
  nothing_left
}

@test "--quiet still says what failed" {
  fake remove_parentheses 'exit 3'
  run --separate-stderr pipeline --quiet
  [ "$stderr" = "pipeline: remove_parentheses failed with exit code 3" ]
}

@test "a stage that is not there is named before anything is recorded" {
  A2I_TRANSCRIBE=/nowhere/asr run -69 --separate-stderr pipeline
  [ "$stderr" = "pipeline: there is no program '/nowhere/asr'
  A2I_TRANSCRIBE names it; without A2I_TRANSCRIBE our own is used" ]
  [ ! -e "$stages/record.arguments" ]
  nothing_left
  A2I_TRANSCRIBE=/nowhere/asr run pipeline --prompt "a burger"
  [ "$status" -eq 0 ]
}

@test "a stage that is killed is named with the signal" {
  fake transcribe 'kill -KILL $$'
  run --separate-stderr pipeline
  [ "$status" -eq 137 ]
  [ "$stderr" = "pipeline: transcribe was ended by signal 9" ]
  nothing_left
}

@test "a stage that somebody ends is named, too" {
  fake transcribe 'kill -TERM $$'
  run --separate-stderr pipeline
  [ "$status" -eq 143 ]
  [ "$stderr" = "pipeline: transcribe was ended by signal 15" ]
}

@test "when the last stage fails, the recording is ended at once" {
  fake record 'trap "exit 0" INT; printf pcm; for _ in {1..100}; do sleep 0.1; done; exit 70'
  fake generate 'exit 69'
  start=$SECONDS
  run pipeline
  [ "$status" -eq 69 ]
  [ $((SECONDS - start)) -lt 5 ]
  nothing_left
}

@test "a reader that ends early is no failure of the writer" {
  fake transcribe 'cat >/dev/null; for i in {1..20000}; do echo "line $i"; done || exit 141'
  fake remove_parentheses 'exec cat'
  fake generate 'head -n 1'
  run pipeline
  [ "$status" -eq 0 ]
  [ "$output" = "line 1" ]
}

in_background() { # the pipe in a process group of its own, as a terminal runs it
  set -m
  "${A2I_TEST_BASH:-bash}" "$root/pipeline.sh" "$@" >"$BATS_TEST_TMPDIR/out" 2>"$BATS_TEST_TMPDIR/err" 3>&- &
  job=$!
  set +m
  for _ in {1..100}; do
    if [ -e "$stages/up" ]; then return; fi
    sleep 0.1
  done
  return 1
}

listening_recorder() {
  fake record "trap 'echo stopped >$stages/stopped; exit 0' INT; touch $stages/up; printf pcm
    for _ in {1..200}; do sleep 0.1; done"
}

@test "Ctrl-C once ends the recording, and the picture is drawn" {
  listening_recorder
  in_background
  kill -INT -- "-$job"
  wait "$job"
  [ -e "$stages/stopped" ]
  [ "$(cat "$BATS_TEST_TMPDIR/out")" = "/pictures/a burger.png" ]
  nothing_left
}

@test "Ctrl-C twice ends everything with 130 and leaves nothing" {
  listening_recorder
  fake transcribe "cat >/dev/null; touch $stages/transcribing; sleep 20"
  in_background
  kill -INT -- "-$job"
  for _ in {1..50}; do if [ -e "$stages/transcribing" ]; then break; fi; sleep 0.1; done
  kill -INT -- "-$job"
  code=0
  wait "$job" || code=$?
  [ "$code" -eq 130 ]
  [ ! -s "$BATS_TEST_TMPDIR/out" ]
  nothing_left
}

@test "--stop from elsewhere ends the recording, and only that" {
  listening_recorder
  fake transcribe "cat >/dev/null; touch $stages/transcribing; for _ in {1..50}; do [ -e $stages/go ] && break; sleep 0.1; done; echo a burger"
  in_background
  pipeline --stop
  for _ in {1..50}; do if [ -e "$stages/transcribing" ]; then break; fi; sleep 0.1; done
  [ -e "$stages/stopped" ]
  run -66 pipeline --stop # it draws by now, and goes on
  [ "$output" = "pipeline: nothing is being recorded" ]
  touch "$stages/go"
  wait "$job"
  [ "$(cat "$BATS_TEST_TMPDIR/out")" = "/pictures/a burger.png" ]
  nothing_left
  [ -z "$(ls "$root/.cache/recording")" ]
}

@test "--stop without a recording says so, and clears up after a pipeline that was killed" {
  run -66 pipeline --stop
  [ "$output" = "pipeline: nothing is being recorded" ]
  mkdir -p "$root/.cache/recording"
  sleep 60 3>&- & # the pid of somebody else now
  printf '%s\n' "$BATS_TEST_TMPDIR" >"$root/.cache/recording/$!"
  touch "$BATS_TEST_TMPDIR/record.pid"
  run -66 pipeline --stop
  kill "$!"
  [ -z "$(ls "$root/.cache/recording")" ]
}

@test "Ctrl-C while nothing is recorded ends everything with 130" {
  fake generate "touch $stages/up; sleep 20"
  in_background -p "a burger"
  kill -INT -- "-$job"
  code=0
  wait "$job" || code=$?
  [ "$code" -eq 130 ]
  nothing_left
}

@test "a stage that ignores the end is killed after three seconds" {
  fake generate "trap '' TERM INT; touch $stages/up; while :; do sleep 0.2; done"
  in_background -p "a burger"
  kill -TERM "$job"
  code=0
  wait "$job" || code=$?
  [ "$code" -eq 143 ]
  nothing_left
}

@test "an output folder that cannot be written ends with 73 before anything starts" {
  touch "$A2I_OUTPUT"
  run --separate-stderr pipeline
  [ "$status" -eq 73 ]
  [ ! -e "$stages/record.arguments" ]
  [[ $stderr = "pipeline: cannot write to $A2I_OUTPUT"* ]]
}

@test "the picture opens when asked for, its name as one argument" {
  fake generate "cat >/dev/null; touch '$BATS_TEST_TMPDIR/a \$(id).png'; echo '$BATS_TEST_TMPDIR/a \$(id).png'"
  fake xdg-open "touch $stages/opened"
  PATH=$stages:$PATH DISPLAY=:9 run pipeline --open
  [ "$output" = "$BATS_TEST_TMPDIR/a \$(id).png" ]
  for _ in {1..50}; do if [ -e "$stages/opened" ]; then break; fi; sleep 0.1; done
  [ "$(cat "$stages/xdg-open.arguments")" = "$output" ]
}

@test "it runs through symbolic links and from any folder" {
  mkdir "$BATS_TEST_TMPDIR/bin"
  ln -s "$root/pipeline.sh" "$BATS_TEST_TMPDIR/bin/first"
  ln -s first "$BATS_TEST_TMPDIR/bin/draw it"
  cd /
  run "${A2I_TEST_BASH:-bash}" "$BATS_TEST_TMPDIR/bin/draw it"
  [ "$status" -eq 0 ]
  [ "$output" = "/pictures/a burger.png" ]
}

@test "--help fits one screen, --version is the package's; both need no environment" {
  rm -rf "$root/.venv"
  run pipeline --help
  [ "$status" -eq 0 ]
  [ "${#lines[@]}" -le 30 ]
  for line in "${lines[@]}"; do [ "${#line}" -le 100 ]; done
  run pipeline -V
  [[ $output =~ ^audio-to-image\ [0-9]+\.[0-9]+\.[0-9]+$ ]]
  [ ! -e "$root/.venv" ]
}

@test "--help shows the values that hold" {
  A2I_TIME=4 run pipeline --help
  [[ $output = *"microphone 4"* ]]
}

@test "a stage that has had enough ends the recording, and the rest goes on" {
  fake record "printf pcm; trap 'exit 0' INT; while :; do sleep 0.1; done"
  fake transcribe 'printf "a cat\na dog\n"'
  run pipeline --loop
  [ "$status" -eq 0 ]
  [ "$output" = "/pictures/a cat.png
/pictures/a dog.png" ]
  nothing_left
}

@test "--loop and its like are settings of every stage, and exclude what makes no sense" {
  fake record 'printf pcm; printf "%s %s %s\n" "$A2I_LOOP" "$A2I_SILENCE" "${A2I_FIXED_WINDOW-}" >"'"$stages"'/settings"'
  run pipeline --loop --silence=1.5
  [ "$status" -eq 0 ]
  [ "$(cat "$stages/settings")" = "1 1.5 " ]
  for options in "--talk -p text" "--talk -i a.wav" "--talk --fixed-window" "--loop -p text" "--loop -i a.wav" "--loop --fixed-window" "--silence much" "--loop=1"; do
    # shellcheck disable=SC2086 # several options
    run --separate-stderr pipeline $options
    [ "$status" -eq 64 ]
    [ -z "$output" ]
  done
}

@test "one line says which options of the command line have no effect together" {
  fake generate 'cat >/dev/null; echo /picture.png'
  A2I_SILENCE=2 run --separate-stderr pipeline -p 'a cat' -t 5 -d mic --translate -s -1
  [ "$status" -eq 0 ]
  [ "$stderr" = "pipeline: without effect here, because no sound is needed: -t -d --translate" ]
  touch "$BATS_TEST_TMPDIR/a.wav"
  run --separate-stderr pipeline -i "$BATS_TEST_TMPDIR/a.wav" --silence=1 --fixed-window -t 5
  [ "${stderr_lines[0]}" = "pipeline: without effect here, because the microphone is not used: --silence --fixed-window" ]
  A2I_TIME=5 A2I_DEVICE=mic run --separate-stderr pipeline -p 'a cat'
  [ "$stderr" = "" ]
}

@test "--confirm without a terminal is refused before anything is recorded" {
  run --separate-stderr setsid "${A2I_TEST_BASH:-bash}" "$root/pipeline.sh" --confirm
  [ "$status" -eq 69 ]
  [ "$stderr" = "pipeline: --confirm asks on a terminal, and there is none" ]
  [ ! -e "$stages/record.arguments" ]
}

@test "a program of the user's gets plain lines, and its answers are known again" {
  fake transcribe 'cat >/dev/null; printf "a cat\n"'
  fake enrich 'tee "'"$stages"'/given" | sed -u "s/$/, golden/"'
  fake generate 'tee "'"$stages"'/drawn"'
  A2I_ENRICH="$stages/enrich" run pipeline -i /a.wav
  [ "$status" -eq 0 ]
  [ "$(cat "$stages/given")" = "a cat" ]
  [ "$(cat "$stages/drawn")" = "a cat, golden" ]
}

translated() { # A2I_TRANSLATE after the decision, where our own program would print 1
  # shellcheck disable=SC2016 # for the other shell
  run "${A2I_TEST_BASH:-bash}" -uc 'ours() { echo 1; }; . "$1"; decide_translation; echo "${A2I_TRANSLATE:-}"' \
    bash "$root/helpers/shell/session.sh"
}

@test "our own program decides about a translation only where nobody else does" {
  unset A2I_TRANSCRIBE A2I_GENERATE
  A2I_LANGUAGE=de translated
  [ "$output" = 1 ]
  A2I_LANGUAGE=auto translated
  [ "$output" = 1 ]
  for language in '' en en-GB EN_us; do
    A2I_LANGUAGE=$language translated
    [ -z "$output" ]
  done
  A2I_LANGUAGE=de A2I_TRANSLATE=0 translated
  [ "$output" = 0 ]
  for stage in TRANSCRIBE ENRICH GENERATE; do
    export "A2I_$stage=cat" A2I_LANGUAGE=de
    translated
    [ -z "$output" ]
    unset "A2I_$stage"
  done
  A2I_TALK=1 translated
  [ -z "$output" ]
}

@test "--no-translate is for all stages" {
  fake record 'printf "%s" "$A2I_TRANSLATE" >'"$stages/translate"
  run pipeline --no-translate -l de
  [ "$(cat "$stages/translate")" = 0 ]
}
