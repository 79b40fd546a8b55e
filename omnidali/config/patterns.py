"""Patterns of file names, as `pattern` of a source has them."""


def has_number(pattern: str) -> bool:
    """Whether a pattern of file names, such as img_{:05}.jpg, gives every number another name."""
    try:
        return pattern.format(1) != pattern.format(2)
    except (IndexError, KeyError, ValueError, AttributeError):
        return False
