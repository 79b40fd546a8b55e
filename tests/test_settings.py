"""Configs: every mistake is reported at once, with place, expectation, value and advice."""

import dataclasses
import typing

import pytest

from omnidali.config.load import load_config
from omnidali.config.schema import Config
from omnidali.config.setting import range_of
from omnidali.errors import ConfigError, UserError

SMALL = "sources: {k: {kind: video}}\ntrain: {steps: 5}\n"


def load(tmp_path, text, *overrides):
    (tmp_path / "c.yaml").write_text(text)
    return load_config(tmp_path / "c.yaml", overrides)


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "sources: {k: {kind: video, wieght: 2}}\ntrain: {steps: 5}",
            "got the unknown key 'wieght'. Did you mean 'weight'?",
        ),
        (SMALL + "sedd: 1", "sedd: expected one of data_root"),
        (
            SMALL + "milestones: [1]",
            "got the unknown key 'milestones'. Did you mean 'optimizer.milestones'?",
        ),
        (
            SMALL + "optimizer: {lr: 1e-3}",
            "optimizer.lr: expected a number, got the text '1e-3'. YAML reads this as text;"
            " write numbers as 0.001 or 1.0e-3.",
        ),
        (SMALL + "clip: {size: big}", "clip.size: expected a whole number, got the text 'big'."),
        (SMALL + "clip: {size: 2.5}", "clip.size: expected a whole number, got the number 2.5."),
        (SMALL + "clip: {size: true}", "got the truth value True"),
        (
            SMALL + "clip: {area: 0.5}",
            "clip.area: expected a list of 2 numbers, got the number 0.5.",
        ),
        (
            SMALL + "clip: {crop: centre}",
            "clip.crop: expected one of random_resized, multi_scale, center, got the text "
            "'centre'. Did you mean 'center'?",
        ),
        (SMALL + "model: {depth: 51}", "expected one of 18, 34, 50, 101, got the number 51"),
        (SMALL + "clip: 3", "clip: expected keys and values, got the number 3."),
        (SMALL + "sources: {a: {}}", "every key once (first on line 1), got 'sources' again"),
        ("sources: {k: {kind: video, kind: image}}\ntrain: {steps: 5}", "got 'kind' again"),
        (
            "sources: {k: {weight: 2}}\ntrain: {steps: 5}",
            "sources.k.kind: expected one of video, image, untrimmed, frames, got nothing",
        ),
        (
            "sources: {k: {kind: video, weight: 0}}\ntrain: {steps: 5}",
            "sources.k.weight: expected a number above 0, got 0.",
        ),
        ("sources: {k: {kind: video, weight: -2}}\ntrain: {steps: 5}", "got -2"),
        ("sources: {k: {kind: video, weight: .nan}}\ntrain: {steps: 5}", "got nan"),
        ("train: {steps: 5}", "sources: expected at least one training source"),
        (
            "sources: {k: {kind: video}}",
            "train: expected exactly one of epochs and steps, got neither.",
        ),
        (SMALL.replace("steps: 5", "steps: 5, epochs: 1"), "got both"),
        (
            "sources: {k: {kind: video}, w: {kind: image}}\ntrain: {steps: 5, batch: 1}",
            "train.batch: expected at least one slot for each of the 2 sources, got 1.",
        ),
        (
            SMALL + "train: {steps: 0}".replace("train", "loader").replace("steps", "prefetch"),
            "loader.prefetch",
        ),
        (
            SMALL.replace("video", "video, inflate: still"),
            "sources.k.inflate: expected a source of images, got kind video",
        ),
        (SMALL.replace("k:", "all:"), "sources.all: expected another name"),
        (SMALL + "clip: {flip: 1.5}", "clip.flip: expected a number from 0 to 1, got 1.5."),
        (SMALL + "clip: {area: [0.5, 0.1]}", "clip.area: expected the smallest share first"),
        (
            SMALL + "evaluation: {test: {size: 300}}",
            "evaluation.test.size: expected at most short_side (256), got 300.",
        ),
        (
            SMALL.replace("video", "video, loss_weight: -1"),
            "sources.k.loss_weight: expected a number of 0 or more, got -1.",
        ),
        (
            SMALL.replace("video", "video, hold_out: [0, 3]"),
            "sources.k.hold_out: expected [part, parts], with two parts or more"
            " and the first being 1, got [0, 3].",
        ),
        (
            SMALL.replace("video", "video, hold_out: [3, 2]"),
            "sources.k.hold_out: expected [part, parts], with two parts or more"
            " and the first being 1, got [3, 2].",
        ),
        (
            SMALL.replace("video", "video, hold_out: [1, 1]"),
            "sources.k.hold_out: expected [part, parts], with two parts or more"
            " and the first being 1, got [1, 1].",
        ),
        (
            SMALL.replace("video", "video, fraction: 0"),
            "sources.k.fraction: expected a number above 0 and at most 1, got 0.",
        ),
        (
            SMALL.replace("video", "video, resample: {}"),
            "sources.k.resample: expected exactly one of power and clipped, got n",
        ),
        (SMALL.replace("video", "video, resample: {power: 1, clipped: 3}"), "got both"),
        (
            SMALL.replace("video", "video, resample: {power: 1.5}"),
            "resample.power: expected a number from 0 to 1, got 1.5.",
        ),
        (
            SMALL.replace("video", "video, resample: {clipped: 0}"),
            "resample.clipped: expected a number of 1 or more, got 0.",
        ),
        (
            SMALL.replace("video", "video, tars: a.tar, list: l.txt"),
            "sources.k.tars: expected either tars or a list, got both.",
        ),
        (
            SMALL.replace("video", "frames, tars: a.tar"),
            "sources.k.tars: expected tars of images or videos",
        ),
        (
            SMALL.replace("video", "video, format: parts"),
            "sources.k.format: expected a list that has the format, got no list.",
        ),
        (SMALL.replace("video", "video, format: part"), "Did you mean 'parts'?"),
        (
            SMALL.replace("video", "video, pieces: all"),
            "sources.k.pieces: expected kind: untrimmed",
        ),
        (
            SMALL.replace("video", "untrimmed, pieces: one_positive_rest_negative")
            + "clip: {clip_len: 8}",
            "sources.k.pieces: expected TSN's segments",
        ),
        (
            SMALL.replace("video", "frames, pattern: img.jpg"),
            "sources.k.pattern: expected a pattern with one number, got 'img.jpg'",
        ),
        (
            SMALL.replace("video", "frames, pattern: 'img_{name}.jpg'"),
            "sources.k.pattern: expected a pattern with one number",
        ),
        (
            SMALL.replace("video", "untrimmed, window_seconds: 0"),
            "sources.k.window_seconds: expected a number above 0",
        ),
        (
            "sources: {k: {kind: video, batch: 4}, w: {kind: image}}\ntrain: {steps: 5}",
            "sources: expected batch for all sources or for none, got none for w.",
        ),
        (
            SMALL.replace("video", "video, batch: 4").replace("steps: 5", "steps: 5, batch: 8"),
            "train.batch: expected nothing, as every source has its batch, got 8.",
        ),
        (
            SMALL.replace("video", "video, batch: 4, weight: 2"),
            "expected either weights or batches, got both.",
        ),
        (
            SMALL.replace("video", "video, batch: 0"),
            "sources.k.batch: expected a number of 1 or more",
        ),
        (
            SMALL.replace("steps: 5", "steps: 5, step_mode: alternating"),
            "train.step_mode: expected a batch for every source",
        ),
        (
            SMALL.replace("steps: 5", "steps: 5, ratio: [2]"),
            "train.ratio: expected step_mode: alternating, got summed.",
        ),
        (
            SMALL.replace("video", "video, batch: 4").replace(
                "steps: 5", "steps: 5, step_mode: alternating, ratio: [-2]"
            ),
            "train.ratio: expected a number of 1 or more, got [-2].",
        ),
        (
            SMALL.replace("video", "video, batch: 4").replace(
                "steps: 5", "steps: 5, step_mode: alternating, ratio: [2, 1]"
            ),
            "train.ratio: expected one number for each of the 1 sources",
        ),
        (
            SMALL.replace("video", "video, batch: 4").replace(
                "steps: 5", "steps: 5, step_mode: alternating, mixup: cross"
            ),
            "train.mixup: expected intra",
        ),
        (
            SMALL.replace("steps: 5", "steps: 5, mixup: intra, mixup_alpha: 0"),
            "train.mixup_alpha: expected a number above 0",
        ),
        (
            SMALL + "model: {sync_norm: true, norm: target_only}",
            "model.sync_norm: expected norm: shared",
        ),
        (
            SMALL + "evaluation: {source: {kind: untrimmed}}",
            "evaluation.source.kind: expected video, image or frames",
        ),
    ],
)
def test_mistake_names_key_expectation_value_and_advice(tmp_path, text, message):
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value)


