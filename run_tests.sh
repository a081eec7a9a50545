#!/usr/bin/env bash
# Make the environments and run the tests:
#   bash run_tests.sh                      # lint and all tests; then, with two older transformers, what depends on them
#   bash run_tests.sh -m slow              # arguments go to pytest, in the newest environment alone
#   bash run_tests.sh --env glm3 -k role   # or in the one named: newest, 4.44 or glm3
set -euo pipefail
cd "$(dirname "$0")"
source scripts/environment.sh
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # the models are tiny: more threads mostly wait for each other
# Two processes, each with whole files: many tests wait for other programs, and the fixtures of a file are made once.
PARALLEL=(--numprocesses="${TEST_PROCESSES:-2}" --dist=loadfile --no-loadscope-reorder)

# The tests that depend on the release of transformers, and the whole pipeline.
WITH_444=(tests/test_doctor.py tests/test_transformers_backend.py tests/test_decode_loop.py tests/test_grammar.py tests/test_vocabulary.py
  tests/test_loading.py tests/test_glm3_backend.py tests/test_ner_encoders.py tests/test_ner_reference.py
  tests/test_ner_token_classification.py tests/test_security.py tests/test_start_up.py tests/test_run_all.py)
# ChatGLM3's backend, and every script: its import, its --help, and the whole pipeline.
WITH_GLM3=(tests/test_doctor.py tests/test_glm3_backend.py tests/test_start_up.py tests/test_options.py tests/test_run_all.py)

# names_tests ARGUMENT...: whether pytest is told what to run
names_tests() {
  [[ " $* " == *" tests/"* ]]
}

# run_in ENVIRONMENT [ARGUMENT...]: its own tests, unless the arguments name others
run_in() {
  local name=$1
  shift
  case $name in
    newest)
      make_environment .venv 3.12 requirements.txt ".[test-all]"
      .venv/bin/ruff check .
      .venv/bin/python -m pytest "${PARALLEL[@]}" "$@"
      ;;
    4.44)
      make_environment .venv-444 3.12 requirements.txt ".[test]" transformers==4.44.2
      names_tests "$@" || set -- "${WITH_444[@]}" "$@"
      .venv-444/bin/python -m pytest "${PARALLEL[@]}" "$@"
      ;;
    glm3)
      make_environment .venv-glm3 3.11 requirements-glm3.txt ".[test]"
      names_tests "$@" || set -- "${WITH_GLM3[@]}" "$@"
      .venv-glm3/bin/python -m pytest "${PARALLEL[@]}" "$@"
      ;;
    *)
      echo "error: --env $name: no such environment. Name newest, 4.44 or glm3." >&2
      return 2
      ;;
  esac
}

case ${1:-} in
  --env) run_in "${2:-}" "${@:3}" ;;
  --env=*) run_in "${1#--env=}" "${@:2}" ;;
  "")
    for environment in newest 4.44 glm3; do
      echo "== tests in the environment: $environment" >&2
      run_in "$environment"
    done
    ;;
  *) run_in newest "$@" ;;
esac
