"""Metrics and reports against ranx, SciPy and brute force; nothing may depend on the order of rows or columns."""
import json, warnings
import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from llmrec.core import InputError
from llmrec.evaluation import *
from llmrec.metrics import *
from llmrec.preprocess import Split

NAMES = dict(ndcg='ndcg', precision='precision', recall='recall', f1='f1', hit='hit_rate', mrr='mrr', map='map')


class Scores:
    "A recommender that gives a table of scores."
    def __init__(self, s, users, items): self.table = pd.DataFrame(s, index=list(users), columns=list(items))
    @property
    def items(self): return self.table.columns.to_numpy()
    def score(self, users): return self.table.loc[list(users)].to_numpy(np.float32)


def world(seed, m=30, n=50, n_test=4, levels=10**6):
    g = np.random.default_rng(seed)
    users, items = [f'u{i}' for i in range(m)], [f'i{i}' for i in range(n)]
    pick = [g.permutation(n)[:8 + n_test] for _ in users]
    log = lambda part: pd.DataFrame([(u, items[j], int(g.integers(1, 6))) for u, p in zip(users, pick) for j in p[part]], columns=['user', 'item', 'value'])
    split = Split(log(slice(0, 8)), log(slice(0, 0)), log(slice(8, None)), dict(name='random', seed=seed))
    return split, Scores(g.integers(levels, size=(m, n))/levels, users, items)


@pytest.mark.parametrize('seed', range(3))
def test_ranx_gives_the_same_numbers(seed):
    ranx = pytest.importorskip('ranx')
    ks, (split, rec) = (1, 5, 10, 40), world(seed)
    r = evaluate(rec, split, ks, slices=(), grades='value', audit=False)
    seen = split.train.groupby('user')['item'].apply(set)
    run = ranx.Run({u: {i: float(s) for i, s in row.items() if i not in seen[u]} for u, row in rec.table.astype(np.float32).iterrows()})
    rel = {u: {i: 1 for i in d['item']} for u, d in split.test.groupby('user')}
    graded = {u: dict(zip(d['item'], d['value'].astype(int))) for u, d in split.test.groupby('user')}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        ref = ranx.evaluate(ranx.Qrels(rel), run, [f'{v}@{k}' for v in NAMES.values() for k in ks], return_mean=False)
        grad = ranx.evaluate(ranx.Qrels(graded), run, [f'ndcg@{k}' for k in ks], return_mean=False)
    by = r.per_user.loc[list(run.keys())]
    for k in ks:
        for ours, theirs in NAMES.items(): np.testing.assert_allclose(by[f'{ours}@{k}'], ref[f'{theirs}@{k}'], atol=1e-12, err_msg=f'{ours}@{k}')
        np.testing.assert_allclose(by[f'graded_ndcg@{k}'], grad[f'ndcg@{k}'], atol=1e-12)


