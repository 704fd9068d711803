"""Checks of chapter 07 that teach a reader nothing: wrong shapes, unknown ids, other orders, and the conditional logit against SciPy."""
import numpy as np, pandas as pd, pytest, torch
from scipy.optimize import minimize
from scipy.special import logsumexp
from llmrec.core import InputError
from llmrec.data import make_synthetic_pair
from llmrec.vectors import (conditional_logit, cosine_sim, embed_attributes, event_weights, fit_event_weights, interest_vector, interest_vectors,
                            item_vectors)

DAY = 86400
LOG = pd.DataFrame(dict(user=['ann']*3 + ['bob'], item=['tea', 'cup', 'tea', 'tea'], time=[0, 10*DAY, 20*DAY, 5*DAY], event=['view', 'view', 'buy', 'buy']))

@pytest.fixture
def rng(): return np.random.default_rng(0)


# Vectors of one user, and cosines
def test_wrong_shapes_are_refused():
    assert interest_vector(np.zeros((0, 3))).tolist() == [0, 0, 0]
    with pytest.raises(InputError, match='3 weights, D has 2'): interest_vector(np.eye(2), [1, 2, 3])
    with pytest.raises(InputError, match='1 dimensions'): interest_vector([1., 2])
    with pytest.raises(InputError, match='2 features, v has 3'): cosine_sim([1., 0], [1., 0, 0])
    assert cosine_sim([1., 0], [0., 3]) == 0

def test_lengths_differ_between_users(rng):
    D, w = rng.normal(size=(5, 9)), rng.random(5)
    assert not np.isclose(np.linalg.norm(interest_vector(D[:1], w[:1])), np.linalg.norm(interest_vector(D, w)))

def test_tensors_keep_their_gradient():
    u = torch.tensor([1., 2, 3], requires_grad=True)
    s = cosine_sim(u, torch.tensor([[3., 2, 1], [0, 0, 0]]))
    s.sum().backward()
    assert np.allclose(s.tolist(), [10/14, 0], atol=1e-6) and torch.isfinite(u.grad).all() and u.grad.abs().sum() > 0


# Weights
def test_ages_are_counted_within_each_user_whatever_the_order():
    later = LOG.assign(time=LOG.time + 1000*DAY*(LOG.user == 'bob'))
    assert (event_weights(later, half_life=10) == event_weights(LOG, half_life=10)).all()
    shuffled = LOG.sample(frac=1, random_state=1)
    want = event_weights(LOG, half_life=1, clock='visits')[shuffled.index]
    assert (event_weights(shuffled, half_life=1, clock='visits') == want).all()

@pytest.mark.parametrize('log, kw, said', [(LOG, dict(events=dict(view=1)), "'buy' .2 rows. has no weight"),
                                           (LOG.drop(columns='time'), dict(half_life=3), "column 'time'"), (LOG, dict(half_life=-1), 'half_life is -1')])
def test_weights_that_make_no_sense(log, kw, said):
    with pytest.raises(InputError, match=said): event_weights(log, **kw)


# All users, all items
def test_all_users_are_as_one_by_one(rng):
    n_users, n_items, rows = 20, 15, 200
    log = pd.DataFrame(dict(user=rng.integers(0, n_users, rows), item=rng.integers(0, n_items, rows) + 100))
    ids, V, w = np.arange(n_items) + 100, rng.normal(size=(n_items, 6)), rng.random(rows)
    users, U = interest_vectors(log, V, ids, w)
    for user, u in zip(users, U):
        i = np.flatnonzero(log.user == user)
        naive = [sum(w[k]*V[log.item[k] - 100][j] for k in i)/len(i) for j in range(6)]
        assert np.allclose(u, naive, atol=1e-12)
    assert not interest_vectors(log, V, ids, users=[3, 999])[1][1].any()
    with pytest.raises(InputError, match='item 100 .* not among'): interest_vectors(log, V[1:], ids[1:])
    with pytest.raises(InputError, match='14 rows for 15 items'): interest_vectors(log, V[1:], ids)

