"""`leakage_audit`: every planted leak of bench/leaks.py is found, clean sets stay quiet, files of others are read."""
import json, sys, warnings
from pathlib import Path
import numpy as np, pandas as pd, pytest
from llmrec.core import InputError
from llmrec.data import make_synthetic_pair
from llmrec.case_files import read_lists, read_test_file
from llmrec.leakage import LESSONS, code_hits, exceeds, leakage_audit
from llmrec.preprocess import Split, later_rows, paired_time_splits, regime, regime_text, split_last, split_time

sys.path.insert(0, str(Path(__file__).resolve().parents[1]/'bench'))
import leaks

ALARM = ['warning', 'leak']


@pytest.mark.parametrize('name', leaks.PLANTED)
def test_a_planted_leak_is_found_and_pays(name):
    check, planter = leaks.PLANTED[name]
    clean, leaky, high, low = planter(leaks.World())
    before, after = leaks.found(clean).loc[check], leaks.found(leaky).loc[check]
    assert before.verdict in ('ok', 'note') and after.verdict in ALARM
    assert high > low and after.found > 0 and after.lesson == LESSONS[check]

def test_at_least_twenty_are_planted(): assert len(leaks.PLANTED) >= 30 and set(c for c, _ in leaks.PLANTED.values()) <= set(LESSONS)

@pytest.fixture(scope='module')
def sets(): return leaks.clean_sets()

def test_clean_sets_give_no_alarm(sets):
    "Under a split in time nothing; leave-one-out knows the future of others, which is true of it."
    found = leaks.alarms(sets)
    assert len(sets) == 5 and len(found) == 10 and (found.leaks == 0).all()
    assert (found.alarms[found.split == 'split_time'] == '').all()
    assert set(found.alarms[found.split == 'split_last']) <= {'', 'training knows the future of the item (warning)'}

def test_files_of_a_clean_set_give_no_alarm(sets):
    for name in ('synthetic target', 'MovieLens'):
        s = split_last(sets[name])
        history = s.train.groupby('user')['item'].agg(list)
        f = pd.DataFrame(dict(history=history.reindex(s.test['user']).to_numpy(), target=s.test['item']))
        assert not leakage_audit(f).verdict.isin(ALARM).any()


# Files of other projects
CASES = dict(u1=['a', 'b', 'c'], u2=['b', 'c', 'd'], u3=['x', 'y', 'y'])

def written(tmp_path, kind):
    path = tmp_path/f'test.{kind}'
    rows = [dict(user_id=u, history_item_id=x[:-1], item_id=x[-1]) for u, x in CASES.items()]
    if kind == 'json': path.write_text(json.dumps(CASES))
    elif kind == 'jsonl': path.write_text('\n'.join(map(json.dumps, rows)))
    elif kind == 'txt': path.write_text('\n'.join(' '.join([u, *x]) for u, x in CASES.items()))
    elif kind == 'csv': pd.DataFrame(rows).to_csv(path, index=False)
    elif kind == 'parquet': pd.DataFrame(rows).to_parquet(path)
    elif kind == 'inter':
        lines = ['user_id:token\titem_id_list:token_seq\titem_id:token'] + ['\t'.join([u, ' '.join(x[:-1]), x[-1]]) for u, x in CASES.items()]
        path.write_text('\n'.join(lines))
    return path

@pytest.mark.parametrize('kind', ['json', 'jsonl', 'txt', 'csv', 'parquet', 'inter'])
def test_six_shapes_of_a_test_file_say_the_same(tmp_path, kind):
    split, items, _ = read_test_file(written(tmp_path, kind))
    assert split.test['item'].tolist() == ['c', 'd', 'y'] and split.train['item'].tolist() == ['a', 'b', 'b', 'c', 'x', 'y']
    a = leakage_audit(written(tmp_path, kind)).set_index('check')
    assert a.found['target is the last item of the history'] == 1 and a.verdict['target repeated in the history'] in ALARM

