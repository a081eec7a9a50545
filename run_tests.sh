#!/usr/bin/env bash
# Make the environment and run the tests. Arguments go to pytest:
#   bash run_tests.sh
#   bash run_tests.sh -m slow
set -euo pipefail
cd "$(dirname "$0")"
source scripts/environment.sh
make_environment requirements.txt ".[test]"

.venv/bin/ruff check .
exec .venv/bin/python -m pytest "$@"
