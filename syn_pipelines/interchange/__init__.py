"""To the tools that people annotate, train and publish with, and back: one module a format, and what they share."""
