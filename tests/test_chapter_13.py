"""Baselines: parts that add up, chance, the k largest, users who are folded in, and the time of neighbours."""
import time
import numpy as np
import pandas as pd
from fastcore.test import test_close as close, test_eq as equal
from llmrec.baselines import ALS, Content, ItemKNN, Random, topk_sparse
from llmrec.data import Domain, make_synthetic_pair
from llmrec.dataset import binarize, decayed_matrix, histories, make_dataset
from llmrec.features import partial_whiten
from llmrec.preprocess import split_last

toy = make_synthetic_pair(seed=0, shared=.5)
cut = split_last(toy.target)
us = cut.test.user.unique()[:5]


def test_whitened_vectors_have_unit_length_and_equal_variances():
    X = np.random.RandomState(0).randn(500, 4) * [5, 1, 1, 1] + 10
    Z = partial_whiten(X, 1.)
    close(np.linalg.norm(Z, axis=1), np.ones(500), eps=1e-5)
    assert np.abs(np.cov(Z.T) - np.eye(4)/4).max() < .05
    equal(partial_whiten(np.ones((3, 4))).shape[0], 3)

def test_parts_of_a_cosine_add_up():
    log = pd.DataFrame(dict(user=['b', 'a', 'a'], item=[20, 20, 10], time=[1, 5, 5]))
    items = pd.DataFrame(dict(item=[10, 20], title=['ten', 'twenty']))
    src = Domain('src', pd.DataFrame(dict(user=['a'], item=['x'], time=[3])), pd.DataFrame(dict(item=['x'], title=['ex'])))
    c = Content(whitening=0.).fit(log, items, src, np.array([[1, 0], [0, 1], [.9, .1]]))
    close(c.attributions(histories(c.data, ['a']), 0).sum(), c.score(['a'])[0, 0])

def test_chance_depends_on_nobody_else():
    r = Random().fit(cut.train, toy.target.items)
    equal(r.score(us)[2:], r.score(us[2:]))
    assert .2 < r.score(us).mean() < .8

def test_the_k_largest_of_equal_ones_are_the_first():
    equal(topk_sparse(np.array([[3, 1, 2, 2], [0, -1, 5, 0]]), 2).toarray(), [[3, 0, 2, 0], [0, 0, 5, 0]])

def test_neighbours_take_no_longer_than_the_library_by_much():
    from implicit.nearest_neighbours import CosineRecommender
    def seconds(run):
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    ref = CosineRecommender(K=100, num_threads=1)
    rng = np.random.default_rng(0)
    popular = 1/(np.arange(5000) + 10)
    bought = dict(user=rng.integers(5000, size=150_000),
                  item=rng.choice(5000, 150_000, p=popular/popular.sum()))
    shop = pd.DataFrame(bought).drop_duplicates()
    big = make_dataset(shop, pd.DataFrame(dict(item=np.arange(5000), title='')))
    X = binarize(decayed_matrix(big.hist, big.n_items)).astype(np.float64)
    ours = seconds(lambda: ItemKNN().fit_dataset(big))
    theirs = seconds(lambda: ref.fit(X, show_progress=False))
    assert ours < 10*theirs + 1

def test_factors_explain_and_hardly_change_without_one_user():
    a = ALS(4).fit(cut.train, toy.target.items)
    one = histories(a.data, us[:1])
    close(a.attributions(one, 3).sum(), a.score(us[:1])[0, 3], eps=1e-4)
    some = cut.train[cut.train.user != us[0]]
    left = ALS(4).fit(some[some.item.isin(cut.train.item)], toy.target.items)
    assert np.corrcoef(left.score(us[1:]).ravel(), a.score(us[1:]).ravel())[0, 1] > .9

def test_the_fold_in_is_what_the_library_solves():
    a = ALS(4).fit(cut.train, toy.target.items)
    many = histories(a.data, a.data.users)
    by_formula = np.concatenate([a.user_factors(histories(a.data, [u])) for u in a.data.users])
    close(a.user_factors(many), by_formula, eps=1e-4)
