"""Bad texts and bad models: clear errors, and rows that never shift."""
import json, shutil, struct, sys, unicodedata
from pathlib import Path
import numpy as np, pandas as pd, pytest
import torch, transformers
from hypothesis import given, settings, strategies as st
from llmrec.core import InputError
from llmrec import Recommender
from llmrec.encode import TextEncoder, check_texts, train_tokenizer
from llmrec.pretrain import tiny_encoder

CORPUS = ['green tea, 20 bags', 'black tea', 'engine oil 5W-30', 'whole milk', 'хлеб ржаной', '手机壳 透明', 'خبز القمح']

@pytest.fixture(scope='module')
def model_dir(tmp_path_factory):
    "A small sound model that every test spoils in its own way."
    return tiny_encoder(CORPUS, dim=32, vocab=400, out=tmp_path_factory.mktemp('m')/'tiny').path

@pytest.fixture(scope='module')
def encoders(model_dir, tmp_path_factory):
    gpt = tiny_encoder(CORPUS, 'tiny-gpt', dim=32, vocab=400, out=tmp_path_factory.mktemp('g')/'tiny')
    return dict(bert=TextEncoder(model_dir, cache=False, device='cpu'), gpt=TextEncoder(gpt.path, cache=False, device='cpu'),
                tfidf=TextEncoder('tfidf').fit(CORPUS))

KINDS = ['bert', 'gpt', 'tfidf']


def scripts():
    "Some characters of each script of Unicode, and of each kind of character that is not a letter."
    found = {}
    for c in map(chr, range(sys.maxunicode + 1)):
        kind = unicodedata.name(c, '').split(' ')[0] if unicodedata.category(c)[0] in 'LN' else unicodedata.category(c)
        if len(found.setdefault(kind, '')) < 12: found[kind] += c
    return sorted(found.values())

ODD = ['', ' ', '\t\n\r', '\x00', ''.join(map(chr, range(32))) + '\x7f\x85', '\u202e\ufeff\u200d', 'a\ud800b', '\udfff', '\U0010ffff',
       'x'*1_000_000, 'tea '*250_000, '\u0301'*5000, '🧑‍🚀'*300, 'ﷺ'*100, '[MASK] [CLS] [SEP] [PAD]', '<|endoftext|>', '{}', '{0}', '%s', '\\']

def rows_stay(e, texts):
    "Each text has the vector it has among others only."
    X = e.encode(texts)
    assert X.shape == (len(texts), e.dim) and X.dtype == np.float32 and np.isfinite(X).all()
    marked = [t for x in texts for t in (x, 'green tea')]
    Y = e.encode(marked)
    assert np.allclose(Y[::2], X, atol=1e-4) and np.allclose(Y[1::2], e.encode(['green tea']), atol=1e-4)
    p = np.random.default_rng(0).permutation(len(texts))
    assert np.allclose(e.encode([texts[i] for i in p]), X[p], atol=1e-4)

@pytest.mark.parametrize('kind', KINDS)
def test_odd_texts(encoders, kind): rows_stay(encoders[kind], ODD)

@pytest.mark.parametrize('kind', KINDS)
def test_every_script_of_unicode(encoders, kind):
    s = scripts()
    assert len(s) > 150
    rows_stay(encoders[kind], s)

@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(st.characters(codec=None)), max_size=6))
def test_any_texts(encoders, texts):
    for e in encoders.values():
        X = e.encode(texts)
        assert X.shape == (len(texts), e.dim) and np.isfinite(X).all()
        for t, x in zip(texts, X): assert np.allclose(e.encode([t])[0], x, atol=1e-4)

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('bad', [None, float('nan'), np.nan, pd.NA, pd.NaT, 3, b'tea', ['tea'], {'a': 1}], ids=repr)
def test_what_is_no_text_is_named_by_its_row(encoders, kind, bad):
    with pytest.raises(InputError, match=r'texts\[2\] is .* expected str: fill missing'): encoders[kind].encode(['a', 'b', bad, 'd'])

@pytest.mark.parametrize('bad', ['one text', b'bytes', None, 7])
def test_what_is_no_list(encoders, bad):
    with pytest.raises(InputError, match='pass a list of str'): encoders['bert'].encode(bad)

@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_of_sequence(encoders, kind):
    e, want = encoders[kind], encoders[kind].encode(['tea', 'milk'])
    frame = pd.Series(['tea', 'milk'], index=[7, 3])
    for seq in (('tea', 'milk'), np.array(['tea', 'milk']), frame, frame.astype('category'), iter(['tea', 'milk']), {'tea': 1, 'milk': 2}):
        assert np.allclose(e.encode(seq), want, atol=1e-5)
    assert e.encode([]).shape == (0, e.dim)


@pytest.fixture
def spoiled(model_dir, tmp_path):
    "A copy of the sound model."
    return Path(shutil.copytree(model_dir, tmp_path/'model'))

