"""Training: a step cut into micro-batches, the loop around it, and the folder of a run."""

from .evaluation import (
    TEST_SEED,
    evaluate,
    load_examples,
    load_test_set,
    load_trained,
    test,
)
from .loop import carry_out, train
from .run import Run, RunError, difference, explained
from .settings import RECIPES, TABLE, Experiment, Settings, SettingsBlock, setting
from .step import MicroBatches, Report, evaluation_step, training_step, transformers

__all__ = [
    "RECIPES",
    "TABLE",
    "TEST_SEED",
    "Experiment",
    "MicroBatches",
    "Report",
    "Run",
    "RunError",
    "Settings",
    "SettingsBlock",
    "carry_out",
    "difference",
    "evaluate",
    "evaluation_step",
    "explained",
    "load_examples",
    "load_test_set",
    "load_trained",
    "setting",
    "test",
    "train",
    "training_step",
    "transformers",
]
