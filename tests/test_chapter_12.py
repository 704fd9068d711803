"""Experts from files: a class that this process does not know, a child that is not in the list."""
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from fastcore.test import test_eq as equal
from llmrec.core import InputError
from llmrec.dataset import Dataset, Histories, binarize, decayed_matrix
from llmrec.expert import Expert, pack_experts, unpack_experts, weighted_rows


class Together(Expert):
    "How many users have both items, summed over the history."
    saved = ('C',)
    phrase = 'often beside your items'
    def __init__(self, damping:float=1.): self.damping = damping
    def _fit(self, data:Dataset) -> None:
        X = binarize(decayed_matrix(data.hist, data.n_items))
        self.C = (X.T @ X[:, :data.n_target]).tocsr()*np.float32(1/(1 + self.damping))
    def score_histories(self, hist:Histories) -> np.ndarray:
        return (decayed_matrix(hist, self.data.n_items) @ self.C).toarray()

class Doubled(Expert):
    "Twice what another expert says."
    def __init__(self, base:Expert): self.base = base
    def _fit(self, data:Dataset) -> None: self.fit_children(data)
    def score_histories(self, hist:Histories) -> np.ndarray:
        return 2*self.base.score_histories(hist)

@pytest.fixture
def pair():
    log = pd.DataFrame(dict(user=list('aabbc'), item=[1, 2, 2, 3, 2]))
    together = Together().fit(log, pd.DataFrame(dict(item=[1, 2, 3], title=list('pqr'))))
    return [together, Doubled(together).fit_dataset(together.data)]

def test_a_child_comes_back_without_being_in_the_list(pair):
    [outside] = unpack_experts(*pack_experts(pair[1:]), pair[0].data)
    equal(outside.score(['a']), pair[1].score(['a']))

def test_an_unknown_class_is_named(pair):
    meta, arrays = pack_experts(pair)
    strange = [dict(meta[0], type='Oracle', module='mine')]
    with pytest.raises(InputError, match="expert 'Oracle' that is not known here: import the module"):
        unpack_experts(strange, arrays, pair[0].data)


@pytest.mark.parametrize('n,density', [(50, .3), (5000, .0005)], ids=['many columns', 'few columns'])
def test_a_weighted_sum_of_sparse_rows(n, density):
    M = sp.random(400, n, density, 'csr', np.float32, random_state=0)
    rows, weights = np.array([3, 7, 7, 100]), np.array([1, .5, 2, 3], np.float32)
    columns, values = weighted_rows(M, rows, weights)
    assert values.dtype == np.float32 and (len(values) == n) == (n == 50)
    full = np.zeros(n)
    if len(values) == n:
        full[:] = values
        assert set(columns) == set(np.nonzero(full)[0])
    else:
        full[columns] = values
        assert (np.diff(columns) > 0).all()
    np.testing.assert_allclose(full, weights @ M[rows].toarray(), atol=1e-6)
    assert [len(x) for x in weighted_rows(M, rows[:0], weights[:0])] == [0, 0]
