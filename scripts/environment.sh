# Sourced by run_pipeline.sh and run_tests.sh: one environment, .venv, made once and made anew where what it is made
# from has changed.

# make_environment REQUIREMENTS [EXTRA]: install REQUIREMENTS, and the project with EXTRA (".[test]"), into .venv
make_environment() {
  local requirements=$1 extra=${2:-} stamp wanted
  stamp=.venv/.installed${extra:+-extra}
  wanted=$(cat "$requirements" pyproject.toml scripts/environment.sh | cksum)
  # An environment with the extra is good for those who need none.
  if [ -x .venv/bin/python ] && cat "$stamp" .venv/.installed-extra 2>/dev/null | grep -qxF "$wanted"; then
    return
  fi
  if [ ! -x .venv/bin/python ]; then
    local python
    python=$(find_python) || return 1
    echo "Making .venv with $("$python" --version)" >&2
    "$python" -m venv .venv || {
      echo "error: $python cannot make a virtual environment. On Debian: apt-get install python3-venv" >&2
      return 2
    }
  fi
  echo "Installing $requirements${extra:+ and $extra} into .venv (some minutes the first time)" >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements"
  if [ -n "$extra" ]; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e "$extra"
  fi
  echo "$wanted" > "$stamp"
}

# The first Python of a supported version (3.10 to 3.12).
find_python() {
  local name
  for name in python3.11 python3.12 python3.10 python3 python; do
    if "$name" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  echo "error: Python 3.10, 3.11 or 3.12 is needed and was not found" >&2
  return 2
}
