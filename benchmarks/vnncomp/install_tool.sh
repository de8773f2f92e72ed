#!/usr/bin/env bash
# install_tool.sh v1
# Installs verinn into the virtual environment .venv at the top of this repository.
set -eu

if [ "${1:-}" != v1 ]; then
    echo "install_tool.sh: the first argument must be v1, not '${1:-}'" >&2
    exit 1
fi
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)

# The newest Python that will do.
python=""
for candidate in ${VERINN_BASE_PYTHON:-} python3.14 python3.13 python3.12 python3.11 python3; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "install_tool.sh: verinn needs Python 3.11 or newer, none was found" >&2
    exit 1
fi
make -C "$root" install PYTHON="$python"
"$root/.venv/bin/verinn" --version
