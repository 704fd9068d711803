"""Evaluation on real files: logs without times, catalogues of what was sold, users with nothing to rank, ids of two kinds, small folders."""
import random, warnings
import numpy as np, pandas as pd, pytest, torch
from llmrec.baselines import Content, Popularity
from llmrec.closed_form import EASE, BilinearContent, Markov, NextItemRidge
from llmrec.core import InputError, check_id_kind
from llmrec.data import Domain, make_synthetic_pair
from llmrec.dataset import histories_from_items, make_dataset, mask_interactions, recency_weights, select_users
from llmrec.evaluation import evaluate, make_eval_task
from llmrec.fusion import default_experts
from llmrec.preprocess import Split, log_order, split_last, split_random, split_time, untrained_items
from llmrec.recommender import Recommender
from llmrec import closed_form, model_folder

@pytest.fixture(scope='module')
def target(): return make_synthetic_pair(0, n_users=(30, 80), n_items=(30, 40), n_rows=(8, 8)).target

def untimed(target, *by, **how): return target.log.drop(columns='time').sort_values(list(by), **how).reset_index(drop=True)

# The order of a file
@pytest.mark.parametrize('by', [dict(by=['user', 'item']), dict(by=['user', 'item'], ascending=False), dict(by=['item', 'user'])], ids=str)
def test_a_file_sorted_by_item_is_no_order_of_time(target, by):
    log = target.log.drop(columns='time').sort_values(**by)
    assert log_order(log)[0] is False and 'item' in log_order(log)[1]
    with pytest.warns(UserWarning, match='split_random'): split = split_last(log)
    assert 'sorted by item' in split.protocol['order']

def test_numbers_sorted_as_numbers(target):
    log = target.log.drop(columns='time').assign(item=target.log['item'].str[1:].astype(int)*7).sort_values(['user', 'item'])
    assert log_order(log) == (False, 'no times; rows sorted by item')

def test_a_file_sorted_by_value_or_in_one_order_of_items(target):
    value = np.random.default_rng(0).random(len(target.log))
    assert log_order(target.log.drop(columns='time').assign(value=value).sort_values('value', ascending=False)) == (False, 'no times; rows sorted by value')
    place = dict(zip(target.items['item'], np.random.default_rng(1).permutation(len(target.items))))
    log = target.log.drop(columns='time').assign(place=lambda x: x['item'].map(place)).sort_values(['user', 'place'])
    assert log_order(log) == (False, 'no times; items in one order for all users')

def test_a_shuffled_file_and_times_are_an_order(target):
    assert log_order(target.log) == (True, 'by time')
    assert log_order(target.log.drop(columns='time').sample(frac=1, random_state=0))[0]
    assert log_order(target.log.assign(time=7)) == (False, 'all at one time')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        split_last(target)

@pytest.mark.parametrize('valid', [True, False])
def test_split_random(target, valid):
    log = pd.concat([target.log, target.log.iloc[:40]], ignore_index=True)           # some rows twice
    split, again = split_random(log, valid, seed=1), split_random(log.sample(frac=1, random_state=2), valid, seed=1)
    pairs = lambda part: set(zip(part['user'], part['item']))
    assert pairs(split.test) == pairs(again.test) != pairs(split_random(log, valid, seed=2).test)
    assert split.test['user'].is_unique and len(split.valid) == (len(split.test) if valid else 0)
    assert not pairs(split.test) & pairs(split.train) and not pairs(split.valid) & pairs(split.train) and not pairs(split.valid) & pairs(split.test)
    assert split.protocol['name'] == 'random' and 'nothing' in split.protocol['order']

def test_a_user_with_too_few_rows_stays_in_training():
    split = split_random(pd.DataFrame(dict(user=[1, 1, 2, 2, 2], item=[1, 2, 1, 2, 3])))
    assert set(split.train['user']) == {1, 2} and split.test['user'].tolist() == [2]

# An index that knows of no order
def test_ages_are_zero_without_an_order(target):
    data = make_dataset(untimed(target, 'user', 'item'), target.items)
    assert not data.ordered and data.time is None
    for hist in (data.hist, select_users(data.hist, [0, 1]), mask_interactions(data.hist, data.hist.item > 2), histories_from_items(data, [list(data.items[:3])])):
        assert not hist.age.any() and (recency_weights(hist, 1.) == hist.weight).all()
    assert make_dataset(target.log, target.items).hist.age.any()

