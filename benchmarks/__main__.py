"""``python -m benchmarks``: measurements of the project, beside other projects and older checkouts."""

from __future__ import annotations

import argparse
import sys

from omnidali.cli.arguments import Parser, use_utf8
from omnidali.cli.error_report import run_reporting_errors
from omnidali.cli.options import at_least, takes_config, takes_settings
from omnidali.errors import UserError
from omnidali.utils.untrusted_text import say


def add_to(commands: argparse._SubParsersAction) -> None:
    """Add the commands to the parser."""
    bench = commands
    decode = bench.add_parser(
        "decode", help="what opening, decoding and scaling cost on one core, and on a GPU"
    )
    decode.add_argument(
        "--out",
        default="benchmarks",
        help="folder for media and records.jsonl (default: %(default)s)",
    )
    decode.add_argument(
        "--media",
        nargs="+",
        metavar="NAME",
        help="beginnings of media, such as h264 (default: all)",
    )
    decode.set_defaults(story=_bench_decode)
    probe = bench.add_parser(
        "probe", help="what the probe of a video costs, also beside another checkout"
    )
    probe.add_argument(
        "--out",
        default="benchmarks",
        help="folder for media and records.jsonl (default: %(default)s)",
    )
    probe.add_argument(
        "--against", metavar="DIR", help="folder of another checkout of this project"
    )
    probe.set_defaults(story=_bench_probe)
    for name, text in (
        ("loader", "our loader on generated media: clips a second, processor time, memory"),
        ("peers", "the same beside other loaders (those of the extra `bench` that are installed)"),
    ):
        loader = bench.add_parser(name, help=text)
        loader.add_argument(
            "--out",
            default="benchmarks",
            help="folder for media and records.jsonl (default: %(default)s)",
        )
        loader.add_argument(
            "--workloads", nargs="+", default=None, metavar="W", help="only these (default: all)"
        )
        loader.add_argument(
            "--repeats", type=int, default=5, help="measurements of each (default: %(default)s)"
        )
        loader.add_argument(
            "--seconds",
            type=float,
            default=5.0,
            help="length of one of ours (default: %(default)s)",
        )
        loader.add_argument(
            "--loaders",
            nargs="+",
            metavar="NAME",
            help="only these (default: " + ("all)" if name == "peers" else "ours)"),
            default=None if name == "peers" else ["omnidali"],
        )
        loader.set_defaults(story=_bench_loader)
    report = bench.add_parser(
        "report", help="write RESULTS.md's tables of throughput and starts, and the chart"
    )
    report.add_argument(
        "--records", default="benchmarks/records.jsonl", help="default: %(default)s"
    )
    report.add_argument(
        "--results", default="RESULTS.md", help="with the marks (default: %(default)s)"
    )
    report.add_argument("--chart", default="docs/throughput.png", help="default: %(default)s")
    report.set_defaults(story=_bench_report)
    train = bench.add_parser(
        "train", help="the training loop fed with synthetic, cached and real batches: the stall"
    )
    takes_config(train)
    train.add_argument(
        "--out", default="benchmarks", help="folder for records.jsonl (default: %(default)s)"
    )
    train.add_argument(
        "--precisions", nargs="+", default=["fp32", "bf16"], help="to compare (default: fp32 bf16)"
    )
    train.add_argument("--repeats", type=int, default=3, help="runs of each (default: %(default)s)")
    train.add_argument("--steps", type=int, default=20, help="of a run (default: %(default)s)")
    takes_settings(train)
    train.set_defaults(story=_bench_train)
    plan = bench.add_parser(
        "plan", help="cost of planning and of a warm start, over made-up catalogs"
    )
    plan.add_argument(
        "--out", default="benchmarks", help="folder for records.jsonl (default: %(default)s)"
    )
    plan.add_argument(
        "--rows",
        type=int,
        nargs="+",
        default=[10_000, 1_000_000, 10_000_000],
        help="sizes of the catalog",
    )
    plan.set_defaults(story=_bench_plan)
    start = bench.add_parser(
        "start", help="the first and the warm start of a run over millions of photos"
    )
    start.add_argument(
        "--out",
        default="benchmarks",
        help="folder for media and records.jsonl (default: %(default)s)",
    )
    start.add_argument(
        "--tree",
        type=int,
        default=300_000,
        metavar="N",
        help="photos in class folders, 0 for none (default: %(default)s)",
    )
    start.add_argument(
        "--list",
        type=int,
        default=2_000_000,
        metavar="N",
        dest="lines",
        help="lines of a list, 0 for none (default: %(default)s)",
    )
    start.add_argument(
        "--keep", action="store_true", help="leave the media and configs in OUT/media/start"
    )
    start.set_defaults(story=_bench_start)
    pairs = bench.add_parser(
        "dedup", help="comparing features and hashes in chunks, beside one plain product"
    )
    pairs.add_argument(
        "--out", default="benchmarks", help="folder for records.jsonl (default: %(default)s)"
    )
    pairs.add_argument(
        "--rows",
        type=int,
        nargs=2,
        default=[100_000, 10_000],
        metavar=("WEB", "VALIDATION"),
        help="frames on both sides (default: 100000 10000)",
    )
    pairs.add_argument(
        "--dimensions",
        type=int,
        nargs="+",
        default=[256, 2048],
        help="of features (default: 256 2048)",
    )
    pairs.add_argument(
        "--repeats", type=int, default=3, help="measurements of each (default: %(default)s)"
    )
    pairs.set_defaults(story=_bench_dedup)
    soak = commands.add_parser(
        "soak", help="run the loader for long over media that go bad, and check it"
    )
    soak.add_argument(
        "--out", required=True, help="new or empty folder for the media and the record"
    )
    soak.add_argument(
        "--minutes", type=float, default=30.0, help="length at the least (default: %(default)s)"
    )
    soak.add_argument(
        "--clips", type=int, help="number at the least (default: as 200,000 in 30 minutes)"
    )
    soak.add_argument(
        "--seed", type=int, default=0, help="of what goes bad, and when (default: %(default)s)"
    )
    soak.add_argument(
        "--ranks", type=int, default=1, help="processes that load together (default: %(default)s)"
    )
    soak.set_defaults(story=_soak)


