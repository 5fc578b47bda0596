#!/bin/bash
# Runs every test and ends with "N passed, N failed, N skipped". BUILD is the build directory.
#   tools/check.sh            unit tests, goldens and the API tests
#   tools/check.sh unit       only the C unit tests (used by the sanitizer targets)
#   tools/check.sh oom        only the tests that fail one allocation after the other
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

run() { # name, command...
    local name=$1 log status start=$SECONDS; shift
    mkdir -p "$build/logs"
    log="$build/logs/$(echo "$name" | tr '/' '_').log"
    timeout "${TEST_TIMEOUT:-600}" "$@" >"$log" 2>&1
    status=$?
    account "$name" "$log" $status
    if [ $status = 0 ]; then
        grep -E '^ +skipped:' "$log" | sort | uniq -c | sed 's/^/  /'
        printf '%-44s %s  (%ds)\n' "$name" "$(grep -E '[0-9]+ passed' "$log" | tail -n 1 | sed 's/^[^:]*: //')" $((SECONDS - start))
    else
        echo "---- $name failed (exit $status); the end of $log:"
        tail -n 40 "$log"
    fi
}

for src in tests/unit/*/test_*.c; do
    bin="$build/${src%.c}"
    name=${src#tests/unit/}; name=${name%.c}
    case $what in
    oom) grep -q 'out_of_memory' "$src" && run "oom/$name" "$bin" out_of_memory ;;
    *) run "$name" "$bin" ;;
    esac
done
if [ "$what" = all ]; then
    python=${PYTHON:-$build/venv/bin/python}
    for script in tests/api/test_*.py; do
        [ -e "$script" ] || continue
        run "api/$(basename "$script" .py)" "$python" "$script" --bin "$build/systolic"
    done
    run lint python3 tools/lint.py
fi
[ -z "$broken" ] || echo "failed:$broken"
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
