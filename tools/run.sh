#!/bin/bash
# `make run`: serves the bundled model and says how to talk to it once it answers. PORT and MODEL may be set.
set -eu
cd "$(dirname "$0")/.."
model=${MODEL:-models/systolic-tiny}
port=${PORT:-8000}
url="http://127.0.0.1:$port"

build/systolic serve "$model" --host 127.0.0.1 --port "$port" --served-model-name "$(basename "$model")" &
server=$!
trap 'kill -TERM $server 2>/dev/null || true' INT TERM
tries=0
healthy() {
    exec 3<>"/dev/tcp/127.0.0.1/$port" || return 1
    printf 'GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
    head -n 1 <&3 | grep -q ' 200 '
}
until (healthy) 2>/dev/null; do
    kill -0 $server 2>/dev/null || { wait $server; exit $?; }
    tries=$((tries + 1))
    [ $tries -lt 600 ] || { echo "The server did not become healthy within a minute." >&2; kill $server; exit 1; }
    sleep 0.1
done
cat <<EOF

  $(basename "$model") is being served on $url  (stop with Ctrl-C). In another terminal:

  build/systolic chat --url $url/v1

  curl -s $url/v1/chat/completions -H 'Content-Type: application/json' \\
       -d '{"messages": [{"role": "user", "content": "Who are you?"}]}'

  python3 -c "
from openai import OpenAI
c = OpenAI(base_url='$url/v1', api_key='none')
r = c.chat.completions.create(model='$(basename "$model")', messages=[{'role': 'user', 'content': 'Tell me a story about a fox.'}])
print(r.choices[0].message.content)"

EOF
# The first wait ends early when a signal arrives; the second collects the drained server's exit status.
wait $server || true
wait $server 2>/dev/null