# Each story imports what it needs: DALI and torch take seconds to load.


def _bench_loader(options: argparse.Namespace) -> None:
    from benchmarks.compare_loaders import compare

    compare(options.out, options.workloads, options.loaders, options.repeats, options.seconds)


def _bench_decode(options: argparse.Namespace) -> None:
    from benchmarks.decode_cost import bench_decode

    bench_decode(options.out, options.media)


def _bench_probe(options: argparse.Namespace) -> None:
    from benchmarks.probe_cost import bench_probe

    bench_probe(options.out, options.against)


def _bench_report(options: argparse.Namespace) -> None:
    from benchmarks.result_tables import report

    say(*report(options.records, options.results, options.chart).split("\n"))


def _bench_train(options: argparse.Namespace) -> None:
    from benchmarks.loader_stall import bench_train

    bench_train(
        options.out,
        options.config,
        options.overrides,
        options.precisions,
        options.repeats,
        options.steps,
    )


def _bench_plan(options: argparse.Namespace) -> None:
    from benchmarks.plan_cost import bench_plan

    bench_plan(options.out, options.rows)


def _bench_start(options: argparse.Namespace) -> None:
    from benchmarks.start_cost import bench_start

    at_least(options.tree, 0, "--tree")
    at_least(options.lines, 0, "--list")
    at_least(options.tree + options.lines, 1, "--tree and --list together")
    bench_start(options.out, options.tree, options.lines, options.keep)


def _bench_dedup(options: argparse.Namespace) -> None:
    from benchmarks.dedup_speed import bench_dedup

    at_least(min(options.rows), 1, "--rows")
    at_least(min(options.dimensions), 1, "--dimensions")
    at_least(options.repeats, 1, "--repeats")
    bench_dedup(options.out, *options.rows, options.dimensions, options.repeats)


def _soak(options: argparse.Namespace) -> int:
    from benchmarks.soak import soak

    at_least(options.ranks, 1, "--ranks")
    if options.minutes <= 0:
        raise UserError("--minutes", "more than 0", str(options.minutes), "Correct the value.")
    passed = soak(options.out, options.minutes, options.clips, options.seed, options.ranks)[
        "passed"
    ]
    return 0 if passed else 1


def main(arguments: list[str] | None = None) -> int:
    """Run one measurement; exit code 2 for the user's mistakes."""
    if arguments is None:
        use_utf8()
    parser = Parser(prog="python -m benchmarks", description="Measurements of OmniDALI.")
    add_to(parser.add_subparsers(dest="what", required=True))
    options = parser.parse_args(arguments)
    return run_reporting_errors(lambda: options.story(options))


if __name__ == "__main__":
    sys.exit(main())
