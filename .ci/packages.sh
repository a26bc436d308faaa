#!/usr/bin/env bash
# packages.sh : the Debian packages that the tests need. Says in words what is missing when it may not install them.
set -euo pipefail
packages=(redis-server postgresql chromium dcmtk dicom3tools pixelmed-apps openjdk-17-jdk-headless
  faketime libgdcm-tools orthanc orthanc-dicomweb)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

echo "Installing ${missing[*]} …"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! sudo -n true 2>/dev/null; then
    echo "The tests need these Debian packages: ${missing[*]}" >&2
    echo "Run as root: apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive
if ! { ${as_root[@]+"${as_root[@]}"} apt-get update -q && ${as_root[@]+"${as_root[@]}"} apt-get install -y -q --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  cat "$log" >&2
  exit 1
fi
rm -f "$log"
# Orthanc is a peer that tests start for themselves: its own service is not wanted.
case " ${missing[*]} " in
  *" orthanc "*)
    for stop in "service orthanc stop" "update-rc.d orthanc disable"; do
      # shellcheck disable=SC2086  # a command of several words
      ${as_root[@]+"${as_root[@]}"} $stop >/dev/null 2>&1 || true
    done
    ;;
esac
