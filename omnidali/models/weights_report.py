"""What became of the weights of a file."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from omnidali.models.weight_names import first_few


@dataclass
class WeightsReport:
    """What became of every tensor of a file, by name.

    Attributes:
        family: the project that the names of the file come from.
        matched: taken as they are.
        inflated: from 2D to 3D.
        lengthened: of those taken, the kernels that have zeros around them now; see
            :func:`lengthen_kernels`.
        left_out: of the file, with the reason.
        missing: of the model, which keep their initial values.
        wrong: those of the backbone or the classifier that do not fit, each with the reason.
    """

    family: str
    left_out: dict[str, str]
    matched: list[str] = field(default_factory=list)
    inflated: list[str] = field(default_factory=list)
    lengthened: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = (
            f"weights with {self.family}'s names: {len(self.matched)} tensors as they are,"
            f" {len(self.inflated)} inflated to 3D"
        )
        if self.lengthened:
            text += f"; {self.note_on_lengthened}"
        for reason in dict.fromkeys(self.left_out.values()):
            names = [name for name, other in self.left_out.items() if other == reason]
            text += f"; left out, {reason}: {first_few(sorted(names))}"
        if self.missing:
            text += f"; at their initial values: {first_few(self.missing)}"
        return text

    def note_missing(self, wanted: Iterable[str], found: Collection[str]) -> None:
        """Note what a file lacks; those of old torch versions have no counters of batches.

        Args:
            wanted: names of the model's weights.
            found: those of them that the file has, and that fit.
        """
        wrong = {text.partition(" ")[0] for text in self.wrong}
        self.missing += [
            name
            for name in wanted
            if name not in found and name not in wrong and not name.endswith("num_batches_tracked")
        ]

    @property
    def note_on_lengthened(self) -> str:
        """What was done to weights from before 0.2."""
        return (
            f"{len(self.lengthened)} kernels from before 0.2 got zeros for the frames around,"
            " which changes no output"
        )
