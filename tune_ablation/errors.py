"""The one exception that a user is meant to read, and the argument parser that raises it."""

import argparse
from typing import NoReturn


class UserError(Exception):
    """Something given from outside is wrong; the message says what was given, what is allowed and where.

    The command line prints it as one line on standard error and exits with code 2.
    """


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line instead of argparse's usage block."""

    def error(self, message: str) -> NoReturn:
        """Raise a ``UserError``."""
        raise UserError(f"{message} (see {self.prog} --help)")
