# shellcheck shell=bash
# Sourced by the other scripts, in the root of the repository.
#
# show_help ARGUMENTS: prints the head of the script and exits, if one of them asks
# for help. It changes nothing, and stands before `prepare`. `usage` prints it about
# a wrong command, and exits with 2.
#
# prepare [EXTRA]: makes the virtual environment .venv if there is none, installs
# synthjax into it with an extra of pyproject.toml, and activates it. What is
# installed already, from the same pyproject.toml, is not installed again.
# SYNTHJAX_INSTALL=0 installs nothing at all, as on machines without a network.

head_of_script() {
  sed -n '2,/^set/s/^#\( \|$\)//p' "launch/${0##*/}"
}

show_help() {
  local argument
  for argument; do
    case $argument in
      -h | -help | --help | --helpfull) head_of_script && exit 0 ;;
    esac
  done
}

usage() {
  head_of_script >&2
  exit 2
}

# Prints the first Python that synthjax runs on. PYTHON=... chooses another.
find_python() {
  local python
  for python in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
    if "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
      >/dev/null 2>&1; then
      echo "$python"
      return
    fi
  done
  echo "synthjax needs Python 3.11, 3.12 or 3.13, and found none of them" \
    "(python3 is: $(python3 --version 2>&1 || true))." \
    "Install one, or name it: PYTHON=/path/to/python3.12 bash launch/..." >&2
  return 1
}

prepare() {
  local extra=${1:-} stamp state python installed=0
  if [ "${SYNTHJAX_INSTALL:-1}" = 0 ]; then
    if [ -f .venv/bin/activate ]; then
      # shellcheck disable=SC1091
      . .venv/bin/activate
    fi
    return
  fi
  if [ ! -x .venv/bin/pip ]; then
    python=$(find_python) || return 1
    echo "Making the virtual environment .venv with $("$python" --version)."
    if ! "$python" -m venv .venv || [ ! -x .venv/bin/pip ]; then
      echo "Cannot make .venv: on Debian and Ubuntu, 'apt install python3-venv'" \
        "is what is missing." >&2
      return 1
    fi
  fi
  state=$(cksum <pyproject.toml)
  # With every extra comes the package itself.
  for stamp in .venv/installed-${extra:-*}; do
    [ "$(cat "$stamp" 2>/dev/null)" != "$state" ] || installed=1
  done
  if [ $installed = 0 ]; then
    echo "Installing synthjax${extra:+[$extra]} into .venv (a few minutes, once)."
    .venv/bin/pip install --quiet --editable ".${extra:+[$extra]}" || return 1
    echo "$state" >".venv/installed-${extra:-plain}"
  fi
  # shellcheck disable=SC1091
  . .venv/bin/activate
}
