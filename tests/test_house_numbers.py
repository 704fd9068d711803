"""Faults of measuring and of the index: each right value that a reader need not see in a chapter."""
import threading, time
import numpy as np, pandas as pd, pytest
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from llmrec.core import InputError
from llmrec.data import Domain, make_synthetic_pair
from llmrec.dataset import (
    append_interactions, drop_users, hold_out_last_basket, insert_items, make_dataset, places_of,
    split_last_interaction)
from llmrec.evaluation import make_eval_task, rank_task
from llmrec.features import (
    attribute_columns, cross_domain_predictability, item_features, one_hot, project_new_items,
    pca_features, soft_bins, split_values, test_shared_user_ids as shared_ids)
from llmrec.metrics import miscalibration, category_shares, ndcg_of_ranks, paired_interval, bootstrap
from llmrec.preprocess import Split
from llmrec.vectors import conditional_logit, fit_event_weights


def log_of(*rows): return pd.DataFrame(rows, columns=['user', 'item', 'time'])


def domain(name, user, item): return Domain(name, log_of((user, item, 1)), pd.DataFrame(dict(item=[item], title=[item])))


# E6
@pytest.mark.parametrize('flags', [[True, False], [False, True], [True, True], [False, False]])
def test_who_is_one_person_is_decided_for_each_source(flags):
    items = pd.DataFrame(dict(item=['i'], title=['i']))
    sources = [domain('s0', 'ann', 'x'), domain('s1', 'ann', 'y')]
    for order in ([0, 1], [1, 0]):
        data = make_dataset(log_of(('ann', 'i', 2)), items, [sources[i] for i in order], share_users=[flags[i] for i in order])
        ids = data.table['item'].to_numpy()
        assert set(ids[data.hist[data.users.get_loc('ann')]]) == {'i'} | {x for x, f in zip('xy', flags) if f}
        assert len(data.users) == 1 + 2 - sum(flags)
        assert places_of(data, 'ann').all()                       # all of them are this id
    with pytest.raises(InputError, match='2 sources'): make_dataset(log_of(('ann', 'i', 2)), items, sources, share_users=[True])


# E13, E17, and the sort of all rows
def naive_append(log, more):
    "Sort everything: old before new at the same time."
    both = pd.concat([log, more], ignore_index=True)
    return both.sort_values(['user', 'time'], kind='stable')


@pytest.mark.parametrize('seed', range(5))
def test_appended_interactions_are_where_a_sort_puts_them(seed):
    g = np.random.default_rng(seed)
    items = pd.DataFrame(dict(item=np.arange(9), title='x'))
    make = lambda n, users: pd.DataFrame(dict(user=g.integers(users, size=n), item=g.integers(9, size=n), time=g.integers(6, size=n)))
    log, more = make(80, 10), make(40, 14)
    data = make_dataset(log, items)
    was = data.hist.item.copy(), data.time.copy()
    grown = append_interactions(data, more)
    order = pd.DataFrame(dict(user=data.users[data.hist.user], item=data.hist.item, time=data.time))
    naive = naive_append(order, more)
    for user, own in naive.groupby('user'):
        at = grown.users.get_loc(user)
        assert list(grown.hist[at]) == list(own['item'])
        assert list(grown.time[grown.hist.ptr[at]:grown.hist.ptr[at + 1]]) == list(own['time'])
    assert (data.hist.item == was[0]).all() and (data.time == was[1]).all()


def test_a_log_without_times_does_not_cost_the_index_its_own():
    pair = make_synthetic_pair(0)
    data = make_dataset(pair.target.log, pair.target.items)
    more = append_interactions(data, pd.DataFrame(dict(user=[pair.target.log.user[0]], item=[pair.target.items.item[0]])))
    assert more.time is not None and len(more.time) == len(data.time) + 1
    at = data.users.get_loc(pair.target.log.user[0])
    assert more.time[more.hist.ptr[at + 1] - 1] == data.time.max()
    timeless = make_dataset(pair.target.log.drop(columns='time'), pair.target.items)
    again = append_interactions(timeless, pair.target.log[:3])
    assert again.time is None and len(again.hist.item) == len(timeless.hist.item) + 3


def test_dates_in_a_later_log_are_seconds():
    pair = make_synthetic_pair(0)
    log = pair.target.log
    data = make_dataset(log[:-20], pair.target.items)
    dates = append_interactions(data, log[-20:].assign(time=pd.to_datetime(log['time'][-20:], unit='s')))
    text = append_interactions(data, log[-20:].assign(time=pd.to_datetime(log['time'][-20:], unit='s').astype(str)))
    seconds = append_interactions(data, log[-20:])
    assert (dates.time == seconds.time).all() and (text.time == seconds.time).all() and (dates.hist.item == seconds.hist.item).all()


