"""The one exception that means "the user can fix this"."""


class UserError(Exception):
    """Bad input: the message says what is wrong, where (``file:line``), and what to do.

    The command line prints the message without a traceback and exits with code 2; notebook callers catch it.
    """
