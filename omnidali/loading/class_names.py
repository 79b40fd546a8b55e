"""The names of a config's classes."""

from pathlib import Path

from omnidali.catalog.listing.labels import read_class_names
from omnidali.catalog.listing.scan import source_class_names
from omnidali.config.files import data_file
from omnidali.config.schema import Config
from omnidali.errors import UserError
from omnidali.utils.text_files import require_utf8_names


def find_names(config: Config) -> list[str] | None:
    """The class names: of the config's file, of the target's folders, or of its list.

    Returns:
        None if the target's labels are numbers.

    Raises:
        UserError: for a wrong file, and if the target has numbers and another source class folders:
            the numbers of those are unknown.
    """
    require_utf8_names()
    root = Path(config.data_root)
    if config.classes:
        return read_class_names(data_file(root, config.classes, "classes", "a file of class names"))
    (target, source), *others = config.sources.items()
    names = source_class_names(target, source, root)
    if names is not None:
        return names

    for name, other in others:
        if not (other.list or other.tars) and source_class_names(name, other, root):
            raise UserError(
                "classes",
                f"a file that names the classes, as sources.{name} is class folders and"
                f" sources.{target} is not",
                "nothing",
                "Add it: one name a line, in label order.",
            )
    return None
