# Sourced by the scripts here: finds uv and a Python 3.10. Run from the repository's root, where .python-version holds.

die() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

is_python310() {
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' >/dev/null 2>&1
}

# Prints the path of uv: the one on PATH, or one of our own in .uv, which comes from the package index.
find_uv() {
    command -v uv && return
    if [ ! -x .uv/bin/uv ]; then
        echo "$(basename "$0"): fetching uv from the package index into .uv" >&2
        rm -rf .uv
        # The second way is for systems that split venv or pip off their Python.
        for python in python3 python python3.10 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*/bin/python3; do
            command -v "$python" >/dev/null && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null || continue
            "$python" -m venv .uv >/dev/null 2>&1 && .uv/bin/python -m pip install --quiet --disable-pip-version-check uv >&2 && break
            rm -rf .uv
            "$python" -m pip install --quiet --disable-pip-version-check --target .uv uv >&2 2>/dev/null && break
        done
        [ -x .uv/bin/uv ] || die "uv could not be fetched from the package index; is it reached? Or install uv yourself (see its documentation) and put it on PATH"
    fi
    echo "$PWD/.uv/bin/uv"
}

# Prints the path of a Python 3.10: $PYTHON, python3.10, python3 or python on PATH (pyenv's shims among them, which may
# be there and still not run), any that pyenv installed, any that uv knows or can fetch (into .uv).
find_python() {
    for candidate in "${PYTHON:-}" python3.10 python3 python "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.10*/bin/python3.10; do
        if [ -n "$candidate" ] && is_python310 "$candidate"; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    uv=$(find_uv) || return 1
    export UV_PYTHON_INSTALL_DIR="$PWD/.uv/python"
    "$uv" python find --no-python-downloads 3.10 2>/dev/null && return
    echo "$(basename "$0"): no Python 3.10 here; uv fetches one into .uv" >&2
    "$uv" python install 3.10 >&2 && "$uv" python find 3.10
}

die_no_python() {
    die "no Python 3.10 was found or could be fetched (SecretFlow's SPU and HEU run on no newer one). Install it with" \
        "\`uv python install 3.10\` or \`pyenv install 3.10\`, put python3.10 on PATH, or name one: PYTHON=/path/to/python3.10 make setup"
}
