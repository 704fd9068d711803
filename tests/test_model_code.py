"""A model folder with Python code of its own: never run, nothing asked, an error that says why, at every door that reads a model."""
import builtins, json, shutil, warnings
from pathlib import Path
import pytest
from llmrec.core import InputError
from llmrec.encode import TextEncoder
from llmrec.judge import LMScorer, LMWriter, load_causal_lm
from llmrec.model_files import find_model
from llmrec.pretrain import tiny_encoder
from llmrec.recommender import Recommender

TEXTS = ['green tea', 'black tea', 'engine oil', 'whole milk']
OWN = ("import pathlib\npathlib.Path({mark!r}).write_text('ran')\nfrom transformers import BertConfig, BertModel, BertTokenizer\n"
       "class Own(BertConfig): model_type = 'own'\nclass OwnModel(BertModel): config_class = Own\nclass OwnTokenizer(BertTokenizer): pass\n")
DOORS = {
    'encode': lambda d: TextEncoder(d, cache=False).encode(['tea']),
    'pretrain': lambda d: TextEncoder(d, cache=False).pretrain(TEXTS, objective='mlm', epochs=1),
    'find_model': find_model, 'load_causal_lm': load_causal_lm, 'LMScorer': LMScorer.from_pretrained, 'LMWriter': LMWriter.from_pretrained,
    'Recommender': lambda d: Recommender(str(d)).fit(toy()),
}
WAYS = {
    'own type': dict(config=dict(model_type='own', auto_map=dict(AutoConfig='own.Own', AutoModel='own.OwnModel', AutoModelForCausalLM='own.OwnModel'))),
    'remote code': dict(config=dict(model_type='own', auto_map=dict(AutoConfig='some/where--own.Own', AutoModel='some/where--own.OwnModel'))),
    'own tokenizer': dict(tokenizer=dict(tokenizer_class='OwnTokenizer', auto_map=dict(AutoTokenizer=['own.OwnTokenizer', None]))),
}

def toy():
    from llmrec.data import make_synthetic_pair
    return make_synthetic_pair(0, n_users=(20, 20), n_items=(20, 20), n_rows=(4, 4)).target

@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    return {kind: tiny_encoder(TEXTS, kind, dim=32, vocab=200, out=tmp_path_factory.mktemp(kind)/'m').path for kind in ('tiny-bert', 'tiny-gpt')}

def spoil(folder, mark, config=None, tokenizer=None):
    "Let a sound model ask for code that lies beside it."
    (folder/'own.py').write_text(OWN.format(mark=str(mark)))
    for name, changes in (('config.json', config), ('tokenizer_config.json', tokenizer)):
        if changes: (folder/name).write_text(json.dumps(json.loads((folder/name).read_text()) | changes))

@pytest.fixture
def asked(monkeypatch):
    "Questions on the terminal, all answered with yes."
    questions = []
    monkeypatch.setattr(builtins, 'input', lambda *a: questions.append(a) or 'y')
    return questions

@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('door', DOORS)
def test_code_of_a_model_is_refused(door, way, sound, tmp_path, monkeypatch, asked):
    monkeypatch.setenv('HF_MODULES_CACHE', str(tmp_path/'modules'))
    kind = 'tiny-gpt' if door in ('load_causal_lm', 'LMScorer', 'LMWriter') else 'tiny-bert'
    model, mark = shutil.copytree(sound[kind], tmp_path/'m'), tmp_path/'ran'
    spoil(model, mark, **WAYS[way])
    with pytest.raises(InputError, match='code that comes with a model is never run') as error: DOORS[door](model)
    assert 'auto_map' in str(error.value) and len(str(error.value)) <= 600
    assert not asked and not mark.exists()

@pytest.mark.parametrize('door', ['encode', 'load_causal_lm'])
def test_code_that_is_not_needed_is_passed_over_with_a_word(door, sound, tmp_path, asked):
    "transformers knows the architecture: its class is used, the folder's is not."
    kind = 'tiny-gpt' if door == 'load_causal_lm' else 'tiny-bert'
    model, mark = shutil.copytree(sound[kind], tmp_path/'m'), tmp_path/'ran'
    spoil(model, mark, config=dict(auto_map=dict(AutoModel='own.OwnModel', AutoModelForCausalLM='own.OwnModel')))
    with pytest.warns(UserWarning, match='never run'): DOORS[door](model)
    assert not asked and not mark.exists()

def test_the_encoder_inside_a_saved_model(sound, tmp_path, asked):
    rec = Recommender(str(shutil.copytree(sound['tiny-bert'], tmp_path/'e'))).fit(toy())
    rec.save(tmp_path/'model')
    folder = next(p for p in (tmp_path/'model').iterdir() if p.is_dir())
    spoil(folder, tmp_path/'ran', **WAYS['own type'])
    with pytest.raises(InputError): Recommender.load(tmp_path/'model').recommend_from_text('tea')
    assert not asked and not (tmp_path/'ran').exists()
