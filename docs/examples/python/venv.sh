# Sets PYTHON to one that has py-spiffe.
if [ -z "${PYTHON:-}" ]; then
    requirements="$(dirname "$0")/../python/requirements.txt"
    if ! cmp -s "$requirements" "$CACHE/requirements.txt"; then
        python3 -m venv --clear "$CACHE/venv"
        "$CACHE/venv/bin/pip" install -q --disable-pip-version-check -r "$requirements"
        cp "$requirements" "$CACHE/requirements.txt"
    fi
    PYTHON="$CACHE/venv/bin/python3"
fi
