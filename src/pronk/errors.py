"""The one exception that reaches a user: it names the file, line or key that is wrong and says the cure."""


class UserError(ValueError):
    """Something the user can mend. The command line prints its text alone, without a traceback."""
