"""Experts under one protocol: every stock baseline and closed-form expert passes `check_expert`, comes back from a file
(E2), has a key of its own (E12), shares no memo through the data, follows and forgets exactly, and agrees with the
libraries and formulas it stands for."""
import copy
import gc
import json
import pickle
import sys
import weakref

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.base import clone

from llmrec.baselines import (
    LastItems,
    ALS, BPR, Content, ItemKNN, Popularity, Random, RepeatConsumption, UserKNN, topk_sparse)
from llmrec.closed_form import (
    EASE, SLIM, BilinearContent, Blend, KernelTransfer, Markov, NextItemRidge, TextPopularity, Tfidf,
    hyperparameter_search)
from llmrec.data import make_synthetic_pair
from llmrec.dataset import (
    Histories, binarize, decayed_matrix, drop_users, insert_items, make_dataset, select_users,
    split_last_interaction)
from llmrec.expert import (
    Expert, check_expert, clone_experts, copy_experts, expert_key, expert_names, pack_experts, unpack_experts)
from llmrec.incremental import IncrementalEASE

kernel = KernelTransfer(lam=50.)
STOCK = [
    Popularity(), Popularity(.1), Content(), Content(np.inf, 0.), Content(use_source_history=False),
    RepeatConsumption(), Random(3), ItemKNN(), ItemKNN(5, half_life=2.),
    ItemKNN(use_source_history=False), LastItems(), LastItems(3, 2., False), Tfidf(use_source_history=False), UserKNN(), UserKNN(7), ALS(8),
    BPR(8, epochs=10), EASE(50.), EASE(50., 5.), EASE(50., use_source_history=False),
    EASE(50., max_items=30, n_neighbours=10), EASE(50., max_items=30, n_neighbours=0), kernel,
    TextPopularity(kernel), NextItemRidge(kernel), NextItemRidge(kernel, use_source_history=False), NextItemRidge(),
    NextItemRidge(kernel, max_items=20), BilinearContent(dim=16), SLIM(), SLIM(max_items=30), Markov(),
    Markov(8., 50.), Tfidf(), Blend(EASE(50.)), Blend(ItemKNN(), Tfidf(), weights=(.1, .5))]


@pytest.fixture(scope='module')
def data():
    "Two domains with shared users; vectors from the words of the titles."
    pair = make_synthetic_pair(0, n_users=(90, 70), n_items=(60, 40), n_rows=(15, 9), shared=.5)
    vectors = np.random.default_rng(0).normal(size=(100, 12)).astype(np.float32)
    return make_dataset(pair.target.log, pair.target.items, pair.source, vectors)


@pytest.fixture(scope='module')
def earlier(data):
    "The index without last interactions and last users, and who differs."
    rest, users, _ = split_last_interaction(data)
    last = np.arange(len(data.users)) >= len(data.users) - 4
    return drop_users(rest, last), np.union1d(users, np.nonzero(last)[0])


def close(a, b, tol=1e-4):
    np.testing.assert_allclose(a, b, atol=tol*max(np.abs(b).max(), 1e-6))


@pytest.mark.parametrize('expert', STOCK, ids=repr)
def test_stock_experts_keep_the_protocol(expert): check_expert(expert)


@pytest.mark.parametrize('expert', STOCK, ids=repr)
def test_stock_experts_without_sources(expert, data):
    "One domain, as most people have it."
    pair = make_synthetic_pair(1, n_users=(30, 60), n_items=(20, 30), n_rows=(8, 8))
    vectors = np.random.default_rng(1).normal(size=(30, 6)).astype(np.float32)
    check_expert(expert, make_dataset(pair.target.log, pair.target.items, vectors=vectors))


@pytest.mark.parametrize('expert', STOCK, ids=repr)
def test_stock_experts_with_an_empty_target(expert, data):
    "No target interaction at all: finite scores, or a clear error, and a file that comes back."
    source = data.hist.item >= data.n_target
    from llmrec.dataset import mask_interactions
    from dataclasses import replace
    cold = replace(data, hist=mask_interactions(data.hist, source), time=data.time[source])
    [expert] = clone_experts([expert])
    scores = expert.fit_dataset(cold).score_histories(cold.hist)
    assert scores.shape == (len(cold.users), cold.n_target) and np.isfinite(scores).all()
    [back] = unpack_experts(*pack_experts([expert]), cold)
    close(back.score_histories(cold.hist), scores)


