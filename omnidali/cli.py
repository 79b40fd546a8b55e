"""The command ``omnidali``."""

from __future__ import annotations

import argparse
import json
import os
import sys

from omnidali.errors import UserError, exit_with_advice, telling_peers


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
    decode = bench.add_parser("decode", help="what opening, decoding and scaling cost on one core, and on a GPU")
    decode.add_argument("--out", default="bench", help="folder for media and records.jsonl (default: %(default)s)")
    decode.add_argument("--media", nargs="+", metavar="NAME", help="beginnings of media, such as h264 (default: all)")
    decode.set_defaults(story=_bench_decode)
    for name, text in (("loader", "our loader on generated media: clips a second, processor time, memory"),
                       ("peers", "the same beside other loaders (those of the extra `bench` that are installed)")):
        loader = bench.add_parser(name, help=text)
        loader.add_argument("--out", default="bench", help="folder for media and records.jsonl (default: %(default)s)")
        loader.add_argument("--workloads", nargs="+", default=None, metavar="W", help="only these (default: all)")
        loader.add_argument("--repeats", type=int, default=5, help="measurements of each (default: %(default)s)")
        loader.add_argument("--seconds", type=float, default=5.0, help="length of one of ours (default: %(default)s)")
        loader.add_argument("--loaders", nargs="+", metavar="NAME", help="only these (default: " + (
            "all)" if name == "peers" else "ours)"), default=None if name == "peers" else ["omnidali"])
        loader.set_defaults(story=_bench_loader)
    report = bench.add_parser("report", help="write RESULTS.md's tables of throughput and the chart from the records")
    report.add_argument("--records", default="bench/records.jsonl", help="default: %(default)s")
    report.add_argument("--results", default="RESULTS.md", help="with the two marks (default: %(default)s)")
    report.add_argument("--chart", default="docs/throughput.png", help="default: %(default)s")
    report.set_defaults(story=_bench_report)
    train = bench.add_parser("train", help="the training loop fed with synthetic, cached and real batches: the stall")
    train.add_argument("--config", required=True, help="YAML file")
    train.add_argument("--out", default="bench", help="folder for records.jsonl (default: %(default)s)")
    train.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], help="to compare (default: fp32 bf16)")
    train.add_argument("--repeats", type=int, default=3, help="runs of each (default: %(default)s)")
    train.add_argument("--steps", type=int, default=20, help="of a run (default: %(default)s)")
    train.add_argument("--set", dest="overrides", nargs="+", default=[], metavar="key.path=value",
                       help="settings of the config")
    train.set_defaults(story=_bench_train)
    plan = bench.add_parser("plan", help="cost of planning and of a warm start, over made-up catalogs")
    plan.add_argument("--out", default="bench", help="folder for records.jsonl (default: %(default)s)")
    plan.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000, 10_000_000],
                      help="sizes of the catalog")
    plan.set_defaults(story=_bench_plan)
    pairs = bench.add_parser("dedup", help="comparing features and hashes in chunks, beside one plain product")
    pairs.add_argument("--out", default="bench", help="folder for records.jsonl (default: %(default)s)")
    pairs.add_argument("--rows", type=int, nargs=2, default=[100_000, 10_000], metavar=("WEB", "VALIDATION"),
                       help="frames on both sides (default: 100000 10000)")
    pairs.add_argument("--dimensions", type=int, nargs="+", default=[256, 2048], help="of features (default: 256 2048)")
    pairs.add_argument("--repeats", type=int, default=3, help="measurements of each (default: %(default)s)")
    pairs.set_defaults(story=_bench_dedup)
    advice = bench.add_parser("advise", help="what decoding one's own sources costs, and which copy would help most")
    advice.add_argument("--config", required=True, help="YAML file")
    advice.add_argument("--sample", type=int, default=12, help="files of a source to measure (default: %(default)s)")
    advice.add_argument("--set", dest="overrides", nargs="+", default=[], metavar="key.path=value",
                        help="settings of the config")
    advice.set_defaults(story=_bench_advise)

    soak = commands.add_parser("soak", help="run the loader for long over media that go bad, and check it")
    soak.add_argument("--out", required=True, help="new or empty folder for the media and the record")
    soak.add_argument("--minutes", type=float, default=30.0, help="length at the least (default: %(default)s)")
    soak.add_argument("--clips", type=int, help="number at the least (default: as 200,000 in 30 minutes)")
    soak.add_argument("--seed", type=int, default=0, help="of what goes bad, and when (default: %(default)s)")
    soak.add_argument("--ranks", type=int, default=1, help="processes that load together (default: %(default)s)")
    soak.set_defaults(story=_soak)

    copy = commands.add_parser("transcode", help="make a copy of a config's media that decodes quickly")
    copy.add_argument("--config", required=True, help="YAML file")
    copy.add_argument("--out", required=True, help="folder for the copy and its config.yaml; a second start goes on")
    copy.add_argument("--recipe", choices=("fast", "small", "intra"), default="fast",
                      help="fast: quick at any frame; small: fewer bytes; intra: keyframes only (default: %(default)s)")
    copy.add_argument("--sources", nargs="+", default=[], metavar="NAME",
                      help="only these, `evaluation` being the held-out one (default: all)")
    copy.add_argument("--short-side", type=int, default=256, help="pixels, never scaled up to (default: %(default)s)")
    copy.add_argument("--workers", type=int, default=0, help="files at a time (default: the cores)")
    copy.add_argument("--set", dest="overrides", nargs="+", default=[], metavar="key.path=value",
                      help="settings of the config")
    copy.set_defaults(story=_transcode)

    lint = commands.add_parser("lint", help="look for what is wrong with a config's lists and media; changes nothing")
    lint.add_argument("--config", required=True, help="YAML file")
    lint.add_argument("--out", metavar="DIR", help="folder for the report (default: lint in the run folder)")
    lint.add_argument("--sources", nargs="+", default=[], metavar="NAME",
                      help="only these, `evaluation` being the held-out one (default: all)")
    lint.add_argument("--set", dest="overrides", nargs="+", default=[], metavar="key.path=value",
                      help="settings of the config")
    lint.set_defaults(story=_lint)

    info = commands.add_parser("info", help="what a catalog holds, as it is")
    which = info.add_mutually_exclusive_group(required=True)
    which.add_argument("--catalog", metavar="FILE", help="catalog.sqlite of a run folder")
    which.add_argument("--config", help="YAML file whose catalog is meant")
    info.add_argument("--json", action="store_true", help="for programs")
    info.add_argument("--set", dest="overrides", nargs="+", default=[], metavar="key.path=value",
                      help="settings of the config")
    info.set_defaults(story=_info)

    preview = commands.add_parser("preview", help="pictures of the clips that a training takes")
    preview.add_argument("--config", required=True, help="YAML file")
    preview.add_argument("--out", metavar="DIR", help="folder for the pictures (default: preview in the run folder)")
    preview.add_argument("--sources", nargs="+", default=[], metavar="NAME",
                         help="only these, `evaluation` being the held-out one (default: those of the training)")
    preview.add_argument("--samples", type=int, default=24, help="clips of a source (default: %(default)s)")
    preview.add_argument("--step", type=int, default=0, help="of the training to begin with (default: %(default)s)")
    preview.add_argument("--set", dest="overrides", nargs="+", default=[], metavar="key.path=value",
                         help="settings of the config")
    preview.set_defaults(story=_preview)

    cut = commands.add_parser("cut", help="make a file of every piece of the long videos; training needs none")
    cut.add_argument("--config", required=True, help="YAML file")
    cut.add_argument("--out", required=True, help="folder for files, lists and config.yaml; a second start goes on")
    cut.add_argument("--sources", nargs="+", default=[], metavar="NAME",
                     help="only these (default: all of kind untrimmed whose pieces are no files yet)")
    cut.add_argument("--pieces", choices=("positive", "all"),
                     help="those that show their class, or all (default: what the source's own `pieces` uses)")
    cut.add_argument("--exact", action="store_true", help="encode anew, frame by frame (default: copy the packets from"
                     " the keyframe before a piece on); audio is left out in either case")
    cut.add_argument("--workers", type=int, default=0, help="files at a time (default: the cores)")
    cut.add_argument("--set", dest="overrides", nargs="+", default=[], metavar="key.path=value",
                     help="settings of the config")
    cut.set_defaults(story=_cut)

    sieve = commands.add_parser("filter", help="score crawled sources with a teacher and keep what it agrees with")
    sieve.add_argument("--config", required=True, help="YAML file; `clip` and `evaluation.test` are the teacher's")
    sieve.add_argument("--checkpoint", required=True, help="the teacher: checkpoint, or run folder for its best.pt")
    sieve.add_argument("--out", required=True, help="folder for lists, report and config.yaml")
    sieve.add_argument("--sources", nargs="+", default=[], metavar="NAME",
                       help="only these, `evaluation` being the held-out one (default: all but the first, the target)")
    sieve.add_argument("--score-only", action="store_true", help="keep the scores in the catalog and write no list")
    sieve.add_argument("--rule", nargs="+", choices=("threshold", "topk", "quantile"), default=["threshold"],
                       help="what an item must pass, all of them (default: threshold)")
    sieve.add_argument("--threshold", type=float, default=0.2,
                       help="threshold: least probability of the item's class (default: %(default)s)")
    sieve.add_argument("--top", type=int, default=1,
                       help="topk: best classes that must hold the item's (default: %(default)s)")
    sieve.add_argument("--keep", type=float, default=0.6,
                       help="quantile: share of each class that is kept, the most probable (default: %(default)s)")
    sieve.add_argument("--relabel", action="store_true", help="an item that fails takes the best other class if that"
                       " passes: for strong teachers; never pieces of long videos")
    sieve.add_argument("--window", type=float, metavar="SECONDS", help="length of the pieces that long videos are cut"
                       " into (default: 1 for a 2D teacher, else window_seconds of the source)")
    sieve.add_argument("--keep-negatives", action="store_true", help="keep long videos without a positive piece")
    sieve.add_argument("--set", dest="overrides", nargs="+", default=[], metavar="key.path=value",
                       help="settings of the config")
    sieve.set_defaults(story=_filter)

    dedup = commands.add_parser("dedup", help="drop what shows validation items, and near-duplicates of a source")
    dedup.add_argument("--config", required=True, help="YAML file")
    dedup.add_argument("--out", required=True, help="folder for lists, config.yaml and report; a second start goes on")
    dedup.add_argument("--sources", nargs="+", default=[], metavar="NAME",
                       help="only these training sources (default: all but the first, the target)")
    dedup.add_argument("--checkpoint", metavar="FILE", help="image network for features: a checkpoint, weights of a"
                       " ResNet, or a run folder (default: bytes and hashes alone)")
    dedup.add_argument("--threshold", default="auto", metavar="X", help="cosine of features from which on two frames"
                       " are one; auto: that of two crops of one frame (default: %(default)s)")
    dedup.add_argument("--hash-distance", type=int, default=18, metavar="BITS",
                       help="of 64 in which the hashes of duplicates differ at most (default: %(default)s)")
    dedup.add_argument("--fps", type=float, default=8.0, help="frames of a second to look at (default: %(default)s)")
    dedup.add_argument("--within", action="store_true", help="also keep one alone of what is alike inside a source")
    dedup.add_argument("--set", dest="overrides", nargs="+", default=[], metavar="key.path=value",
                       help="settings of the config")
    dedup.set_defaults(story=_dedup)

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

    export = commands.add_parser("export", help="write a checkpoint's weights for other programs")
    export.add_argument("--checkpoint", required=True, help="checkpoint, or run folder for its best.pt")
    export.add_argument("--out", required=True, help="file to write: .pth as mmaction2 0.x reads it, or .safetensors")
    export.set_defaults(story=_export)

    motion = commands.add_parser("motion", help="camera motion for inflate: warp").add_subparsers(dest="what",
                                                                                                 required=True)
    estimate = motion.add_parser("estimate", help="mean and covariance of homographies between frames of videos")
    estimate.add_argument("--config", required=True, help="YAML file")
    estimate.add_argument("--source", help="its source to look at (default: the first one, the target)")
    estimate.add_argument("--interval", type=int, help="frames between those of a pair (default: clip.frame_interval)")
    estimate.add_argument("--videos", type=int, default=1000, help="how many to look at (default: %(default)s)")
    estimate.add_argument("--out", required=True, help="JSON file to write, for `motion:` of a source")
    estimate.add_argument("--set", dest="overrides", nargs="+", default=[], metavar="key.path=value",
                          help="settings of the config")
    estimate.set_defaults(story=_estimate_motion)

    options = parser.parse_args(arguments)
    return exit_with_advice(lambda: options.story(options), rank=int(os.environ.get("RANK", 0)))


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


