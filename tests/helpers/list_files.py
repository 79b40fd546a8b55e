"""Lists that a test writes and reads at once."""

import json

from omnidali.catalog.listing.labels import Labels
from omnidali.catalog.listing.list_reader import read_list
from omnidali.catalog.listing.scan import source_class_names
from omnidali.config.sources import MediaConfig


def read_file(path, names=None, **settings):
    """The entries of a list, by default of a source of videos, without their lines."""
    source = MediaConfig(**{"kind": "video", **settings})
    entries = read_list(path, source, Labels(names).number, "s")[1]
    return [entry._replace(line=0) for entry in entries]


def names_in(path, **settings):
    """The class names of a list, or of a pattern of lists, of a source of videos."""
    source = MediaConfig(kind="video", list=path.name, **settings)
    return source_class_names("s", source, path.parent)


def read_text(folder, text, names=None, mapping=None, **settings):
    """The format and the entries of a list with this text, without their lines."""
    path = folder / "list.txt"
    path.write_text(text)
    map_path = None
    if mapping:
        map_path = folder / "map.json"
        map_path.write_text(json.dumps(mapping))
        settings["labels"] = map_path.name
    labels = Labels(names, map_path)
    form, entries = read_list(
        path, MediaConfig(**{"kind": "video", **settings}), labels.number, "s"
    )
    return form, [entry._replace(line=0) for entry in entries]