def test_the_file_decides_nothing_without_an_order(target):
    "Sorted one way or the other, the same index; the last interaction of a user is any of them."
    up, down = (make_dataset(untimed(target, 'user', 'item', ascending=x), target.items, ordered=False) for x in (True, False))
    assert (up.hist.item == down.hist.item).all()
    last = up.hist.item[up.hist.ptr[1:] - 1]
    highest = np.maximum.reduceat(up.hist.item, up.hist.ptr[:-1])
    assert (last == highest).mean() < .5

@pytest.mark.parametrize('make', [Markov, NextItemRidge, lambda: Popularity(.1)])
def test_experts_of_order_refuse(make, target):
    data = make_dataset(untimed(target, 'user', 'item'), target.items)
    with pytest.raises(InputError, match='order'): make().fit_dataset(data)
    assert not any(x.needs_order for x in default_experts(data, 'full'))
    assert any(x.needs_order for x in default_experts(make_dataset(target.log, target.items), 'full'))

def test_a_recommender_says_that_it_uses_no_order(target, tmp_path):
    rec = Recommender(None, experts=lambda *_: [Popularity(), EASE(10.), Markov()])
    with pytest.warns(UserWarning, match='Markov left out'): rec.fit(target.with_log(untimed(target, 'user', 'item')))
    assert any('means nothing' in line for line in rec.plan) and [x.name for x in rec.experts] == ['Popularity', 'EASE']
    rec.save(tmp_path)
    assert not Recommender.load(tmp_path).data.ordered

def test_the_pipeline_takes_a_random_interaction(target):
    from llmrec.data import DomainPair
    from llmrec.pipeline import keep_latest, prepare_data
    domain = Domain('sales', untimed(target, 'user', 'item'), target.items)
    _, split, _ = prepare_data(DomainPair(domain.with_log(domain.log[:0]), domain))
    assert split.protocol['name'] == 'random'
    few, step = keep_latest(target, 2)
    assert few.log.groupby('user').size().max() == 4 and step['dropped'].iloc[0] == len(target.log) - len(few.log)

def test_split_time_refuses_a_cut_without_training_rows(target):
    with pytest.raises(InputError, match='split_last or split_random'): split_time(target.with_log(target.log.assign(time=5)))

# What is ranked
class Flat:
    name = 'flat'
    def __init__(self, items): self.items = np.asarray(items)
    def score(self, users): return np.zeros((len(users), len(self.items)), np.float32)

def test_one_candidate_left_is_an_error():
    log = pd.DataFrame([(u, i) for u in range(6) for i in range(5)], columns=['user', 'item'])
    test = log[log['item'] == 4]
    split = Split(log[log['item'] != 4], log[:0], test)
    with pytest.raises(InputError, match='nothing to rank'): evaluate(Flat(range(5)), split, n_boot=0, audit=False)
    report = evaluate(Flat(range(7)), split, n_boot=0, audit=False)
    assert report.protocol['per_user'] == dict(median=3., least=3, most=3, fewer_than_k=6)
    assert any('3 candidates a user' in note and '6 users have fewer' in note for note in report.notes)

def test_a_catalogue_of_the_log_is_told():
    rng = np.random.default_rng(0)
    train = pd.DataFrame(dict(user=np.repeat(np.arange(40), 3), item=rng.integers(0, 20, 120))).drop_duplicates()
    test = pd.DataFrame(dict(user=np.arange(40), item=20 + np.arange(40) % 20))
    split = Split(train, train[:0], test)
    assert untrained_items(split, pd.DataFrame(dict(item=range(40))))['of_log']
    with pytest.warns(UserWarning, match='only what was sold'): report = evaluate(Flat(range(40)), split, n_boot=0, audit=False)
    assert report.protocol['catalogue']['held_out'] == 20 and any('only what was sold' in note for note in report.notes)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        report = evaluate(Flat(range(80)), split, n_boot=0, audit=False)
    assert report.protocol['catalogue'] == dict(held_out=20, unsold=40, test_rows=40, of_log=False)

