"""Curriculum by sequence length: a window cut into independent shorter pieces, so that shapes and tokens a step stay as they are."""

import numpy as np


def cut_into_pieces(positions_BS: np.ndarray, lengths_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Segments and positions of windows that are cut, beside the borders of their documents, every so many tokens.

    A token's position is its distance from the beginning of its segment, so that of the piece caps it; and a segment begins where the
    position is 0.

    Args:
        positions_BS: int64, restarting with each document.
        lengths_B: tokens of a piece of each window; S leaves it whole.

    Returns:
        documents_BS, int32, numbers of the segments inside each window, and positions_BS, int64.
    """
    places_BS = np.arange(positions_BS.shape[1], dtype=positions_BS.dtype)[None, :] % lengths_B[:, None].astype(positions_BS.dtype)
    cut_BS = np.minimum(positions_BS, places_BS)
    return np.cumsum(cut_BS == 0, axis=1, dtype=np.int32) - 1, cut_BS