def test_one_interaction_beside_a_million_is_fast():
    g = np.random.default_rng(0)
    log = pd.DataFrame(dict(user=g.integers(10**5, size=10**6), item=g.integers(1000, size=10**6), time=g.integers(10**6, size=10**6)))
    data = make_dataset(log, pd.DataFrame(dict(item=np.arange(1000), title='x')))
    append_interactions(data, log[:1])                            # hash tables
    took = []
    for _ in range(3):
        t = time.perf_counter()
        append_interactions(data, log[:1].assign(time=10**6))
        took.append(time.perf_counter() - t)
    assert min(took) < .15                                        # a sort of all rows takes .8 s


# E11
def test_item_tables_may_hold_lists_dates_and_both():
    pair = make_synthetic_pair(0)
    n = len(pair.target.items)
    table = pair.target.items.assign(tags=[['a', 'b'] if i % 2 else ['b'] for i in range(n)], arrays=[np.array(['p', 'q'][:1 + i % 2]) for i in range(n)],
                                     day=pd.date_range('2020-01-01', periods=n), utc=pd.date_range('2020-01-01', periods=n, tz='UTC'))
    data = make_dataset(pair.target.log, table)
    assert {'tags', 'arrays', 'day', 'utc'} <= set(attribute_columns(data))
    phi = item_features(data)
    assert np.isfinite(phi).all() and phi.dtype == np.float32
    same = make_dataset(pair.target.log, pair.target.items.assign(tags=['a|b' if i % 2 else 'b' for i in range(n)], day=np.arange(n)))
    item_features(same)
    np.testing.assert_array_equal(same.feature_map.columns['tags'](same.table['tags']).toarray(), data.feature_map.columns['tags'](table['tags']).toarray())
    np.testing.assert_array_equal(soft_bins(table['day']), soft_bins(np.arange(n)))


# E15
def test_one_rule_reads_categories():
    assert split_values(['Action|Comedy', 'a; b, c > d', ['x', 'y'], ('z',), np.array(['q']), None, np.nan, pd.NA, 7, '']) == [
        ['Action', 'Comedy'], ['a', 'b', 'c', 'd'], ['x', 'y'], ['z'], ['q'], [], [], [], ['7'], []]
    top, past = np.array([[0, 1]]), sp.csr_matrix([[1., 0, 1]])
    got = [miscalibration(top, past, category_shares(c)[0])[0] for c in (['A|B', 'B', 'C'], ['A; B', 'B', 'C'], [['A', 'B'], ['B'], ['C']])]
    assert got[0] == got[1] == got[2] > 0
    assert one_hot(['A|B', 'B', 'A']).shape == (3, 2) and list(category_shares(['A > B'])[1]) == ['A', 'B']


# E24
def test_threads_are_gone_after_an_error():
    class Broken:
        items = np.arange(20)
        def score(self, users): raise RuntimeError('no memory')
    log = lambda i: pd.DataFrame(dict(user=np.arange(5), item=np.full(5, i)))
    task = make_eval_task(Split(log(0), log(0)[:0], log(1)), np.arange(20))
    workers = lambda: [t for t in threading.enumerate() if t.name.startswith('ThreadPoolExecutor')]
    was = workers()
    for _ in range(3):
        with pytest.raises(RuntimeError): rank_task(Broken(), task)
    assert workers() == was

    class Half(Broken):                                           # some threads are at work when it fails
        def score(self, users):
            if 4 in users: raise RuntimeError('no memory')
            return np.zeros((len(users), 20))
    users = list(task.users)
    with pytest.raises(RuntimeError): rank_task(Half(), task, block=max(1, users.index(4)))
    assert workers() == was


# E26
def test_weights_of_events_are_scaled_by_their_mean_not_by_the_most_frequent():
    films = make_synthetic_pair(1, n_users=(50, 1500), n_rows=(5, 20))
    q, ids = films.truth['items']['films'].to_numpy(), films.target.items['item']
    log, g = films.target.log.copy(), np.random.default_rng(0)
    view = log['event'] == 'view'                                 # the most frequent event says nothing
    log.loc[view, 'item'] = g.permutation(ids)[g.integers(len(ids), size=view.sum())]
    t = fit_event_weights(log, q - q.mean(0), ids)
    assert log['event'].value_counts().index[0] == 'view' and abs(t.weight['view']) < .5
    assert (t.hi - t.lo).max() < 2.5                              # not [-26.7, 27.7]
    w = t.weight.clip(.1, 3)
    assert w['purchase'] > w['favourite'] + .1
    by_label = fit_event_weights(films.target.log, q - q.mean(0), ids, 'purchase')
    assert by_label.weight['purchase'] == 1


