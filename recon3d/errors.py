"""What can go wrong, as the user reads it: every message is one line that says what and what to do."""


class Recon3DError(Exception):
    """Base of every error that recon3d raises on purpose; ``str(error)`` is one line for the user."""


class InputError(Recon3DError):
    """An input file cannot be used: missing, unreadable, truncated, of the wrong type, or too large."""


class NoFaceError(Recon3DError):
    """The picture was read, and holds no face that could be fitted."""


class OutputError(Recon3DError):
    """A result cannot be written: no permission, no space, or the path is something else."""


class AssetError(Recon3DError):
    """A model file is missing, cannot be fetched, or does not match its recorded hash."""


class MissingExtraError(Recon3DError):
    """A feature needs an optional package; the message names the extra to install."""


class UsageError(Recon3DError):
    """The command line or the call asks for something that does not exist (exit status 2)."""
