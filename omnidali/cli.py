"""The command ``omnidali``."""

from __future__ import annotations

import argparse
import sys

from omnidali.errors import exit_with_advice


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; exit code 2 for the user's mistakes."""
    parser = argparse.ArgumentParser(prog="omnidali", description="Video recognition from web photos and videos.")
    commands = parser.add_subparsers(dest="command", required=True)

    demo = commands.add_parser("demo", help="make a small world, train on it and evaluate; needs no download or GPU")
    demo.add_argument("--out", default="omnidali-demo", help="folder for everything (default: %(default)s)")
    demo.add_argument("--seed", type=int, default=0, help="of the world and the training (default: %(default)s)")
    demo.add_argument("--only-data", metavar="DIR", help="only make the demo world, in DIR")
    demo.add_argument("overrides", nargs="*", metavar="key.path=value", help="settings of configs/demo.yaml")
    demo.set_defaults(story=_demo)

    bench = commands.add_parser("bench", help="measure on this machine").add_subparsers(dest="what", required=True)
    loader = bench.add_parser("loader", help="clips a second of the loader, on generated media")
    loader.add_argument("--out", default="bench", help="folder for records.jsonl (default: %(default)s)")
    loader.add_argument("--workloads", nargs="+", default=None, metavar="W", help="only these (default: all)")
    loader.add_argument("--repeats", type=int, default=5, help="measurements of each workload (default: %(default)s)")
    loader.add_argument("--seconds", type=float, default=5.0, help="length of one (default: %(default)s)")
    loader.set_defaults(story=_bench_loader)
    plan = bench.add_parser("plan", help="cost of planning and of a warm start, over made-up catalogs")
    plan.add_argument("--out", default="bench", help="folder for records.jsonl (default: %(default)s)")
    plan.add_argument("--rows", type=int, nargs="+", default=[10_000, 10_000_000], help="sizes of the catalog")
    plan.set_defaults(story=_bench_plan)

    ablate = commands.add_parser("ablate", help="train with the target alone, with each group of sources, with all")
    ablate.add_argument("--config", required=True, help="YAML file; its first source is the target")
    ablate.add_argument("--out", default="ablation", help="folder for everything (default: %(default)s)")
    ablate.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run of everything for each")
    ablate.add_argument("--fractions", type=float, nargs="+", default=[1.0], metavar="SHARE",
                        help="shares of the target's labels to compare at (default: all labels)")
    ablate.add_argument("--ranks", type=int, default=1, help="processes of a run (default: %(default)s)")
    ablate.add_argument("--set", dest="overrides", nargs="+", default=[], metavar="key.path=value",
                        help="settings of the config")
    ablate.set_defaults(story=_ablate)

    options = parser.parse_args(arguments)
    return exit_with_advice(lambda: options.story(options))


# Each story imports what it needs: DALI and torch take seconds to load.

def _demo(options: argparse.Namespace) -> None:
    from omnidali.demo.run import run_demo
    from omnidali.demo.world import make_world
    if options.only_data:
        print(make_world(options.only_data, options.seed))
    else:
        run_demo(options.out, options.seed, options.overrides)


def _ablate(options: argparse.Namespace) -> None:
    from omnidali.ablate import ablate
    ablate(options.config, options.overrides, options.out, options.seeds, options.fractions, options.ranks)


def _bench_loader(options: argparse.Namespace) -> None:
    from omnidali.bench.loader import bench_loader
    bench_loader(options.out, options.workloads, options.repeats, options.seconds)


def _bench_plan(options: argparse.Namespace) -> None:
    from omnidali.bench.plan import bench_plan
    bench_plan(options.out, options.rows)


if __name__ == "__main__":
    sys.exit(main())
