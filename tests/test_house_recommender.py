"""The whole Recommender: faults of the first edition with their right values, threads, copies, files."""
import copy, json, pickle, shutil, threading, warnings
import numpy as np, pandas as pd, pytest, torch
from sklearn.base import clone
from llmrec.core import InputError
from llmrec.data import Domain, make_synthetic_pair
from llmrec.encode import TextEncoder
from llmrec.expert import check_expert
from llmrec.fusion import Fusion
from llmrec.baselines import Content, Popularity, RepeatConsumption
from llmrec.closed_form import EASE, KernelTransfer, NextItemRidge, TextPopularity
from llmrec.preprocess import split_last
from llmrec.recommender import Recommender

def few(data, budget, seed):
    kernel = KernelTransfer()
    experts = [Popularity(), EASE(100.), EASE(10.), NextItemRidge(None)]
    if data.phi is not None: experts = [kernel, TextPopularity(kernel), *experts]
    return experts + [Content(5.)]*(data.vectors is not None)

@pytest.fixture(scope='module')
def pair(): return make_synthetic_pair(0, n_users=(80, 60), n_items=(40, 30), n_rows=(12, 8), shared=.5)

@pytest.fixture(scope='module')
def split(pair): return split_last(pair.target)

def fitted(pair, split, **kw):
    return Recommender('tfidf', budget='fast', experts=few, **kw).fit(pair.target.with_log(split.train), pair.source, split.valid)

@pytest.fixture(scope='module')
def once(pair, split): return fitted(pair, split)

@pytest.fixture
def rec(once):
    "A copy: a new state never changes the old one, settings are its own."
    own = copy.copy(once)
    own._params = dict(once._params)
    return own

@pytest.fixture(scope='module')
def users(split): return split.test['user'].unique()[:5]

# The protocol
class FewFusion(Fusion):
    "A fusion of few experts; a function among its parameters could not be saved."
    def new_experts(self, data): return few(data, self.budget, self.seed)

def test_a_fusion_is_an_expert(): check_expert(FewFusion(seed=3))

def test_a_fusion_keeps_experts_of_one_class_apart(rec):
    "E12 in use: two EASE with other settings have a weight each."
    assert [x.name for x in rec.experts].count('EASE') == 2
    a, b = (x for x in rec.experts if isinstance(x, EASE))
    assert not np.allclose(a.score_histories(rec.data.hist), b.score_histories(rec.data.hist))

# API
def test_users_may_be_anything_that_holds_ids(rec, users):
    "E16: one id, list, array, Series with an index of its own, generator."
    items, scores = rec.recommend(list(users), 4)
    for given in (users, pd.Series(users, index=range(7, 12)), (u for u in users), pd.Index(users), tuple(users)):
        assert (rec.recommend(given, 4)[0] == items).all()
    one, value = rec.recommend(users[0], 4)
    assert (one == items[0]).all() and value.shape == (4,)
    cold = rec.recommend_cold_start(pd.Series(['x', 'y'], index=[5, 7]), 4)[0]
    assert cold.shape == (2, 4) and (cold[0] == cold[1]).all()

def test_a_frame_of_recommendations(rec, users):
    frame = rec.recommend(users, 3, as_frame=True)
    assert list(frame) == ['user', 'item', 'score', 'rank'] and len(frame) == 15
    assert (frame['item'].to_numpy().reshape(5, 3) == rec.recommend(users, 3)[0]).all()

def test_k_beyond_the_catalogue_is_padded(rec, users):
    "E19: (m, k) always."
    items, scores = rec.recommend(users, 500)
    assert items.shape == scores.shape == (5, 500) and items[0, -1] is None and scores[0, -1] == -np.inf

@pytest.mark.parametrize('how', ['recommend_diverse', 'recommend_calibrated'])
def test_short_lists_do_not_repeat_items(how, rec, users):
    "E7."
    items, scores = getattr(rec, how)(users, 5, mask=np.arange(len(rec.items)) < 3, exclude_seen=False)
    for row, value in zip(items, scores):
        kept = [x for x in row if x is not None]
        assert len(kept) == len(set(kept)) == 3 and np.isfinite(value).sum() == 3

