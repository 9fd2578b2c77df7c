"""Write a row for each token of each place while a model is measured."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distviz.errors import MeasurementError
from distviz.hooks.extremes import CountedRows
from distviz.results import ROW, RowFile
from distviz.sites import SiteKey

if TYPE_CHECKING:
    import torch

    from distviz.hooks.tokens import Tokens

_AT_A_TIME = 1 << 18


class TemporaryFolder:
    """A folder that is removed with this object."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="distviz-tokens-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass
class TokenWriter:
    """Appends the rows of counted tokens to one file for each place; two writers add.

    Parameters
    ----------
    folder
        Of the files; None: a temporary one, which is removed with the writer.
    name
        How the names of the files begin.

    Attributes
    ----------
    files
        All files of each place, those of resumed and of added measurements included.
    """

    folder: Path | None = None
    name: str = "rank-0"
    files: dict[SiteKey, list[RowFile]] = field(default_factory=dict)
    temporary: list[TemporaryFolder] = field(default_factory=list)
    _own: dict[SiteKey, RowFile] = field(default_factory=dict)

    def add(self, key: SiteKey, values: torch.Tensor, tokens: Tokens) -> None:
        """Append the rows of (rows, channels); several rows of a token, of experts, are one.

        Raises
        ------
        MeasurementError
            If they cannot be written.
        """
        if not tokens.counted_rows.rows.size:
            return
        rows = token_rows(values, tokens.counted_rows)
        try:
            before = self._own.get(key) or RowFile(self._new_file())
            self._own[key] = before.append(rows)
        except OSError as error:
            raise MeasurementError(
                f"the rows of --tokens cannot be written: {error.strerror}",
                "free space there, or leave --tokens out",
            ) from error

    def all_files(self) -> dict[SiteKey, list[RowFile]]:
        """Return the files of each place."""
        found = {key: list(files) for key, files in self.files.items()}
        for key, file in self._own.items():
            found.setdefault(key, []).append(file)
        return found

    def check(self) -> None:
        """Raise ValueError, naming the file, if one is missing or damaged."""
        for file in chain.from_iterable(self.all_files().values()):
            file.check()

    def _new_file(self) -> str:
        if self.folder is None:
            self.temporary.append(TemporaryFolder())
            self.folder = self.temporary[-1].path
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, path = tempfile.mkstemp(".rows", f"{self.name}-", self.folder)
        os.close(handle)
        return path

    def __add__(self, other: TokenWriter) -> TokenWriter:
        files = self.files.copy()
        for key, more in other.all_files().items():
            files[key] = [*files.get(key, []), *more]
        both = [*self.temporary, *other.temporary]
        return TokenWriter(self.folder, self.name, files, both, self._own)

    def state(self) -> list[Any]:
        """Return the names of the files as a tree for `distviz.stats.encode`."""
        return [
            [list(key), [[file.path, file.rows, file.checksum] for file in files]]
            for key, files in self.all_files().items()
        ]

    @classmethod
    def from_state(cls, state: list[Any]) -> TokenWriter:
        """Return a writer with the files of a `state`."""
        files = {SiteKey(*key): [RowFile(*one) for one in given] for key, given in state}
        return cls(files=files)


def token_rows(values: torch.Tensor, counted: CountedRows) -> NDArray[Any]:
    """Return a row of type `ROW` for each token: over its finite values.

    The largest magnitude (NaN without finite values), the first channel that has it, and the root
    of the sum of squares.
    """
    n_rows, channels = counted.rows.size, np.arange(values.shape[1])
    absmax, channel, squares = np.empty(n_rows), np.empty(n_rows, np.int64), np.empty(n_rows)
    step = max(_AT_A_TIME // max(channels.size, 1), 1)
    for start in range(0, n_rows, step):
        part = slice(start, start + step)
        sizes = np.abs(_values_at(values, counted.rows[part], channels).astype(np.float64))
        is_finite = np.isfinite(sizes)
        sizes = np.where(is_finite, sizes, -1.0)
        channel[part] = sizes.argmax(axis=1)
        absmax[part] = sizes.max(axis=1)
        sizes = np.maximum(sizes, 0.0)
        squares[part] = np.einsum("ij,ij->i", sizes, sizes)
    document, index, _, token = counted.places
    is_first = np.append(True, (np.diff(document) != 0) | (np.diff(index) != 0))
    starts = np.flatnonzero(is_first)
    # Of the rows of one token, the largest, and of equals that of the lowest channel.
    owner = np.cumsum(is_first) - 1
    best = np.lexsort((channel, -absmax, owner))[starts]
    found = np.empty(starts.size, ROW)
    found["document"], found["index"] = document[starts], index[starts]
    found["token"] = token[starts]
    has_one = absmax[best] >= 0
    found["channel"] = np.where(has_one, channel[best], -1)
    found["absmax"] = np.where(has_one, absmax[best], np.nan)
    found["l2"] = np.where(has_one, np.sqrt(np.add.reduceat(squares, starts)), np.nan)
    return found


def _values_at(
    values: torch.Tensor, rows: NDArray[np.int64], channels: NDArray[np.int64]
) -> NDArray[np.floating[Any]]:
    """Return some rows and channels; float32 represents the 16-bit types exactly."""
    import torch

    places = (torch.from_numpy(one).to(values.device) for one in (rows[:, None], channels))
    picked = values.detach()[tuple(places)].cpu()
    return np.asarray((picked.float() if picked.element_size() < 4 else picked).numpy())
