"""Checks of chapter 02 that teach a reader nothing: bad input, ties, other orders of the log."""
import numpy as np, pandas as pd, pytest
from llmrec.core import InputError
from llmrec.data import make_synthetic_pair
from llmrec.preprocess import (PRICE_WORDS, clean, item_text, k_core, log_order, paired_time_splits, price_bucket, price_edges, regime,
                               sort_by_time, split_cold_users, split_given, split_kfold_users, split_last, split_random, untrained_items)
from llmrec.preprocess import split_cold_items

@pytest.fixture(scope='module')
def toy(): return make_synthetic_pair(seed=1)

def pairs(log): return set(zip(log.user, log.item))


# Cleaning and texts
def test_the_k_core_is_the_naive_one(toy):
    log = toy.source.log
    while True:
        n = len(log)
        log = log[log.groupby('user').item.transform('size') >= 20]
        log = log[log.groupby('item').user.transform('size') >= 15]
        if len(log) == n: break
    assert k_core(toy.source.log, 20, 15).index.tolist() == log.index.tolist()

def test_cleaning_everything_away_is_an_error(toy):
    with pytest.raises(InputError, match='drops all'): clean(toy.target, k_user=1000)

def test_the_report_counts_what_was_dropped(toy):
    target, report = clean(toy.target, k_user=2)
    assert report.dropped.sum() == len(toy.target.log) - len(target.log) > 0

def test_price_words_have_equal_shares_and_stay_the_same():
    catalogue = np.random.default_rng(0).lognormal(2, .5, 1000).round(2)
    edges, words = price_edges(catalogue), pd.Series(price_bucket(catalogue))
    assert words.value_counts().between(190, 210).all()
    assert price_bucket([catalogue.min() - .1, None, catalogue.max()], edges) == ['very cheap', '', 'very expensive']
    assert price_bucket(catalogue[:7], edges) == words[:7].tolist()
    assert price_bucket([3, 3, 3]) == ['medium price']*3 and price_bucket([2.], price_edges([None])) == ['']
    assert price_bucket([1, 2, 3, 4, 5]) == list(PRICE_WORDS)

def test_a_template_names_columns_that_are_there():
    t = pd.DataFrame(dict(item=[1, 2], title=['Heat (1995)', 'tea'], category=['Action|Crime', 'Tea'], price=[2., np.nan], year=[1995., np.nan]))
    assert item_text(t, edges=[5, 6, 7, 8]) == ['Heat (1995). Action, Crime. 1995. very cheap', 'tea']
    with pytest.raises(InputError, match="no column 'maker'"): item_text(t, template='{title} {maker}')


# Splits
@pytest.mark.parametrize('seed', range(40))
def test_packed_sorting_is_lexsort(seed):
    g = np.random.default_rng(seed)
    n = int(g.integers(0, 40))
    user, time, tie = (g.integers(k, size=n) for k in (4, 5, 3))
    if seed % 2: time = np.sort(time)       # half of them in order of time, as most logs are
    # times that are negative, no whole numbers, too far apart to be packed; ties of all 64 bits
    time = (time, time - 2, time/2, time*2**61 + user)[seed//2 % 4]
    tie = tie if seed % 3 else tie.astype(np.uint64) << np.uint64(62)
    assert (sort_by_time(user, time, tie) == np.lexsort((tie, time, user))).all()

def test_a_random_split_does_not_depend_on_the_order_of_the_log():
    listed = pd.DataFrame(dict(user=np.repeat(np.arange(30), 4), item=np.tile([3, 5, 8, 9], 30)))
    assert log_order(listed.sample(frac=1, random_state=0))[0] is True
    s, again = split_random(listed), split_random(listed.sample(frac=1, random_state=1))
    assert s.test.user.tolist() == s.valid.user.tolist() and pairs(again.test) == pairs(s.test)

def test_a_given_split_is_taken_as_it_is():
    parted = pd.DataFrame(dict(user=[1, 1, 1], item=[1, 2, 3], part=['train', 'test', 'valid']))
    assert [len(x) for x in (split_given(parted).train, split_given(parted).test)] == [1, 1]

def test_each_user_is_tested_in_one_fold(toy):
    folds = split_kfold_users(toy.target, 3)
    assert sorted(u for f in folds for u in f.test.user.unique()) == sorted(toy.target.users)
    s = split_cold_users(toy.target)
    assert not set(s.test.user) & set(s.train.user)

def test_unsold_items_are_counted(toy):
    s, items = split_cold_items(toy.target), toy.target.items
    trained = untrained_items(s, items)['unsold']
    more = pd.concat([items, items.assign(item='x' + items.item)])
    assert untrained_items(s, more)['unsold'] == trained + len(items)

def test_paired_splits_have_one_test(toy):
    past, future, equal = paired_time_splits(toy.target).values()
    assert past.test.equals(future.test) and len(past.train) == len(equal.train) and regime(past)['future'] == 0
    assert split_last(toy.target).protocol['rows'] == [len(x) for x in (split_last(toy.target).train, split_last(toy.target).valid, split_last(toy.target).test)]
