# shellcheck shell=sh
# Sourced by the scripts beside it, with `root` set: makes sure that .venv is ready, or exits 2.
# Not for anything that Python can say: that is environment.py's.

# Root and pyproject.toml, as they were when .venv was made: a moved or changed project is remade.
stamp() {
    printf '%s\n' "$root"
    cat "$root/pyproject.toml"
}

# Print the newest Python that can make an environment, or say in one sentence what is missing.
find_python() {
    old='' bare=''
    for python in python3.14 python3.13 python3.12 python3.11 python3; do
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            old=$version
        elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
            bare=${bare:-$version}
        else
            command -v "$python"
            return
        fi
    done
    if [ -n "$bare" ]; then
        echo "Python $bare lacks its venv and ensurepip modules; $(fix "$bare")" >&2
    elif [ -n "$old" ]; then
        echo "zmqex needs Python 3.11 or newer, and the newest here is $old." >&2
    else
        echo "zmqex needs Python 3.11 or newer, and no python3 was found." >&2
    fi
    return 2
}

# Say how venv and ensurepip come to Python version $1 on this system.
fix() {
    sudo='sudo '
    [ "$(id -u)" -ne 0 ] || sudo=''
    if command -v apt-get >/dev/null; then
        echo "install them with: ${sudo}apt-get install python$1-venv"
    elif command -v dnf >/dev/null; then
        echo "install them with: ${sudo}dnf install python$1"
    else
        echo "install them with your system's packages, or a whole Python from python.org."
    fi
}

if ! stamp | cmp -s - "$root/.venv/stamp" || ! [ -x "$root/.venv/bin/python" ]; then
    python=$(find_python) || exit 2
    stamp | "$python" "$root/scripts/environment.py" || exit $?
fi
