"""What ``review.py`` is made of: the sentences with their spans, the queue, the decisions, and the page on 127.0.0.1."""