def test_validation_rows_may_have_dates(pair, split):
    "E17."
    dated = split.valid.assign(time=pd.to_datetime(split.valid['time'], unit='s'))
    rec = Recommender('tfidf', experts=few).fit(pair.target.with_log(split.train), None, dated)
    twin = Recommender('tfidf', experts=few).fit(pair.target.with_log(split.train), None, split.valid)
    assert np.allclose(rec.score(['x']), twin.score(['x']), atol=1e-5)

def test_shared_ids_are_decided_for_each_source(pair, split):
    "E6: shared users in one source, strangers with the same ids in another, in both orders."
    ids = pair.source.log['user'].unique()
    mixed = dict(zip(ids, np.random.default_rng(0).permutation(ids)))
    big = make_synthetic_pair(0, n_users=(300, 300), n_items=(60, 60), n_rows=(20, 15), shared=.9)
    ids = big.source.log['user'].unique()
    mixed = dict(zip(ids, np.random.default_rng(0).permutation(ids)))
    strangers = Domain('strangers', big.source.log.assign(user=big.source.log['user'].map(mixed)),
                       big.source.items)
    train = big.target.with_log(split_last(big.target).train)
    for sources, want in (([big.source, strangers], [True, False]), ([strangers, big.source], [False, True])):
        rec = Recommender('tfidf', experts=few).fit(train, sources)
        assert rec._fitted.shared == want

# Encoders
SENTENCES = ['the old lighthouse keeper', 'a storm at sea']
class Own:
    "An encoder that nobody may fit: letters counted."
    calls = 0
    def encode(self, texts):
        self.calls += 1
        return np.array([[text.count(c) + 1. for c in 'abcdefghijklmnop'] for text in texts], np.float32)
    def fit(self, data): raise AssertionError('the object of somebody else was fitted')

def test_any_object_with_encode_works_and_stays_as_it_is(pair, split, tmp_path):
    "E18."
    own = Own()
    rec = Recommender(own, experts=few).fit(pair.target.with_log(split.train), None, split.valid)
    assert own.calls and set(vars(own)) == {'calls'}
    assert len(rec.recommend_from_text('a fine text', 3)[0]) == 3
    rec.save(tmp_path/'m')
    with pytest.raises(InputError, match='encoder='): Recommender.load(tmp_path/'m')
    back = Recommender.load(tmp_path/'m', encoder=Own())
    assert np.allclose(back.score(['x']), rec.score(['x']), atol=1e-5)

def test_one_encoder_in_two_recommenders(pair, split):
    "E5: the second fit leaves the first model alone."
    encoder = TextEncoder('tfidf', dim=32)
    first = Recommender(encoder, experts=few).fit(pair.target.with_log(split.train), None, split.valid)
    answer = first.recommend_from_text(pair.target.items['title'][0], 5)
    Recommender(encoder, experts=few).fit(pair.source.with_log(pair.source.log))
    again = first.recommend_from_text(pair.target.items['title'][0], 5)
    assert (answer[0] == again[0]).all() and np.allclose(answer[1], again[1])

def test_one_new_item_reads_as_in_its_catalogue(pair, split):
    "E4: the cheapest item, added alone, has the text vector of its copy in the catalogue."
    rec = fitted(pair, split)
    if 'price' not in rec.data.table: pytest.skip('no prices in this world')
    place = int(rec.data.table['price'].iloc[:rec.data.n_target].argmin())
    rec.add_items(rec.data.table.iloc[[place]].assign(item='copy'))
    new = rec.data.n_target - 1
    assert np.allclose(rec.data.vectors[new], rec.data.vectors[place], atol=1e-5)
    assert np.allclose(rec.data.phi[new], rec.data.phi[place], atol=1e-4)

# Updates
def test_a_log_without_times_keeps_those_that_are_known(rec, users):
    "E13."
    before = len(rec.data.time)
    rec.update(pd.DataFrame(dict(user=[users[0]], item=[rec.items[0]])))
    assert rec.data.time is not None and len(rec.data.time) == before + 1