@pytest.mark.parametrize('cell', ['[1, 2]', "['1', '2']", '1|2', '1,2', '1 2', [1, 2], np.array([1., 2.]), ('1', '2')])
def test_histories_are_read_however_they_are_written(cell):
    split, _, _ = read_test_file(pd.DataFrame(dict(history=[cell], target=[3])))
    assert split.train['item'].tolist() == ['1', '2'] and split.test['item'].tolist() == ['3']

@pytest.mark.parametrize('data, said', [
    (pd.DataFrame(dict(a=[1])), 'no column of history'), (pd.DataFrame(dict(history=[[1]])), "columns={'target'"),
    (pd.DataFrame(dict(history=[], target=[])), 'no row'), ({'u': ['a']}, 'no user has two items'), ('nowhere.csv', 'no such file'), (7, 'expected a')])
def test_a_file_that_is_none_is_an_error_with_a_way_out(data, said):
    with pytest.raises(InputError, match=said) as error: leakage_audit(data)
    assert len(str(error.value)) <= 600

def test_columns_can_be_named():
    f = pd.DataFrame(dict(before=[['a'], ['b']], then=['a', 'c']))
    a = leakage_audit(f, columns=dict(history='before', target='then')).set_index('check')
    assert a.found['target repeated in the history'] == 1
    with pytest.raises(InputError, match='nope'): leakage_audit(f, columns=dict(history='nope', target='then'))

def test_lists_stand_beside_a_test_file_of_others():
    f = pd.DataFrame(dict(user_id=[7, 8, 9], history=[[1, 2], [2, 3], [3, 4]], target=[5, 6, 5]))
    a = leakage_audit(f, results={7: [5, 5], 8: [2]}, codes={5: 'x', 6: 'x', 2: 'y'}).set_index('check')
    assert a.found['test users without a list'] == 1 and a.found['item twice in one list'] == 1
    assert a.found['lists hold items of the history'] == 1 and a.found['hits at colliding semantic IDs'] == 1

def test_a_bare_test_log_is_enough_for_lists():
    test = pd.DataFrame(dict(user=[1, 2], item=['a', 'b']))
    a = leakage_audit(test, results=pd.DataFrame(dict(user=[1, 1], item=['a', 'a'], score=[1., 1.]))).set_index('check')
    assert a.verdict['item twice in one list'] == 'leak' and a.found['test users without a list'] == 1 and a.verdict['scores all tied'] == 'warning'

def test_a_causal_model_is_asked_through_the_scorer():
    import torch
    from llmrec.judge import LMScorer
    from llmrec.leakage import recited
    class Tokens:
        eos_token_id = 0
        def __call__(self, text, add_special_tokens=True): return dict(input_ids=[1 + ord(c) % 90 for c in text])
    from transformers import AutoModelForCausalLM, GPT2Config
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(GPT2Config(n_embd=16, n_layer=1, n_head=1, n_positions=128, vocab_size=100))
    items = pd.DataFrame(dict(item=range(12), title=[f'the tale of number {i}' for i in range(12)]))
    for by in ('id', 'start'):
        hits, control = recited(items, LMScorer(model, Tokens()), by, n=12)
        assert hits.shape == control.shape == (12,) and hits.mean() < .7

@pytest.mark.parametrize('results', [7, pd.DataFrame(dict(user=[1], item=[2])), 'nowhere.json'])
def test_results_that_are_none_are_an_error(results):
    w = make_synthetic_pair(0).target
    with pytest.raises(InputError): leakage_audit(split_last(w), w.items, results=results)


# Single rules
def test_an_alarm_needs_size_and_certainty():
    assert not exceeds([], []) and not exceeds([1], [0]*9) and exceeds([1]*12, [0]*12)
    assert not exceeds([1]*4 + [0]*96, [0]*1000) and not exceeds(np.ones(5000), np.ones(100))
    g = np.random.default_rng(0)
    assert sum(exceeds(g.random(200) < .3, g.random(200) < .3) for _ in range(2000)) == 0

