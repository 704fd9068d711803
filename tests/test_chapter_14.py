"""Closed forms beside their formulas: capped EASE, prefixes, bilinear maps, searches."""
import numpy as np
import pandas as pd
import pytest
from fastcore.test import test_close as close, test_eq as equal
from llmrec.closed_form import EASE, BilinearContent, hyperparameter_search
from llmrec.core import InputError
from llmrec.data import Domain, make_synthetic_pair
from llmrec.dataset import (
    histories, make_dataset, next_item_ndcg, prefix_examples, select_users, split_last_interaction)
from llmrec.encode import TextEncoder
from llmrec.preprocess import split_last

toy = make_synthetic_pair(seed=0, shared=.5)
cut = split_last(toy.target)


def test_beyond_the_inverse_a_ridge_on_all_others_is_exact():
    toy_log = pd.DataFrame(dict(user=list('aaabbbccdde'), item=[10, 11, 12]*2 + [10, 12, 10, 11, 11]))
    toy_items = pd.DataFrame(dict(item=[10, 11, 12, 13], title=list('pqrs')))
    full = EASE(1.).fit(toy_log, toy_items)
    capped = EASE(1., max_items=2, n_neighbours=0).fit(toy_log, toy_items)
    more = EASE(1., max_items=2).fit(toy_log, toy_items)
    close(more.score(['a'])[0, 2:], full.score(['a'])[0, 2:], eps=1e-5)  # beyond: all others, exact
    equal(more.score(['a'])[0, :2], capped.score(['a'])[0, :2])             # within: the inverse over two
    ha = histories(more.data, ['a'])
    close(more.attributions(ha, 2).sum(), more.score(['a'])[0, 2])
    slow = EASE(1., half_life=3.).fit_dataset(full.data)
    assert slow.B is full.B and not hasattr(full.data.hist, 'memo')

def test_prefixes_are_decayed_histories():
    log = pd.DataFrame(dict(user=['b', 'a', 'a'], item=[20, 20, 10], time=[1, 5, 5]))
    items = pd.DataFrame(dict(item=[10, 20], title=['ten', 'twenty']))
    src = Domain('src', pd.DataFrame(dict(user=['a'], item=['x'], time=[3])),
                 pd.DataFrame(dict(item=['x'], title=['ex'])))
    small = make_dataset(log, items, src)
    X, y = prefix_examples(small, half_life=1.)
    first, second = small.hist[small.users.get_loc('a')][1:]
    equal(y, [first, second])                  # b has one interaction: nothing comes before it
    equal(X.toarray(), [[0, 0, 1], np.eye(3)[first] + [0, 0, .5]])   # x; then x half, and the first

def test_the_bilinear_map_is_its_formula():
    titles = [*toy.target.items.title, *toy.source.items.title]
    V = TextEncoder('tfidf').fit(titles).encode(titles)
    both = sorted(set(toy.target.log.user) & set(toy.source.log.user))
    truth = toy.target.log[toy.target.log.user.isin(both)]
    bi = BilinearContent(lam=1., dim=16).fit(truth, toy.target.items, toy.source, V)
    X, y = prefix_examples(bi.data, 5., among=np.ones(bi.data.n_items, bool))
    x = np.stack([r/np.linalg.norm(r) for r in X @ bi.phi])
    Y = np.stack([bi.phi[j] - bi.phi[y].mean(0) for j in y])
    I = np.eye(bi.phi.shape[1])
    M = np.linalg.inv(x.T @ x + I) @ x.T @ Y
    S = (Y.T @ Y + 10*I)/len(y)
    close(bi.M, M @ np.linalg.inv(S), eps=1e-2*np.abs(bi.M).max())
    h1 = histories(bi.data, both[:1])
    close(bi.attributions(h1, 0).sum(), bi.score(both[:1])[0, 0], eps=1e-4)

def test_a_search_is_no_worse_than_one_of_its_settings():
    d = make_dataset(cut.train, toy.target.items)
    best = hyperparameter_search(EASE, dict(lam=(5., 500., 'log'), half_life=[5., np.inf]), d, trials=8)
    rest, u, y = split_last_interaction(d)
    untuned = EASE(500.).fit_dataset(rest)
    floor = next_item_ndcg(untuned.score_histories, select_users(rest.hist, u), y, d.n_target)
    assert best.tuning['ndcg@10'].max() >= floor
    with pytest.raises(InputError, match='nothing to validate on'):
        hyperparameter_search(EASE, {}, make_dataset(cut.train.iloc[:1], toy.target.items))
