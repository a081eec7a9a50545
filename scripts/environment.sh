# Sourced by run_pipeline.sh and run_tests.sh: environments, made once and made anew where what they are made from has
# changed.

# make_environment FOLDER PYTHON REQUIREMENTS [EXTRA [PACKAGE]]: install REQUIREMENTS into FOLDER, with PACKAGE where one
# of a certain version is wanted, and the project with EXTRA (".[test]"). PYTHON: the newest version that will do.
make_environment() {
  local folder=$1 newest=$2 requirements=$3 extra=${4:-} package=${5:-} stamp wanted
  stamp=$folder/.installed${extra:+-extra}
  wanted=$(echo "$package" | cat "$requirements" pyproject.toml scripts/environment.sh - | cksum)
  # An environment with the extra is good for those who need none.
  if [ -x "$folder/bin/python" ] && cat "$stamp" "$folder/.installed-extra" 2>/dev/null | grep -qxF "$wanted"; then
    return
  fi
  if [ ! -x "$folder/bin/python" ]; then
    local python
    python=$(find_python "$newest") || return 1
    echo "Making $folder with $("$python" --version)" >&2
    "$python" -m venv "$folder" || {
      echo "error: $python cannot make a virtual environment. On Debian: apt-get install python3-venv" >&2
      return 2
    }
  fi
  echo "Installing $requirements${package:+ with $package}${extra:+ and $extra} into $folder (some minutes the first time)" >&2
  local install=("$folder/bin/python" -m pip install --quiet --disable-pip-version-check)
  "${install[@]}" -r "$requirements" ${package:+"$package"}
  if [ -n "$extra" ]; then
    "${install[@]}" -e "$extra"
  fi
  echo "$wanted" > "$stamp"
}

# find_python NEWEST: the first Python of a supported version, from 3.10 to NEWEST
find_python() {
  local name
  for name in python3.11 python3.12 python3.10 python3 python; do
    if "$name" -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 10) <= v <= (3, int(sys.argv[1][2:])))' "$1" \
        2>/dev/null; then
      echo "$name"
      return
    fi
  done
  echo "error: Python 3.10 to $1 is needed and was not found" >&2
  return 2
}
