#!/usr/bin/env bash
# install.sh EXTRAS [viewer] : bring .venv (and the built viewer) up to what pyproject.toml and constraints.txt say.
# Does nothing, in well under a second, when nothing changed.
set -euo pipefail
cd "$(dirname "$0")/.."
extras=$1
want_viewer=${2:-}

viewer_log=
current='import sys; sys.path.insert(0, "viewer"); import hatch_build; sys.exit(not hatch_build.is_current())'
if [ "$want_viewer" = viewer ] && ! { [ -d viewer/web/node_modules ] && .venv/bin/python -c "$current"; }; then
  command -v npm >/dev/null || { echo "The viewer is built with Node.js 20.19 or newer and npm: please install them." >&2; exit 1; }
  viewer_log=$(mktemp)
  echo "Building the viewer (npm ci, vite build) …"
  .venv/bin/python viewer/hatch_build.py --force >"$viewer_log" 2>&1 &
  viewer_pid=$!
fi

stamp=.venv/.stamps/python
have=$(cat "$stamp" 2>/dev/null || true)
case ",$(sed -n 's/^extras=//p' "$stamp.extras" 2>/dev/null)," in *",$extras,"*) same_extras=1 ;; *) same_extras= ;; esac
digest=$(printf '%s' "$(cat pyproject.toml constraints.txt)" | sha256sum | cut -d' ' -f1)
if [ "$have" != "$digest" ] || [ -z "$same_extras" ]; then
  echo "Installing Python packages ($extras) …"
  M3DICOM_SKIP_VIEWER=1 .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --constraint constraints.txt --editable ".[$extras]"
  if [ "$have" = "$digest" ]; then old=$(sed -n 's/^extras=//p' "$stamp.extras" 2>/dev/null); else old=; fi
  printf '%s' "$digest" >"$stamp"
  echo "extras=${old:+$old,}$extras" >"$stamp.extras"
fi

# The part in C: by the system's compiler, else by one from pip; without either Python does its work.
if ! .venv/bin/python pacs/native/make.py --or-fail; then
  echo "No C compiler that works here: installing one from pip (ziglang) …"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt ziglang ||
    echo "That failed." >&2
  .venv/bin/python pacs/native/make.py
fi

# Bytecode beside the sources, also where PYTHONDONTWRITEBYTECODE is set: else every start compiles all of it again.
.venv/bin/python -m compileall -q pacs dicomweb analysis viewer >/dev/null || true # what is wrong says so when it runs

# The JavaScript clients that tests drive.
clients=tests/clients_js
case ",$extras," in *,test,*)
  digest=$(sha256sum <"$clients/package-lock.json" | cut -d' ' -f1)
  if command -v npm >/dev/null && [ "$(cat "$clients/node_modules/.lock" 2>/dev/null || true)" != "$digest" ]; then
    (cd "$clients" && npm ci --silent --ignore-scripts) && printf '%s' "$digest" >"$clients/node_modules/.lock"
  fi
  ;;
esac

if [ -n "$viewer_log" ]; then
  wait "$viewer_pid" || { cat "$viewer_log" >&2; echo "The viewer could not be built; its messages are above." >&2; exit 1; }
  rm -f "$viewer_log"
fi