def test_the_checker_catches(data):
    "Each broken rule is named."
    class Base(Expert):
        saved = ('S',)
        def __init__(self, k=1.): self.k = k
        def _fit(self, data): self.S = np.ones(data.n_target, np.float32)
        def score_histories(self, hist):
            return (decayed_matrix(hist, self.data.n_items)[:, :self.data.n_target].toarray()*self.S).astype('f4')
    check_expert(Base(), data)

    class Float64(Base):
        def score_histories(self, hist): return super().score_histories(hist).astype(float)
    class Mutates(Base):
        def score_histories(self, hist):
            hist.weight *= .5
            return super().score_histories(hist)
    class Memo(Base):
        def _fit(self, data):
            vars(data.hist)['memo'] = 1
            super()._fit(data)
    class Attributes(Base):
        def attributions(self, hist, item): return np.ones(len(hist.item))
    class Constant(Base):
        def constant_scores(self): return self.S
    class Sparse(Base):
        def sparse_scorer(self): return lambda hist: (np.arange(2), np.ones(2, 'f4'))
    class Matrix(Base):
        def item_matrix(self): return np.eye(self.data.n_target, dtype='f4')
        def query(self, hist): return np.arange(self.data.n_target, dtype='f4'), None
    class Remembers(Base):
        def forget(self, data, gone):
            self.data = data
            self.S = self.S*2
            return 'exact: nothing done'
    class Silent(Base):
        def forget(self, data, gone): self.fit_dataset(data)
    class Changed(Base):
        def __init__(self, k=1.): self.k = k + 1
    class Unsaved(Base):
        saved = ()
    rules = {Float64: 'float32', Mutates: 'leaves histories', Memo: 'fit leaves the index', Attributes: 'add up',
             Constant: 'constant_scores', Sparse: 'sparse_scorer', Matrix: 'item_matrix', Remembers: 'forgotten user',
             Silent: 'says what it did', Changed: 'same parameters', Unsaved: 'saved'}
    for cls, rule in rules.items():
        fresh = replace_histories(data)
        with pytest.raises((AssertionError, RuntimeError), match=rule if cls is not Changed else '.'):
            check_expert(cls(), fresh)


def replace_histories(data):
    "The same index, with histories that nobody else holds."
    from dataclasses import replace
    hist = data.hist
    return replace(data, hist=Histories(hist.ptr.copy(), hist.item.copy(), hist.weight.copy()))


# ---- E2, E12: files, keys, names, copies

def through_files(experts, data, folder):
    "Written as JSON and arrays, read again."
    meta, arrays = pack_experts(experts)
    (folder/'meta.json').write_text(json.dumps(meta, allow_nan=False))
    np.savez(folder/'arrays.npz', **arrays)
    with np.load(folder/'arrays.npz') as arrays:
        return unpack_experts(json.loads((folder/'meta.json').read_text()), dict(arrays), data)


def test_experts_survive_files_with_their_ties(data, tmp_path):
    "E2: UserKNN, Tfidf, Blend; children inside and outside the list; parameters that are not defaults."
    inside = KernelTransfer(lam=20.)
    outside = KernelTransfer(lam=30.)
    experts = [inside, TextPopularity(inside), NextItemRidge(outside, half_life=np.inf), UserKNN(9), Tfidf(3.),
               Blend(EASE(20., half_life=np.inf), UserKNN(5), weights=(.1, .2)), Blend()]
    for expert in experts: expert.fit_dataset(data)
    back = through_files(experts, data, tmp_path)
    assert [type(e) for e in back] == [type(e) for e in experts]
    assert back[1].kernel is back[0] and back[2].kernel is not back[0]
    assert back[5].pair[0] is back[5].first
    for old, new in zip(experts, back):
        close(new.score_histories(data.hist), old.score_histories(data.hist), 1e-6)
        assert expert_key(old) == expert_key(new) and old.get_params(False).keys() == new.get_params(False).keys()
    assert back[2].half_life == np.inf and back[5].weights == (.1, .2) and back[6].first is None


