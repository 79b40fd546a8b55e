"""Video recognition from web images and videos: OmniSource on a DALI data loading service.

The names below are the public interface. They load on first use, as torch and DALI take seconds.
"""

import importlib
from typing import Any

__version__ = "0.2.0"

_PUBLIC = {
    "ClipBatch": "omnidali.loading.batch",
    "StepBatch": "omnidali.loading.batch",
    "Config": "omnidali.config.schema",
    "BadSourceError": "omnidali.errors",
    "UserError": "omnidali.errors",
    "FusionIterator": "omnidali.loading.fusion",
    "TrainPlan": "omnidali.planning.train_plan",
    "EvaluationPlan": "omnidali.planning.evaluation_plan",
    "read_frames": "omnidali.decoding.read_frames",
    "count_frames": "omnidali.decoding.read_frames",
    "build_model": "omnidali.models.build",
    "from_pretrained": "omnidali.models.from_pretrained",
    "load_config": "omnidali.config.load",
    "open_data": "omnidali.loading.data",
    "ClipDataset": "omnidali.loading.clip_dataset",
    "open_loader": "omnidali.loading.open_loader",
    "train": "omnidali.training.train",
    "Trainer": "omnidali.training.trainer",
    "Hooks": "omnidali.training.hooks",
    "Logger": "omnidali.training.loggers",
    "evaluate": "omnidali.evaluation.evaluate",
    "Predictor": "omnidali.prediction.predictor",
    "Prediction": "omnidali.prediction.prediction",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'omnidali' has no attribute {name!r}")
