"""The outcome of a trial of DALI in a run folder: of a resume, and of an evaluation."""

import json

import pytest

from helpers.running import run
from helpers.trials import SETTING, change_dali_pixels
from omnidali.config.load import load_config
from omnidali.distributed.ranks import Ranks
from omnidali.evaluation import score
from omnidali.evaluation.evaluate import evaluate
from omnidali.models.checkpoint_file import load_checkpoint


@pytest.mark.usefixtures("small_network")
def test_outcome_outlives_a_resume_on_other_ranks(warm, options, tmp_path, monkeypatch):
    """The second start is healthy, and of two ranks; it goes by what the first one saw, and so does
    an evaluation.
    """
    photos = "sources.photos={kind: image, root: photos, list: photos.txt, decode: hybrid}"
    shorts = "{kind: video, root: shorts, list: shorts.txt, decode: hybrid}"
    held_out = f"evaluation={{source: {shorts}, every_steps: 100, batch: 1}}"
    options = [*options, photos, held_out, "train.checkpoint_every=2", "loader.threads=1"]
    change_dali_pixels(monkeypatch, 40)
    code, out, err = run(*options, "train.steps=2")
    assert code == 0, err
    said = "14 in jpeg, whose pixels by DALI differ ("
    assert said in out
    record = json.loads((tmp_path / "run/decoders.json").read_text())
    assert load_checkpoint(tmp_path / "run")["loader"]["trial"] == record
    assert record["photos"][SETTING]["jpeg"] in out

    ranks = warm.start_ranks(
        tmp_path / "two", "train", *options, "train.steps=4", "--resume", "auto"
    )
    outputs = []
    for process in ranks:
        assert process.wait() == 0, process.output
        outputs.append(process.output)
    assert said in outputs[0] and "slightly other pixels" not in outputs[0]
    assert json.loads((tmp_path / "run/decoders-2.json").read_text()) == record
    state = load_checkpoint(tmp_path / "run")["loader"]
    assert (state["step"], state["trial"]) == (4, record)

    change_dali_pixels(monkeypatch, 0)  # healthy again
    trials = []
    run_over = score.run_over

    def noted(*arguments, trial, **options):
        trials.append(trial)
        return run_over(*arguments, trial=trial, **options)

    monkeypatch.setattr(score, "run_over", noted)
    evaluate(load_config(options[1], options[2:]), Ranks())
    assert trials[0].tried == {"evaluation": record["evaluation"][SETTING]}
    assert "differ" in trials[0].tried["evaluation"]["vp9"]