# Ids, grades, weights, events
@pytest.mark.parametrize('column', ['user', 'item'])
def test_ids_of_another_kind_are_refused(column, target):
    log = target.log.assign(user=target.log['user'].str[1:].astype(int), item=target.log['item'].str[1:].astype(int))
    domain = Domain('numbers', log, target.items.assign(item=target.items['item'].str[1:].astype(int)))
    split = split_last(domain)
    rec = Recommender(None, experts=lambda *_: [Popularity()]).fit(domain.with_log(split.train))
    other = Split(*(x.astype({column: str}) for x in (split.train, split.valid, split.test)))
    with pytest.raises(InputError, match='another kind'): evaluate(rec, other)
    with pytest.raises(InputError, match='another kind'): rec.update(log[:1].astype({column: str}))

@pytest.mark.parametrize('bad', [-1., np.nan, np.inf, 'good'])
def test_grades_below_zero_are_refused(bad):
    train, test = pd.DataFrame(dict(user=[1], item=[1])), pd.DataFrame(dict(user=1, item=[3, 4], value=pd.Series([1., bad], dtype=object)))
    with pytest.raises(InputError, match='row 1'): evaluate({1: [3]}, Split(train, train[:0], test), items=pd.DataFrame(dict(item=range(9))), grades='value')

@pytest.mark.parametrize('bad', [np.nan, np.inf, -1., 'heavy'])
def test_weights_are_checked(bad, target):
    weight = pd.Series(1., target.log.index, dtype=object); weight.iloc[3] = bad
    with pytest.raises(InputError, match="'weight': row 3"): make_dataset(target.log.assign(weight=weight), target.items)

def test_events_of_no_log_are_refused(target):
    with pytest.raises(InputError, match="'Purchase' is in no log"): Recommender(None, experts=lambda *_: [Popularity()], events={'Purchase': 3.}).fit(target)

def test_lists_with_empty_places_are_read(target):
    split = split_last(target)
    users = split.test['user'].unique()
    lists = {user: [target.items['item'].iloc[0], None, np.nan] for user in users}
    assert evaluate(lists, split, items=target.items, n_boot=0)['coverage@10'] <= 1/len(target.items)

# The caller's generators
def test_a_fit_leaves_the_generators_alone(target):
    from llmrec.two_tower import TwoTower
    def draws(seed):
        random.seed(seed); np.random.seed(seed); torch.manual_seed(seed)
        Recommender('tfidf', experts=lambda d, b, s: [Popularity(), TwoTower(seed=s, max_examples=50)]).fit(target)
        return random.random(), np.random.rand(), float(torch.rand(1))
    assert all(x != y for x, y in zip(draws(1), draws(2)))

# The folder of a model
def test_large_arrays_are_small_on_disk(target, tmp_path, monkeypatch):
    "With the limits set so low that a toy is large."
    rec = Recommender('tfidf', experts=lambda *_: [Popularity(), EASE(10.), EASE(10., 5.), Markov(), NextItemRidge(None)]).fit(target)
    rec.save(tmp_path/'whole')
    monkeypatch.setattr(closed_form, 'LARGE', 1); monkeypatch.setattr(model_folder, 'SMALL', 1)
    rec.save(tmp_path/'small')
    size = lambda name: sum(p.stat().st_size for p in (tmp_path/name).glob('model-*'))
    assert size('small') < .7*size('whole')
    a, b, c = rec.score(target.users), Recommender.load(tmp_path/'small').score(target.users), Recommender.load(tmp_path/'whole').score(target.users)
    assert np.abs(a - b).max() < 1e-3 and np.allclose(a, c, atol=1e-5)

def test_what_two_experts_share_is_stored_once(monkeypatch):
    monkeypatch.setattr(model_folder, 'SMALL', 8)
    one = np.arange(6, dtype=np.float32).reshape(2, 3)
    arrays = dict(a=one, b=one.copy(), c=one.reshape(3, 2), d=one.astype(np.float64), e=one + 1)
    kept, same = model_folder._stored_once(arrays)
    assert same == dict(b='a') and list(kept) == ['a', 'c', 'd', 'e']          # another shape or type is another array

def test_directions_of_many_words_are_stored_in_half_precision(tmp_path):
    "TF-IDF's directions are the largest part of a small catalogue's folder; what is read back says the same, and saved again it is the same."
    from llmrec.encode import TextEncoder, encoder_from_state
    rng = np.random.default_rng(0)
    words = [''.join(rng.choice(list('abcdefghijklmnop'), 7)) for _ in range(400)]
    texts = [' '.join(rng.choice(words, 6)) for _ in range(300)]
    encoder = TextEncoder('tfidf').fit(texts)
    before = encoder.encode(texts)
    state = encoder.state(tmp_path/'a')
    again = encoder_from_state(state, tmp_path/'a')
    assert encoder.components.nbytes >= 2**20 and (tmp_path/'a'/'tfidf.safetensors').stat().st_size < .6*encoder.components.nbytes
    assert (encoder.encode(texts) == before).all() and np.sum(again.encode(texts)*before, 1).min() > .99999
    assert again.state(tmp_path/'b') == state and (tmp_path/'a'/'tfidf.safetensors').read_bytes() == (tmp_path/'b'/'tfidf.safetensors').read_bytes()

