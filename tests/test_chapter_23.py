"""The recommender at its edges: ids of every kind, splits that are not in time, items without attributes, arguments, damaged folders."""
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
from fastcore.test import test_close as close, test_eq as equal
from sklearn.base import clone
from llmrec.baselines import Content, Popularity
from llmrec.closed_form import EASE
from llmrec.core import InputError
from llmrec.data import make_synthetic_pair
from llmrec.dataset import histories
from llmrec.preprocess import split_cold_items, split_cold_users, split_last
from llmrec.recommender import Recommender, as_ids


def few(data, budget, seed): return [Popularity(), EASE(100.)] + [Content(5.)]*(data.vectors is not None)

def fitted(train, source=None, valid=None, encoder='tfidf', **kw):
    return Recommender(encoder, experts=few, **kw).fit(train, source, valid)

@pytest.fixture(scope='module')
def pair(): return make_synthetic_pair(0, n_users=(80, 60), n_items=(40, 30), n_rows=(12, 8), shared=.5)

@pytest.fixture(scope='module')
def split(pair): return split_last(pair.target)

@pytest.fixture(scope='module')
def rec(pair, split): return fitted(pair.target.with_log(split.train), pair.source, split.valid)

@pytest.mark.parametrize('given, wanted', [('ann', (['ann'], True)), (7, ([7], True)), (pd.Series([3, 4], index=[7, 9]), ([3, 4], False)),
                                           ((x for x in 'ab'), (['a', 'b'], False))])
def test_one_id_or_many(given, wanted): equal(as_ids(given), wanted)

def test_no_id_is_an_error():
    with pytest.raises(InputError, match='list of ids'): as_ids(None)

def test_no_user_has_no_scores(rec): equal(rec.score([]).shape, (0, len(rec.items)))

def test_without_texts_and_attributes_the_other_experts_make_do(pair, split):
    "A column that is the same for all items is no attribute."
    bare = pair.target.with_log(split.train)
    bare.items = bare.items[['item', 'title', 'text']].assign(shop='one')
    rec = fitted(bare, valid=split.valid, encoder=None)
    assert rec.data.phi is None and not any('left out' in line for line in rec.plan)
    equal([x.name for x in rec.experts], ['Popularity', 'EASE'])

def test_a_split_that_is_not_in_time_is_named(pair, rec):
    cut = split_cold_items(pair.target)
    anywhere = fitted(pair.target.with_log(cut.train), pair.source, cut.valid)
    assert any('none in time' in line for line in anywhere.plan)
    assert not any('none in time' in line for line in rec.plan)

def test_validation_users_who_are_unknown_teach_no_gate(pair):
    unseen = split_cold_users(pair.target)
    fresh = fitted(pair.target.with_log(unseen.train), None, unseen.valid)
    assert any('gate fitted on' in line for line in fresh.plan)

def test_an_event_of_an_update_gets_the_weight_of_the_model(pair, split):
    rec = fitted(pair.target.with_log(split.train), events={'view': .25})
    rec.update(pd.DataFrame([dict(user='unseen', item=rec.items[0], event='view')]))
    close(histories(rec.data, ['unseen']).weight, [.25], eps=1e-6)

@pytest.mark.parametrize('kw, said', [(dict(strategy='best'), 'strategy'), (dict(events='all'), "events is 'all'"), (dict(seed=-1), 'seed')])
def test_settings_are_checked(kw, said):
    with pytest.raises(InputError, match=said): Recommender(**kw)

def test_arguments_of_a_list_are_checked(rec):
    user = rec.data.users[0]
    with pytest.raises(InputError, match='confidence is'): rec.recommend(user, confidence='very')
    with pytest.raises(InputError, match='all items'): rec.recommend(user, items=rec.items[:4], confidence=True)
    with pytest.raises(InputError, match='fresh is 3'): rec.recommend(user, fresh=3)
    equal(rec.confidence, None)

def test_settings_are_those_of_scikit_learn(rec):
    again = clone(rec)
    equal(again.get_params(), rec.get_params())
    equal(again.set_params(seed=3).seed, 3)
    with pytest.raises(InputError, match='not fitted'): again.items

def test_a_damaged_folder_is_named(rec, tmp_path):
    rec.save(tmp_path)
    file = next(Path(tmp_path).glob('*.safetensors'))
    file.write_bytes(file.read_bytes()[:-1] + b'x')
    with pytest.raises(InputError, match='damaged'): Recommender.load(tmp_path)
    (tmp_path/'model.json').write_text('{"format": 1}')
    with pytest.raises(InputError, match='fit the model again'): Recommender.load(tmp_path)