def _export(options: argparse.Namespace) -> None:
    from omnidali.models.weights import best_weights, export_weights
    from omnidali.training.checkpoint import load_checkpoint
    state = load_checkpoint(options.checkpoint, inside="best.pt")
    meta = {"CLASSES": list(state.get("classes") or []), **(state.get("model") or {})}
    weights = best_weights(state)
    export_weights(weights, options.out, meta)
    print(f"{len(weights)} tensors{', averaged weights' if state.get('ema') else ''}: {options.out}")


def _estimate_motion(options: argparse.Namespace) -> None:
    from omnidali.curation.motion import estimate_motion, write_motion
    from omnidali.loading.data import open_data
    from omnidali.ranks import Ranks
    from omnidali.settings import load_config
    config = load_config(options.config, options.overrides)
    data = open_data(config)
    tables = {table.name: table for table in data.tables}
    name = options.source or next(iter(tables))
    if name not in tables or tables[name].kind == "image":
        videos = ", ".join(table.name for table in data.tables if table.kind != "image")
        raise UserError("--source", f"a source of videos ({videos})", name, "Name another one.")
    if options.interval is not None and options.interval < 1:
        raise UserError("--interval", "1 or more", str(options.interval), "Correct the value.")
    values = estimate_motion(tables[name], options.interval or config.clip.frame_interval, options.videos, config.seed,
                             data.class_names, Ranks().threads)
    write_motion(options.out, values)
    print(f"{values['all']['pairs']} pairs of frames in {values['videos']} videos, {len(values['classes'])} classes"
          f" with a distribution of their own: {options.out}")


