"""A span NER model: data, encoders, model, training, prediction and metrics, each in its own file.

Nothing is imported here: ``data``, ``decoding`` and ``metrics`` work without torch, the others load it.
"""

import os

# Threads of OpenMP that wait by spinning fight with every other process for the cores: on a busy machine of 2 cores a
# training took twice as long. Read when torch is first loaded; a value set by the user stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
