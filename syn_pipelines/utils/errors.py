"""The exceptions that end a step with one line instead of a traceback."""


class UserError(Exception):
    """Bad input: the message says what is wrong, where (``file:line``), and what to do.

    The command line prints the message without a traceback and exits with code 2; notebook callers catch it.
    """


class ServiceError(Exception):
    """A server that the step needs is gone or refuses to go on; what is finished is kept, and the same command goes on.

    The command line prints the message without a traceback and exits with code 1.
    """
