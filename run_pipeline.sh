#!/usr/bin/env bash
# Make the environment, run all steps, show what came out. Arguments go to run_all.py (see its --help):
#   bash run_pipeline.sh
#   bash run_pipeline.sh --config configs/weibo_glm4.yaml
set -euo pipefail
cd "$(dirname "$0")"
source scripts/environment.sh
make_environment .venv 3.12 requirements.txt

case " $* " in
  *" --config"*) ;;
  *) set -- --config=configs/quickstart.yaml "$@" ;;
esac
exec .venv/bin/python syn_pipelines/run_all.py "$@"
