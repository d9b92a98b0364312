"""Draws that never change: results already trained on them must stay what their ids say they are."""

from pathlib import Path

import numpy as np
import pytest

from suite.data.digits import Digits
from suite.data.npz import Npz
from suite.data.pairs import draw_pairs
from suite.data.source import Source
from suite.data.sphere import Sphere
from suite.data.views import GaussianNoise, Halves

GOLDEN = [
    (Digits(), 0, 3.1961936642468753, -8.508800522874044),
    (Digits(samples=200, center=False), 3, -5.58882659741623, -2.5089491637702235),
    (Digits(samples=20, views=GaussianNoise(std=0.3)), 1, 4.351962496902413, 2.319970733820347),
    (Sphere(), 0, 7.553237412920707, 8.772665753894223),
    (
        Sphere(samples=10, input_dim=100, views=GaussianNoise(std=0.5), center=True),
        2**40,
        4.861492760234994,
        3.400483775686097,
    ),
    (Npz(path="golden.npz", samples=12), 5, -1.5244552068587263, -3.2765387885155692),
    (Npz(path="golden.npz", samples=12, key=None), 5, -1.5244552068587263, -1.656980047593687),
    (Npz(path="golden.npz", samples=30, key=None, views=Halves()), 5, -1.5886784177876527, -2.5829674051233225),
]


def checksum(view: np.ndarray) -> float:
    """A sum that any changed, moved or swapped number changes."""
    return float(np.cos(np.arange(view.size)) @ view.ravel())


@pytest.mark.parametrize(("source", "seed", "query", "key"), GOLDEN)
def test_a_draw_never_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Source, seed: int, query: float, key: float
):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(7)
    np.savez("golden.npz", query=rng.normal(size=(30, 4, 6)), key=rng.normal(size=(30, 5)))
    draw_pairs.cache_clear()
    pairs = draw_pairs(source, seed)
    assert checksum(pairs.query) == pytest.approx(query, rel=1e-12, abs=1e-12)
    assert checksum(pairs.key) == pytest.approx(key, rel=1e-12, abs=1e-12)
