#!/bin/sh
# Builds OUT (libpjrt_cpu.so), a PJRT plugin over XLA:CPU, from the tensorflow-cpu wheel named in wheel.txt.
#   tools/pjrt-cpu/build.sh OUT
# The wheel (270 MB) is fetched once by pip, checked against its hash and unpacked (1.1 GB) under
# ${XDG_CACHE_HOME:-~/.cache}/systolic/pjrt-cpu-VERSION; the plugin refers to the libraries there.
set -eu
out=${1:?usage: tools/pjrt-cpu/build.sh OUT}
here=$(cd "$(dirname "$0")" && pwd)
pin=$(grep -v '^#' "$here/wheel.txt")
version=$(echo "$pin" | sed 's/^tensorflow-cpu==\([^ ]*\) .*/\1/')
cache=${XDG_CACHE_HOME:-$HOME/.cache}/systolic/pjrt-cpu-$version
fail() { echo "pjrt-cpu: $*" >&2; exit 1; }

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || fail "the tensorflow-cpu $version wheel exists for Linux on x86_64 only; this is $(uname -s) on $(uname -m)"
command -v ${CXX:-g++} >/dev/null || fail "no ${CXX:-g++}: run tools/setup.sh pjrt"

if [ ! -f "$cache/.done" ]; then
    mkdir -p "$cache"
    tmp=$(mktemp -d "$cache/tmp.XXXXXX")
    trap 'rm -rf "$tmp"' EXIT
    py=python3
    $py -m pip --version >/dev/null 2>&1 || { $py -m venv "$tmp/venv" || fail "python3 has neither pip nor venv: run tools/setup.sh pjrt"; py=$tmp/venv/bin/python; }
    echo "  PIP   tensorflow-cpu $version (270 MB, once)"
    $py -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --implementation cp --python-version 3.11 --abi cp311 \
        --platform manylinux_2_27_x86_64 --require-hashes -r "$here/wheel.txt" -d "$tmp" >"$tmp/pip.log" 2>&1 ||
        { tail -n 2 "$tmp/pip.log" >&2; fail "pip could not fetch tensorflow-cpu $version from the package index (no network, or another index in PIP_INDEX_URL?)"; }
    # The headers and the two libraries; the Python parts are left out. Installed under their final name in one step.
    $py - "$tmp" <<'PY' || fail "the wheel does not unpack"
import glob, sys, zipfile
tmp = sys.argv[1]
with zipfile.ZipFile(glob.glob(tmp + "/*.whl")[0]) as z:
    z.extractall(tmp + "/x", [n for n in z.namelist() if n.startswith(("tensorflow/libtensorflow_", "tensorflow/include/")) or n.endswith("/LICENSE")])
PY
    rm -rf "$cache/tensorflow"
    mv "$tmp/x/tensorflow" "$cache/tensorflow"
    touch "$cache/.done"
    rm -rf "$tmp"
fi

tf=$cache/tensorflow
inc=$tf/include
mkdir -p "$(dirname "$out")"
for source in plugin kernels; do
    echo "  CXX   tools/pjrt-cpu/$source.cc (a minute or two)"
    nice -n 10 ${CXX:-g++} -std=c++17 -O1 -w -fPIC -DNDEBUG -fvisibility=hidden -DSYSTOLIC_WHEEL_VERSION="\"$version\"" -I"$here/stand-in" -I"$inc" \
        -I"$inc/external/farmhash_archive/src" -I"$inc/external/highwayhash" -I"$inc/external/com_google_highway" \
        -c "$here/$source.cc" -o "$out.$source.o" || fail "$source.cc does not compile"
done
${CC:-cc} -std=c11 -fsyntax-only -I"$here/../../src" -I"$inc" "$here/abi_check.c" || fail "src/device/pjrt/pjrt_abi.h does not describe the PJRT API of this wheel"
echo "  LD    $out"
${CXX:-g++} -shared -Wl,--no-undefined,-z,initfirst -o "$out.tmp" "$out.plugin.o" "$out.kernels.o" "$tf/libtensorflow_cc.so.2" "$tf/libtensorflow_framework.so.2" -Wl,-rpath,"$tf"
mv "$out.tmp" "$out"
rm -f "$out.plugin.o" "$out.kernels.o"
