"""Checks of chapter 03 that teach a reader nothing: lists, ranks and counts against loops, and corner cases of metrics and tests."""
import itertools, math
import numpy as np, pandas as pd, pytest, scipy.sparse as sp
from scipy import stats
from llmrec.data import make_synthetic_pair
from llmrec.preprocess import gini
from llmrec.metrics import (FEW_TESTS, _above, _counts, auc_per_user, bootstrap, category_shares, concentration, diversity, equivalence, item_bucket, item_ranks, mean_popularity, miscalibration, ndcg_of_ranks,
                            novelty, diagnose_ranks, paired_interval, permutation_p, place_lists, popularity_lift, split_values, tie_break_keys,
                            top_lists, topk_metrics, user_bucket)

@pytest.fixture
def rng(): return np.random.default_rng(0)


# Lists and ranks
def top_naive(scores, k, place, turn):
    out = np.full((len(scores), k), -1)
    for u, row in enumerate(scores):
        best = sorted((j for j in range(len(row)) if row[j] > -np.inf), key=lambda j: (-row[j], (place[j] + turn[u]) % len(row)))[:k]
        out[u, :len(best)] = best
    return out

@pytest.mark.parametrize('levels', [1, 3, 10**6])
def test_lists_are_those_of_a_sort_with_ties_and_few_candidates(levels, rng):
    place, turn = tie_break_keys(range(400), range(20))
    scores = rng.integers(levels, size=(20, 400)).astype(np.float32)
    scores[rng.random(scores.shape) < .3] = -np.inf
    scores[0, 3:] = -np.inf
    scores[1] = -np.inf
    assert (top_lists(scores, 5, place, turn) == top_naive(scores, 5, place, turn)).all()

def test_keys_of_ties():
    place, turn = tie_break_keys(list('abcd'), ['u', 'v'])
    assert sorted(place) == [0, 1, 2, 3] and (tie_break_keys(list('abcd'), ['u'], seed=1)[0] != place).any()

def test_lists_of_rows():
    user, col, place = np.array([0, 0, 1]), np.array([4, 2, 3]), np.array([1, 3, 0])
    for by in (place, place/9): assert place_lists(user, col, by, np.arange(5), 2, 3).tolist() == [[4, 2, -1], [3, -1, -1]]

def test_counts_of_greater_and_equal(rng):
    x = rng.integers(9, size=(4, 1234)).astype(np.float32)
    assert (_counts(np.greater, x, x[:, 0]) == (x > x[:, :1]).sum(1)).all()
    row = np.repeat([0, 1, 3], [1, 20, 3])
    greater, equal = _above(x, row, x[row, np.arange(24)])
    assert greater.tolist() == [(x[r] > x[r, j]).sum() for j, r in enumerate(row)]
    assert equal.tolist() == [(x[r] == x[r, j]).sum() for j, r in enumerate(row)]

def test_ranks_by_hand():
    scores = np.array([[.9, .5, .5, .1, -np.inf]], np.float32)
    rank, mid = item_ranks(scores, np.zeros(5, int), np.arange(5), np.arange(5), np.array([0]), np.array([1]))
    assert rank.tolist() == [0, 1, 2, 3, np.inf] and mid[:4].tolist() == [0, 1.5, 1.5, 3]

def test_ranks_and_lists_agree(rng):
    scores = rng.integers(5, size=(9, 60)).astype(np.float32)
    place, turn = tie_break_keys(range(60), range(9))
    full = top_lists(scores, 60, place, turn)
    row = np.repeat(np.arange(9), 20)
    col = np.concatenate([rng.permutation(60)[:20] for _ in range(9)])
    rank, _ = item_ranks(scores, row, col, place, turn, np.zeros(9))
    assert (full[row, rank.astype(int)] == col).all()
    few = np.arange(180) % 20 < 3
    assert (item_ranks(scores, row[few], col[few], place, turn, np.zeros(9))[0] == rank[few]).all()


