"""Every prepared data set as a `tensorflow_datasets` builder that needs no TensorFlow.

After an import of this module the data sets are known to that library by name:

    import tensorflow_datasets as tfds
    import paljax.data.builder_classes

    rows = tfds.data_source("polis/brexit-consensus", split="train")
"""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from paljax.data.source import Kind, Row, Source, Workplace, config_name
from paljax.data.sources import SOURCES


@dataclasses.dataclass(eq=False, kw_only=True)
class OptionsConfig(tfds.core.BuilderConfig):  # type: ignore[misc]
    """Options of a data set under the name that its folder has."""

    options: Any = None


def config_of(source: Source, options: Any) -> OptionsConfig | None:
    """The builder's configuration for these options; None where the data set has none."""
    if not dataclasses.fields(options):
        return None
    return OptionsConfig(name=config_name(source, options), options=options)


def _builder_class(source: Source) -> Any:
    class Builder(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
        name = source.name
        VERSION = tfds.core.Version(source.version)
        RELEASE_NOTES = {source.version: source.about.description}  # noqa: RUF012
        # The library keeps no checksums for us. Looking for some needs importlib_resources, which
        # tensorflow-datasets 4.9.10 forgets to install (tensorflow/datasets issue 11212).
        url_infos = None
        BUILDER_CONFIGS = [  # noqa: RUF012
            OptionsConfig(name=name, options=options) for name, options in source.settings
        ]

        def __init__(self, *, file_format: str = "array_record", **arguments: Any) -> None:
            """Make the builder; ArrayRecord is the format that is read without TensorFlow."""
            super().__init__(file_format=file_format, **arguments)

        @property
        def options(self) -> Any:
            """What the data set was asked for."""
            return source.options() if self.builder_config is None else self.builder_config.options

        def _info(self) -> Any:
            features = source.features(self.options)
            return tfds.core.DatasetInfo(
                builder=self,
                description=source.about.description,
                features=tfds.features.FeaturesDict(
                    {name: _feature(kind) for name, kind in features.items()}
                ),
                homepage=source.about.homepage,
                citation=source.about.citation,
                license=source.about.license,
                disable_shuffling=True,  # rows keep the order of their source
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Row]]]:
            # The folder is that of this preparation until it succeeds.
            place = Workplace(Path(dl_manager.download_dir), Path(self.data_dir))
            return {"train": self._generate_examples(source.rows(self.options, place))}

        def _generate_examples(self, rows: Iterable[Row]) -> Iterator[tuple[int, Row]]:
            yield from enumerate(rows)

    return Builder


def _feature(kind: Kind) -> Any:
    if isinstance(kind, list):
        return tfds.features.Sequence(_feature(kind[0]))
    if isinstance(kind, tuple):
        return tfds.features.Tensor(dtype=kind[0], shape=kind[1])
    return tfds.features.Text() if kind is str else tfds.features.Scalar(kind)


BUILDERS = {
    name: _builder_class(source) for name, source in SOURCES.items() if isinstance(source, Source)
}
