#!/usr/bin/env bash
# prepare_instance.sh v1 <benchmark> <onnx> <vnnlib>
# Ends what an earlier run_instance.sh left behind, and checks that the files are there.
set -eu

if [ "${1:-}" != v1 ]; then
    echo "prepare_instance.sh: the first argument must be v1, not '${1:-}'" >&2
    exit 1
fi
if [ $# -ne 4 ]; then
    echo "usage: prepare_instance.sh v1 <benchmark> <onnx> <vnnlib>" >&2
    exit 1
fi

# run_instance.sh notes the process group that it starts. Only such a one is ended, and only if its
# number still belongs to verinn.
state=${VERINN_STATE:-${TMPDIR:-/tmp}/verinn-$(id -u)}
for note in "$state"/*.pid; do
    [ -f "$note" ] || continue
    pid=$(cat "$note")
    if [ -r "/proc/$pid/cmdline" ] && tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q 'verinn'; then
        kill -KILL -- "-$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null || true
        echo "prepare_instance.sh: ended process $pid of an earlier run" >&2
    fi
    rm -f "$note"
done

check() {
    if [ ! -r "$1" ] || [ -d "$1" ]; then
        echo "prepare_instance.sh: $1: can't be read" >&2
        exit 1
    fi
}

case $3 in
"["*)
    # Several networks: the text of a Python list of (name, path) pairs.
    root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
    python=${VERINN_PYTHON:-$root/.venv/bin/python}
    if ! paths=$("$python" -c 'import ast, sys; [print(path) for _, path in ast.literal_eval(sys.argv[1])]' "$3" 2>/dev/null); then
        echo "prepare_instance.sh: $3: is not a list of networks" >&2
        exit 1
    fi
    while IFS= read -r path; do check "$path"; done <<<"$paths"
    ;;
*) check "$3" ;;
esac
check "$4"
