"""Where images come from: any folder, a list of files, the data sets that papers name, or a Python program.

:class:`Source` is the seam: whatever has its members can be trained on. :func:`open_source` opens what a person names.
"""

from co2ssl.data.decoding import BadImage
from co2ssl.data.sources.arrays import ArraySource, Subset
from co2ssl.data.sources.datasets import DatasetSource
from co2ssl.data.sources.files import FileSource
from co2ssl.data.sources.folder import FolderSource
from co2ssl.data.sources.opening import full_spec, open_source
from co2ssl.data.sources.protocol import DataError, Source

__all__ = [
    "ArraySource",
    "BadImage",
    "DataError",
    "DatasetSource",
    "FileSource",
    "FolderSource",
    "Source",
    "Subset",
    "full_spec",
    "open_source",
]