def test_arrays_that_are_shared_are_written_once(data, tmp_path):
    pair = [EASE(50.).fit_dataset(data), EASE(50., 5.).fit_dataset(data)]
    meta, arrays = pack_experts(pair)
    assert sum(array is pair[0].B for array in arrays.values()) == 1
    a, b = through_files(pair, data, tmp_path)
    assert a.B is b.B


def test_what_cannot_be_saved_is_named(data):
    class Odd(Expert):
        saved = ('x',)
        def _fit(self, data): self.x = object()
    with pytest.raises(ValueError, match=r'expert0\.x is a object'): pack_experts([Odd().fit_dataset(data)])


def test_a_class_that_was_defined_twice_comes_back_as_the_newest(data):
    "As when a cell of a notebook runs again: the class has the same name and the same module."
    def define():
        class Again(Popularity): pass
        return Again
    kept = [define() for _ in range(3)]
    meta, arrays = pack_experts([kept[-1]().fit_dataset(data)])
    assert type(unpack_experts(meta, arrays, data)[0]) is kept[-1]


def test_keys_tell_experts_apart():
    "E12: parameters that are experts count, too."
    blends = [Blend(EASE(50.)), Blend(EASE(60.)), Blend(), Blend(weights=(0., .5)), Blend(EASE(50.), Tfidf(3.))]
    assert len({expert_key(b) for b in blends}) == len(blends)
    assert expert_key(Blend(EASE(50.))) == expert_key(Blend(EASE(50.)))
    assert expert_names([EASE(), EASE(2.), EASE(use_source_history=False), EASE(3.)]) == [
        'EASE', 'EASE 2', 'EASE of the target', 'EASE 3']


def test_copies_and_clones_keep_ties(data):
    kernel = KernelTransfer()
    experts = [kernel, TextPopularity(kernel), NextItemRidge(kernel), Blend(EASE(50.), Tfidf())]
    for expert in experts: expert.fit_dataset(data)
    new = copy_experts(experts)
    assert new[1].kernel is new[0] is new[2].kernel is not kernel and new[0].P is kernel.P
    assert new[3].pair[0] is new[3].first is not experts[3].first
    fresh = clone_experts(experts)
    assert fresh[1].kernel is fresh[0] and not hasattr(fresh[0], 'P') and not hasattr(fresh[3], 'pair')
    alone = clone(experts[3])
    assert expert_key(alone) == expert_key(experts[3]) and alone.first is not experts[3].first


def test_a_parent_fits_its_children(data):
    parent = NextItemRidge(KernelTransfer(lam=50.)).fit_dataset(data)
    child = KernelTransfer(lam=50.).fit_dataset(data)
    close(parent.score_histories(data.hist), NextItemRidge(child).fit_dataset(data).score_histories(data.hist), 1e-6)


@pytest.mark.parametrize('expert', [EASE(50.), ALS(8), Blend()], ids=repr)
def test_fitted_experts_can_be_copied_deeply_and_pickled(expert, data):
    [expert] = clone_experts([expert])
    scores = expert.fit_dataset(data).score_histories(data.hist)
    for new in (copy.deepcopy(expert), pickle.loads(pickle.dumps(expert))): close(new.score_histories(data.hist), scores)


# ---- EASE: shared without a memo, followed, forgotten

def test_ease_shares_its_weights_and_leaves_nothing_behind(data):
    data = replace_histories(data)
    before = set(vars(data.hist))
    a, b, other = EASE(70.).fit_dataset(data), EASE(70., 3.).fit_dataset(data), EASE(71.).fit_dataset(data)
    assert a.B is b.B is not other.B and set(vars(data.hist)) == before
    held = weakref.ref(a.B)
    del a
    gc.collect()
    assert held() is b.B
    del b
    gc.collect()
    assert held() is None


