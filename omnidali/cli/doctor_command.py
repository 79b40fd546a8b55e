"""``doctor``: the command that looks at the machine."""

import argparse

from omnidali.cli.command import Command, option


def _doctor(options: argparse.Namespace) -> int:
    from omnidali.doctor.doctor import Examination, examine

    wanted = Examination(
        folders=tuple(options.folder),
        quick=options.quick,
        rehearse=options.rehearse,
    )
    return 0 if examine(wanted, options.out) else 1


DOCTOR = Command(
    name="doctor",
    summary="look at this machine: what works, how fast, and what to set",
    run=_doctor,
    options=(
        option(
            "--out",
            default="doctor.json",
            metavar="FILE",
            help="JSON file with everything that was found (default: %(default)s)",
        ),
        option(
            "--folder",
            nargs="+",
            default=[],
            metavar="DIR",
            help="try these as well: the folders of media and of runs",
        ),
        option("--quick", action="store_true", help="fewer examples: a GPU takes 90 s, not 5 min"),
        option(
            "--rehearse",
            action="store_true",
            help="run the GPU's checks on the CPU, to see that they would work",
        ),
    ),
    examples=(
        "omnidali doctor",
        "omnidali doctor --folder /data/OmniSource runs --out node1.json",
    ),
)
