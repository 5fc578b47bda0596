#!/bin/bash
# Runs every test and ends with "N passed, N failed, N skipped". BUILD is the build directory.
#   tools/check.sh            unit tests, goldens and the API tests
#   tools/check.sh unit       only the C unit tests (used by the sanitizer targets)
#   tools/check.sh oom        only the tests that fail one allocation after the other
# ONLY, a regular expression, picks unit tests by name (engine/test_sched, cli/test_exact, ...).
# Each test program and script ends with a line "NAME: N passed, N failed[, N skipped]"; a missing line is a failure.
set -u
cd "$(dirname "$0")/.."
build=${BUILD:-build}
what=${1:-all}
passed=0 failed=0 skipped=0 broken=""
[ -e "$build/venv/.libtpu" ] && export VIRTUAL_ENV="${VIRTUAL_ENV:-$(cd "$build/venv" && pwd)}" # where plugins are looked for

account() { # name, log, exit status
    local line
    line=$(grep -E '[0-9]+ passed, [0-9]+ failed' "$2" | tail -n 1)
    if [[ $line =~ ([0-9]+)\ passed,\ ([0-9]+)\ failed(,\ ([0-9]+)\ skipped)? ]]; then
        passed=$((passed + BASH_REMATCH[1])); failed=$((failed + BASH_REMATCH[2])); skipped=$((skipped + ${BASH_REMATCH[4]:-0}))
        if [ "${BASH_REMATCH[2]}" != 0 ]; then broken="$broken $1"
        elif [ "$3" != 0 ]; then failed=$((failed + 1)); broken="$broken $1(exit $3)"; fi
    else
        failed=$((failed + 1)); broken="$broken $1(no result, exit $3)"
    fi
}

# Test programs run JOBS at a time: most have one busy thread. Each says how it ended as soon as it has, in one piece.
jobs=${JOBS:-$(nproc 2>/dev/null || echo 1)}
names=()
log_of() { echo "$build/logs/${1//\//_}.log"; }

one() { # name, command...
    local name=$1 log status start=$SECONDS said; shift
    log=$(log_of "$name")
    timeout "${TEST_TIMEOUT:-900}" "$@" >"$log" 2>&1
    status=$?
    echo $status >"$log.status"
    if [ $status = 0 ]; then
        said=$(grep -E '^ +skipped:' "$log" | sort | uniq -c | sed 's/^/  /')
        printf '%s%-44s %s  (%ds)\n' "${said:+$said
}" "$name" "$(grep -E '[0-9]+ passed' "$log" | tail -n 1 | sed 's/^[^:]*: //')" $((SECONDS - start))
    else
        printf '%s\n' "---- $name failed (exit $status); the end of $log:
$(tail -n 40 "$log")"
    fi
}

run() { # name, command...
    rm -f "$(log_of "$1").status"
    names+=("$1")
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    one "$@" &
}

unit() { # sources
    local src bin name
    for src in "$@"; do
        bin="$build/${src%.c}"
        name=${src#tests/unit/}; name=${name%.c}
        [[ -z ${ONLY:-} || $name =~ $ONLY ]] || continue
        case $what in
        oom) grep -q 'out_of_memory' "$src" && run "oom/$name" "$bin" out_of_memory ;;
        *) run "$name" "$bin" ;;
        esac
    done
}

# Programs that tests compiled long ago are of texts that have changed since.
find "$build"/pjrt/programs-unit "$build"/pjrt/programs-quick -type f -mtime +7 -delete 2>/dev/null

# What takes long comes first, so that nothing long is left for the end.
mkdir -p "$build/logs"
if [ "$what" = all ]; then
    python=${PYTHON:-$build/venv/bin/python}
    for script in tests/api/test_pjrt.py $(ls tests/api/test_*.py | grep -v test_pjrt.py); do
        run "api/$(basename "$script" .py)" "$python" "$script" --bin "$build/systolic"
    done
fi
unit tests/unit/device/test_*.c tests/unit/ops/test_*.c tests/unit/cli/test_*.c
unit $(ls tests/unit/*/test_*.c | grep -Ev '^tests/unit/(device|ops|cli)/')
[ "$what" != all ] || run lint python3 tools/lint.py
wait
for name in "${names[@]}"; do account "$name" "$(log_of "$name")" "$(cat "$(log_of "$name").status" 2>/dev/null || echo none)"; done
[ -z "$broken" ] || echo "failed:$broken"
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