@pytest.mark.parametrize('refresh', [None, 'exact', 'schedule'])
def test_who_is_forgotten_after_an_update_leaves_nothing(refresh, rec, users, tmp_path):
    "E14: no id of the user in what is saved."
    now = rec.data.time.max() + 1
    rec.update(pd.DataFrame(dict(user=['gone-for-good'], item=[rec.items[0]], time=[now])), refresh)
    rec.forget('gone-for-good')
    rec.save(tmp_path/'m')
    assert b'gone-for-good' not in (tmp_path/'m'/'model.json').read_bytes()
    assert b'gone-for-good' not in pickle.dumps(rec.fusion.data)

@pytest.mark.parametrize('serve', [False, True])
def test_reading_while_writing(serve, pair, split, users):
    "E21: requests in three threads while items and interactions come in."
    rec = fitted(pair, split)
    if serve: rec.serve(rank=8, pool=20)
    errors, stop = [], threading.Event()
    def read():
        while not stop.is_set():
            try:
                rec.recommend(users[:2], 5)
                rec.recommend(users, 5)
                rec.similar(pair.target.items['item'][0], 3)
            except Exception as err: errors.append(repr(err))
    threads = [threading.Thread(target=read) for _ in range(3)]
    for t in threads: t.start()
    row = rec.data.table.iloc[[0]]
    for i in range(6):
        rec.add_items(row.assign(item=f'new {i}'))
        now = rec.data.time.max() + 1
        rec.update(pd.DataFrame(dict(user=[f'user {i}', users[0]], item=[f'new {i}']*2, time=[now, now])), refresh='exact')
    stop.set()
    for t in threads: t.join()
    assert not errors and rec.items[-1] == 'new 5'

def test_a_failed_change_leaves_the_model_as_it_was(rec, users, monkeypatch):
    before, fusion = rec.score(users), rec.fusion
    monkeypatch.setattr(EASE, 'add_items', lambda *a: 1/0)
    with pytest.raises(ZeroDivisionError): rec.add_items(rec.data.table.iloc[[0]].assign(item='new'))
    assert rec.fusion is fusion and (rec.score(users) == before).all()

# Copies and files
def test_copies(rec, users):
    "E19: with a server, too; and clone gives an unfitted one of the same settings."
    rec.serve(rank=8, pool=20)
    for twin in (copy.deepcopy(rec), pickle.loads(pickle.dumps(rec.set_params(experts=None)))):
        assert (twin.recommend(users[:2], 3)[0] == rec.recommend(users[:2], 3)[0]).all()
    fresh = clone(rec)
    assert fresh.get_params() == rec.get_params() and not fresh.plan

def test_settings_and_results_come_back(pair, split, users, tmp_path):
    "E2: repeats, events and the rest are settings of the saved model; results stand in the card."
    rec = fitted(pair, split, repeats=True, events={'view': .5}, seed=3)
    rec._state.results['test'] = dict(metrics={'ndcg@10': (.3, .2, .4)}, protocol=dict(name='last'))
    rec.save(tmp_path/'m')
    back = Recommender.load(tmp_path/'m')
    assert back.get_params() == rec.get_params() | dict(experts=None)
    assert back.plan == rec.plan and back.event_weights == {'view': .5}
    assert '0.3000 | [0.2000, 0.4000]' in (tmp_path/'m'/'README.md').read_text()

def test_the_folder_travels(rec, users, tmp_path):
    "The folder is moved, the place it was written to is gone: nothing of the model lies elsewhere."
    rec.save(tmp_path/'here')
    shutil.move(tmp_path/'here', tmp_path/'there')
    back = Recommender.load(tmp_path/'there')
    assert np.allclose(back.score(users), rec.score(users), atol=1e-4)
    assert (back.recommend_from_text('a', 3)[0] == rec.recommend_from_text('a', 3)[0]).all()

def test_item_tables_with_dates_and_lists(pair, split, tmp_path):
    "E11."
    table = pair.target.items
    dates = pd.to_datetime(np.arange(len(table)), unit='D', origin='2020-01-01')
    items = table.assign(since=dates, tags=[['a', 'b'][:i % 3] for i in range(len(table))])
    rec = Recommender('tfidf', experts=few).fit(Domain('dated', split.train, items), None, split.valid)
    rec.save(tmp_path/'m')
    back = Recommender.load(tmp_path/'m')
    assert np.allclose(back.score(['x']), rec.score(['x']), atol=1e-4)