@pytest.mark.parametrize('both', [True, False])
def test_ease_follows_and_forgets(both, data, earlier):
    early, users = earlier
    pair = [EASE(50., h, both).fit_dataset(early) for h in (np.inf, 5.)]
    [reader, _] = copy_experts(pair)
    was = reader.score_histories(early.hist)
    shared = {}
    for expert in pair: expert.update(data, users, exact=True, shared=shared)
    close(pair[0].B, EASE(50., use_source_history=both).fit_dataset(data).B)
    assert pair[0].B is pair[1].B and len(shared) == 1
    close(reader.score_histories(early.hist), was, 1e-7)      # a copy of before sees nothing
    reader.update(data, users, exact=True)                    # and can follow itself
    close(reader.B, pair[0].B, 1e-6)
    gone = np.arange(len(data.users)) % 15 == 0
    left = drop_users(data, gone)
    for expert in pair: assert expert.forget(left, gone) == 'exact: downdate'
    close(pair[1].B, EASE(50., use_source_history=both).fit_dataset(left).B)
    assert pair[0].B is pair[1].B
    assert EASE(50.).fit_dataset(data).forget(left, gone) == 'exact: learned anew'


def test_ease_follows_through_new_items(data, earlier):
    "The inverse is kept when items come, and is that of a refit afterwards."
    early, users = earlier
    expert = EASE(50.).fit_dataset(early)
    expert.update(data, users, exact=True)
    items = data.table.iloc[:2].assign(item=['n1', 'n2'])
    more = insert_items(data, items, data.vectors[:2])
    expert.add_items(more, 2)
    assert expert.follower() is not None
    one = select_users(more.hist, np.arange(len(more.users)))
    rows = one.ptr[3]
    hist = Histories(one.ptr + (np.arange(len(one.ptr)) > 2), np.insert(one.item, rows, more.n_target - 1),
                     np.insert(one.weight, rows, 1).astype(np.float32))
    from dataclasses import replace
    newest = replace(more, hist=hist, time=None)
    expert.update(newest, np.array([2]), exact=True)
    anew = EASE(50.).fit_dataset(newest)
    assert (expert.rows == anew.rows).all()
    close(expert.B, anew.B)


def test_a_failed_update_leaves_the_inverse_unused(data, earlier, monkeypatch):
    early, users = earlier
    expert = EASE(50.).fit_dataset(early)
    expert.update(early, users[:0], exact=True)
    follower = IncrementalEASE(early, 50.)
    monkeypatch.setattr(follower, 'matrix', lambda data: 1/0)
    with pytest.raises(ZeroDivisionError): follower.follow(data)
    assert follower.data is None


@pytest.mark.parametrize('make', [Markov, NextItemRidge, lambda **kw: NextItemRidge(KernelTransfer(), **kw)])
def test_transitions_follow(make, data, earlier):
    "In steps, with interactions that come late in the middle of a history, as a refit."
    early, users = earlier
    expert = make(half_life=3.).fit_dataset(early)
    swapped = data.hist.item.copy()
    for u in (5, 9): swapped[data.hist.ptr[u]:data.hist.ptr[u] + 2] = swapped[data.hist.ptr[u]:data.hist.ptr[u] + 2][::-1]
    from dataclasses import replace
    late = replace(data, hist=replace(data.hist, item=swapped))
    for step, who in ((data, users), (late, np.array([5, 9]))):
        expert.update(step, who, exact=True)
        [anew] = copy_experts([expert])
        anew.fit_children = lambda data: None          # the kernel stays as it was fitted
        anew._fit(step)
        close(expert.score_histories(step.hist), anew.score_histories(step.hist))


def test_an_inexact_update_only_sees_histories(data, earlier):
    early, users = earlier
    for expert in (EASE(50.), Markov(), NextItemRidge()):
        expert.fit_dataset(early)
        learned = [getattr(expert, name) for name in expert.saved]
        expert.update(data, users)
        assert expert.data is data and all(getattr(expert, n) is x for n, x in zip(expert.saved, learned))


# ---- neighbours and factors against formulas and libraries

def dense_topk(S, k):
    "The literal definition, ties to the first columns."
    out = np.zeros_like(S)
    for i, row in enumerate(S):
        for j in sorted(range(len(row)), key=lambda j: (-row[j], j))[:k]: out[i, j] = max(row[j], 0)
    return out


