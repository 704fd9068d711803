"""Checks of chapter 01 that teach a reader nothing: ids, times, bad input, and the sampler of the synthetic pair."""
import warnings
import numpy as np, pandas as pd, pytest
from llmrec.columns import read_ids, read_times
from llmrec.core import InputError
from llmrec.data import Domain, DomainPair, _draw, _toy_choices, _sizes, make_synthetic_pair


# Ids and times
@pytest.mark.parametrize('given, want', [([3, 1], [3, 1]), ([3., 1.], [3, 1]), (['007', 'x'], ['007', 'x'])])
def test_ids_come_back_as_they_went_in(given, want): assert read_ids(pd.Series(given), 'user').tolist() == want

def test_ids_of_a_category():
    assert read_ids(pd.Series(['b', 'a'], dtype='category'), 'user').tolist() == ['b', 'a']
    assert read_ids(pd.Series([3., 1.]), 'user').dtype == np.int64

@pytest.mark.parametrize('ids, said', [
    ([7, '7'], 'row 0 is int .7. and row 1 is str'), ([1, None], 'row 1 has no id'), (['a', ''], 'row 1 has no id'), ([1.5, 2], 'row 0 has'),
    ([2**70, 1], '64 bits'), ([True, False], 'type bool'), ([b'a', b'b'], 'type bytes')])
def test_other_ids_are_refused(ids, said):
    with pytest.raises(InputError, match=said): read_ids(pd.Series(ids), "column 'user'")

def test_float32_ids_that_were_rounded_are_refused():
    with pytest.raises(InputError, match='row 0 has'): read_ids(pd.Series([2**24 + 2, 3], dtype='float32'), "column 'user'")

@pytest.mark.parametrize('times', [
    [978300760, 978300761], [978300760000, 978300761000], ['2000-12-31T22:12:40', '2000-12-31T22:12:41'],
    pd.to_datetime(['2000-12-31 22:12:40', '2000-12-31 22:12:41']),
    pd.to_datetime(['2000-12-31 23:12:40', '2000-12-31 23:12:41']).tz_localize('Europe/Berlin')])
def test_all_times_become_seconds(times): assert list(read_times(pd.Series(times), 'time').seconds) == [978300760, 978300761]

@pytest.mark.parametrize('times, missing', [(['2020-01-01', 'soon', None], [False, True, True]), ([5, -1, np.inf, np.nan], [False, True, True, True])])
def test_what_is_no_time(times, missing): assert np.isnan(read_times(pd.Series(times), 'time').seconds).tolist() == missing

def test_mixed_units_are_refused():
    with pytest.raises(InputError, match='row 2 has 978300762000 .milliseconds., most rows are in seconds'):
        read_times(pd.Series([978300760, 978300761, 978300762000]), "column 'time'")


# Domains
LOG = pd.DataFrame(dict(user=['ann', 'ann', 'bob', 'bob'], item=[1, 2, 2, 9], time=[10, 20, 15, 16]))
GOOD = pd.DataFrame(dict(item=[1, 2, 3], title=['Tea', 'x', 'Cup <b>'], category=['drinks', 'drinks', 'pots'], price=4))

@pytest.fixture
def shop():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return Domain('shop', LOG, GOOD)

def test_a_domain_counts_and_leaves_its_input_alone(shop):
    assert (shop.n_users, shop.n_items, shop.users.tolist()) == (2, 3, ['ann', 'bob']) and shop.density == 3/6
    assert len(LOG) == 4 and shop.items.title.tolist()[2] == 'Cup <b>' and '<b>' not in shop._repr_html_()

def test_a_domain_may_be_empty(shop):
    empty = shop.with_log(shop.log[:0])
    assert len(empty.log) == empty.n_users == 0

@pytest.mark.parametrize('arguments, said', [
    (('', LOG, GOOD), 'name of a domain'), (('s', None, GOOD), 'NoneType'), (('s', LOG, GOOD[:0]), 'is empty'),
    (('s', LOG, GOOD.drop(columns='title')), "no column 'title'"), (('s', LOG.assign(value='x'), GOOD), "column 'value'"),
    (('s', LOG.assign(time=['x', 'y', 'z', '5']), GOOD), 'usable time')])
def test_what_is_no_domain(arguments, said):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with pytest.raises(InputError, match=said): Domain(*arguments)

def test_forgetting(shop):
    assert shop.forget('bob').users.tolist() == ['ann'] and len(shop.log) == 3
    with pytest.raises(InputError, match=r'users\[1\] .str. has no rows here'): shop.forget(['bob', 'eve'])
    pair = DomainPair(shop, Domain('pots', pd.DataFrame(dict(user=['bob', 'eve'], item=[3, 3])), GOOD))
    assert [d.users.tolist() for d in pair.forget(['bob'])] == [['ann'], ['eve']]
    source, target = pair
    assert target.name == 'pots'


# The synthetic pair
def test_the_synthetic_pair_is_seeded():
    assert make_synthetic_pair().target.log.values.tolist() == make_synthetic_pair().target.log.values.tolist()

def test_the_fast_draw_has_the_frequencies_of_the_naive_one():
    P, rows = np.array([[.1, .6, .3], [0., .5, 1.5]]), np.repeat([0, 1], 4000)
    def naive(g): return np.array([g.choice(P.shape[1], p=P[r]/P[r].sum()) for r in rows])
    a, b = _draw(np.random.default_rng(1), P, rows), naive(np.random.default_rng(1))
    share = lambda x: np.bincount(x[:4000], minlength=3)/4000
    assert abs((a[:4000] == 1).mean() - .6) < .03 and abs((a[4000:] == 2).mean() - .75) < .03
    assert np.allclose(share(a), share(b), atol=.03) and not (a[4000:] == 0).any()

def test_what_is_never_shown_is_never_chosen():
    g = np.random.default_rng
    p, q = g(0).dirichlet(np.ones(3), 2), g(1).dirichlet(np.ones(3), 12)
    preference, popularity = _toy_choices(g(2), p, q, 3.)
    x = g(2).permutation(np.repeat([1, .12, 0], _sizes(12)))
    assert np.isclose(popularity.sum(), 1) and ((popularity > 0) == (x > 0)).all() and ((preference > 0) == (x > 0)).all()
