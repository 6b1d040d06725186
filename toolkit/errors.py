"""The errors that a user sees: one line each, saying what was received, what is allowed, what to do."""

import re

_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class ToolkitError(Exception):
    """Something the user can act on; the command line prints it as one line, without a traceback."""

    exit_code = 1


class InputError(ToolkitError, ValueError):
    """Input, configuration or an output folder that cannot be used as it is."""

    exit_code = 2


class MemoryBudgetError(InputError):
    """Something does not fit into the memory budget."""


class MissingPackageError(ToolkitError, ImportError):
    """An optional package is needed and not installed."""

    exit_code = 2


class DeviceError(ToolkitError, RuntimeError):
    """A GPU is asked for and cannot be used."""

    exit_code = 2


class InterruptedRunError(ToolkitError):
    """The user stopped a run."""

    exit_code = 130


def unknown(what: str, received: object, known: object) -> InputError:
    """Make the error for a name that does not exist, listing the ones that do."""
    names = ", ".join(sorted(str(name) for name in known))  # type: ignore[attr-defined]
    return InputError(f"unknown {what} {received!r}; known: {names}")


def one_line(error: BaseException) -> str:
    """Return what an error of a library says, on one line of at most 200 characters, without the codes of colours."""
    return " ".join(_COLOURS.sub("", str(error)).split())[:200] or type(error).__name__
