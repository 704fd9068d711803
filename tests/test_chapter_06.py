"""Checks of chapter 06 that teach a reader nothing: collators, batches, errors. Stops and resumes: test_pretrain.py."""
import numpy as np, pandas as pd, pytest, torch
from llmrec.core import InputError
from llmrec.encode import TextEncoder
from llmrec.pretrain import _frozen, _lm_collate, cooccurrence_pairs, sample_mixture, split_texts, tiny_encoder

WORDS = ['green tea', 'black tea', 'whole milk', 'soy milk', 'motor oil', 'olive oil', 'green olives', 'black olives']

pytestmark = pytest.mark.usefixtures('own_cache')

@pytest.fixture(scope='module')
def bert(): return tiny_encoder(WORDS, dim=32, vocab=300)

def test_held_out_texts_are_apart():
    train, held = split_texts(['Green tea', 'green  TEA', 'milk', 'oil', ''], .3)
    assert (len(train), len(held)) == (2, 1) and not set(train) & set(held)

def test_a_mixture_reads_the_texts_of_a_domain_about_equally_often():
    m = sample_mixture([['s']*900, [f't{i}' for i in range(100)]], 2)
    assert (len(m), m.count('s'), m.count('t7') in (2, 3)) == (1000, 750, True)

@pytest.mark.parametrize('kind', ['tiny-bert', 'tiny-gpt'])
def test_a_tiny_model_encodes(kind): assert tiny_encoder(WORDS, kind, dim=32, vocab=300).encode(WORDS).shape == (8, 32)

def test_a_sixth_of_the_tokens_is_hidden_and_held_out_masks_stay(bert):
    collate = _lm_collate(bert.tokenizer, decoder=False)
    rows = [dict(input_ids=bert.tokenizer(text)['input_ids']) for text in WORDS*50]
    b = collate(rows)
    hidden = (b['labels'] != -100).sum()/(b['attention_mask'].sum() - 2*len(rows))
    frozen = _frozen(rows[:8], collate)
    assert .1 < hidden < .2 and torch.equal(collate(frozen)['input_ids'], collate(frozen)['input_ids'])

def test_pairs_are_counted_once():
    log = pd.DataFrame(dict(user=[1, 1, 1, 2, 2], item=[10, 11, 10, 11, 10], time=[1, 2, 3, 1, 2]))
    assert cooccurrence_pairs(log, {10: 'tea', 11: 'milk'}) == [('milk', 'tea')]

def test_a_pretrained_model_is_a_directory_like_any_other(bert):
    e = tiny_encoder(WORDS, dim=32, vocab=300, seed=1)
    e.pretrain(WORDS, epochs=1)
    assert np.array_equal(TextEncoder(e.path).encode(WORDS), e.encode(WORDS)) and len(e.history) and len(e.report)

@pytest.mark.parametrize('bad', [dict(objective='clm'), dict(objective='nonsense'), dict(pairs=[('a', 'b')]*3), dict(texts=['one'])])
def test_what_cannot_be_pretrained(bert, bad):
    with pytest.raises(InputError, match='encoder|pairs|at least 2'): bert.pretrain(**{'texts': WORDS, **bad})

def test_counting_has_nothing_to_pretrain():
    with pytest.raises(InputError, match='tiny_encoder'): TextEncoder('tfidf').pretrain(WORDS)
