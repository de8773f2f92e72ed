#!/usr/bin/env bash
# run_instance.sh v1 <benchmark> <onnx> <vnnlib> <results_file> <timeout>
# Writes the verdict, and the witness of a sat, to the results file: whole or not at all.
# Exits 0 whenever the file was written. <onnx> is a path or the text of a Python list of (name, path).
set -u

if [ "${1:-}" != v1 ]; then
    echo "run_instance.sh: the first argument must be v1, not '${1:-}'" >&2
    exit 1
fi
if [ $# -ne 6 ]; then
    echo "usage: run_instance.sh v1 <benchmark> <onnx> <vnnlib> <results_file> <timeout>" >&2
    exit 1
fi
onnx=$3 vnnlib=$4 results=$5 limit=$6

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
python=${VERINN_PYTHON:-$root/.venv/bin/python}
state=${VERINN_STATE:-${TMPDIR:-/tmp}/verinn-$(id -u)}

# An answer of an earlier run must not be taken for this one's.
rm -f -- "$results"
mkdir -p -- "$state" "$(dirname -- "$results")" || exit 1

# verinn keeps the limit itself; should it ever hang, `timeout` ends it a little later. `timeout` leads
# a process group of its own and hands signals on, so its number stands for all that runs.
last=$(awk -v limit="$limit" 'BEGIN { print limit + 5 }')
timeout --signal=KILL "$last" "$python" -m verinn verify "$onnx" "$vnnlib" --timeout "$limit" --results "$results" &
child=$!
note=$state/$child.pid
echo "$child" >"$note"
trap 'kill -TERM "$child" 2>/dev/null' TERM INT
wait "$child"
code=$?
# A trapped signal ends the first wait: the answer is being written still.
while kill -0 "$child" 2>/dev/null; do
    wait "$child"
    code=$?
done
rm -f -- "$note"

if [ ! -s "$results" ]; then
    # Killed (137: by the guard, or for its memory), crashed, or refused its input.
    temporary=$results.tmp.$$
    echo error >"$temporary" && mv -f -- "$temporary" "$results" || exit 1
    echo "run_instance.sh: verinn ended with exit code $code and no verdict" >&2
fi
exit 0