def test_attributes_are_encoded_once_and_prices_in_words():
    prices, seen = pd.DataFrame(dict(item=range(6), price=[1., 2, 3, np.nan, 4, 5])), []
    C = embed_attributes(prices, ['price'], lambda texts: seen.extend(texts) or np.eye(len(texts)))
    assert (seen[0], seen[-1]) == ('very cheap', 'very expensive') and np.isnan(C[3]).all()
    shop, seen = pd.DataFrame(dict(item=[1, 2, 3], category=['tea', 'tea', 'cup'], brand=['A', None, 'B'])), []
    def letters(texts):
        seen.extend(texts)
        return [[text == 'tea', text == 'cup', text in 'AB'] for text in texts]
    C = embed_attributes(shop, ['category', 'brand'], letters)
    assert seen == ['tea', 'cup', 'A', 'B'] and np.isfinite(item_vectors(C, w=[2, 1])).all()


# Learned weights
def logit_naive(lists, y, ridge=0.):
    "The printed likelihood, list by list."
    deviation = np.sqrt(np.mean(np.concatenate([(x - x.mean(0))**2 for x in lists]), 0))
    def loss(b):
        nll = sum(logsumexp(x/deviation @ b) - x[j]/deviation @ b for x, j in zip(lists, y))
        return nll/len(lists) + ridge*b @ b
    return minimize(loss, np.zeros(lists[0].shape[1]), tol=1e-10).x/deviation

@pytest.mark.parametrize('ridge', [0., 1e-2])
def test_the_logit_is_that_of_scipy_with_lists_of_unequal_length(ridge, rng):
    lists = [rng.normal(size=(n, 3))*[1, 10, .1] for n in rng.integers(3, 9, 200)]
    truth = np.array([1, -.05, 4.])
    y = np.array([(x @ truth + rng.gumbel(size=len(x))).argmax() for x in lists])
    X, keep = np.zeros((200, 8, 3)), np.zeros((200, 8), bool)
    for i, x in enumerate(lists): X[i, :len(x)], keep[i, :len(x)] = x, True
    theta, covariance = conditional_logit(X, y, ridge, keep)
    assert np.allclose(theta, logit_naive(lists, y, ridge), atol=2e-4)
    if not ridge: assert (abs(theta - truth) < 3*np.sqrt(np.diag(covariance))).all()

@pytest.fixture(scope='module')
def films():
    pair = make_synthetic_pair(1, n_users=(50, 1500), n_rows=(5, 20))
    q = pair.truth['items']['films'].to_numpy()
    return pair.target.log, q - q.mean(0), pair.target.items['item']

def test_without_a_label_the_mean_weight_is_one(films, rng):
    log, V, ids = films
    log = log.copy()
    view = log.event == 'view'
    log.loc[view, 'item'] = rng.permutation(ids)[rng.integers(len(ids), size=view.sum())]      # views mean nothing
    learned = fit_event_weights(log, V, ids)
    assert abs(learned.weight['view']) < .5 and (learned.hi - learned.lo).max() < 2
    clipped = learned.weight.clip(.1, 3)                             # as the Recommender does
    assert clipped['purchase'] > clipped['favourite'] + .1

def test_names_without_a_meaning_weigh_alike(films, rng):
    log, V, ids = films
    plain = log.assign(event=rng.choice(['a', 'b'], len(log)))
    same = fit_event_weights(plain, V, ids)
    assert same.attrs['p'] > .01 and np.isclose((same.weight*plain.event.value_counts(normalize=True)).sum(), 1, atol=.01)
    with pytest.raises(InputError, match="column 'event'"): fit_event_weights(plain.drop(columns='event'), V, ids)
    with pytest.raises(InputError, match='too few'): fit_event_weights(plain[:20], V, ids)


# The user that the book follows
def test_three_of_seven_watched_titles_hold_an_orchard():
    films = make_synthetic_pair().target
    mine = films.log[films.log.user == 'u00393'].sort_values('time').item
    titles = films.items.set_index('item').title[mine]
    assert len(mine) == 8 and mine.iloc[-1] == 'f0043' and titles[:7].str.contains('orchard').sum() == 3
