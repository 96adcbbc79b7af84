"""The public data sets by name."""

from paljax.data import electricity, synthetic
from paljax.data.source import DirectSource, Source

SOURCES: dict[str, Source | DirectSource] = {
    source.name: source for source in (electricity.SOURCE, synthetic.SOURCE)
}