def _soak(options: argparse.Namespace) -> int:
    from omnidali.bench.soak import soak
    _at_least(options.ranks, 1, "--ranks")
    if options.minutes <= 0:
        raise UserError("--minutes", "more than 0", str(options.minutes), "Correct the value.")
    passed = soak(options.out, options.minutes, options.clips, options.seed, options.ranks)["passed"]
    return 0 if passed else 1


def _bench_loader(options: argparse.Namespace) -> None:
    from omnidali.bench.compare import compare
    compare(options.out, options.workloads, options.loaders, options.repeats, options.seconds)


def _bench_decode(options: argparse.Namespace) -> None:
    from omnidali.bench.decode import bench_decode
    bench_decode(options.out, options.media)


def _bench_report(options: argparse.Namespace) -> None:
    from omnidali.bench.report import report
    print(report(options.records, options.results, options.chart))


def _bench_train(options: argparse.Namespace) -> None:
    from omnidali.bench.train import bench_train
    bench_train(options.out, options.config, options.overrides, options.precisions, options.repeats, options.steps)


def _bench_advise(options: argparse.Namespace) -> None:
    from omnidali.bench.advise import advise
    from omnidali.settings import load_config
    _at_least(options.sample, 1, "--sample")
    advise(load_config(options.config, options.overrides), options.sample)