BROKEN = [
    ("a: [1", "c.yaml, line 1: expected YAML"),
    ("a:\n\tb: 1", "c.yaml, line 2: expected YAML"),
    ("[1, 2]", "expected keys and values, got list"),
    ("a: " + "{a: " * 5000, "expected YAML, got maximum recursion depth exceeded"),
    ("a: !!python/object/apply:os.system ['true']", "expected YAML"),
    (SMALL + "? !!python/name:os.system\n: 1", "expected YAML"),
    (SMALL + "seed: 2001-99-99", "expected YAML"),
    (SMALL + "seed: " + "9" * 5000, "expected YAML, got Exceeds the limit"),
    (SMALL + "seed: 99999999999999999999", "c.yaml, line 3: expected whole numbers of at most 9,2"),
    (SMALL + "run_dir: a\0b", "expected YAML"),
    (SMALL + 'run_dir: "a\\0b"', "run_dir: expected printable text"),
    (SMALL + 'run_dir: "\\uD800"', "run_dir: expected printable"),
    (SMALL + 'base: "\\0"', "c.yaml: base \\x00: expected a config file"),
    (SMALL + "base: c.yaml", "c.yaml: base: expected other config files, got c.yaml."),
    (SMALL + "base: [c.yaml, c.yaml]", "expected other config files"),
]


