"""Training: a step cut into micro-batches, the loop around it, and the folder of a run."""

from .loop import TEST_SEED, evaluate, load_test_set, load_trained, train
from .run import Run, RunError, difference, explained
from .settings import RECIPES, TABLE, Settings
from .step import MicroBatches, Report, evaluation_step, training_step, transformers

__all__ = [
    "RECIPES",
    "TABLE",
    "TEST_SEED",
    "MicroBatches",
    "Report",
    "Run",
    "RunError",
    "Settings",
    "difference",
    "evaluate",
    "evaluation_step",
    "explained",
    "load_test_set",
    "load_trained",
    "train",
    "training_step",
    "transformers",
]