@pytest.mark.parametrize('seed', range(8))
def test_topk_sparse_is_the_definition(seed):
    rng = np.random.default_rng(seed)
    S = rng.integers(-2, 4, size=(7, 12))/2
    for k in (1, 3, 12, 40): np.testing.assert_array_equal(topk_sparse(sp.csr_matrix(S), k).toarray(), dense_topk(S, k))


def test_topk_sparse_holds_no_dense_row(monkeypatch):
    rng = np.random.default_rng(0)
    S = sp.csr_matrix((rng.random(500), (np.arange(500) % 50, rng.integers(10**8, size=500))), (50, 10**8))
    for name in ('toarray', 'todense'): monkeypatch.setattr(sp.csr_matrix, name, lambda *a, **k: 1/0)
    assert topk_sparse(S, 3).nnz <= 150


def test_item_knn_is_its_formula(data):
    X = binarize(decayed_matrix(data.hist, data.n_items)).toarray()
    norm = np.linalg.norm(X, axis=0)
    S = X.T @ X/(np.outer(norm, norm) + 30)
    np.fill_diagonal(S, 0)
    close(ItemKNN(10**6).fit_dataset(data).S.toarray(), S[:, :data.n_target], 1e-6)


def test_item_knn_is_the_library_without_shrinkage(data):
    nn = pytest.importorskip('implicit.nearest_neighbours')
    X = binarize(decayed_matrix(data.hist, data.n_items)).astype(float)
    model = nn.CosineRecommender(K=10**4, num_threads=1)
    model.fit(X, show_progress=False)
    S = model.similarity.toarray()*(1 - np.eye(X.shape[1]))
    close(ItemKNN(10**4, shrink=0.).fit_dataset(data).S.toarray(), S[:, :data.n_target], 1e-5)


def test_without_implicit(data, monkeypatch):
    "ItemKNN needs it not; a fitted ALS folds users in without it, with the same numbers; an unfitted one says what to do."
    pytest.importorskip('implicit')
    als = ALS(8).fit_dataset(data)
    scores = als.score_histories(data.hist)
    for name in [m for m in sys.modules if m.split('.')[0] == 'implicit'] + ['implicit']:
        monkeypatch.setitem(sys.modules, name, None)
    ItemKNN().fit_dataset(data).score_histories(data.hist)
    close(als.score_histories(data.hist), scores)
    with pytest.raises(ImportError): ALS(8).fit_dataset(data)


def test_threads_come_from_the_machine(monkeypatch):
    from llmrec.baselines import n_threads
    monkeypatch.setenv('OMP_NUM_THREADS', '3')
    assert n_threads() == 3
    monkeypatch.delenv('OMP_NUM_THREADS')
    assert n_threads() >= 1


def test_hyperparameter_search_with_children(data):
    best = hyperparameter_search(lambda lam: Blend(EASE(lam)), dict(lam=[20., 200.]), data, trials=2)
    assert best.first.lam in (20., 200.) and len(best.tuning) == 2


class SpoilsFeatures(KernelTransfer):
    "Writes into features that were there before."
    def _fit(self, data):
        super()._fit(data)
        data.phi *= 2


def test_features_computed_by_a_fit_are_allowed_and_changed_ones_are_not():
    log = pd.DataFrame(dict(user=list('aabbcc'), item=[1, 2, 2, 3, 3, 1]))
    items = pd.DataFrame(dict(item=[1, 2, 3], title=list('xyz')))
    fresh = make_dataset(log, items, vectors=np.eye(3, dtype=np.float32))
    assert fresh.phi is None
    check_expert(KernelTransfer())              # on an index without features: it computes them
    KernelTransfer().fit_dataset(fresh)
    assert fresh.phi is not None
    with pytest.raises(AssertionError, match='fit leaves the index as it is'): check_expert(SpoilsFeatures(), fresh)


def test_an_index_of_titles_alone_is_checked_as_well():
    "Experts that need no features keep the protocol where nothing is known of an item but its title."
    log = pd.DataFrame(dict(user=np.repeat(list('abcdefghij'), 3), item=np.arange(30) % 7))
    items = pd.DataFrame(dict(item=range(7), title=list('pqrstuv')))
    for expert in (Popularity(), EASE(5.), ItemKNN(3)): check_expert(expert, make_dataset(log, items))
