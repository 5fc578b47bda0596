#!/bin/bash
# Runs every fuzz target for FUZZ_SECONDS each, on the seeds in tests/fuzz/seeds/NAME and a corpus kept in BUILD/corpus/NAME.
# Findings are kept in BUILD/findings and make the exit status 1.
set -u
cd "$(dirname "$0")/.."
build=${BUILD:-build-fuzz} seconds=${FUZZ_SECONDS:-30} passed=0 failed=0
mkdir -p "$build/findings" "$build/logs"
export LSAN_OPTIONS="suppressions=$PWD/tools/lsan.supp:print_suppressions=0${LSAN_OPTIONS:+:$LSAN_OPTIONS}"
for bin in "$build"/fuzz/fuzz_*; do
    case $bin in *.d|*.o) continue ;; esac
    name=$(basename "$bin"); corpus="$build/corpus/$name"; seeds="tests/fuzz/seeds/${name#fuzz_}"
    mkdir -p "$corpus"
    [ -d "$seeds" ] || seeds=""
    if "$bin" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=3000 -max_len=65536 -print_final_stats=1 -artifact_prefix="$build/findings/$name-" \
        "$corpus" $seeds >"$build/logs/$name.log" 2>&1; then
        passed=$((passed + 1))
        printf '%-28s %12s executions, no finding\n' "$name" "$(sed -n 's/^stat::number_of_executed_units: *//p' "$build/logs/$name.log")"
    else
        failed=$((failed + 1))
        echo "---- $name: finding; the end of $build/logs/$name.log:"
        tail -n 30 "$build/logs/$name.log"
    fi
done
echo "fuzz: $passed passed, $failed failed"
[ $failed = 0 ]
