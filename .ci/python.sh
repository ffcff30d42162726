# Sourced by the scripts here: finds a Python 3.10. Run from the repository's root, where .python-version holds.

is_python310() {
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' >/dev/null 2>&1
}

# Prints the path of a Python 3.10: $PYTHON, python3.10, python3 or python on PATH (pyenv's shims among them, which may
# be there and still not run), any that pyenv installed, any that uv knows or can fetch.
find_python() {
    for candidate in "${PYTHON:-}" python3.10 python3 python "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.10*/bin/python3.10; do
        if [ -n "$candidate" ] && is_python310 "$candidate"; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    command -v uv >/dev/null || return 1
    uv python find 3.10 2>/dev/null || { uv python install --quiet 3.10 >&2 && uv python find 3.10; }
}

die_no_python() {
    echo "No Python 3.10 was found (SecretFlow 1.13 runs on no newer one). Install it with \`uv python install 3.10\` or" >&2
    echo "\`pyenv install 3.10\`, put python3.10 on PATH, or name one: PYTHON=/path/to/python3.10 make setup" >&2
    exit 1
}
