"""Lists that a test writes and reads at once."""

from omnidali.catalog.listing.labels import Labels
from omnidali.catalog.listing.list_reader import read_list
from omnidali.config.schema import MediaConfig


def read_file(path, names=None, **settings):
    """The entries of a list, by default of a source of videos."""
    source = MediaConfig(**{"kind": "video", **settings})
    return list(read_list(path, source, Labels(names), "s")[1])


def read_text(folder, text, names=None, mapping=None, **settings):
    """The format and the entries of a list with this text."""
    path = folder / "list.txt"
    path.write_text(text)
    labels = Labels(names, mapping, folder / "map.json" if mapping else None)
    form, entries = read_list(path, MediaConfig(**{"kind": "video", **settings}), labels, "s")
    return form, list(entries)