def _transcode(options: argparse.Namespace) -> None:
    from omnidali.bench.copies import write_summary
    from omnidali.curation.transcode import transcode
    from omnidali.settings import load_config
    _at_least(options.short_side, 16, "--short-side")
    _at_least(options.workers, 0, "--workers")
    config = load_config(options.config, options.overrides)
    copied = transcode(config, options.out, options.recipe, options.sources, options.short_side, options.workers)
    write_summary(config, copied)
    print(f"train on it: train.py --config {copied.layout.out / 'config.yaml'}")


def _lint(options: argparse.Namespace) -> int:
    from omnidali.curation.lint import lint
    from omnidali.settings import load_config
    return 1 if lint(load_config(options.config, options.overrides), options.out, options.sources) else 0


def _info(options: argparse.Namespace) -> None:
    from omnidali.curation.info import describe_catalog, show_catalog
    from omnidali.settings import load_config
    config = load_config(options.config, options.overrides) if options.config else None
    found = describe_catalog(options.catalog or config.catalog_path, config)
    print(json.dumps(found, indent=2) if options.json else show_catalog(found))


def _preview(options: argparse.Namespace) -> None:
    from omnidali.curation.preview import preview
    from omnidali.settings import load_config
    _at_least(options.samples, 1, "--samples")
    _at_least(options.step, 0, "--step")
    preview(load_config(options.config, options.overrides), options.out, options.sources, options.samples,
            options.step)