# one conditional logit, equal to both that there were
def old_newton(Z, keep, ridge=1e-6, steps=30):
    th = np.zeros(Z.shape[-1])
    for _ in range(steps):
        s = np.where(keep, Z @ th, -np.inf)
        p = np.exp(s - s.max(1, keepdims=True)); p /= p.sum(1, keepdims=True)
        m = np.einsum('rc,rce->re', p, Z)
        H = np.einsum('rc,rce,rcf->ef', p, Z, Z) - m.T @ m + ridge*np.eye(len(th))
        step = np.linalg.solve(H, (Z[:, 0] - m).sum(0))
        th = th + step/max(1, abs(step).max()/5)
        if abs(step).max() < 1e-6: break
    return th, np.linalg.inv(H)


def old_judge(X, y, ridge=1e-2):
    X, y = torch.as_tensor(np.asarray(X), dtype=torch.float64), torch.as_tensor(y)
    sd = (X - X.mean(1, keepdim=True)).pow(2).mean((0, 1)).sqrt()
    sd[sd < 1e-9] = torch.inf
    b = torch.zeros(X.shape[-1], dtype=torch.float64, requires_grad=True)
    opt = torch.optim.LBFGS([b], max_iter=100, line_search_fn='strong_wolfe')
    def loss():
        opt.zero_grad()
        l = F.cross_entropy(X/sd @ b, y) + ridge*b.pow(2).sum()
        l.backward()
        return l
    opt.step(loss)
    return (b.detach()/sd).numpy()