def test_auc_is_that_of_scikit_learn():
    from sklearn.metrics import roc_auc_score
    split, rec = world(5, levels=7)
    r = evaluate(rec, split, slices=(), audit=False)
    for u, x in r.per_user['auc'].items():
        cand = [i for i in rec.items if i not in set(split.train[split.train.user == u]['item'])]
        y = np.isin(cand, split.test[split.test.user == u]['item'])
        assert x == pytest.approx(roc_auc_score(y, rec.table.loc[u, cand].astype(np.float32)))


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 5, 10**6]), st.integers(1, 60), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_top_lists_and_ranks_are_those_of_a_sort(seed, levels, n, k):
    g = np.random.default_rng(seed)
    s = g.integers(levels, size=(6, n)).astype(g.choice(['float32', 'float64']))
    s[g.random(s.shape) < g.choice([0, .5, 1])] = -np.inf
    place, turn = tie_break_keys(range(n), range(6), seed)
    top = top_lists(s, k, place, turn)
    full = [sorted(np.nonzero(r > -np.inf)[0], key=lambda j: (-r[j], (place[j] + turn[u]) % n)) for u, r in enumerate(s)]
    for u, f in enumerate(full): assert [j for j in top[u] if j >= 0] == f[:k]
    row, col = np.divmod(np.arange(6*n), n)
    rank, mid = item_ranks(s, row, col, place, turn, (s == -np.inf).sum(1))
    for u, j, r, q in zip(row, col, rank, mid):
        assert r == (full[u].index(j) if j in full[u] else np.inf)
        if s[u, j] > -np.inf: assert q == (s[u] > s[u, j]).sum() + ((s[u] == s[u, j]).sum() - 1)/2


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 10**6]), st.booleans(), st.one_of(st.none(), st.just(12)))
@settings(max_examples=25, deadline=None)
def test_no_number_depends_on_the_order_of_rows_columns_or_blocks(seed, levels, exclude, candidates):
    split, rec = world(seed, m=12, n=30, levels=levels)
    g = np.random.default_rng(seed)
    kw = dict(exclude_seen=exclude, candidates=candidates, audit=False, n_boot=100)
    a = evaluate(rec, split, (3, 10), **kw)
    mix = lambda d: d.iloc[g.permutation(len(d))].reset_index(drop=True)
    other = Scores(rec.table.to_numpy()[:, (o := g.permutation(30))], rec.table.index, rec.items[o])
    b = evaluate(other, Split(mix(split.train), mix(split.valid), mix(split.test), split.protocol), (3, 10), block=5, **kw)
    pd.testing.assert_frame_equal(a.per_user, b.per_user)
    pd.testing.assert_frame_equal(a.slices, b.slices)
    assert a.protocol == b.protocol
    for k, v in a.intervals.items(): np.testing.assert_allclose(b.intervals[k], v, atol=1e-7, err_msg=k)


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_lists_are_judged_as_the_scores_they_come_from(seed):
    split, rec = world(seed, m=8, n=25)
    r = evaluate(rec, split, (3, 7), audit=False, slices=())
    lists = {u: list(row.sort_values(ascending=False).index) for u, row in rec.table.astype(np.float32).iterrows()}
    table = pd.DataFrame([(u, i, k + 1) for u, l in lists.items() for k, i in enumerate(l)], columns=['user', 'item', 'rank']).sample(frac=1, random_state=seed)
    items = pd.DataFrame(dict(item=rec.items, title='x'))
    for x in (lists, table, table.assign(score=-table['rank']).drop(columns='rank')):
        q = evaluate(x, split, (3, 7), items=items, audit=False, slices=())
        for c in q.per_user: np.testing.assert_allclose(q.per_user[c], r.per_user[c], err_msg=c)


def test_constant_scores_are_worth_a_random_list():
    split, rec = world(0, m=400, n=40, n_test=1)
    rec.table[:] = 1.
    r = evaluate(rec, split, (8,), slices=(), audit=False)
    assert r['auc'] == .5
    lo, hi = r.intervals['hit@8']
    assert lo < 8/32 < hi                                         # 32 candidates
    assert r['coverage@8'] == 1                                   # not the same list for all


def test_bca_is_that_of_scipy():
    from scipy import stats
    g = np.random.default_rng(0)
    for x in (g.random(60), g.exponential(size=200), np.where(g.random(150) < .9, 0, 1.)):
        ref = stats.bootstrap((x,), np.mean, n_resamples=9999, random_state=1).confidence_interval
        np.testing.assert_allclose(np.ravel(bootstrap(x, 9999)), ref, atol=.06*x.std())
        ref = stats.bootstrap((x,), np.mean, n_resamples=9999, random_state=1, method='percentile').confidence_interval
        np.testing.assert_allclose(np.ravel(bootstrap(x, 9999, kind='percentile')), ref, atol=.06*x.std())


def test_intervals_cover():
    "95 % intervals of a skewed mean hold the truth in about 95 % of samples."
    g = np.random.default_rng(0)
    x = np.where(g.random((100, 400)) < .85, 0, g.random((100, 400)))
    lo, hi = bootstrap(x, 500)
    assert .9 < ((lo < .075) & (.075 < hi)).mean() <= 1


def test_p_values_are_uniform_without_a_difference():
    g = np.random.default_rng(0)
    p = [permutation_p(g.normal(size=80), 400, i) for i in range(300)]
    assert .02 < np.mean(np.array(p) < .05) < .09


