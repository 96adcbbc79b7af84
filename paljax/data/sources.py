"""The public data sets by name."""

from paljax.data import (
    electricity,
    personas,
    pickapic_embeddings,
    pluriharms,
    polis,
    synthetic,
    tldr_length,
    trl,
    ukpconvarg,
)
from paljax.data.source import DirectSource, Source

SOURCES: dict[str, Source | DirectSource] = {
    source.name: source
    for source in (
        electricity.SOURCE,
        synthetic.SOURCE,
        polis.SOURCE,
        ukpconvarg.SOURCE,
        personas.SOURCE,
        pluriharms.SOURCE,
        tldr_length.SOURCE,
        pickapic_embeddings.SOURCE,
        trl.SOURCE,
    )
}
