"""The command ``omnidali``."""

import argparse
import sys
from collections.abc import Sequence

import omnidali
from omnidali.cli.command import Command, Program
from omnidali.cli.curation_commands import DEDUP, FILTER
from omnidali.cli.doctor_command import DOCTOR
from omnidali.cli.error_report import run_reporting_errors
from omnidali.cli.export_command import EXPORT
from omnidali.cli.help_texts import topic_help
from omnidali.cli.inspect_commands import INFO, LINT, PREVIEW
from omnidali.cli.media_commands import ADVISE, MOTION_ESTIMATE, TRANSCODE
from omnidali.cli.model_commands import EVALUATE, TRAIN
from omnidali.cli.predict_command import PREDICT
from omnidali.cli.start import parse_command, use_utf8
from omnidali.cli.train_commands import ABLATE, CURATE, DEMO
from omnidali.distributed.slurm import adopt_step
from omnidali.processes.launch import ProgramFailedError
from omnidali.utils.untrusted_text import say


def _help(options: argparse.Namespace) -> None:
    say(*topic_help(OMNIDALI, options.operands).split("\n"))


HELP = Command(
    name="help",
    summary="explain a verb, settings, configs, or weights by name",
    run=_help,
    operands="TOPIC",
    examples=(
        "omnidali help train",
        "omnidali help settings train.precision",
        "omnidali help settings loader",
        "omnidali help configs",
        "omnidali help weights",
    ),
)
OMNIDALI = Program(
    name="omnidali",
    usage="VERB --config CONFIG [options] [key.path=value ...]",
    description="Video recognition from web images and videos.",
    groups={
        "try": (DEMO,),
        "train": (TRAIN, EXPORT),
        "evaluate": (EVALUATE,),
        "predict": (PREDICT,),
        "prepare data": (DEDUP, FILTER, CURATE, TRANSCODE, MOTION_ESTIMATE),
        "look": (LINT, INFO, PREVIEW),
        "measure": (DOCTOR, ADVISE, ABLATE),
        "more": (HELP,),
    },
    closing=(
        "",
        "CONFIG is a YAML file, or the name of a shipped config.",
        "`omnidali help VERB` shows the options of a verb and examples, `omnidali help",
        "settings` every setting key.path=value, `omnidali help configs` the shipped",
        "configs, `omnidali help weights` the weights that have names. `omnidali",
        "--version` prints the version.",
    ),
)


def main(arguments: Sequence[str] | None = None, verb: str | None = None) -> int:
    """Run one command; returns the exit code, 2 for the user's mistakes.

    Args:
        arguments: of the command line; None for those of this process.
        verb: the command, for programs that are one; None: the first of the arguments.
    """
    if arguments is None:
        use_utf8()
        arguments = sys.argv[1:]
    words = [*([verb] if verb else []), *arguments]
    return run_reporting_errors(lambda: _run(words))


def _run(words: Sequence[str]) -> int | None:
    # first: which rank reports an error is known from RANK, which srun alone does not set
    adopt_step()
    if words[:1] == ["--version"]:
        say(f"omnidali {omnidali.__version__}")
        return 0
    return run_command(parse_command(OMNIDALI, words))


def run_command(options: argparse.Namespace) -> int | None:
    """Run the chosen command; if a program that it runs fails, return that one's exit code."""
    try:
        return options.run(options)
    except ProgramFailedError as failure:
        say(failure, error=True)
        return failure.code


if __name__ == "__main__":
    sys.exit(main())