def refused(path, *words):
    "Encoding with the model at `path` is an `InputError` that holds all `words` and the path."
    with pytest.raises(InputError) as e: TextEncoder(path, cache=False).encode(['tea'])
    for w in (*words, str(path)): assert w in str(e.value), str(e.value)

def test_no_tokenizer(spoiled):
    for p in spoiled.glob('*token*'): p.unlink()
    refused(spoiled, 'no tokenizer', 'save_pretrained')

def test_broken_tokenizer(spoiled):
    (spoiled/'tokenizer.json').write_text('{"model": 3}')
    refused(spoiled, 'the tokenizer cannot be loaded')

def test_tokenizer_of_another_model(spoiled):
    train_tokenizer([f'word{i} {i*i}' for i in range(3000)], vocab=3000).save_pretrained(spoiled)
    refused(spoiled, 'not a pair')

def test_no_config(spoiled):
    (spoiled/'config.json').unlink()
    refused(spoiled, 'no config.json')

@pytest.mark.parametrize('text,word', {'{': 'not JSON', '{"model_type": "bert"}': 'hidden_size', '{"hidden_size": 32}': 'cannot be loaded',
                                       '{"model_type": "no_such_model", "hidden_size": 32}': 'cannot be loaded'}.items())
def test_broken_config(spoiled, text, word):
    (spoiled/'config.json').write_text(text)
    refused(spoiled, word)

@pytest.mark.parametrize('kind', ['Roberta', 'GPT2', 'ModernBert', 'Electra'])
def test_weights_of_another_architecture(spoiled, tmp_path, kind):
    cfg = getattr(transformers, kind + 'Config')(vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, pad_token_id=0)
    getattr(transformers, kind + 'Model')(cfg).save_pretrained(tmp_path/'other')
    shutil.copy(tmp_path/'other'/'model.safetensors', spoiled)
    refused(spoiled)

def test_a_model_of_pictures(spoiled, tmp_path):
    cfg = transformers.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    transformers.ViTModel(cfg).save_pretrained(spoiled)
    refused(spoiled, 'not a text model')

@pytest.mark.parametrize('cut', [0, 1, 7, 100, .5, .999])
def test_truncated_weights(spoiled, cut):
    f = spoiled/'model.safetensors'; b = f.read_bytes()
    f.write_bytes(b[:int(cut*len(b)) if isinstance(cut, float) else cut])
    refused(spoiled, 'cannot be loaded')

def test_a_tensor_is_missing(spoiled):
    from safetensors.torch import load_file, save_file
    f = spoiled/'model.safetensors'; w = load_file(f)
    del w[next(k for k in w if 'layer.1' in k)]
    save_file(w, f, metadata=dict(format='pt'))
    refused(spoiled, 'the weights lack 1 tensors')

def test_weights_with_nan(spoiled):
    from safetensors.torch import load_file, save_file
    f = spoiled/'model.safetensors'; w = load_file(f)
    w[next(k for k in w if 'layer.1' in k)].fill_(float('nan'))
    save_file(w, f, metadata=dict(format='pt'))
    with pytest.raises(InputError, match='not finite'): TextEncoder(spoiled, cache=False).encode(['tea'])

@pytest.mark.parametrize('name', ['pytorch_model.bin', 'model.pt', 'weights.pkl', 'model.ckpt'])
def test_a_pickle_is_refused_and_not_opened(spoiled, name, tmp_path):
    import pickle
    class Evil:
        def __reduce__(self): return open, (str(tmp_path/'ran'), 'w')
    (spoiled/'model.safetensors').unlink()
    (spoiled/name).write_bytes(pickle.dumps(Evil()))
    refused(spoiled, name, 'pickle', 'refused')
    assert not (tmp_path/'ran').exists()

def test_a_pickle_under_a_safe_name(spoiled, tmp_path):
    import pickle
    class Evil:
        def __reduce__(self): return open, (str(tmp_path/'ran'), 'w')
    (spoiled/'model.safetensors').write_bytes(pickle.dumps(Evil()))
    refused(spoiled, 'cannot be loaded')
    assert not (tmp_path/'ran').exists()

def test_code_in_a_model_directory_is_not_run(spoiled, tmp_path):
    cfg = json.loads((spoiled/'config.json').read_text())
    cfg |= dict(model_type='mine', auto_map=dict(AutoConfig='mine.C', AutoModel='mine.M'))
    (spoiled/'config.json').write_text(json.dumps(cfg))
    (spoiled/'mine.py').write_text(f'open({str(tmp_path/"ran")!r}, "w")')
    refused(spoiled, 'cannot be loaded', 'code that comes with a model is never run')
    assert not (tmp_path/'ran').exists()