# Metrics
def naive(ranks, k, grades):
    "The printed formulas, one user."
    ranks, grades = zip(*sorted(zip(ranks, grades)))
    h, R = sum(r < k for r in ranks), len(ranks)
    P, Rc = h/k, h/R
    dcg = lambda rs, gs: sum(g/math.log2(r + 2) for r, g in zip(rs, gs) if r < k)
    return {'precision': P, 'recall': Rc, 'f1': 2*P*Rc/(P + Rc) if h else 0, 'hit': float(h > 0), 'mrr': 1/(ranks[0] + 1) if ranks[0] < k else 0,
            'map': sum(sum(q <= r for q in ranks)/(r + 1) for r in ranks if r < k)/R, 'ndcg': dcg(ranks, [1]*R)/dcg(range(R), [1]*R),
            'graded_ndcg': dcg(ranks, grades)/dcg(range(R), sorted(grades)[::-1])}

def test_metrics_are_the_printed_formulas(rng):
    for _ in range(50):
        ranks = np.append(rng.permutation(20)[:rng.integers(1, 8)], np.inf).astype(float)
        k, grades = int(rng.integers(1, 12)), rng.integers(1, 6, len(ranks)).astype(float)
        fast = topk_metrics(ranks, np.zeros(len(ranks), int), 1, (k,), grades)
        for name, value in naive(ranks, k, grades).items(): assert np.isclose(fast[f'{name}@{k}'][0], value, atol=1e-12), name

def test_metrics_by_hand_and_users_without_a_relevant_item():
    hand = topk_metrics(np.array([0, 3.]), np.array([0, 0]), m=2, ks=(3,))
    assert np.allclose([hand[f'{name}@3'][0] for name in ('precision', 'recall', 'f1', 'hit', 'mrr', 'map')], [1/3, 1/2, 2/5, 1, 1, 1/2])
    assert np.isclose(hand['ndcg@3'][0], 1/(1 + 1/math.log2(3))) and all(np.isnan(value[1]) for value in hand.values())
    assert np.isnan(ndcg_of_ranks(np.array([0]), 3, np.array([1]), 2)[0])

def test_lists_beyond_accuracy():
    top, c = np.array([[0, 1], [0, 2], [0, -1]]), np.array([8, 2, 0, 4])
    past = sp.csr_matrix([[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]])
    assert np.allclose(novelty(top, c, 8), [1, 1.5, 0]) and np.allclose(mean_popularity(top, c, 8), [5/8, 4/8, 1])
    assert np.isnan(popularity_lift(top, past, c, 8)[2]) and np.isnan(diversity(top, np.eye(4))[2])
    C = sp.csr_matrix([[1., 0], [0, 1], [0, 1], [0, 1]])
    assert np.isclose(miscalibration(top, past, C)[0], miscalibration(top[:, ::-1].copy(), past, C)[0])

def test_values_of_cells():
    cells = ['Action|Comedy', 'Food > Tea; Green', ['War', 'Drama'], None, float('nan'), 1999, 'War | War', np.array(['a'])]
    assert split_values(cells) == [['Action', 'Comedy'], ['Food', 'Tea', 'Green'], ['War', 'Drama'], [], [], ['1999'], ['War'], ['a']]
    assert split_values(pd.Series(pd.to_datetime(['2020-01-01', None]))) == [['2020-01-01 00:00:00'], []]

def test_shares_of_categories():
    shares, names = category_shares(['Action|Comedy', 'Food > Tea; Green', ['War', 'Drama'], 'War'])
    assert names == ['Action', 'Comedy', 'Drama', 'Food', 'Green', 'Tea', 'War'] and np.allclose(shares.sum(1), 1)

def test_concentration_is_the_gini_coefficient_of_what_is_shown():
    assert np.isclose(concentration(np.array([[0, 1], [0, 2], [0, -1]]), 4), gini([3, 1, 1, 0]))

def test_few_tests_cannot_compare(): assert 2*1.96*np.sqrt(.1*.9/FEW_TESTS) > .16

