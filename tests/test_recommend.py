"""Search by blocks and in half precision against a full sort, on odd sizes, ties, masks and lists to leave out."""
import numpy as np
import pytest
from llmrec.recommend import ExactIndex


def case(seed):
    rng = np.random.default_rng(seed)
    n, d, m, k = rng.integers(1, 9000), rng.integers(1, 70), rng.integers(1, 40), rng.integers(1, 60)
    V = rng.normal(size=(n, d)).astype('f4')*rng.choice([1e-3, 1, 50])
    Q = rng.normal(size=(m, d)).astype('f4')
    if seed % 3 == 0: V, Q = np.round(V), np.round(Q)
    if seed % 4 == 0: V[rng.integers(n, size=n//2)] = V[0]
    keep = None if seed % 2 else rng.random(n) < .4
    exclude = None if seed % 5 else [rng.integers(n, size=rng.integers(0, 9)) for _ in range(m)]
    return V, Q, k, keep, exclude


@pytest.mark.parametrize('half', [False, True])
@pytest.mark.parametrize('seed', range(24))
def test_exact_search(seed, half):
    V, Q, k, keep, exclude = case(seed)
    S = Q.astype(float) @ V.T.astype(float)
    if keep is not None: S[:, ~keep] = -np.inf
    for a, x in enumerate(exclude or []): S[a, x] = -np.inf
    I, T = np.argsort(-S, 1, kind='stable')[:, :k], -np.sort(-S, 1)[:, :k]
    i, s = ExactIndex(V, half=half, memory=1).search(Q, k, keep, exclude)
    i, s, there = i[:, :T.shape[1]], s[:, :T.shape[1]], np.isfinite(T)
    assert (np.isfinite(s) == there).all()
    np.testing.assert_allclose(s[there], T[there], rtol=2e-5, atol=1e-9 + 2e-5*np.abs(V).max()*np.abs(Q).max()*V.shape[1]**.5)
    if seed % 3 == 0: assert (i[there].astype(int) == I[there]).all()     # whole numbers: equal scores stand in the order of rows
