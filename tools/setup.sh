#!/bin/sh
# Installs what building (and with "check", testing; with "fuzz", fuzzing; with "pjrt", the XLA:CPU plugin) needs from Debian's packages, or says how.
# Nothing happens when everything is there.
set -eu
want="gcc make pkg-config libc6-dev libjansson-dev libpcre2-dev libutf8proc-dev libevent-dev libcurl4-openssl-dev libxxhash-dev libssl-dev libjpeg62-turbo-dev libpng-dev libwebp-dev libsndfile1-dev ca-certificates"
case "${1:-run}" in
run) ;;
check) want="$want python3 python3-venv openssl" ;;
fuzz) want="$want clang" ;;
pjrt) want="$want g++ python3 python3-venv" ;;
*) echo "usage: tools/setup.sh [run|check|fuzz|pjrt]" >&2; exit 2 ;;
esac

missing=""
for p in $want; do
    # A tool that came from elsewhere (a newer gcc, pyenv's python3) is as good as the package.
    case $p in gcc|g++|make|pkg-config|python3|openssl|clang) command -v "$p" >/dev/null 2>&1 && continue ;; esac
    case $p in python3-venv) python3 -c 'import venv, ensurepip' 2>/dev/null && continue ;; esac
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
# evhttp before this version lets a request carry both Content-Length and Transfer-Encoding (docs/http.md).
if [ -z "$missing" ] && command -v dpkg >/dev/null 2>&1; then
    have=$(dpkg-query -W -f='${Version}' libevent-dev 2>/dev/null || echo 0)
    dpkg --compare-versions "$have" ge 2.1.12-stable-8 2>/dev/null || missing=" libevent-dev"
fi
[ -z "$missing" ] && exit 0

line="apt-get install -y --no-install-recommends$missing"
if [ "$(id -u)" = 0 ]; then sudo=""
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then sudo="sudo"
else
    echo "Systolic needs these Debian packages:$missing" >&2
    echo "Install them, then run the same command again:" >&2
    echo "    sudo apt-get update && sudo $line" >&2
    exit 1
fi
echo "Installing:$missing"
export DEBIAN_FRONTEND=noninteractive
# A package list may be there already; fetch one only if the install does not go through without.
$sudo $line >/dev/null 2>&1 || { $sudo apt-get update -qq && $sudo $line >/dev/null; }
