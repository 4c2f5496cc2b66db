#!/usr/bin/env bash
# A microphone for machines without one: a headless PulseAudio whose null sink is heard as the default microphone.
#   eval "$(tests/microphone.sh FOLDER)"   # sets PULSE_SERVER; FOLDER is made, and has a short name: a socket is in it
#   paplay voice.wav                       # speak into it
#   tests/microphone.sh --stop FOLDER
# Works as root and as anybody else, without systemd, beside the sound server of a desktop.
set -u

server() { # <folder>
  printf 'unix:%s/native' "$1"
}

start() { # <folder>
  mkdir -p -- "$1" && chmod 700 -- "$1" || exit 73
  export HOME=$1 XDG_RUNTIME_DIR=$1 XDG_CONFIG_HOME=$1 PULSE_RUNTIME_PATH=$1 PULSE_STATE_PATH=$1
  unset PULSE_SERVER DISPLAY
  pulseaudio -n --daemonize=yes --exit-idle-time=-1 --disallow-exit --use-pid-file=yes --log-target=file:"$1/log" \
    -L "module-native-protocol-unix auth-anonymous=1 socket=$1/native" \
    -L 'module-null-sink sink_name=mouth rate=16000 channels=1' 3>&- || exit 69 # 3: bats waits for who holds it
  PULSE_SERVER=$(server "$1")
  export PULSE_SERVER
  pactl set-default-source mouth.monitor || exit 69
  # A null sink without a listener renders two seconds ahead, and the next listener waits for them. This one keeps it
  # at 20 ms; it ends with the server.
  parec --latency-msec=20 --device=mouth.monitor >/dev/null 2>&1 3>&- &
  printf 'export PULSE_SERVER=%s\n' "$PULSE_SERVER"
}

stop() { # <folder>
  local pid tries=0
  read -r pid 2>/dev/null <"$1/pid" || return 0
  kill "$pid" 2>/dev/null
  while kill -0 "$pid" 2>/dev/null && [ "$((tries += 1))" -lt 40 ]; do sleep 0.05; done
}

main() { # [--stop] <folder>
  if [ "$1" = --stop ]; then stop "$2"; else start "$1"; fi
}

main "$@"
