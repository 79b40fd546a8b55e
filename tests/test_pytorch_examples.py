"""The examples of docs/pytorch.md run as printed, on a small world in the place of the demo's."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

import omnidali
from helpers.batches import content
from omnidali.config.load import load_config

PAGE = Path(__file__).parent.parent / "docs" / "pytorch.md"
EXAMPLES = dict(re.findall(r"^## (.*?)\n.*?```python\n(.*?)```", PAGE.read_text(), re.M | re.S))
SMALL = ["train.steps=4", "train.batch=6", "clip.size=32", "clip.num_clips=2", "device=cpu"]
STEPS = 4


@pytest.fixture(scope="module")
def world(media_root, tmp_path_factory):
    """The demo's lists and folders, with the tests' few files in them."""
    folder = tmp_path_factory.mktemp("examples")
    root = folder / "world"
    for source, name, list_file in (
        ("clips", "kinetics_8_train", "kinetics_8/k8_train.txt"),
        ("photos", "photos", "webimage_8/tsn_8seg_webimage_8_wodup.txt"),
        ("shorts", "insvideo_8", "insvideo_8/slowonly_8x8_insvideo_8_wodup.txt"),
        ("shorts", "kinetics_8_val", "kinetics_8/k8_val.txt"),
    ):
        shutil.copytree(media_root / source, root / name)
        place = root / "annotations" / list_file
        place.parent.mkdir(parents=True, exist_ok=True)
        lines = (media_root / f"{source}.txt").read_text().splitlines(keepends=True)
        prefix = "photos/" if source == "photos" else ""
        place.write_text("".join(prefix + line for line in lines))
    names = "".join(f"class {number}\n" for number in range(8))
    (root / "annotations" / "k8_actions.txt").write_text(names)
    return folder


@pytest.fixture
def config(world, monkeypatch):
    """What the examples load, made small."""
    monkeypatch.chdir(world)

    def load(name, settings):
        return load_config(name, [*settings, *SMALL])

    monkeypatch.setattr(omnidali, "load_config", load, raising=False)
    return load("demo", ["data_root=world", "run_dir=run"])


@pytest.fixture
def steps(monkeypatch):
    """The content of each batch that a loader hands out, in order."""
    given = []
    take = omnidali.FusionIterator.__next__

    def watch(loader):
        batch = take(loader)
        given.append(content(batch))
        return batch

    monkeypatch.setattr(omnidali.FusionIterator, "__next__", watch)
    return given


@pytest.fixture
def whole(config):
    """The content of each batch of the training."""
    with omnidali.open_loader(config) as batches:
        return [content(batch) for batch in batches]


def run(title, **names):
    exec(compile(EXAMPLES[title], f"{PAGE.name}: {title}", "exec"), names)
    return names


def test_page_has_these_examples():
    assert list(EXAMPLES) == ["A plain loop", "Clips in any DataLoader", "Lightning", "Accelerate"]


def test_plain_loop_trains_and_evaluates(config, whole, steps, capsys):
    names = run("A plain loop")
    assert steps == whole
    assert re.fullmatch(r"top-1 \d+\.\d\n", capsys.readouterr().out)
    assert names["network"].training is False and names["loss"].isfinite()


def test_clip_dataset_feeds_a_sampler_and_workers(config, capsys):
    run("Clips in any DataLoader")
    lines = capsys.readouterr().out.splitlines()
    shown = [line.partition(" [")[0] for line in lines]
    full, rest = "(4, 3, 2, 32, 32)", "(1, 3, 2, 32, 32)"
    assert shown == [f"{epoch} {shape}" for epoch in range(2) for shape in (full, full, rest)]


@pytest.fixture
def lightning():
    return pytest.importorskip("lightning")


def test_lightning_trains_on_every_batch(config, lightning, whole, steps):
    names = run("Lightning")
    assert steps == whole
    assert names["trainer"].global_step == STEPS


def test_lightning_goes_on_in_the_middle_of_an_epoch(config, lightning, whole, steps, tmp_path):
    code = EXAMPLES["Lightning"].partition("trainer =")[0]
    names = {}
    exec(code, names)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}

    saving = lightning.pytorch.callbacks.ModelCheckpoint(
        tmp_path, filename="a", every_n_train_steps=3, save_top_k=-1
    )
    lightning.Trainer(max_epochs=1, callbacks=[saving], **quiet).fit(names["Recogniser"]())
    assert steps == whole
    steps.clear()
    second = lightning.Trainer(max_epochs=1, enable_checkpointing=False, **quiet)
    second.fit(names["Recogniser"](), ckpt_path=tmp_path / "a.ckpt", weights_only=False)
    assert steps == whole[3:] and second.global_step == STEPS


def test_epochs_of_lightning_are_parts_of_the_training(config, lightning, whole, steps):
    names = {}
    code = EXAMPLES["Lightning"].replace("max_epochs=1", "max_epochs=2, limit_train_batches=2")
    exec(code, names)
    assert steps == whole and names["trainer"].current_epoch == 2


@pytest.fixture
def accelerate():
    return pytest.importorskip("accelerate")


def test_accelerate_trains_on_every_batch_and_restores_the_loader(config, accelerate, whole, steps):
    names = run("Accelerate")
    assert steps == whole
    with omnidali.open_loader(config) as batches:
        names["accelerator"]._custom_objects[:] = [batches]
        names["accelerator"].load_state("state")
        assert batches.next_step == STEPS


def test_accelerate_leaves_the_loader_as_it_is(config, accelerate):
    accelerator = accelerate.Accelerator()
    with omnidali.open_loader(config) as batches:
        assert accelerator.prepare(batches) is batches
        with pytest.raises(TypeError, match="batch size"):  # no silent mistake
            next(iter(accelerator.prepare(DataLoader(batches, batch_size=None))))


def test_clips_of_one_shape_are_one_tensor(config):
    with omnidali.open_loader(config) as batches, pytest.raises(omnidali.UserError) as caught:
        assert next(batches).video is None
    assert str(caught.value) == (
        "StepBatch.video: expected clips of one shape, got 3x1x32x32 and 3x2x32x32. Use clips or"
        " groups, which have a tensor for each shape, or let images fill whole clips"
        " (sources.NAME.inflate: still or warp)."
    )
    still = load_config("demo", ["data_root=world", *SMALL, "sources.webimage.inflate=still"])
    with omnidali.open_loader(still, target_apart=True) as batches:
        batch = next(batches)
        assert len(batch.groups) == 2
        assert torch.equal(batch.video, torch.cat(batch.clips))
        assert batch.video.is_contiguous(memory_format=torch.channels_last_3d)
        assert len(batch.video) == len(batch.labels)
    with omnidali.open_loader(still) as batches:
        batch = next(batches)
        assert batch.video is batch.groups[0].clips