def test_what_followed_new_interactions_is_saved_as_it_is(target, tmp_path, monkeypatch):
    monkeypatch.setattr(closed_form, 'LARGE', 1)
    rec = Recommender(None, experts=lambda *_: [Popularity(), EASE(10.), Markov()]).fit(target)
    rec.update(pd.DataFrame(dict(user=['new'], item=[target.items['item'].iloc[0]], time=[int(target.log['time'].max()) + 1])))
    rec.save(tmp_path)
    assert np.allclose(Recommender.load(tmp_path).score(target.users), rec.score(target.users), atol=1e-5)

def test_any_cell_of_a_table_can_be_saved(target, tmp_path):
    import datetime as dt, decimal
    items = target.items.assign(day=dt.date(2020, 1, 1), cost=decimal.Decimal('1.5'), code=b'x')
    rec = Recommender(None, experts=lambda *_: [Popularity()]).fit(Domain('t', target.log, items))
    rec.save(tmp_path)
    assert np.allclose(Recommender.load(tmp_path).score(target.users), rec.score(target.users))

def test_privacy_refuses_gaps_and_impossible_noise():
    pytest.importorskip('opacus')
    from llmrec.privacy import Pseudonyms, epsilon_spent, noise_multiplier
    with pytest.raises(InputError, match='row 1'): Pseudonyms(bytes(range(32)))(pd.Series(['anna', None, 'bob']))
    for bad in (dict(steps=0), dict(rate=0), dict(rate=1.5), dict(epsilon=1e-4, steps=1000)):
        with pytest.raises(InputError): noise_multiplier(**(dict(epsilon=1, delta=1e-5, rate=.2, steps=10) | bad))
    for bad in (dict(steps=0), dict(rate=1.5), dict(sigma=0), dict(delta=2)):
        with pytest.raises(InputError): epsilon_spent(**(dict(sigma=1., rate=.2, steps=10, delta=1e-5) | bad))

def test_parts_of_arrays_and_zeros_take_no_room(target, tmp_path, monkeypatch):
    "What is the first columns of another array, times a number, is not stored again; zeros are one bit each. The lists stay what they are."
    monkeypatch.setattr(model_folder, 'SMALL', 8)
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(50, 9)).astype(np.float32)
    sparse = np.where(rng.random((40, 30)) < .3, rng.normal(size=(40, 30)), 0).astype(np.float32)
    arrays = dict(part=np.float32(1.3)*whole[:, :4], whole=whole, near=whole[:, :4] + np.float32(.01), short=whole[:20, :4].copy(), sparse=sparse)
    kept, parts = model_folder._without_parts(arrays)
    assert list(parts) == ['part'] and parts['part'][:2] == ['whole', 4] and 'near' in kept and 'short' in kept
    stored, shapes = model_folder._without_zeros(kept)
    assert list(shapes) == ['sparse'] and stored['sparse'].nbytes + stored['places.sparse'].nbytes < .4*sparse.nbytes
    back = model_folder._whole_arrays(dict(stored), dict(shapes=shapes, parts=parts))
    assert (back['sparse'] == sparse).all() and np.allclose(back['part'], arrays['part'], rtol=1e-6)
    rec = Recommender('tfidf', experts=lambda *_: [Popularity(), Content(), BilinearContent(), EASE(10.)]).fit(target)
    rec.save(tmp_path/'a')
    small = Recommender.load(tmp_path/'a').recommend(target.users, 10)[0]
    for step in ('_without_parts', '_without_zeros'): monkeypatch.setattr(model_folder, step, lambda arrays: (arrays, {}))
    rec.save(tmp_path/'b')
    assert (Recommender.load(tmp_path/'b').recommend(target.users, 10)[0] == small).mean() > .99
    size = lambda name: sum(p.stat().st_size for p in (tmp_path/name).glob('model-*'))
    assert size('a') < .9*size('b')
