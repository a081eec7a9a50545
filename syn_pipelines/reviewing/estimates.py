"""What a reviewed sample says about all: precision by label with a 95 % interval."""

from __future__ import annotations

import math

_Z = 1.959963984540054  # 97.5 % point of the normal distribution


def wilson(right: int, total: int) -> tuple[float, float]:
    """95 % Wilson interval of a share, as fractions; (0, 1) when nothing was counted.

    >>> [round(edge, 3) for edge in wilson(9, 10)]
    [0.596, 0.982]
    """
    if not total:
        return 0.0, 1.0
    share, spread = right / total, _Z * _Z / total
    middle = share + spread / 2
    reach = _Z * math.sqrt((share * (1 - share) + spread / 4) / total)
    low, high = ((middle + side * reach) / (1 + spread) for side in (-1, 1))
    return max(0.0, min(low, share)), min(1.0, max(high, share))  # rounding must not push an edge past the share
