#!/bin/bash
# Runs every fuzz target for FUZZ_SECONDS each, on the seeds in tests/fuzz/seeds/NAME and a corpus kept in BUILD/corpus/NAME.
# FUZZ_SEED makes a run repeatable (on an empty corpus); without it each run looks elsewhere. Findings are kept in BUILD/findings
# and make the exit status 1.
set -u
cd "$(dirname "$0")/.."
build=${BUILD:-build-fuzz} seconds=${FUZZ_SECONDS:-30} passed=0 failed=0
mkdir -p "$build/findings" "$build/logs"
export LSAN_OPTIONS="suppressions=$PWD/tools/lsan.supp:print_suppressions=0${LSAN_OPTIONS:+:$LSAN_OPTIONS}"
# One target is one thread: JOBS of them run at a time. Each says how it ended as soon as it has, in one piece.
jobs=${JOBS:-$(nproc 2>/dev/null || echo 1)}
names=()

one() { # program, name
    local bin=$1 name=$2 corpus="$build/corpus/$2" seeds="tests/fuzz/seeds/${2#fuzz_}"
    mkdir -p "$corpus"
    [ -d "$seeds" ] || seeds=""
    if "$bin" -max_total_time="$seconds" -seed="${FUZZ_SEED:-0}" -timeout=10 -rss_limit_mb=3000 -max_len=65536 -print_final_stats=1 -artifact_prefix="$build/findings/$name-" \
        "$corpus" $seeds >"$build/logs/$name.log" 2>&1; then
        echo 0 >"$build/logs/$name.status"
        printf '%-28s %12s executions, no finding\n' "$name" "$(sed -n 's/^stat::number_of_executed_units: *//p' "$build/logs/$name.log")"
    else
        printf '%s\n' "---- $name: finding; the end of $build/logs/$name.log:
$(tail -n 30 "$build/logs/$name.log")"
    fi
}

for bin in "$build"/fuzz/fuzz_*; do
    case $bin in *.d|*.o) continue ;; esac
    name=$(basename "$bin")
    rm -f "$build/logs/$name.status"
    names+=("$name")
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    one "$bin" "$name" &
done
wait
for name in "${names[@]}"; do
    if [ -e "$build/logs/$name.status" ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
done
echo "fuzz: $passed passed, $failed failed"
[ $failed = 0 ]