def _cut(options: argparse.Namespace) -> int:
    from omnidali.curation.cut import CUTS, REPORT, cut
    from omnidali.settings import load_config
    _at_least(options.workers, 0, "--workers")
    config = load_config(options.config, options.overrides)
    done = cut(config, options.out, options.sources, options.pieces, options.exact, options.workers)
    for row in done.failed if done.stops else done.failed[:10]:
        print(f"failed: {row['video']}, piece {row['index']}: {row['problem']}", file=sys.stderr)
    early = [row["early"] for row in done.rows if row["bytes_out"]]
    if max(early) > 0:
        print(f"files begin {sum(early) / len(early):.1f} s before their pieces in the mean, {max(early):.1f} s at"
              " most, where keyframes lie; --exact begins with the pieces")
    print(f"{len(done.rows) - len(done.failed):,} pieces cut, {len(done.failed):,} failed: {done.out / CUTS},"
          f" {done.out / REPORT}\ntrain on them: train.py --config {done.out / 'config.yaml'}")
    return 1 if done.stops else 0
def _filter(options: argparse.Namespace) -> None:
    from omnidali.curation.filter import Filtering, filter_sources
    from omnidali.curation.rules import Rules
    from omnidali.ranks import end_ranks, start_ranks
    from omnidali.settings import load_config
    _at_least(options.top, 1, "--top")
    for where, value in (("--threshold", options.threshold), ("--keep", options.keep)):
        if not 0 < value <= 1:
            raise UserError(where, "a number above 0 and at most 1", f"{value:g}", "Correct the value.")
    if options.window is not None and not 0 < options.window < float("inf"):
        raise UserError("--window", "seconds above 0", f"{options.window:g}", "Correct the value.")
    ranks = start_ranks()
    config = load_config(options.config, options.overrides)
    rules = Rules(tuple(dict.fromkeys(options.rule)), options.threshold, options.top, options.keep, options.relabel)
    with telling_peers():
        filter_sources(config, options.checkpoint, options.out, Filtering(
            tuple(options.sources), rules, options.window, options.score_only, options.keep_negatives), ranks)
    end_ranks()
    if ranks.is_main and not options.score_only:
        print(f"report in {options.out}/report.md; train on it: train.py --config {options.out}/config.yaml")

def _dedup(options: argparse.Namespace) -> None:
    from omnidali.curation.dedup import Settings, dedup
    from omnidali.ranks import end_ranks, start_ranks
    from omnidali.settings import load_config
    try:
        threshold = None if options.threshold == "auto" else float(options.threshold)
    except ValueError:
        threshold = 2.0
    if threshold is not None and not -1 < threshold <= 1:
        raise UserError("--threshold", "auto, or a number above -1 and up to 1", options.threshold,
                        "Correct the value.")
    if not 0 <= options.hash_distance <= 64:
        raise UserError("--hash-distance", "0 to 64", str(options.hash_distance), "Correct the value.")
    if not 0 < options.fps <= 1000:
        raise UserError("--fps", "more than 0, and up to 1000", str(options.fps), "Correct the value.")
    config, ranks = load_config(options.config, options.overrides), start_ranks()
    with telling_peers():
        dedup(config, options.out, ranks, options.checkpoint, options.sources,
              Settings(threshold, options.hash_distance, options.fps, options.within))
    end_ranks()


def _bench_dedup(options: argparse.Namespace) -> None:
    from omnidali.bench.dedup import bench_dedup
    _at_least(min(options.rows), 1, "--rows")
    _at_least(min(options.dimensions), 1, "--dimensions")
    _at_least(options.repeats, 1, "--repeats")
    bench_dedup(options.out, *options.rows, options.dimensions, options.repeats)


def _at_least(value: int, least: int, where: str) -> None:
    if value < least:
        raise UserError(where, f"{least} or more", str(value), "Correct the value.")


def _bench_plan(options: argparse.Namespace) -> None:
    from omnidali.bench.plan import bench_plan
    bench_plan(options.out, options.rows)


if __name__ == "__main__":
    sys.exit(main())
