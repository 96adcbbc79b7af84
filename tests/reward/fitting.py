"""What all fits of a run share, for tests that fit without a run."""

from paljax import runs
from paljax.data.prepare import prepare
from paljax.reward.fits import Fitting


def fitting_of(config, run_dir):
    """The data of a configuration without prompts, and nobody told or stopped."""
    return Fitting(
        config=config,
        prepared=prepare(config, uses_prompts=False),
        run_dir=run_dir,
        say=lambda line: None,
        progress_bar=False,
        paces=[],
        log=runs.NoLog(),
        learners={},
        stop=lambda: False,
    )
