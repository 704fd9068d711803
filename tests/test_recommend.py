"""Search by blocks and in half precision against a full sort, on odd sizes, ties, masks and lists to leave out; the server against `score`."""
import copy
import numpy as np
import pytest
from llmrec.search import ExactIndex


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


def everyone():
    "All experts, with and without the source, as `default_experts` and the books of rivals have them."
    from llmrec.baselines import ALS, Content, ItemKNN, Popularity, RepeatConsumption, UserKNN
    from llmrec.closed_form import (
        EASE, BilinearContent, KernelTransfer, Markov, TextPopularity, NextItemRidge)
    from llmrec.sequence import SmoothedSASRec, SASRec, TextSASRec
    from llmrec.two_tower import TwoTower
    kernel, small = KernelTransfer(rank=8), dict(dim=8, layers=1, epochs=1)
    closed = [kernel, TextPopularity(kernel), BilinearContent(dim=12), EASE(50., 5.), Markov(),
              EASE(50., use_source_history=False), NextItemRidge(kernel, 4.),
              NextItemRidge(kernel, 4., use_source_history=False)]
    simple = [Popularity(), Popularity(.1), ItemKNN(10), ALS(8, epochs=3), RepeatConsumption(), Content(),
              Content(np.inf, 0., use_source_history=False), UserKNN(10)]
    return closed + simple + [SASRec(**small), SmoothedSASRec(**small), TextSASRec(pretrain=1, **small),
                              TwoTower(dim=8, hidden=8, epochs=1)]


def small_world(n_items, experts=None, **kw):
    "A recommender whose experts all have a weight."
    from llmrec.data import make_synthetic_pair
    from llmrec.recommender import Recommender
    pair = make_synthetic_pair(3, n_users=(50, 60), n_items=(n_items, 40), n_rows=(20, 8), shared=.4)
    rec = Recommender('tfidf', experts=experts, **kw).fit(pair.target, pair.source)
    rec.fusion.gate.bias.data.clamp_(min=-1.)
    return rec


def test_server_says_what_every_expert_says():
    from llmrec.dataset import histories, seen_items
    from llmrec.fusion import standardize_scores
    from llmrec.serve import RequestScorer, moments_of_new, standardize_with
    rec = small_world(60, lambda *a: everyone(), repeats=True, strategy='supervised')
    assert len(rec.fusion.experts) == len(everyone()), rec.plan
    server, n = RequestScorer(rec.fusion, rank=4, pool=10), rec.data.n_target
    for u in [*rec.data.users[:25], 'nobody']:
        h = histories(rec.data, [u])
        own = np.unique(h.item[h.item < n])
        terms = [part.term(h) for part in server.parts]
        for e, term in zip(rec.fusion.experts, terms):
            want = standardize_scores(e.score_histories(h), ~seen_items(h, n))[0]
            mean, deviation = moments_of_new(term, n, own)
            got = standardize_with(term.at(np.arange(n)), mean, deviation) if deviation else want*0
            np.testing.assert_allclose(got, want, atol=2e-4, err_msg=f'{e.name}, {u}')


def test_lists_of_the_server_are_those_of_the_scan():
    from llmrec.dataset import histories, seen_items
    from llmrec.serve import RequestScorer
    rec = small_world(300, budget='fast')
    hist = histories(rec.data, [*rec.data.users[:40], 'nobody'])
    s = rec.fusion.score_histories(hist)
    server = RequestScorer(rec.fusion, pool=40)
    columns, scores = server.best(hist, 10, exclude_seen=False)
    np.testing.assert_allclose(scores, -np.sort(-s, 1)[:, :10], atol=1e-4)        # the ten best, in their order
    np.testing.assert_allclose(scores, np.take_along_axis(s, columns, 1), atol=1e-4)
    changed = copy.copy(rec.fusion)
    changed.experts = list(changed.experts)
    first = changed.experts[0] = copy.copy(changed.experts[0])
    first.Q = 2*first.Q                                                 # an expert that has learned anew
    later = server.renew(changed)
    assert later.parts[0].sketch is not server.parts[0].sketch
    shared = [a.sketch is b.sketch for a, b in zip(server.parts[1:], later.parts[1:])
              if a.sketch is not None and a.sketch is not server.parts[0].sketch]
    assert shared and all(shared)
    want = np.where(seen_items(hist, s.shape[1]), -np.inf, changed.score_histories(hist))
    np.testing.assert_allclose(later.best(hist, 10)[1], -np.sort(-want, 1)[:, :10], atol=1e-4)
    np.testing.assert_allclose(server.best(hist, 10, False)[1], scores, atol=1e-6)   # the old one is as it was


