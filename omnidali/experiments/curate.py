"""From a crawl to a student: teacher, duplicates, filter, student, and a table of their scores.

OmniSource (Sec. 3): a teacher learns from the labelled target alone; its scores decide which
crawled items stay; the student learns from the target and those items. It may be the teacher of
another round, alone or together with all networks before it, as the paper's best teacher is an
ensemble (Fig. 6). Or students like it, each trained without a part of the crawl, score the part
that they have not seen (cross-fitting, as in confident learning, Northcutt et al., 2021). The table
compares with the first teacher, which sees as many clips as a student, and with a student of the
whole crawl.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from omnidali.config.load import dump_config, load_config
from omnidali.config.schema import Config
from omnidali.curation.source_selection import FRAME_SECONDS, is_cut_into_windows
from omnidali.errors import UserError
from omnidali.experiments.expected_time import PlannedRun
from omnidali.experiments.results_table import (
    MEAN_PRECISION,
    TOP1,
    CurationRow,
    curation_table,
    figure_of,
    precision_and_recall,
)
from omnidali.experiments.training_runs import (
    TrainingRuns,
    check_experiment,
    check_trainings,
    has_result,
    plan_runs,
    run_name,
)
from omnidali.experiments.variants import (
    hold_out_part,
    make_variant,
    target_epochs,
    teacher_variant,
)
from omnidali.loading.data import Data, open_data
from omnidali.models.checkpoint_file import LAST
from omnidali.processes.launch import run_program
from omnidali.processes.program_log import log_of
from omnidali.utils.atomic_write import write_whole, writing_to
from omnidali.utils.run_record import write_record
from omnidali.utils.untrusted_text import say

TARGET = "target alone"
EVERYTHING = "everything that was crawled"
CURATED = "config.yaml"  # written by dedup and filter into their folders


@dataclass(frozen=True, kw_only=True)
class CurationOptions:
    """The options of a curation.

    Attributes:
        seeds: of the trainings; everything but dedup is done once with each.
        rounds: of filter and student; the student of a round is the teacher of the next one.
        ranks: processes of a program.
        together: whether all networks that were trained before a filter are its teacher, as an
            ensemble.
        folds: students that score in the next round, each the part of the crawl that it was not
            trained on; 1: the student of the whole crawl scores all.
        filter_words: more options of ``omnidali filter``, checked.
        dedup_words: more options of ``omnidali dedup``, checked.
    """

    seeds: Sequence[int] = (0,)
    rounds: int = 1
    ranks: int = 1
    together: bool = False
    folds: int = 1
    filter_words: Sequence[str] = ()
    dedup_words: Sequence[str] = ()


def check_options(config: Config, options: CurationOptions) -> None:
    """Refuse mistakes that the config and the options alone show.

    Raises:
        UserError: for the first mistake.
    """
    if options.rounds < 1:
        raise UserError("--rounds", "1 or more", str(options.rounds), "Correct the number.")
    check_experiment(config, options.ranks, options.seeds)
    if options.folds < 1 or options.folds > 1 == options.rounds:
        raise UserError(
            "--folds",
            "1 or more, and --rounds of 2 or more, as the first teacher is the target's network",
            f"--folds {options.folds} --rounds {options.rounds}",
            "Correct the numbers.",
        )

    for name, source in config.sources.items():
        if source.hold_out:
            raise UserError(
                f"sources.{name}.hold_out",
                "none, as the networks of a curation see and score the whole crawl",
                str(list(source.hold_out)),
                "Remove it; --folds holds parts out.",
            )
    target, *web = config.sources
    if not web:
        raise UserError(
            "sources", "the target and at least one crawled source", target, "Add what was crawled."
        )


def curate(
    config_path: str,
    overrides: Sequence[str],
    out: str | Path,
    options: CurationOptions,
    take: Callable[[], None] = lambda: None,
) -> list[CurationRow]:
    """Drop duplicates, then filter and train with every seed; finished work in ``out`` is kept.

    Writes ``table.md`` and ``results.json`` into ``out``.

    Args:
        config_path: of the config: the first source is the target, the others are the crawl.
        overrides: settings of it, as ``key.path=value``.
        out: folder for everything.
        options: that :func:`check_options` accepts.
        take: called after all checks, before anything but the catalog is written.

    Raises:
        UserError: for mistakes in the config, or if a program refused its own.
        ProgramFailedError: if a program failed.
    """
    out = Path(os.path.abspath(out))
    config = load_config(config_path, overrides)
    config = replace(config, run_dir=str(out / "crawl"), catalog=str(out / "catalog.sqlite"))
    data = open_data(config)
    say(*data.summary)
    curation = _Curation(config, data, out, options)
    take()
    curation.announce()

    unique = curation.drop_duplicates()
    for seed in options.seeds:
        curation.train_students(unique, seed)

    removed = precision_and_recall(config, unique, "removed copies")
    for what, (precision, recall) in removed.items():
        say(f"{what}: {precision:.3f} right, {recall:.3f} found")
    rows = list(curation.rows.values())
    record = {
        "curation": str(config_path),
        "overrides": list(overrides),
        "target_epochs": curation.epochs,
        "seeds": list(options.seeds),
        "filter": list(options.filter_words),
        "dedup": list(options.dedup_words),
        "together": options.together,
        "folds": options.folds,
        "removed copies": removed,
        "rows": [vars(row) for row in rows],
    }
    write_record(out, record)
    figure = MEAN_PRECISION if config.multi_label else TOP1
    say("", *curation_table(rows, figure).split("\n"), f"also in {out / 'results.json'}")
    return rows


class _Curation:
    """The steps from a crawl to students, and the rows of their table.

    Args:
        config: of the crawl.
        data: of the config.
        out: folder for everything.
        options: of the curation.

    Attributes:
        epochs: of the target, in the training of a student.
        rows: of the table, by name.

    Raises:
        UserError: for a mistake that would end a training.
    """

    def __init__(self, config: Config, data: Data, out: Path, options: CurationOptions):
        self.config = config
        self.out = out
        self.options = options
        self.epochs = target_epochs(config, data)

        self.teacher = teacher_variant(config, self.epochs, ranks=options.ranks)
        self.everything = self._student(config)
        variants = (self.teacher, self.everything)
        check_trainings(config, variants, data.class_names, options.ranks)

        self.runs = TrainingRuns(out, options.ranks, self._plan(data))
        names = [TARGET, EVERYTHING, *map(_round_name, range(1, options.rounds + 1))]
        self.rows = {name: CurationRow(name) for name in names}

    def _plan(self, data: Data) -> list[PlannedRun]:
        """All trainings; those whose lists are still to be made are like that on everything."""
        planned: list[PlannedRun] = []
        for seed in self.options.seeds:
            known = [("target", seed, self.teacher), ("everything", seed, self.everything)]
            both = plan_runs(known, data, self.out)
            planned += both
            is_begun = all(run.is_finished for run in both)
            others = [
                run_name(name, seed)
                for number in range(1, self.options.rounds + 1)
                for name in self._student_names(number)
            ]
            planned += [
                replace(both[-1], name=name, is_finished=is_begun and has_result(self.out, name))
                for name in others
            ]
        return planned

    def announce(self) -> None:
        """Print how many trainings there are, and how long they take."""
        options = self.options
        filters = len(options.seeds) * options.rounds
        self.runs.times.announce(
            self.out,
            options.ranks,
            kinds=f"seeds: {len(options.seeds)}, rounds: {options.rounds}, folds: {options.folds}",
            remark=f"; dedup (1 x) and filter ({filters} x) come on top",
        )

    def drop_duplicates(self) -> Config:
        """Run dedup over the crawl; returns the config that it has written."""
        crawl = self.out / "crawl.yaml"
        with writing_to(self.out):
            write_whole(crawl, dump_config(in_windows(self.config)))
        return self._run("dedup", crawl, self.out / "dedup", *self.options.dedup_words)

    def train_students(self, unique: Config, seed: int) -> None:
        """Train the first teacher, and then filter and train once a round; writes the table.

        Args:
            unique: the config that dedup has written.
            seed: of the trainings.
        """
        teachers = [self._train(self.teacher, "target", seed, self.rows[TARGET])]
        trained = self._train(self.everything, "everything", seed, self.rows[EVERYTHING])
        if self.options.together:
            teachers.append(trained)

        for number in range(1, self.options.rounds + 1):
            kept = self._filter(teachers, seed, number)
            student = self._student(kept)
            name, *parts = self._student_names(number)
            students = [self._train(student, name, seed, self.rows[_round_name(number)])]
            if parts:
                students = [
                    self._train(hold_out_part(student, part, len(parts)), part_name, seed)
                    for part, part_name in enumerate(parts, 1)
                ]
            teachers = [*teachers, *students] if self.options.together else students
        self._write_table()

    def _student_names(self, number: int) -> list[str]:
        """The names of a round's student, and of those without a part, which score for the next."""
        name = f"filtered-{number}"
        folds = self.options.folds
        has_parts = folds > 1 and number < self.options.rounds
        parts = [f"{name}-without-{part}" for part in range(1, folds + 1)]
        return [name, *parts] if has_parts else [name]

    def _student(self, config: Config) -> Config:
        """The config of a student of all sources of a config."""
        return make_variant(config, tuple(config.sources), self.epochs, ranks=self.options.ranks)

    def _filter(self, teachers: Sequence[Path], seed: int, number: int) -> Config:
        """Filter with the networks of some run folders; returns the config of the kept items."""
        return self._run(
            "filter",
            self.out / "dedup" / CURATED,
            self.out / f"filter-seed{seed}-round{number}",
            "--checkpoint",
            *(str(teacher / "checkpoints" / LAST) for teacher in teachers),
            *self.options.filter_words,
        )

    def _run(self, command: str, config_file: Path, out: Path, *words: str) -> Config:
        """Run dedup or filter; returns the config that it has written."""
        paths = ("--config", str(config_file), "--out", str(out))
        log = log_of(self.out, out.name)
        run_program(command, *paths, *words, ranks=self.options.ranks, log=log)
        return load_config(str(out / CURATED))

    def _train(self, config: Config, name: str, seed: int, row: CurationRow | None = None) -> Path:
        """Train and evaluate, and add the scores to a row; returns the run folder."""
        result, run = self.runs.train_and_score(config, name, seed)
        if row is not None:
            _, *web = open_data(config).tables
            row.samples.append(sum(map(len, web)))
            row.top1.append(figure_of(result))
            if "mean_class" in result:
                row.mean_class.append(result["mean_class"])
            if row.name != TARGET:
                row.truth.append(
                    precision_and_recall(self.config, config, "labels")
                    | precision_and_recall(self.config, config, "pieces")
                )
        return run

    def _write_table(self) -> None:
        rows = list(self.rows.values())
        results = json.dumps([vars(row) for row in rows], indent=1)
        with writing_to(self.out):
            write_whole(self.out / "results.json", results + "\n")
            figure = MEAN_PRECISION if self.config.multi_label else TOP1
            write_whole(self.out / "table.md", curation_table(rows, figure))


def _round_name(number: int) -> str:
    return f"filtered, round {number}"


def in_windows(config: Config) -> Config:
    """The config for dedup, which cuts whole long videos: a 2D teacher sees a frame a second."""
    if config.model.name != "tsn":
        return config
    _, *web = config.sources
    short = {
        name: replace(config.sources[name], window_seconds=FRAME_SECONDS)
        for name in web
        if is_cut_into_windows(config.sources[name], config.data_root, config.multi_label)
    }
    return replace(config, sources=MappingProxyType({**config.sources, **short}))
