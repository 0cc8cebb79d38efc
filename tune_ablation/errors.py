"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Something given from outside is wrong; the message says what was given, what is allowed and where.

    The command line prints it as one line on standard error and exits with code 2.
    """