def test_hits_at_shared_codes_count_by_share():
    codes = dict(a=[1, 2], b=[1, 2], c=[3, 4])
    test = pd.DataFrame(dict(user=[1, 2, 3], item=['a', 'c', 'c']))
    hits = code_hits({1: ['b'], 2: ['a', 'c'], 3: ['b']}, test, codes)
    assert hits['rank'].tolist() == [0, 1, np.inf] and hits['share'].tolist() == [.5, 1, 1]
    assert code_hits({1: ['1 2'], 2: ['3 4']}, test[:2], codes)['rank'].tolist() == [0, 0]   # lists of codes

def test_natural_repeats_are_a_note_and_unnatural_ones_a_leak():
    g = np.random.default_rng(0)
    log = pd.DataFrame([(u, f'i{g.integers(6)}', t) for u in range(300) for t in range(8)], columns=['user', 'item', 'time'])
    items = pd.DataFrame(dict(item=[f'i{j}' for j in range(6)]))
    a = leakage_audit(split_last(log), items).set_index('check')
    assert a.verdict['target repeated in the history'] == 'note'

def test_a_profile_may_name_what_training_holds():
    w = leaks.World()
    clean, leaky, *_ = leaks.PLANTED["the user's profile names the target"][1](w)
    assert leaks.found(clean).verdict['words of the target in user texts'] == 'ok'
    assert leaks.found(leaky).verdict['words of the target in user texts'] == 'leak'


# The regime, and the same model without the future of others
def test_later_rows_are_counted_by_hand():
    train = pd.DataFrame(dict(user=[1, 2, 3, 4], item=['a', 'a', 'b', 'a'], time=[1, 5, 9, 7]))
    test = pd.DataFrame(dict(user=[8]*4, item=['a', 'b', 'a', 'z'], time=[5, 9, 0, 0]))
    assert later_rows(train, test).tolist() == [1, 0, 3, 0]
    naive = [sum((train.item == i) & (train.time > t)) for i, t in zip(test.item, test.time)]
    assert later_rows(train, test).tolist() == naive

@pytest.mark.parametrize('n, known', [(0, 'zero-shot'), (1, 'few-shot'), (5, 'few-shot'), (6, 'full')])
def test_the_regime_by_interactions(n, known):
    rows = pd.DataFrame([(u, f'i{j}', j) for u in range(3) for j in range(n)], columns=['user', 'item', 'time'])
    test = pd.DataFrame(dict(user=range(3), item='z', time=99))
    r = regime(Split(rows, rows[:0], test), [0, 1])
    assert r['known'] == known and r['shared_users'] == pytest.approx(2/3) and r['per_user'] == n
    assert known in regime_text(r) and '67%' in regime_text(r)
    assert r['time'] == ('no time' if not n else 'time-true')

def test_a_regime_without_source_or_time():
    rows = pd.DataFrame(dict(user=[1], item=['a']))
    r = regime(Split(rows, rows[:0], rows))
    assert r['shared_users'] is None and r['time'] == 'no time' and 'no source' in regime_text(r)

def test_paired_splits_differ_in_the_future_of_others_only(sets):
    parts = paired_time_splits(sets['MovieLens'])
    past, future, equal = (parts[k] for k in ('past', 'future', 'future, equal size'))
    assert past.test.equals(future.test) and past.test.equals(equal.test) and len(past.test) > 20
    users = past.test['user']
    own = [s.train[s.train['user'].isin(users)].sort_values(['user', 'time', 'item']).reset_index(drop=True) for s in (past, future, equal)]
    assert own[0].equals(own[1]) and own[0].equals(own[2]) and len(past.train) == len(equal.train) < len(future.train)
    assert regime(past)['time'] == 'time-true' and regime(future)['future'] > 0
    seen = pd.MultiIndex.from_frame(past.train[['user', 'item']])
    assert not pd.MultiIndex.from_frame(past.test[['user', 'item']]).isin(seen).any()
