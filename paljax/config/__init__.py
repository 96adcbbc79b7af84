"""The configuration of a run: YAML, typed, every key checked, mistakes told in one line."""

from paljax.config.data import ColumnSplits, FileData, RandomSplits
from paljax.config.reading import load, parse, read_yaml
from paljax.config.reward import Config, EMLearner, EpisodesLearner
from paljax.config.sections import OptimizerSection, ParallelSection, ProcessesSection

__all__ = [
    "ColumnSplits",
    "Config",
    "EMLearner",
    "EpisodesLearner",
    "FileData",
    "OptimizerSection",
    "ParallelSection",
    "ProcessesSection",
    "RandomSplits",
    "load",
    "parse",
    "read_yaml",
]