def test_missing_values_leave_the_user_out():
    X = np.c_[np.r_[np.full(20, np.nan), np.arange(80.)], np.arange(100.)]
    lo, hi = bootstrap(X)
    assert lo[0] < 39.5 < hi[0] and lo[1] < 49.5 < hi[1]


def test_items_a_recommender_does_not_know_are_misses():
    split, rec = world(1, m=6, n=20)
    gone = split.test['item'].iloc[0]
    less = Scores(rec.table.drop(columns=gone).to_numpy(), rec.table.index, rec.items[rec.items != gone])
    t = make_eval_task(split, less.items)
    assert (t.col == -1).sum() == (split.test['item'] == gone).sum()
    top, rank, mid, n, _ = rank_task(less, t, 20)
    assert np.isinf(rank[t.col == -1]).all() and (mid[t.col == -1] >= (n - 2)[t.row[t.col == -1]]).all()


@pytest.mark.parametrize('kw, say', [(dict(ks=(0,)), 'positive'), (dict(slices=('colour',)), "'colour'"), (dict(grades='stars'), 'stars'),
                                     (dict(interval='normal'), 'normal'), (dict(n_boot=3), 'n_boot=3'), (dict(vectors=np.ones((3, 2))), 'vectors has 3'),
                                     (dict(evidence='all'), "evidence='all'")])
def test_bad_arguments_are_named(kw, say):
    split, rec = world(0, m=6, n=20)
    with pytest.raises(InputError, match=say): evaluate(rec, split, **{**dict(audit=False), **kw})


def test_bad_scores_are_named():
    split, rec = world(0, m=6, n=20)
    rec.table.iloc[2, 3] = np.nan
    with pytest.raises(InputError, match='NaN'): evaluate(rec, split, audit=False)
    rec.score = lambda users: np.zeros((1, 2))
    with pytest.raises(InputError, match=r'shape \(1, 2\)'): evaluate(rec, split, audit=False)
    with pytest.raises(InputError, match='twice'): evaluate({'u0': ['i1', 'i1']}, split, items=pd.DataFrame(dict(item=rec.items)), audit=False, exclude_seen=False)
    empty = Split(split.train, split.valid, split.test.iloc[:0])
    with pytest.raises(InputError, match='nothing to test'): evaluate(world(0)[1], empty, audit=False)


def test_report_round_trip_and_forms(tmp_path):
    split, rec = world(2)
    r = evaluate(rec, split, (5, 10), items=pd.DataFrame(dict(item=rec.items, title=rec.items, category=['a', 'b|c']*25)))
    r.to_json(tmp_path/'r.json')
    q = Report.from_json(tmp_path/'r.json')
    assert q.metrics == r.metrics and q.protocol == json.loads(json.dumps(r.protocol))
    pd.testing.assert_frame_equal(q.per_user, r.per_user); pd.testing.assert_frame_equal(q.slices, r.slices)
    assert compare({'a': r, 'b': q}).difference == 0
    assert r.to_latex().count(r'\\') == len(r.table) + 1 and '<table' in r._repr_html_() and 'seen items masked' in repr(r)
    assert r.plot().axes


def test_compare_refuses_other_protocols():
    split, rec = world(2)
    a = evaluate(rec, split, audit=False)
    for kw, field in ((dict(exclude_seen=False), 'seen'), (dict(candidates=5), 'candidates'), (dict(seed=1), 'seed'), (dict(grades='value'), 'relevance')):
        b = evaluate(rec, split, **{**dict(audit=False), **kw})
        with pytest.raises(InputError, match=field): compare({'a': a, 'b': b})
    other = Split(split.train, split.valid, split.test.iloc[1:], split.protocol)
    with pytest.raises(InputError, match='split.rows|test'): compare({'a': a, 'b': evaluate(rec, other, audit=False)})


def test_holm_keeps_order_and_bounds():
    p = np.random.default_rng(0).random(20)/5
    h = holm(p)
    assert (h >= p).all() and (h <= 1).all() and (np.argsort(h[np.argsort(p)], kind='stable') == np.arange(20)).all()
