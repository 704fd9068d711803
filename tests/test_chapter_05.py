"""Checks of chapter 05 that teach a reader nothing: batches, prompts, copies, and what is saved. Bad texts and models: test_encode_bad.py."""
import json, os
import numpy as np, pytest
from llmrec.core import InputError
from llmrec.encode import TextEncoder, as_encoder, check_texts, encoder_from_state, token_batches
from llmrec.model_files import bundled_minilm, read_model_config
from llmrec.pretrain import tiny_encoder

CORPUS = ['green tea, 20 bags', 'black tea, 100 bags', 'herbal teas', 'engine oil 5W-30', 'motor oil', 'whole milk']

pytestmark = pytest.mark.usefixtures('own_cache')

@pytest.fixture(scope='module')
def tfidf(): return TextEncoder('tfidf').fit(CORPUS)

@pytest.fixture(scope='module')
def mini(): return TextEncoder('minilm')

class Theirs:
    "An encoder of others."
    def __init__(self, enc): self.enc = enc
    def encode(self, texts): return self.enc.encode(texts)


# Batches and texts
def test_batches_hold_a_budget_of_tokens():
    assert [list(b) for b in token_batches([3, 9, 3, 8, 2], 16)] == [[1], [3, 0], [2, 4]]
    n = np.random.default_rng(0).integers(5, 40, 5000)
    batches = list(token_batches(n))
    assert sorted(np.concatenate(batches)) == list(range(5000))
    padded, unsorted = sum(n[b].max()*len(b) for b in batches), sum(b.max()*len(b) for b in n[:4992].reshape(-1, 32))
    assert padded/n.sum() - 1 < .05 < .3 < unsorted/n.sum() - 1

def test_texts_are_cleaned_and_bad_ones_named():
    assert check_texts(np.array(['a', ''], dtype=object)) == ['a', ''] and check_texts(['a\ud800b']) == ['a?b']
    for bad in ('one string', ['a', None], ['a', float('nan')], [3], 5):
        with pytest.raises(InputError, match='expected str|pass a list'): check_texts(bad)

def test_what_the_bundled_model_says_of_itself():
    want = dict(dim=384, pooling='mean', limit=512, max_len=256, prompts=dict(document='', query=''))
    assert read_model_config(bundled_minilm()) == want

@pytest.mark.parametrize('kw', [dict(pooling='max'), dict(max_len=10**6), dict(max_len=-1), dict(dtype='int3'), dict(dim=385)])
def test_settings_that_make_no_sense(kw):
    with pytest.raises(InputError, match='expected|takes 1 to|1 to 384'): TextEncoder('minilm', **kw)


# Prompts, fewer numbers
def test_prompts(mini):
    two = TextEncoder('minilm', prompt={'query': 'query: ', 'document': 'passage: '})
    assert np.allclose(two.encode_query(['tea']), mini.encode(['query: tea']), atol=1e-6)
    assert (two.encode_document(['tea']) == two.encode(['tea'], prompt_name='document')).all()
    with pytest.raises(InputError, match='knows document, query'): two.encode(['tea'], prompt_name='title')

def test_principal_axes_keep_more_than_the_first_numbers(mini):
    goods = [f'{size} {thing}' for thing in ('milk', 'tea', 'motor oil', 'phone case', 'puzzle') for size in ('small', 'large', 'organic', 'cheap')]
    C = mini.encode(goods)@mini.encode(goods).T
    first, axes = TextEncoder('minilm', dim=8), TextEncoder('minilm', dim=8, reduce='pca')
    with pytest.raises(InputError, match='call fit'): axes.encode(goods)
    kept = [np.corrcoef(C.ravel(), (e.encode(goods)@e.encode(goods).T).ravel())[0, 1] for e in (axes.fit(goods), first)]
    assert kept[0] > kept[1] and axes.encode(['tea']).shape == (1, 8)


# TF-IDF, and whose encoder it is
def test_tfidf_is_deterministic_and_knows_what_it_does_not_know(tfidf):
    Z = tfidf.encode(CORPUS)
    assert np.allclose(np.linalg.norm(Z, axis=1), 1, atol=1e-5) and (Z == TextEncoder('tfidf').fit(CORPUS).encode(CORPUS)).all()
    assert not tfidf.encode(['', 'тест']).any() and TextEncoder('tfidf').fingerprint == 'not fitted'
    with pytest.raises(InputError, match='no language model'): tfidf.model

def test_two_recommenders_may_be_given_one_encoder():
    shared = TextEncoder('tfidf', dim=4)
    first, second = as_encoder(shared).fit(CORPUS), as_encoder(shared).fit(['soup', 'butter', 'spice and honey'])
    assert first.encode(CORPUS).shape == (6, 4) and not shared.fitted and not second.encode(CORPUS).any()
    assert (first.fit(['something else']).encode(CORPUS) == first.encode(CORPUS)).all()      # learns once

def test_an_encoder_of_others_is_only_asked(mini):
    given = as_encoder(Theirs(mini))
    assert np.allclose(given.encode(CORPUS), mini.encode(CORPUS), atol=1e-5)
    assert (given.fit(CORPUS).dim, given.fingerprint) == (384, as_encoder(Theirs(mini)).fingerprint)


# What is saved
def test_saved_and_opened(tfidf, tmp_path):
    back = TextEncoder(tfidf.save(tmp_path/'tf'))
    assert (back.encode(CORPUS) == tfidf.encode(CORPUS)).all() and back.fingerprint == tfidf.fingerprint
    small = TextEncoder('minilm', max_len=64, pooling='cls', prompt='buy: {}')
    e = TextEncoder(small.save(tmp_path/'mini'))
    assert (e.pooling, e.max_len, e.prompt) == ('cls', 64, 'buy: {}')
    assert (e.encode(['milk']) == TextEncoder('minilm', max_len=64, pooling='cls').encode(['buy: milk'])).all()

@pytest.mark.parametrize('kind', ['minilm', 'tfidf', 'given'])
def test_a_state_makes_the_encoder_again(kind, mini, tfidf, tmp_path):
    theirs = Theirs(mini)
    e = dict(minilm=TextEncoder('minilm', max_len=64), tfidf=tfidf, given=as_encoder(theirs))[kind]
    state = json.loads(json.dumps(e.state(tmp_path)))
    assert state['kind'] == kind and bool(os.listdir(tmp_path)) == (kind == 'tfidf')
    back = encoder_from_state(state, tmp_path, theirs if kind == 'given' else None)
    assert np.allclose(back.encode(CORPUS), e.encode(CORPUS), atol=1e-6)
    if kind != 'given': return
    with pytest.raises(InputError, match='give it again'): encoder_from_state(state, '.')
    with pytest.raises(InputError, match='no longer the one'): encoder_from_state(state, '.', tfidf)

def test_numbers_that_are_none_are_not_kept(tmp_path):
    "When the weights are sound again, so are the vectors (E22)."
    e = tiny_encoder(CORPUS, dim=32, vocab=400, out=tmp_path/'m', cache=tmp_path/'c')
    weight = e.model.get_input_embeddings().weight.data
    sound = weight.clone()
    weight.fill_(float('nan'))
    with pytest.raises(InputError, match='not finite'): e.encode(['tea', 'milk'])
    weight.copy_(sound)
    assert np.isfinite(e.encode(['tea', 'milk'])).all() and len(e.store()) == 2
