"""One kind of error for what a user can mend, and how a command ends on it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake the user can mend. The message is one clear line: the thing, the value, the cure."""


def clean_exit(main: Callable[..., object]) -> Callable[..., None]:
    """Decorate a command's `main`: a UserError becomes one line on stderr and exit code 2; Ctrl-C exits with 130."""

    @functools.wraps(main)
    def wrapped(*args: object, **kwargs: object) -> None:
        try:
            main(*args, **kwargs)
        except UserError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)

    return wrapped
