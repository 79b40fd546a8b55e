"""``python -m benchmarks``: the project's measurements, also of other loaders and old checkouts."""

import argparse
import sys

from omnidali.cli.command import Command, Option, Program, option
from omnidali.cli.error_report import run_reporting_errors
from omnidali.cli.options import CONFIG, require
from omnidali.cli.start import parse_command, use_utf8
from omnidali.utils.untrusted_text import say

_RECORDS_OUT = option(
    "--out", default="benchmarks", help="folder for records.jsonl (default: %(default)s)"
)
_MEDIA_OUT = option(
    "--out", default="benchmarks", help="folder for media and records.jsonl (default: %(default)s)"
)
_DEVICE = option("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")


_MEDIA = option("--media", nargs="+", metavar="NAME", help="beginnings of media, such as vp9")


def _number(name: str, default: int, what: str) -> Option:
    return option(name, type=int, default=default, help=f"{what} (default: %(default)s)")


def _repeats(default: int, what: str = "measurements of each") -> Option:
    return _number("--repeats", default, what)


def _loader_options(loaders: list[str] | None) -> tuple[Option, ...]:
    """The options of ``loader`` and ``peers``; ``loaders`` is the default, None for all."""
    known = "all" if loaders is None else "ours"
    return (
        _MEDIA_OUT,
        option("--workloads", nargs="+", metavar="W", help="only these (default: all)"),
        _repeats(5),
        _DEVICE,
        option(
            "--seconds",
            type=float,
            default=5.0,
            help="length of a measurement of ours (default: %(default)s)",
        ),
        option("--loaders", nargs="+", metavar="NAME", default=loaders, help=f"(default: {known})"),
    )


# Each function imports what it needs when it is called: DALI and torch take seconds to load.


def _decode(options: argparse.Namespace) -> None:
    from benchmarks.decode_cost import bench_decode

    bench_decode(options.out, options.media, options.device)


def _excerpts(options: argparse.Namespace) -> None:
    from benchmarks.excerpt_cost import bench_excerpts

    bench_excerpts(options.out, options.media)


def _probe(options: argparse.Namespace) -> None:
    from benchmarks.probe_cost import bench_probe

    bench_probe(options.out, options.against)


def _loader(options: argparse.Namespace) -> None:
    from benchmarks.compare_loaders import compare_loaders

    compare_loaders(
        options.out,
        only=options.workloads,
        loaders=options.loaders,
        repeats=options.repeats,
        seconds=options.seconds,
        device=options.device,
    )


def _report(options: argparse.Namespace) -> None:
    from benchmarks.result_tables import write_results

    say(*write_results(options.records, options.results, options.chart).split("\n"))


def _train(options: argparse.Namespace) -> None:
    from benchmarks.loader_stall import bench_train

    bench_train(
        options.out,
        options.config,
        options.overrides,
        precisions=options.precisions,
        repeats=options.repeats,
        steps=options.steps,
    )


def _plan(options: argparse.Namespace) -> None:
    from benchmarks.plan_cost import bench_plan

    bench_plan(options.out, options.rows)


def _start(options: argparse.Namespace) -> None:
    from benchmarks.start_cost import bench_start

    images = options.tree + options.lines
    require(options.tree >= 0, "--tree", "0 or more", options.tree)
    require(options.lines >= 0, "--list", "0 or more", options.lines)
    require(images >= 1, "--tree and --list together", "1 or more", images)
    bench_start(options.out, options.tree, options.lines, keep=options.keep)


def _dedup(options: argparse.Namespace) -> None:
    from benchmarks.dedup_speed import bench_dedup

    for name in ("rows", "dimensions"):
        least = min(getattr(options, name))
        require(least >= 1, f"--{name}", "1 or more", least)
    require(options.repeats >= 1, "--repeats", "1 or more", options.repeats)
    web, evaluation = options.rows
    bench_dedup(
        options.out,
        web,
        evaluation,
        options.dimensions,
        repeats=options.repeats,
        device=options.device,
    )


def _recipes(options: argparse.Namespace) -> None:
    from benchmarks.recipe_cost import bench_recipes

    require(options.frames >= 1, "--frames", "1 or more", options.frames)
    require(options.repeats >= 1, "--repeats", "1 or more", options.repeats)
    bench_recipes(options.out, options.videos, options.frames, options.repeats)


def _soak(options: argparse.Namespace) -> int:
    from benchmarks.soak import soak

    require(options.ranks >= 1, "--ranks", "1 or more", options.ranks)
    require(options.minutes > 0, "--minutes", "more than 0", options.minutes)
    row = soak(options.out, options.minutes, options.clips, seed=options.seed, ranks=options.ranks)
    return 0 if row["passed"] else 1