@pytest.mark.parametrize('seed', range(4))
def test_conditional_logit_is_both_old_ones(seed):
    g = np.random.default_rng(seed)
    X = g.normal(size=(300, 12, 4))*[1, 20, .05, 1]
    keep = g.random((300, 12)) < .8
    keep[:, 0] = True
    chance = np.where(keep, X @ [1, -.05, 9, 0] + g.gumbel(size=(300, 12)), -np.inf)
    first = chance.argmax(1)
    swapped = X.copy()
    swapped[np.arange(300), 0], swapped[np.arange(300), first] = X[np.arange(300), first], X[np.arange(300), 0]
    k2 = keep.copy(); k2[np.arange(300), first] = keep[:, 0]; k2[:, 0] = True
    new, old = conditional_logit(swapped, np.zeros(300, int), keep=k2), old_newton(swapped, k2)
    np.testing.assert_allclose(new[0], old[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(new[1], old[1], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(conditional_logit(X, first, keep=keep)[0], new[0], rtol=1e-6, atol=1e-8)   # any place
    X[..., 3] = 5.                                                # the same for all: decides nothing
    y = (X @ [1, -.05, 9, 0] + g.gumbel(size=(300, 12))).argmax(1)
    np.testing.assert_allclose(conditional_logit(X, y, 1e-2)[0], old_judge(X, y), rtol=2e-3, atol=1e-5)


def test_conditional_logit_survives_separable_choices():
    X = np.zeros((50, 3, 1)); X[:, 0] = 1
    theta, _ = conditional_logit(X, np.zeros(50, int), 1e-2)
    assert np.isfinite(theta).all() and theta[0] > 0


# one NDCG, one interval
def test_ndcg_of_ranks_is_the_formula():
    g = np.random.default_rng(0)
    for _ in range(100):
        n, k = int(g.integers(1, 6)), int(g.integers(1, 8))
        ranks, gain = g.permutation(12)[:n].astype(float), g.integers(0, 4, n).astype(float)
        dcg = sum(a/np.log2(r + 2) for a, r in zip(gain, ranks) if r < k)
        best = sum(a/np.log2(i + 2) for i, a in enumerate(sorted(gain)[::-1]) if i < k)
        got = ndcg_of_ranks(ranks, k, np.zeros(n, int), 1, gain)[0]
        assert np.isnan(got) if best == 0 else got == pytest.approx(dcg/best)
        ones = ndcg_of_ranks(ranks, k, np.zeros(n, int), 1)[0]
        assert ones == pytest.approx(ndcg_of_ranks(ranks, k, np.zeros(n, int), 1, np.ones(n))[0])


def test_paired_interval_is_the_bootstrap_and_widens_with_seeds():
    g = np.random.default_rng(0)
    d = g.normal(.1, 1, 200)
    assert paired_interval(d, 1000, 3) == tuple(float(x[0]) for x in bootstrap(d, 1000, 3))
    assert np.ptp(paired_interval(np.stack([d - 1, d + 1]))) > 2*np.ptp(paired_interval(d))


# held out, dropped, inserted
def test_hold_outs_are_of_one_family():
    data = make_dataset(*(lambda p: (p.target.log, p.target.items))(make_synthetic_pair(2)))
    rest, users, items = split_last_interaction(data)
    assert all(data.hist[u][-1] == y for u, y in zip(users, items)) and len(rest.time) == len(rest.hist.item)
    rest, before, items = hold_out_last_basket(data)
    assert len(rest.hist.item) + len(items) == len(data.hist.item) and len(before) == len(items)


def test_users_who_leave_take_their_interactions_along():
    pair = make_synthetic_pair(0)
    data = make_dataset(pair.target.log, pair.target.items, pair.source, share_users=False)
    gone = places_of(data, list(pair.target.log.user[:2]))
    left = drop_users(data, gone)
    stay = np.flatnonzero(~gone)
    assert list(left.users) == list(data.users[stay])
    for new, old in ((0, stay[0]), (-1 % len(left.users), stay[-1])): assert (left.hist[new] == data.hist[old]).all()
    assert len(left.time) == len(left.hist.item)


def test_new_items_get_their_features_from_the_stored_map(monkeypatch):
    pair = make_synthetic_pair(0)
    g = np.random.default_rng(0)
    V = g.normal(size=(len(pair.target.items), 24)).astype(np.float32)
    data = make_dataset(pair.target.log, pair.target.items, vectors=V)
    phi = item_features(data)
    compact = pca_features(phi, 10)
    monkeypatch.setattr('llmrec.features.whitening_map', lambda *a: pytest.fail('the catalogue is whitened again'))
    new = pair.target.items.iloc[[5, 0]].assign(item=['n1', 'n2'])
    more = insert_items(data, new, V[[5, 0]])
    np.testing.assert_allclose(item_features(more)[-2:], phi[[5, 0]], atol=1e-6)
    np.testing.assert_array_equal(item_features(more)[:-2], phi)
    np.testing.assert_allclose(project_new_items(compact, more, 2)[-2:], compact[[5, 0]], atol=2e-3)
    partly = insert_items(data, new[['item', 'title']], V[[5, 0]])  # a table without the attributes
    assert np.isfinite(partly.phi).all()


# memory
def test_one_hot_is_sparse_and_agreement_of_ids_needs_no_dense_rows():
    n = 200_000
    X = one_hot([f'c{i % 900}|d{i % 700}' for i in range(n)])
    assert sp.issparse(X) and X.nnz <= 2*n
    g = np.random.default_rng(0)
    wide = sp.csr_matrix((np.ones(400), (np.repeat(np.arange(100), 4), g.integers(2_000_000, size=400))), (100, 2_000_000))
    z = cross_domain_predictability(wide, wide)                   # dense: 100 × 2,000,000 × 8 bytes × 4
    assert z.shape == (100,)


def test_shared_ids_are_recognised():
    pair = make_synthetic_pair(0, n_rows=(40, 20), shared=.6)
    z, n = shared_ids(pair.target, pair.source)
    assert n > 100 and z > 2
    swap = dict(zip(ids := pair.source.log.user.unique(), np.random.default_rng(0).permutation(ids)))
    z0, _ = shared_ids(pair.target, pair.source.with_log(pair.source.log.assign(user=pair.source.log.user.map(swap))))
    assert z0 < 2


def test_a_feature_map_is_plain_values_and_arrays():
    import json
    from llmrec.features import pack_feature_map, unpack_feature_map
    pair = make_synthetic_pair(0)
    n = len(pair.target.items)
    table = pair.target.items.assign(tags=[['a', 'b'] if i % 2 else ['b'] for i in range(n)], day=pd.date_range('2020-01-01', periods=n))
    V = np.random.default_rng(0).normal(size=(n, 8)).astype(np.float32)
    data = make_dataset(pair.target.log, table, vectors=V)
    phi = item_features(data)
    meta, arrays = pack_feature_map(data.feature_map)
    assert all(isinstance(a, np.ndarray) and a.dtype != object for a in arrays.values())
    back = unpack_feature_map(json.loads(json.dumps(meta)), arrays)
    np.testing.assert_array_equal(back(table, V), data.feature_map(table, V))
    np.testing.assert_allclose(back(table, V), phi, atol=1e-6)
