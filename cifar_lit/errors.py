"""The project's exceptions. Each message says what was wrong, what was expected and how to fix it."""

from typing import Literal

Fault = Literal["malformed", "too_large", "unsupported", "invalid"]
"""What is wrong with bytes from outside: damaged or built to deceive; more than is accepted; another kind of file;
whole, but not what is asked for."""


class CifarLitError(Exception):
    """Base of all errors that a user can fix; the command line prints the message alone and exits with status 2."""


class SettingError(CifarLitError, ValueError):
    """An option has a value that makes no sense."""


class MissingExtraError(CifarLitError):
    """Something needs a package that an extra brings, and it is not installed."""


class DataError(CifarLitError, ValueError):
    """A data set is missing, damaged or not laid out as expected."""


class InputError(CifarLitError, ValueError):
    """Bytes from outside can't be used.

    Args:
        message: what was wrong, what was expected, how to fix it.
        fault: which kind of wrong.
    """

    def __init__(self, message: str, fault: Fault = "invalid") -> None:
        super().__init__(message)
        self.fault: Fault = fault


class ImageError(InputError):
    """Bytes are not an image that can be decoded."""


class NpzError(InputError):
    """A file is not an `.npz` of plain arrays within the limits."""


class IncrementError(InputError):
    """An `.npz` is not an increment."""


class WeightsError(InputError):
    """A file does not hold weights of a network known here."""


class NetworkNotFoundError(CifarLitError, LookupError):
    """The class of a network is not here, or is another one than it was."""


class RegistryError(CifarLitError):
    """The registry can't be read or written."""


class VersionNotFoundError(RegistryError, LookupError):
    """No version has the given name."""


class VersionDamagedError(RegistryError, ValueError):
    """A version's files do not match its manifest."""


class OverloadedError(CifarLitError):
    """Too much waits already; the same request may succeed a little later."""


class DeadlineError(CifarLitError):
    """No prediction was made in the time that there was."""
