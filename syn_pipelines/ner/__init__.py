"""A span NER model: data, encoders, model, training, prediction and metrics, each in its own file.

Nothing is imported here: ``data``, ``decoding`` and ``metrics`` work without torch, the others load it.
"""
