"""Tools beside the steps; run them with ``python -m syn_pipelines.tools.<name>``."""
