"""Sums that no order of addition changes: values are cut into whole numbers, which int64 adds up without rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from toolkit.backend.cuda.device import Device

_MOST_PIECES = 6  # beyond so many bits below the largest value nothing is left of a sum in float64
_SIGN_BITS = 2  # of int64, that sums of pieces never reach
_MOST_BITS = 52  # of a piece: float64 holds it exactly


class ExactSums:
    """How values are cut.

    Parameters
    ----------
    device : Device
    largest : float
        No value is larger, by its absolute.
    n : int
        Values in a sum at most.
    n_pieces : int
        Of each value; what is left of it after so many, 2**-160 of the largest for 4, is not in the sum.
    """

    def __init__(self, device: Device, largest: float, n: int, n_pieces: int = 4) -> None:
        self.device, self.n_pieces = device, n_pieces
        self.exponent = max(int(np.frexp(largest)[1]), -1000)
        self.bits = min(_MOST_BITS, 63 - _SIGN_BITS - n.bit_length())

    @classmethod
    def of(cls, device: Device, parts: Sequence[Any], n: int) -> ExactSums:
        """Cut these tensors, of which no sum has more than n values, into as many pieces as they have bits for."""
        sums = cls(device, max((float(part.abs().max()) for part in parts if part.numel()), default=0.0), n)
        sums.n_pieces = max((sums._pieces_of(part) for part in parts), default=1)
        return sums

    def _pieces_of(self, values: Any) -> int:
        n_pieces = 0
        while n_pieces < _MOST_PIECES and (n_pieces == 0 or bool((values != 0).any())):
            values = self.cut(values, n_pieces)[1]
            n_pieces += 1
        return n_pieces

    def cut(self, values: Any, piece: int) -> tuple[Any, Any]:
        """Return a piece of values, int64, and what is left of them, float64; pieces are cut in ascending order."""
        if piece == 0:
            values = values.double() * 2.0**-self.exponent
        scaled = values * 2.0**self.bits
        whole = scaled.trunc()
        return whole.long(), scaled - whole

    def add(self, sums: Any, values: Any, moves: Sequence[tuple[Any, int]]) -> None:
        """Add values, (n, ...), to the sums, (n_pieces, n_sums, ...) int64.

        A move is the places, (n,) int64, and 1, or -1 to take the values away from there.
        """
        for piece in range(self.n_pieces):
            whole, values = self.cut(values, piece)
            for places, sign in moves:
                sums[piece].index_add_(0, places, whole, alpha=sign)

    def join(self, sums: Any) -> tuple[Any, Any]:
        """Return sums of pieces, (n_pieces, ...) int64, as pairs of float64 numbers whose sums they are."""
        torch = self.device.torch
        high = torch.zeros(sums.shape[1:], dtype=torch.float64, device=sums.device)
        rest = torch.zeros_like(high)
        unit = 1.0
        for piece in sums:
            unit *= 2.0**-self.bits
            upper = piece >> 31
            for part in ((upper.double() * 2.0**31) * unit, (piece - (upper << 31)).double() * unit):
                total = high + part  # Knuth's TwoSum
                back = total - high
                rest += (high - (total - back)) + (part - back)
                high = total
        return high * 2.0**self.exponent, rest * 2.0**self.exponent
