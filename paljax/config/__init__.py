"""The configuration of a run: YAML, typed, every key checked, mistakes told in one line."""

from paljax.config.data import FileData, PairsSection, RandomSplits
from paljax.config.policy import PolicyConfig
from paljax.config.reading import RunConfig, load, parse, read_yaml
from paljax.config.reward import Config, EMLearner, EpisodesLearner
from paljax.config.sections import ExplicitProcesses, OneProcess, OptimizerSection
from paljax.config.stream import StreamConfig

__all__ = [
    "Config",
    "EMLearner",
    "EpisodesLearner",
    "ExplicitProcesses",
    "FileData",
    "OneProcess",
    "OptimizerSection",
    "PairsSection",
    "PolicyConfig",
    "RandomSplits",
    "RunConfig",
    "StreamConfig",
    "load",
    "parse",
    "read_yaml",
]
