#!/usr/bin/env bash
# ours.sh FOLDER [HTTP_PORT DIMSE_PORT]: (re)starts m3DICOM on an empty store in FOLDER, with its defaults: authentication, AE checks
# (two AEs are configured), fsync and commit before the answer. Analysis is off: no worker, and no study counts as quiet.
# The process id is in FOLDER/ours.pid, a bearer token in FOLDER/token. Further settings: M3DICOM_… variables.
# ours.sh FOLDER stop: only stops it. KEEP=1: keeps what is stored.
set -u
d=$1; http=${2:-18080}; dimse=${3:-11112}
here=$(cd "$(dirname "$0")/.." && pwd); m3dicom=${M3DICOM:-$here/.venv/bin/m3dicom}
if [ -f "$d/ours.pid" ]; then kill "$(cat "$d/ours.pid")" 2>/dev/null; for _ in $(seq 400); do kill -0 "$(cat "$d/ours.pid")" 2>/dev/null || break; sleep 0.05; done; fi
[ "$http" = stop ] && exit 0
[ -n "${KEEP:-}" ] || rm -rf "$d/ours"
mkdir -p "$d/ours"; rm -f "$d/ready.json"
cat >"$d/ours.toml" <<T
data = "$d/ours"
http = "127.0.0.1:$http"
dimse = "127.0.0.1:$dimse"
aet = "OURS"
workers = ${WORKERS:-0}
stable_after_s = ${STABLE_AFTER_S:-3600}
aes = [{title = "BENCH"}, {title = "GETSCU"}, {title = "DCMSEND"}, {title = "SINK", host = "127.0.0.1", port = 14300}]
T
${UNDER:-} nohup setsid "$m3dicom" serve --config "$d/ours.toml" --ready-file "$d/ready.json" >"$d/ours.log" 2>&1 </dev/null &
echo $! >"$d/ours.pid"
for _ in $(seq 600); do [ -f "$d/ready.json" ] && break; kill -0 "$(cat "$d/ours.pid")" 2>/dev/null || break; sleep 0.05; done
[ -f "$d/ready.json" ] || { echo "m3DICOM did not start: $(tail -n 1 "$d/ours.log")" >&2; exit 1; }
[ -n "${NO_TOKEN:-}" ] || "$m3dicom" token create --config "$d/ours.toml" --name bench 2>/dev/null | tail -n 1 >"$d/token"
