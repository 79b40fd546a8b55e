"""Settings on a command line: texts need no quotes, and YAML takes nothing of them away."""

import pytest

from omnidali.cli import main as cli
from omnidali.config.convert import config_to_dict
from omnidali.config.load import dump_config, load_config, with_settings
from omnidali.config.overrides import apply_override
from omnidali.config.reference import all_settings
from omnidali.errors import UserError

SMALL = "sources: {web: {kind: video}, my.web: {kind: frames}}\ntrain: {steps: 5}\n"
# texts that YAML takes for something else, or refuses
NAMES = (
    "{id}.mp4",
    "{id}",
    "{start:06}_{end:06}/img_{:05}.jpg",
    "train-{000..099}.tar",
    "*.tar",
    "*",
    "&a",
    "#x.txt",
    "a #b.txt",
    "2024-01-01",
    "yes",
    "off",
    "1e3",
    "007",
    "1_000",
    "0x1f",
    "12:30",
    ".nan",
    "a: b.txt",
    "[a]",
    "@home",
    "%20.txt",
    "!x",
    "- a",
    "it's.txt",
    "'tis.txt",
    '"a" b.txt',
    "a=b.txt",
    "cafe\u0301 \u732b.txt",
)


def load(tmp_path, *overrides, text=SMALL):
    (tmp_path / "c.yaml").write_text(text)
    return load_config(tmp_path / "c.yaml", overrides)


@pytest.mark.parametrize("name", NAMES)
def test_text_is_taken_as_it_is(tmp_path, name):
    config = load(
        tmp_path,
        f"sources.my.web.root={name}",
        f"sources.web.list= {name} ",
        "evaluation.source.kind=video",
        f"evaluation.source.labels={name}",
        f"run_dir={name}",
        f"model.pretrained={name}",
    )
    assert config.sources["my.web"].root == config.sources["web"].list == name
    assert config.evaluation.source.labels == config.run_dir == config.model.pretrained == name


def test_every_text_setting_takes_text():
    keys = [
        setting.key.replace("NAME", "web")
        for setting in all_settings()
        if setting.expects in ("text", "text, or null")
    ]
    assert {"data_root", "sources.web.tars", "evaluation.source.pattern"} <= set(keys)
    for key in keys:
        values = {}
        apply_override(values, f"{key}={{id}}: 2024 #1")
        for part in key.split("."):
            values = values[part]
        assert values == "{id}: 2024 #1", key


@pytest.mark.parametrize(
    "written, read",
    [
        ('"{id}.mp4"', "{id}.mp4"),
        ("'{id}.mp4'", "{id}.mp4"),
        ("'it''s'", "it's"),
        (r'"caf\u00e9"', "caf\u00e9"),
        ("' a '", " a "),
        ("'null'", "null"),
    ],
)
def test_quotes_around_a_text_are_not_part_of_it(tmp_path, written, read):
    assert load(tmp_path, f"sources.web.pattern={written}").sources["web"].pattern == read


@pytest.mark.parametrize("written", ["null", "~", "", " ", "Null"])
def test_null_clears_a_text(tmp_path, written):
    text = SMALL + "classes: names.txt\n"
    assert load(tmp_path, f"classes={written}", text=text).classes is None


def test_other_settings_are_yaml(tmp_path):
    config = load(
        tmp_path,
        "sources.new={kind: image, pattern: '{id}.jpg', resample: {power: 0.5}}",
        "clip.area=[0.5, 1.0]",
        "model.channels_last=off",
        "optimizer.clip_grad_norm=null",
        "train.mixup=none",
    )
    assert config.sources["new"].pattern == "{id}.jpg"
    assert config.sources["new"].resample.power == 0.5
    assert (config.clip.area, config.model.channels_last) == ((0.5, 1.0), False)
    assert (config.optimizer.clip_grad_norm, config.train.mixup) == (None, "none")


def test_config_survives_the_way_over_the_command_line(tmp_path):
    """What overrides have set is written and read again as it was."""
    config = load(tmp_path, *(f"sources.s{n}.kind=video" for n in range(len(NAMES))))
    sets = [f"sources.s{n}.pattern={name}" for n, name in enumerate(NAMES)]
    (tmp_path / "d.yaml").write_text(dump_config(with_settings(config, sets)))
    made = load_config(tmp_path / "d.yaml")
    assert [made.sources[f"s{n}"].pattern for n in range(len(NAMES))] == list(NAMES)


def test_arguments_that_a_shell_has_multiplied_are_refused(tmp_path):
    """Bash makes several arguments of {000..099} or {a,b}; the last one would win."""
    sets = [f"sources.web.tars=train-{n:03}.tar" for n in range(100)]
    with pytest.raises(UserError) as caught:
        load(tmp_path, "seed=1", *sets)
    assert str(caught.value) == (
        "sources.web.tars: expected one value, got 100, from train-000.tar to train-099.tar, as a"
        " shell makes of {...} without quotes. Put the argument in single quotes:"
        " 'sources.web.tars=...'"
    )
    # a later setting wins, as it does in scripts that add their own
    assert load(tmp_path, "seed=1", "seed=2").seed == 2
    assert load(tmp_path, "sources.web.list=a", "seed=1", "sources.web.list=b").sources["web"].list


def test_command_takes_a_pattern_without_quotes(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(SMALL)
    command = ["train", "--config", str(tmp_path / "c.yaml"), "--print-config"]
    assert cli.main([*command, "sources.web.pattern={id}.mp4", "run_dir=2024-01-01"]) == 0
    printed = capsys.readouterr().out
    assert "pattern: '{id}.mp4'" in printed and "run_dir: '2024-01-01'" in printed


@pytest.mark.parametrize(
    "line, advice",
    [
        ("classes: {id}.mp4", 'Put the text in quotes: classes: "{id}.mp4"'),
        ("classes: *.tar", 'Put the text in quotes: classes: "*.tar"'),
        ("classes: %20.txt", 'Put the text in quotes: classes: "%20.txt"'),
        ("classes: {id}", 'put it in quotes: classes: "{id}"'),
        ("classes: [a, b]", 'put it in quotes: classes: "[a, b]"'),
        (
            "classes: 2024-01-01",
            "got the date 2024-01-01. If it is text, put it in quotes: classes",
        ),
        ("classes: 7", 'put it in quotes: classes: "7"'),
        ("classes: yes", 'as truth values; write classes: "yes"'),
        (
            "evaluation: {source: {kind: frames, pattern: img_{:05}.jpg}}",
            'Put the text in quotes: pattern: "img_{:05}.jpg"',
        ),
        (
            "evaluation: {source: {kind: video,\n  tars: train-{000..099}.tar}}",
            'Put the text in quotes: tars: "train-{000..099}.tar"',
        ),
    ],
)
def test_file_with_a_text_that_needs_quotes_is_told_them(tmp_path, line, advice):
    with pytest.raises(UserError) as caught:
        load(tmp_path, text=SMALL + line + "\n")
    assert advice in str(caught.value)
    # the advice is right
    key, _, quoted = advice.partition("quotes: ")[2].partition(": ")
    if quoted:
        wanted = line.replace(quoted.strip('"'), quoted)
        assert quoted.strip('"') in str(config_to_dict(load(tmp_path, text=SMALL + wanted + "\n")))
