"""The project's exceptions. Each message says what was wrong, what was expected and how to mend it."""


class CifarLitError(Exception):
    """Base of all errors that a user can mend; the command line prints the message alone and exits with status 2."""


class SettingError(CifarLitError, ValueError):
    """An option has a value that makes no sense."""


class DataError(CifarLitError, ValueError):
    """A data set is missing, damaged or not laid out as expected."""


class ImageError(CifarLitError, ValueError):
    """Bytes are not an image that can be decoded."""


class RegistryError(CifarLitError):
    """The registry can't be read or written."""


class VersionNotFoundError(RegistryError, LookupError):
    """No version answers to the given name."""


class VersionDamagedError(RegistryError, ValueError):
    """A version's files do not match its manifest."""