def test_grown_models_come_back(rec, users, tmp_path):
    "Features of items that came later are those of the map that was fitted, after loading, too."
    rec.add_items(rec.data.table.iloc[:2].assign(item=['n1', 'n2']))
    rec.save(tmp_path/'m')
    back = Recommender.load(tmp_path/'m')
    assert np.allclose(back.score(users), rec.score(users), atol=1e-4)
    for model in (rec, back): model.add_items(model.data.table.iloc[[3]].assign(item='n3'))
    assert np.allclose(back.score(users), rec.score(users), atol=1e-4)

# What is left out is told
def test_an_expert_that_cannot_be_fitted_is_warned_about(pair, split):
    "E3, the silence; a fault of another kind is no reason to go on."
    class Hungry(Popularity):
        def _fit(self, data): raise MemoryError('10 GiB more are needed')
    class Broken(Popularity):
        def _fit(self, data): raise RuntimeError('a fault')
    train = pair.target.with_log(split.train)
    with pytest.warns(UserWarning, match='Hungry left out: MemoryError'):
        rec = Recommender(None, experts=lambda *a: [Popularity(), Hungry()]).fit(train)
    assert any('Hungry left out' in line for line in rec.plan)
    with pytest.raises(RuntimeError, match='a fault'):
        Recommender(None, experts=lambda *a: [Popularity(), Broken()]).fit(train)

def test_repeats_only_where_asked(pair, split):
    rec = Recommender(None, experts=lambda *a: [Popularity(), RepeatConsumption()])
    assert [x.name for x in rec.fit(pair.target.with_log(split.train)).experts] == ['Popularity']

def test_old_names_of_methods_warn(rec, users):
    with pytest.warns(DeprecationWarning, match='recommend_cold_start'): rec.welcome(users, 2)
    with pytest.warns(DeprecationWarning, match='explain'): rec.why(users[0], rec.items[0])

def test_scores_do_not_depend_on_the_block(rec, monkeypatch):
    "Blocks of bounded memory, not of users (quadratic faults)."
    whole = rec.score_histories(rec.data.hist)
    import llmrec.fusion as fusion
    monkeypatch.setattr(fusion, 'batch_slices', lambda n, size: (slice(i, min(i + 3, n)) for i in range(0, n, 3)))
    assert np.allclose(rec.score_histories(rec.data.hist), whole, atol=1e-5)

def test_the_model_runs_on_the_device_that_is_named(pair, split):
    rec = fitted(pair, split, device='cpu')
    assert rec.get_params()['device'] == 'cpu' and rec.to('cpu') is rec
    with pytest.raises(InputError, match='device'): Recommender(device='no such device')


def test_places_for_items_with_few_interactions(pair, split):
    "At least a share of each list, the best of their kind, and the order of scores."
    thin = split.train.groupby('user').head(3)
    rec = Recommender('tfidf', budget='fast', experts=few).fit(pair.target.with_log(thin), pair.source)
    users = thin['user'].unique()[:20]
    rare = np.asarray(rec.items)[rec.data.counts[:len(rec.items)] < 5]
    assert 8 <= len(rare) < len(rec.items) - 10, 'the shop has some'
    plain, _ = rec.recommend(users, k=10)
    lists, scores = rec.recommend(users, k=10, fresh=.4)
    best, _ = rec.recommend(users, k=4, items=rare)
    for row, before, top, value in zip(lists, plain, best, scores):
        assert set(top) <= set(row) and len(set(row)) == 10
        kept = [x for x in before if x not in rare][:6]
        assert set(kept) <= set(row) and (np.diff(value) <= 0).all()
    assert np.array_equal(rec.recommend(users, k=10, fresh=0.)[0], plain)
    for wrong in (-.1, 1.5):
        with pytest.raises(InputError, match='fresh is'): rec.recommend(users, fresh=wrong)
    with pytest.raises(InputError, match='fresh'): rec.recommend(users, fresh=.2, confidence=True)