@pytest.mark.parametrize("text, message", BROKEN, ids=[message for _, message in BROKEN])
def test_broken_yaml_is_reported_with_its_line(tmp_path, text, message):
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value) and len(str(caught.value)) < 2000


def settings_of(schema, above=""):
    """Path, field and type hint of every setting below a class of the schema."""
    hints = typing.get_type_hints(schema, include_extras=True)
    for field in dataclasses.fields(schema):
        hint = hints[field.name]
        yield f"{above}{field.name}", field, hint
        for part in (hint, *typing.get_args(hint)):
            if isinstance(part, type) and dataclasses.is_dataclass(part):
                yield from settings_of(part, f"{above}{field.name}.")


def test_every_setting_has_a_meaning_of_one_line():
    for path, field, _ in settings_of(Config):
        assert field.metadata["meaning"] and "\n" not in field.metadata["meaning"], path


def test_every_number_has_a_range_but_where_settings_relate():
    without = {
        path
        for path, _, hint in settings_of(Config)
        if range_of(hint) is None and {int, float} & {hint, *numbers_in(hint)}
    }
    assert without == {"sources.hold_out", "optimizer.milestones"}


def numbers_in(hint):
    """The simple types in a hint, without the values of Literal."""
    if typing.get_origin(hint) is typing.Literal:
        return
    for part in typing.get_args(hint):
        yield from (part,) if isinstance(part, type) else numbers_in(part)


def test_all_mistakes_come_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(
            tmp_path,
            "sources: {k: {kind: film, wieght: 1}}\ntrain: {batch: x}\nclip: {flip: 7}\n",
            "clip.sise=3",
            "nonsense",
        )
    assert sorted(error.where for error in caught.value.errors) == [
        "clip.flip",
        "clip.sise",
        "override 'nonsense'",
        "sources.k.kind",
        "sources.k.wieght",
        "train.batch",
    ]


def test_missing_config_is_refused(tmp_path):
    with pytest.raises(UserError, match="none.yaml: expected a config file, or the name of a ship"):
        load_config(tmp_path / "none.yaml")


def test_overrides_win_over_file_and_bases(tmp_path):
    (tmp_path / "base.yaml").write_text(SMALL + "seed: 1\nclip: {size: 96, flip: 0.1}\n")
    config = load(
        tmp_path,
        "base: base.yaml\nclip: {size: 64}\n",
        "clip.num_clips=3",
        "sources.k.weight=2.5",
        "train.epochs=0.5",
        "train.steps=null",
        "sources.web={kind: image}",
    )
    assert (config.seed, config.clip.size, config.clip.flip, config.clip.num_clips) == (
        1,
        64,
        0.1,
        3,
    )
    assert (config.train.epochs, config.train.steps) == (0.5, None)
    assert config.sources["k"].weight == 2.5 and list(config.sources) == ["k", "web"]
    (tmp_path / "base.yaml").write_text("base: c.yaml\n")
    with pytest.raises(UserError, match="other config files"):
        load(tmp_path, "base: base.yaml\n")


def test_config_values_are_frozen(tmp_path):
    config = load(tmp_path, SMALL)
    with pytest.raises(AttributeError):
        config.seed = 3
    with pytest.raises(TypeError):
        config.sources["k"] = None


def test_null_clears_a_source_or_a_group(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "sources: {photos: {kind: image}, web.new: {kind: image}}\ntrain: {steps: 4}\n"
        "evaluation: {source: {kind: video, list: v.txt}}\n"
    )
    assert set(load_config(tmp_path / "c.yaml", ["sources.web.new=null"]).sources) == {"photos"}
    assert load_config(tmp_path / "c.yaml", ["evaluation=null"]).evaluation.source is None
    (tmp_path / "top.yaml").write_text("base: c.yaml\nsources: {web.new: null}\n")
    assert set(load_config(tmp_path / "top.yaml").sources) == {"photos"}

    with pytest.raises(ConfigError, match=r"got fotos. Did you mean sources.photos=null\?"):
        load_config(tmp_path / "c.yaml", ["sources.fotos=null"])
    # a forgotten indentation is no wish to clear
    (tmp_path / "c.yaml").write_text("sources:\n  k:\ntrain: {steps: 4}\n")
    with pytest.raises(ConfigError, match="Indent its settings"):
        load_config(tmp_path / "c.yaml")
