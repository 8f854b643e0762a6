#!/bin/sh
# Makes the project's Python environment, or does nothing if it is up to date. Every target of the Makefile calls this.
#   usage: tools/setup_env.sh [FOLDER]      FOLDER is .venv beside the Makefile unless given
#   PYTHON=/path/to/python3.12 chooses the interpreter; otherwise the first that runs and is 3.11, 3.12 or 3.13.
# The file FOLDER/sabr-env says what the environment was made from. It is written last. The environment is made again
# after an interrupted installation, after a change of constraints.txt or of the requirements in settings.ini, and after
# the folder was moved.
set -eu
cd "$(dirname "$0")/.."
env=${1:-.venv}
mark=$env/sabr-env
say() { printf 'sabr: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}

wanted() {
    echo "folder $(pwd)"
    cat constraints.txt setup.py
    awk '/^[a-z_]+ *=/ { keep = $1 ~ /^(min_python|requirements|dev_requirements|console_scripts)$/ } keep' settings.ini
}

fits() {
    "$1" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1
}

choose_python() {
    if [ -n "${PYTHON:-}" ]; then
        fits "$PYTHON" || die "PYTHON=$PYTHON does not run or is not Python 3.11, 3.12 or 3.13: name another one"
        echo "$PYTHON"
        return
    fi
    for p in python3 python3.13 python3.12 python3.11; do
        if fits "$p"; then
            command -v "$p"
            return
        fi
    done
    say "no Python 3.11, 3.12 or 3.13 found"
    die "install one (Debian: sudo apt-get install python3 python3-venv) or name it with PYTHON=..."
}

# Ways to make an environment with pip. Each begins with an empty folder, and fails if it does not end with pip in it.
has_pip() {
    "$env/bin/python" -m pip --version >/dev/null 2>&1
}

fresh() {
    rm -rf "$env"
    mkdir -p "$env"
    echo 'unfinished' > "$mark"
}

venv() {
    fresh
    "$py" -m venv "$env" >/dev/null 2>&1 && has_pip
}

# Debian's python3 without python3-venv can make an environment but cannot put pip into it. The host's pip can.
venv_host_pip() {
    fresh
    "$py" -m venv --without-pip "$env" >/dev/null 2>&1 || return 1
    "$py" -m pip --python "$env/bin/python" install -q pip >/dev/null 2>&1 && has_pip
}

virtualenv_() {
    fresh
    { "$py" -m virtualenv -q "$env" || virtualenv -q -p "$py" "$env"; } >/dev/null 2>&1 && has_pip
}

uv_() {
    fresh
    uv venv -q --allow-existing --seed -p "$py" "$env" >/dev/null 2>&1 && has_pip
}

# Only as root, in a container for example: install the missing package of Debian, and say so.
venv_apt() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || return 1
    say "$py cannot make environments: running 'apt-get update && apt-get install -y $debian'"
    apt-get update -qq >/dev/null 2>&1 || return 1
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$debian" >/dev/null 2>&1 && venv
}

if [ -f "$mark" ]; then
    if wanted | cmp -s - "$mark" && "$env/bin/python" -c '' >/dev/null 2>&1; then exit 0; fi
    why='was made for other requirements or another place'
    [ "$(cat "$mark")" = unfinished ] && why='was not finished'
    say "the environment $env $why: making it again"
elif [ -e "$env" ]; then
    die "$env exists but was not made by this Makefile: move it, or choose another folder (make ... VENV=.venv-sabr)"
fi

py=$(choose_python)
case $py in */python3.1[0-9]) debian=${py##*/}-venv ;; *) debian=python3-venv ;; esac
PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INPUT=1
PYTHONNOUSERSITE=1
export PIP_USER PIP_DISABLE_PIP_VERSION_CHECK PIP_ROOT_USER_ACTION PIP_NO_INPUT PYTHONNOUSERSITE
unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX || true
venv || venv_host_pip || virtualenv_ || uv_ || venv_apt || {
    rm -rf "$env"
    die "$py cannot make a virtual environment: run 'sudo apt-get install $debian' and try again"
}
say "installing with $("$py" -V) into $env: once, about 6 GB (most of it PyTorch), some minutes"
[ -t 1 ] && quiet= || quiet=-qq
pip() {
    "$env/bin/python" -m pip install $quiet -c constraints.txt "$@" ||
        die "the installation did not finish; pip's reason is above. Remove the cause and call make again"
}
pip pip setuptools       # the pip of some Debian releases cannot resolve a pinned set that has extras
pip --no-build-isolation -e '.[dev]'
wanted > "$mark.new"
mv "$mark.new" "$mark"
say "the environment is ready"
