"""Running text to the tokens of a data set: sentences, tokens, and what of a model's answer is worth keeping.

Pure functions on strings, standard library only; nothing here reads a file or knows a model.
"""
