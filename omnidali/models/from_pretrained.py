"""A network from a folder or file that was exported, or from any checkpoint."""

from collections.abc import Sequence
from pathlib import Path

from omnidali.models.recognizers import Recognizer
from omnidali.models.trained_model import load_trained


def from_pretrained(path: str | Path, *, trusted: Sequence[str] = ()) -> Recognizer:
    """Load a network, ready to use.

    No code of the files is run, and no connection opened unless ``path`` is the name of released
    weights.

    Args:
        path: an exported folder or file, a run folder, a checkpoint of ours or of the reference, or
            the name of released weights.
        trusted: functions that may be called to build the network, as ``package.module:function``,
            where the file names one.

    Returns:
        A module in evaluation mode, on the CPU, which takes clips (N, 3, T, H, W), float32: RGB on
        the scale 0 to 255, less ``omnidali.utils.constants.MEAN`` and divided by ``STD``. It
        returns logits (N, classes). ``class_names`` are in the order of these, and empty where the
        file has none.

    Raises:
        UserError: if it cannot be read, or is none of our networks.

    Example::

        network = omnidali.from_pretrained("tsn_omni")
        best = network(clips).argmax(dim=1)
        print([network.class_names[label] for label in best])
    """
    trained = load_trained(path, trusted=trusted)
    trained.network.class_names = trained.classes
    return trained.network
