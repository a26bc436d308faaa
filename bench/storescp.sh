#!/usr/bin/env bash
# storescp.sh FOLDER [DIMSE_PORT]: (re)starts DCMTK's storescp on an empty FOLDER/s, a process for each association, with TCP_NODELAY=1.
# It keeps no index and syncs nothing: the floor of what receiving costs, not an archive. "stop" instead of the port only stops it.
d=$1; dimse=${2:-14243}
if [ -f "$d/s.pid" ]; then kill "$(cat "$d/s.pid")" 2>/dev/null; for _ in $(seq 100); do kill -0 "$(cat "$d/s.pid")" 2>/dev/null || break; sleep 0.05; done; fi
[ "$dimse" = stop ] && exit 0
rm -rf "$d/s"; mkdir -p "$d/s"
TCP_NODELAY=1 nohup setsid storescp --fork -aet STORESCP -od "$d/s" +xa "$dimse" >"$d/s.log" 2>&1 </dev/null &
echo $! >"$d/s.pid"
for _ in $(seq 100); do (exec 3<>"/dev/tcp/127.0.0.1/$dimse") 2>/dev/null && exit 0; sleep 0.05; done
echo "storescp did not start: $(tail -n 1 "$d/s.log")" >&2; exit 1
