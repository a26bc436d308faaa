#!/usr/bin/env bash
# orthanc.sh FOLDER [HTTP_PORT DIMSE_PORT]: (re)starts Debian's Orthanc on an empty store in FOLDER, with TCP_NODELAY=1
# (without it a Nagle stall of 42 ms per store makes every comparison meaningless). The process id is in FOLDER/o.pid.
# orthanc.sh FOLDER stop: only stops it.
d=$1; http=${2:-18042}; dimse=${3:-14242}
if [ -f "$d/o.pid" ]; then kill "$(cat "$d/o.pid")" 2>/dev/null; for _ in $(seq 300); do kill -0 "$(cat "$d/o.pid")" 2>/dev/null || break; sleep 0.05; done; fi
[ "$http" = stop ] && exit 0
rm -rf "$d/o"; mkdir -p "$d/o"
plug=$(ls /usr/share/orthanc/plugins/*OrthancDicomWeb* 2>/dev/null | head -n 1)
cat >"$d/o.json" <<J
{"Name":"o","StorageDirectory":"$d/o","IndexDirectory":"$d/o","HttpPort":$http,"DicomPort":$dimse,"DicomAet":"ORTHANC","RemoteAccessAllowed":false,
"AuthenticationEnabled":false,"OverwriteInstances":true,"KeepAlive":true,"LimitFindResults":0,"DicomAlwaysAllowStore":true,"DicomAlwaysAllowFind":true,"DicomAlwaysAllowGet":true,"DicomAlwaysAllowMove":true,"DicomModalities":{"SINK":["SINK","127.0.0.1",14300]},
"Plugins":["${plug:-/nonexistent}"],"DicomWeb":{"Enable":true,"Root":"/dicom-web/","EnableWado":true}}
J
TCP_NODELAY=1 nohup setsid Orthanc "$d/o.json" >"$d/o.log" 2>&1 &
echo $! >"$d/o.pid"
for _ in $(seq 200); do curl -s -o /dev/null "http://127.0.0.1:$http/system" && exit 0; sleep 0.05; done
echo "Orthanc did not start: $(tail -n 1 "$d/o.log")" >&2; exit 1