@pytest.mark.parametrize('kind', ['IVFIndex', 'HNSWIndex'])
@pytest.mark.parametrize('seed', range(6))
def test_near_search(seed, kind):
    "What is found is allowed, has its own score and an order; looked into as a whole, it is what the exact search finds."
    pytest.importorskip('faiss')
    import llmrec.search as r
    rng = np.random.default_rng(seed)
    n, d, k = int(rng.integers(2, 900)), int(rng.integers(2, 40)), int(rng.integers(1, 30))
    unit = lambda X: (X/np.linalg.norm(X, axis=1, keepdims=True)).astype('f4')
    V, Q = unit(rng.normal(size=(n, d))), unit(rng.normal(size=(9, d)))
    if seed % 3 == 0 and kind == 'IVFIndex': V[rng.integers(n, size=n//2)] = V[0]                           # twins, which cut a graph apart
    keep = [None, rng.random(n) < .5, np.arange(n) < 3][seed % 3]
    allowed = np.ones(n, bool) if keep is None else keep
    ids, exclude = np.array([f'i{j}' for j in range(n)]), [rng.integers(n, size=rng.integers(0, 9)) for _ in Q] if seed % 2 else None
    ix, twin = (getattr(r, kind)(V, ids, effort=e) for e in (1, 1))
    i, s = ix.search(Q, k, keep, exclude)
    assert (i == twin.search(Q, k, keep, exclude)[0]).all()                                                             # the same twice
    for a, (row, t) in enumerate(zip(i, s)):
        mine = set(np.nonzero(allowed)[0].tolist()) - set([] if exclude is None else exclude[a].tolist())
        m = min(k, len(mine)); c = [int(x[1:]) for x in row[:m]]
        assert np.isfinite(t).sum() == m and all(x is None for x in row[m:]) and len(set(c) & mine) == m
        np.testing.assert_allclose(t[:m], V[c] @ Q[a], atol=1e-6)
        assert (np.diff(t[:m]) <= 0).all()
    ix.effort = max(ix.efforts)
    got, best = (x.search(Q, k, keep, exclude)[1] for x in (ix, ExactIndex(V)))
    assert ((got >= best - 1e-6) | (got == best)).mean() > .98


def test_more_effort_finds_more():
    pytest.importorskip('faiss')
    from llmrec.search import IVFIndex, recall
    rng = np.random.default_rng(0)
    V = rng.normal(size=(4000, 24)).astype('f4'); V /= np.linalg.norm(V, axis=1, keepdims=True)
    truth, ix, got = ExactIndex(V).search(V[:200], 10)[0], IVFIndex(V), []
    for ix.effort in (1, 4, 16, 64): got.append(recall(ix.search(V[:200], 10)[0], truth))
    assert got == sorted(got) and got[0] < .8 and got[-1] > .99
    assert ix.tune(V[200:400], recall_at_least=.9).measured >= .9 and 1 < ix.effort < ix.cells
    with pytest.raises(ValueError): ix.tune(V[:, :3])


@pytest.mark.parametrize('kind', ['IVFIndex', 'HNSWIndex'])
@pytest.mark.parametrize('ids', [None, 'str', 'int', 'objects', 'mixed'])
def test_an_index_comes_back(kind, ids, tmp_path):
    pytest.importorskip('faiss')
    import llmrec.search as r
    V = np.random.default_rng(0).normal(size=(300, 8)).astype('f4')
    ids = dict(str=[f'i{j}' for j in range(300)], int=np.arange(300)*7, objects=np.array([f'i{j}' for j in range(300)], object), mixed=[0, 'a']*150).get(ids)
    ix = getattr(r, kind)(V, ids, effort=np.int64(3))
    if isinstance(ids, list) and ids[1] == 'a':
        with pytest.raises(ValueError, match='several kinds'): ix.save(tmp_path/'x')
        return
    ix.save(tmp_path/'x')
    got, want = r.ANNIndex.load(tmp_path/'x').search(V[:20], 5), ix.search(V[:20], 5)
    assert got[0].tolist() == want[0].tolist() and (got[1] == want[1]).all()
    np.save(tmp_path/'x'/'vectors.npy', V[:200])                        # another catalogue beside it
    if ids is None:
        with pytest.raises(ValueError, match='300 rows for 200'): r.ANNIndex.load(tmp_path/'x')


def test_networks_serve_a_target_without_rows():
    "Clusters of the source play the target: networks that read texts are fitted on each, and a second source stays a domain of its own."
    from llmrec.data import make_synthetic_pair
    from llmrec.dataset import domain_ranges, make_dataset
    from llmrec.features import item_features
    from llmrec.closed_form import KernelTransfer
    from llmrec.sequence import SmoothedSASRec, TextSASRec
    from llmrec.fusion import simulate_cold_target
    from llmrec.recommender import Recommender
    pair = make_synthetic_pair(3, n_users=(60, 50), n_items=(60, 40), n_rows=(20, 8), shared=.4)
    small = dict(dim=8, layers=1, epochs=1)
    make = lambda d, budget, seed: [KernelTransfer(rank=8), SmoothedSASRec(**small), TextSASRec(pretrain=1, **small)]
    rec = Recommender('tfidf', experts=make).fit(pair.target.with_log(pair.target.log.iloc[:0]), pair.source)
    assert [type(e) for e in rec.experts] == [KernelTransfer, SmoothedSASRec, TextSASRec], rec.plan
    assert not any('left out' in x for x in rec.plan) and np.isfinite(rec.score([*pair.source.users[:5], 'nobody'])).all()
    V = np.random.default_rng(0).normal(size=(40 + 60 + 60, 6)).astype(np.float32)
    d = make_dataset(pair.target.log.iloc[:0], pair.target.items, [pair.source, pair.source], V)
    p = simulate_cold_target(d)
    (a, b), *rest = domain_ranges(p)
    assert (a, b) == (0, p.n_target) and rest[-1][1] == p.n_items == 120 and len(rest) == 2 and len(item_features(p)) == p.n_items
    for (lo, hi), ids in zip(domain_ranges(p), p.all_items): assert list(ids) == list(p.table['item'].iloc[lo:hi])


def test_an_empty_log_of_dates_stands_beside_a_log_without_times():
    import pandas as pd
    from llmrec.data import Domain
    from llmrec.dataset import make_dataset
    items = pd.DataFrame(dict(item=[0], title=['green tea']))
    empty = Domain('a', pd.DataFrame(dict(user=[0], item=[0], time=pd.to_datetime(['2020-01-01']))), items)
    empty = empty.with_log(pd.DataFrame(dict(user=[], item=[], time=pd.to_datetime([]))))
    assert empty.log['time'].dtype == np.int64
    assert make_dataset(pd.DataFrame(dict(user=[0], item=[0])), items, empty).hist.item.tolist() == [0]