_COMMANDS = (
    Command(
        name="decode",
        summary="what opening, decoding and scaling cost on one core, and on a GPU",
        run=_decode,
        options=(
            _MEDIA_OUT,
            _MEDIA,
            _DEVICE,
        ),
    ),
    Command(
        name="excerpts",
        summary="what excerpts of videos save DALI on one core",
        run=_excerpts,
        options=(
            _MEDIA_OUT,
            _MEDIA,
        ),
    ),
    Command(
        name="probe",
        summary="what the probe of a video costs, also beside another checkout",
        run=_probe,
        options=(
            _MEDIA_OUT,
            option("--against", metavar="DIR", help="folder of another checkout of this project"),
        ),
    ),
    Command(
        name="loader",
        summary="our loader on generated media: clips a second, CPU time, memory",
        run=_loader,
        options=_loader_options(["omnidali"]),
    ),
    Command(
        name="peers",
        summary="the same beside other loaders, those of the extra `bench`",
        run=_loader,
        options=_loader_options(None),
    ),
    Command(
        name="report",
        summary="write RESULTS.md's tables of throughput and starts, and the chart",
        run=_report,
        options=(
            option("--records", default="benchmarks/records.jsonl", help="default: %(default)s"),
            option("--results", default="RESULTS.md", help="with the marks (default: %(default)s)"),
            option("--chart", default="docs/throughput.png", help="default: %(default)s"),
        ),
    ),
    Command(
        name="train",
        summary="how long a training waits for data: synthetic, cached, real",
        run=_train,
        has_settings=True,
        options=(
            CONFIG,
            _RECORDS_OUT,
            option(
                "--precisions",
                nargs="+",
                default=["fp32", "bf16"],
                help="to compare (default: fp32 bf16)",
            ),
            _repeats(3, "runs of each"),
            _number("--steps", 20, "of a run"),
        ),
    ),
    Command(
        name="plan",
        summary="cost of planning and of a warm start, over made-up catalogs",
        run=_plan,
        options=(
            _RECORDS_OUT,
            option(
                "--rows",
                type=int,
                nargs="+",
                default=[10_000, 1_000_000, 10_000_000],
                help="sizes of the catalog (default: 10000 1000000 10000000)",
            ),
        ),
    ),
    Command(
        name="start",
        summary="the first and the warm start of a run over millions of images",
        run=_start,
        options=(
            _MEDIA_OUT,
            option(
                "--tree",
                type=int,
                default=300_000,
                metavar="N",
                help="images in class folders, 0 for none (default: %(default)s)",
            ),
            option(
                "--list",
                type=int,
                default=2_000_000,
                metavar="N",
                dest="lines",
                help="lines of a list, 0 for none (default: %(default)s)",
            ),
            option(
                "--keep", action="store_true", help="leave the media and configs in OUT/media/start"
            ),
        ),
    ),
    Command(
        name="dedup",
        summary="comparing features and hashes in chunks, beside one plain product",
        run=_dedup,
        options=(
            _RECORDS_OUT,
            option(
                "--rows",
                type=int,
                nargs=2,
                default=[100_000, 10_000],
                metavar=("WEB", "VALIDATION"),
                help="frames on both sides (default: 100000 10000)",
            ),
            option(
                "--dimensions",
                type=int,
                nargs="+",
                default=[256, 2048],
                help="of features (default: 256 2048)",
            ),
            _repeats(3),
            _DEVICE,
        ),
    ),
    Command(
        name="recipes",
        summary="copies with B-frames beside those without: bytes, time a clip",
        run=_recipes,
        options=(
            _RECORDS_OUT,
            option("--videos", nargs="+", metavar="FILE", required=True, help="real footage"),
            _number("--frames", 240, "of each video that are copied at most"),
            _repeats(3, "decodings of each clip"),
        ),
    ),
    Command(
        name="soak",
        summary="run the loader for long over media that go bad, and check it",
        run=_soak,
        options=(
            option("--out", required=True, help="new or empty folder for the media and the record"),
            option(
                "--minutes",
                type=float,
                default=30.0,
                help="length at the least (default: %(default)s)",
            ),
            option(
                "--clips",
                type=int,
                help="clips at the least (default: in proportion to 200,000 in 30 minutes)",
            ),
            _number("--seed", 0, "of what goes bad, and when"),
            _number("--ranks", 1, "processes that load together"),
        ),
    ),
)


BENCHMARKS = Program(
    name="python -m benchmarks",
    usage="WHAT [options] [key.path=value ...]",
    description="Measurements of OmniDALI.",
    groups={"measurements": _COMMANDS},
)


def main(arguments: list[str] | None = None) -> int:
    """Run one measurement; exit code 2 for the user's mistakes."""
    if arguments is None:
        use_utf8()
        arguments = sys.argv[1:]
    return run_reporting_errors(lambda: _run(arguments))


def _run(arguments: list[str]) -> int | None:
    options = parse_command(BENCHMARKS, arguments)
    return options.run(options)


if __name__ == "__main__":
    sys.exit(main())
