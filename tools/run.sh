#!/bin/bash
# `make run`: serves the bundled model and says how to talk to it once it answers. PORT and MODEL may be set.
# Ctrl-C (or SIGTERM) drains the server and ends with 0; a second one ends it at once.
set -eu
stops=0 status=0 server=""
trap 'stops=$((stops + 1)); [ -z "$server" ] || kill -TERM $server 2>/dev/null || true' INT TERM
cd "$(dirname "$0")/.."
model=${MODEL:-models/systolic-tiny}
port=${PORT:-8000}
name=$(basename "$model")
url="http://127.0.0.1:$port"

# Asked first: /health of whoever has the port would pass for ours.
if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    echo "Port $port is in use. Choose another one: PORT=$((port + 1)) make run" >&2
    exit 1
fi

# In a process group of its own (set -m): Ctrl-C goes to a terminal's whole group, and the server takes a second signal for "at once".
set -m
build/systolic serve "$model" --host 127.0.0.1 --port "$port" --served-model-name "$name" </dev/null &
server=$!
set +m
[ $stops = 0 ] || kill -TERM $server

# A signal ends a wait early; the one that it leaves uninterrupted has the server's own exit status.
finish() {
    local seen
    while :; do
        seen=$stops
        wait $server && status=0 || status=$?
        [ $seen != $stops ] || break
    done
    # Stopped so early that it had no handler yet.
    [ $stops = 0 ] || [ $status != 143 ] || status=0
    exit $status
}
healthy() {
    exec 3<>"/dev/tcp/127.0.0.1/$port" || return 1
    printf 'GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
    head -n 1 <&3 | grep -q ' 200 '
}
tries=0
until (healthy) 2>/dev/null; do
    kill -0 $server 2>/dev/null || finish
    tries=$((tries + 1))
    [ $tries -lt 600 ] || { echo "The server did not become healthy within a minute." >&2; kill $server; exit 1; }
    sleep 0.1 || true # a signal to the whole group ends it
done
# Builtins only: a signal that ended a child would end the script, and not with 0.
IFS= read -r -d '' text <<EOF || true

  $name is being served on $url  (stop with Ctrl-C). In another terminal:

  build/systolic chat --url $url/v1

  curl -s $url/v1/chat/completions -H 'Content-Type: application/json' \\
       -d '{"messages": [{"role": "user", "content": "Who are you?"}]}'

  python3 -c "
from openai import OpenAI
c = OpenAI(base_url='$url/v1', api_key='none')
r = c.chat.completions.create(model='$name', messages=[{'role': 'user', 'content': 'Tell me a story about a fox.'}])
print(r.choices[0].message.content)"

EOF
printf '%s' "$text"
finish