def test_auc_from_ranks(rng):
    from sklearn.metrics import roc_auc_score
    scores, relevant = rng.integers(4, size=(1, 12)).astype(float), np.array([1, 4, 7])
    _, mid = item_ranks(scores, np.zeros(3, int), relevant, np.arange(12), [0], [0])
    assert np.isclose(auc_per_user(mid, np.zeros(3, int), np.array([12]))[0], roc_auc_score(np.isin(np.arange(12), relevant), scores[0]))

def test_buckets():
    assert item_bucket(np.array([0, 1, 4, 5, 19, 20])).tolist() == ['0', '1–4', '1–4', '5–19', '5–19', '20+']
    assert user_bucket(np.array([0, 1, 2, 3, 5, 6])).tolist() == ['0', '1–2', '1–2', '3–5', '3–5', '6+']

def test_which_half_fails():
    assert diagnose_ranks(np.array([0, 5, 50, 60, 70, 500, np.inf, 80]))['fails'] == 'ranking'
    assert diagnose_ranks(np.array([0, 500, 500, 500]))['fails'] == 'retrieval'


# Intervals and tests
def test_intervals_of_repeated_values_and_of_few_users(rng):
    x = np.where(rng.random(400) < .8, 0, rng.random(400))
    few = np.round(x, 1)
    assert np.allclose(np.r_[bootstrap(few, 5000)], np.r_[bootstrap(few + 1e-7*rng.random(400), 5000)], atol=.004)
    reference = stats.bootstrap((x,), np.mean, n_resamples=5000, random_state=0).confidence_interval
    assert np.allclose(np.ravel(bootstrap(x, 5000)), reference, atol=.004) and np.isnan(bootstrap(x[:3])[0])

def test_two_seeds_that_agree_leave_it_to_the_users(rng):
    d = rng.normal(.1, 1, 300)
    assert np.allclose(paired_interval(np.stack([d, d]), 4000), paired_interval(d, 4000), atol=.02)

def test_signs_are_counted_where_values_repeat(rng):
    many = np.repeat([.1, -.1], [150, 110])
    assert np.isclose(permutation_p(many), permutation_p(many + 1e-7*rng.random(260)), atol=.008) and permutation_p(np.zeros(5)) == 1
    d = np.array([.3, -.1, .2, .4, .1, .25, -.05, .3])
    exact = np.mean([abs(np.dot(z, d)) >= abs(d.sum()) - 1e-12 for z in itertools.product([-1, 1], repeat=8)])
    assert np.isclose(permutation_p(d, 40_000), exact, atol=.005)

def test_a_shift_beyond_the_margin_is_not_equal(rng):
    many = rng.normal(0, .1, 3000)
    assert equivalence(many, .01)[0] and not equivalence(many + .02, .01)[0]


# The film that the book follows
def test_the_ranks_in_the_figure_of_the_discount():
    "Chapter 03 draws the ranks of f0043 for u00393 that chapter 01 computes."
    from sklearn.feature_extraction.text import TfidfVectorizer
    toy = make_synthetic_pair()
    log, items = toy.target.log, toy.target.items
    train = log[log.user.duplicated(keep='last')]
    mine = train[train.user == 'u00393'].item
    hist = items['item'].isin(mine).to_numpy(float)
    W = TfidfVectorizer().fit_transform(items.title + ' ' + items.text + ' ' + items.category).toarray()
    W -= W.mean(0)
    users = log.user[~log.user.duplicated(keep='last') & log.user.isin(train.user)]
    count = items['item'].map(train[train.user.isin(users)]['item'].value_counts()).fillna(0).to_numpy(float)
    match = toy.truth['items']['films'].to_numpy() @ toy.truth['users'].loc['u00393'].to_numpy()
    at = items['item'].tolist().index('f0043')
    def rank(s):
        s = np.where(hist > 0, -1e9, s)
        return int((s > s[at]).sum()) + 1
    assert [rank(match), rank(hist @ W @ W.T)] == [2, 3] and abs(rank(count) - 20) <= 3    # popularity has ties