def test_sharded_weights_with_a_missing_shard(spoiled):
    e = TextEncoder(spoiled, cache=False)
    e.model.save_pretrained(spoiled, max_shard_size='20KB'); (spoiled/'model.safetensors').unlink(missing_ok=True)
    shards = sorted(spoiled.glob('model-*.safetensors'))
    assert len(shards) > 1 and np.isfinite(TextEncoder(spoiled, cache=False).encode(['tea'])).all()
    shards[0].unlink()
    refused(spoiled, 'cannot be loaded')

@pytest.mark.parametrize('content', [b'', b'GGUF', b'not a model', b'GGUF' + struct.pack('<IQQ', 3, 1, 1) + b'\xff'*64])
def test_broken_gguf(tmp_path, content, monkeypatch):
    pytest.importorskip('gguf')
    monkeypatch.setenv('LLMREC_CACHE', str(tmp_path/'cache'))
    (tmp_path/'a.gguf').write_bytes(content)
    refused(tmp_path/'a.gguf', 'not a GGUF file')
    assert not list((tmp_path/'cache'/'gguf').iterdir())

@pytest.mark.parametrize('name', ['no/such-model', 'no-such-directory/', '../no/such.gguf', '', '..', 'https://example.org/model', 'a b', 'x'*300])
def test_names_of_nothing(name, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    with pytest.raises(InputError): TextEncoder(name).encode(['tea'])

@pytest.mark.parametrize('kw,word', [(dict(pooling='max'), 'expected'), (dict(max_len=10**6), 'takes 1 to'), (dict(max_len=-1), 'takes 1 to'),
                                     (dict(max_len=2.5), 'max_len'), (dict(dtype='int3'), 'expected'), (dict(device='gpu'), 'device'),
                                     (dict(batch_tokens=0), 'batch_tokens'), (dict(prompt=3), 'prompt')])
def test_bad_settings(model_dir, kw, word):
    with pytest.raises(InputError, match=word): TextEncoder(model_dir, cache=False, **kw).encode(['tea'])

def test_tiny_lengths(model_dir):
    "However short the limit: one row a text."
    for n in (1, 2, 3):
        X = TextEncoder(model_dir, cache=False, max_len=n).encode(['', 'tea', 'green tea, 20 bags'])
        assert X.shape == (3, 32) and np.isfinite(X).all()


@pytest.mark.parametrize('change', [dict(kind='pickle'), dict(kind=['tfidf']), dict(kind=None), dict(fingerprint=None), 7, None], ids=str)
def test_a_damaged_description_of_an_encoder_is_refused(change, encoders, tmp_path):
    "What a model folder says of its encoder may be damaged, or written by somebody else."
    from llmrec.encode import encoder_from_state
    state = encoders['tfidf'].state(tmp_path)
    assert encoder_from_state(state, tmp_path).dim == encoders['tfidf'].dim
    with pytest.raises(InputError): encoder_from_state(state | change if isinstance(change, dict) else change, tmp_path)
    with pytest.raises(InputError): encoder_from_state({k: v for k, v in state.items() if k != 'fingerprint'}, tmp_path)


# The hub, where there is none
@pytest.fixture
def no_route(monkeypatch):
    "A machine without a network, that nobody told so: no proxy, no HF_HUB_OFFLINE."
    import socket
    from huggingface_hub import constants
    import llmrec.model_files as module
    asked = []
    def connect(where, *args, **kw):
        asked.append(where)
        raise OSError(101, 'Network is unreachable')
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(module, 'getproxies', dict)
    monkeypatch.setattr(socket, 'create_connection', connect)
    return asked

def test_without_a_route_a_download_fails_at_once_and_says_why(no_route, tmp_path, monkeypatch):
    "Asked for by name, it was an error after half a minute of retries, and from the hub's library."
    import time
    monkeypatch.setenv('HF_HOME', str(tmp_path))
    for ask in (lambda: TextEncoder('nobody/no-model', download=True).encode(['a']), lambda: Recommender.from_pretrained('nobody/no-model'),
                lambda: Recommender.from_pretrained(tmp_path/'typo')):
        began = time.time()
        with pytest.raises(InputError, match='no route to huggingface.co: .*unreachable') as error: ask()
        assert time.time() - began < 10 and len(str(error.value)) <= 600
    assert no_route

def test_nothing_is_asked_of_the_hub_where_no_download_was_asked_for(no_route):
    with pytest.raises(InputError, match='files are on this machine'): TextEncoder('nobody/no-model').encode(['a'])
    with pytest.raises(InputError, match='no model can be loaded'): Recommender.from_pretrained('nobody/no-model', local_files_only=True)
    assert not no_route

def test_behind_a_proxy_the_library_finds_its_own_way(no_route, monkeypatch):
    import llmrec.model_files as module
    monkeypatch.setattr(module, 'getproxies', lambda: dict(https='http://proxy:1'))
    assert module.hub_trouble() == '' and not no_route
