"""Fast ways give what the plain ones give."""
import numpy as np, pandas as pd, pytest
from llmrec.core import hash_ids, id_kind, package_versions
from llmrec.metrics import bootstrap_means


@pytest.mark.parametrize('ids', [np.arange(9), np.array([-5, 3, 3, -2**63, 2**63 - 1]), np.array([200, 3], np.uint8), np.array([2**64 - 1, 5], np.uint64),
                                 np.array([], np.int64), pd.Series([3, 4, 4]), pd.Index([7]), pd.Series([1, None, 3], dtype='Int64')], ids=str)
def test_whole_numbers_are_hashed_as_objects_are(ids):
    objects = np.asarray(ids, dtype=object)
    for seed in (0, 3): np.testing.assert_array_equal(hash_ids(ids, seed), hash_ids(list(objects), seed))
    assert id_kind(ids) == id_kind(objects) == ('numbers' if len(ids) and not pd.isna(objects).any() else id_kind(objects))

def test_versions_are_a_table_of_its_own_each_time():
    package_versions()['numpy'] = 'changed'
    assert package_versions()['numpy'] == np.__version__

@pytest.mark.parametrize('n', [60, 1001])
def test_resamples_in_blocks_are_those_drawn_one_by_one(n):
    "Users are drawn one resample after the other, from one stream."
    values = np.random.default_rng(1).normal(size=(n, 2))
    rng, plain = np.random.default_rng(5), []
    for _ in range(300): plain.append(values[rng.integers(n, size=n)].mean(0))
    np.testing.assert_allclose(bootstrap_means(values, 300, 5), plain, atol=1e-6)
