"""Histories of another index are refused: scipy would read outside of its arrays."""
import numpy as np
import pytest
from llmrec.baselines import ItemKNN, Popularity
from llmrec.core import InputError
from llmrec.data import make_synthetic_pair
from llmrec.dataset import Histories, decayed_matrix, make_dataset, without_sources


def test_items_beyond_the_index():
    hist = Histories(np.array([0, 2]), np.array([0, 7]), np.ones(2, np.float32))
    with pytest.raises(InputError, match='item numbers 0 to 7, the index has 5 items'): decayed_matrix(hist, 5)
    assert decayed_matrix(hist, 8).shape == (1, 8) and decayed_matrix(hist, 5, cols=np.array([0, 1])).shape == (1, 2)
    assert decayed_matrix(Histories(np.array([0, 0]), np.array([], int), np.ones(0, np.float32)), 5).nnz == 0

def test_histories_with_a_source_at_a_model_without():
    "The fault that was found: Python ended without a word."
    pair = make_synthetic_pair(0, n_users=(60, 50), n_items=(40, 30), n_rows=(15, 8), shared=.5)
    data = make_dataset(pair.target.log, pair.target.items, pair.source)
    expert = ItemKNN(half_life=5.).fit_dataset(without_sources(data))
    with pytest.raises(InputError, match=r'the index that the expert learned from'): expert.score_histories(data.hist)
    assert expert.score_histories(expert.data.hist).shape == (len(expert.data.users), data.n_target)
    assert Popularity().fit_dataset(data).score_histories(data.hist).shape == (len(data.users), data.n_target)
