"""The counter-based random numbers of ARM: a hash of integer keys, the same on every device.

``u(seed, layer, pass, slot, document, token, channel)`` is a float32 in [0, 1), a multiple of
2^-24. It is computed in two stages.

*Row key* (64 bits, once a token). With ``mix`` the finaliser of SplitMix64
(Steele, Lea & Flood 2014), all modulo 2^64::

    x ^= x >> 30; x *= 0xBF58476D1CE4E5B9
    x ^= x >> 27; x *= 0x94D049BB133111EB
    x ^= x >> 31

start with h = 0x9E3779B97F4A7C15 and, for each of seed, layer, pass, slot, document, token in that
order, h = mix((h + 0x9E3779B97F4A7C15) ^ key), the key taken modulo 2^64. Then first = h modulo
2^32, second = h >> 32.

*Channel* (32 bits, modulo 2^32; shifts and multipliers after C. Wellons' and TheIronBorn's search
for low-bias integer hashes)::

    w = channel * 0x9E3779B9 + first
    w = (w ^ w >> 16) * 0x21F0AAAD
    w = (w ^ w >> 15) + second
    w = w * 0xD35A2D97
    w = (w ^ w >> 15) * 0x735A2D97
    w = w ^ w >> 15
    u = (w >> 8) * 2^-24

Within a run, document is the number of the document and token is (window << 32) + position in the
window; outside a run they are the row of the batch and the index among the row's unpadded tokens.

Both keys of a row enter at different depths, so rows whose ``first`` is close do not share values.
Pinned values stand in tests/golden; the function never changes within a schema version.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distviz.errors import RequestError


def uniforms(keys: NDArray[np.uint32], channels: int) -> NDArray[np.float32]:
    """Return u for every row and channel, float32 (rows, channels); the plain NumPy form.

    ``keys`` are uint32 (rows, 2).

    Raises
    ------
    RequestError
        If they are others.
    """
    if getattr(keys, "dtype", None) != np.uint32 or keys.ndim != 2 or keys.shape[1] != 2:
        raise RequestError("keys must be uint32 (rows, 2)", "see distviz.stats.kernels.row_keys")
    word = np.arange(channels, dtype=np.uint32) * np.uint32(0x9E3779B9) + keys[:, :1]
    word = (word ^ (word >> np.uint32(16))) * np.uint32(0x21F0AAAD)
    word = (word ^ (word >> np.uint32(15))) + keys[:, 1:]
    word = word * np.uint32(0xD35A2D97)
    word = (word ^ (word >> np.uint32(15))) * np.uint32(0x735A2D97)
    word = word ^ (word >> np.uint32(15))
    return np.asarray((word >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24))
