class DataError(ValueError):
    """The data or request is wrong: waiting or retrying cannot help, somebody must mend it."""


class TransientError(RuntimeError):
    """Something that was asked over a network or a disk did not answer: a retry may help."""
