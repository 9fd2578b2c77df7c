"""The rows of a dataset of the Hugging Face hub, or of a folder of such files."""

from __future__ import annotations

import importlib.util
from itertools import count
from typing import Any

from distviz.data.text_files import Rows, columns_to_read, row_of
from distviz.errors import RequestError, first_line


def dataset_rows(name: str, field: str | None = None) -> Rows:
    """Yield the rows of a dataset, read as they are needed.

    Parameters
    ----------
    name
        ``NAME``, ``NAME:SPLIT`` or ``NAME:CONFIG/SPLIT``; the split may be left out where there is
        but one.
    field
        One that the rows need beside the usual ones.

    Raises
    ------
    RequestError
        If the package ``datasets`` is missing, the dataset cannot be read, or has several splits
        of which none is named.
    """
    if importlib.util.find_spec("datasets") is None:
        raise RequestError(
            "--dataset needs the package datasets, which is not installed", "pip install datasets"
        )
    source, _, part = name.partition(":")
    config, _, split = part.rpartition("/")
    try:
        found = _opened(source, config or None, split)
        columns = list(found.features or {})
        rows = iter(found.select_columns(columns_to_read(columns, field)) if columns else found)
        for number in count(1):
            cells = next(rows, None)
            if cells is None:
                return
            yield f"{name}, row {number}", str(number - 1), row_of(cells, columns)
    except RequestError:
        raise
    except Exception as error:  # datasets raises those of files, the network and its formats
        raise RequestError(f"--dataset '{name}' cannot be read: {first_line(error)}") from error


def _opened(source: str, config: str | None, split: str) -> Any:
    import datasets

    if split and "[" in split:  # a part of a split is not read as it is needed
        return datasets.load_dataset(source, config, split=split)
    found = datasets.load_dataset(source, config, split=split or None, streaming=True)
    if split:
        return found
    if len(found) > 1:
        raise RequestError(
            f"--dataset '{source}' has several splits: {', '.join(map(str, found))}",
            f"give one, such as {source}:{next(iter(found))}",
        )
    return next(iter(found.values()))
