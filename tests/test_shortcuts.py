"""The bar of shortcuts: values by hand, the same test for everybody, bounded, and where it is left out."""
import warnings
from types import SimpleNamespace
import numpy as np, pandas as pd, pytest
from llmrec import shortcuts
from llmrec.baselines import Popularity, Tfidf
from llmrec.data import Domain, make_synthetic_pair
from llmrec.dataset import make_dataset
from llmrec.evaluation import Report, evaluate
from llmrec.preprocess import Split, split_last

@pytest.fixture
def world():
    "Five users who take x, a, b, y in this order; the last of each is the test."
    rows = [(f'u{u}', item, 10*u + t) for u in range(5) for t, item in enumerate('xaby')]
    rows += [('v', 'x', 90), ('v', 'c', 91), ('v', 'd', 92), ('v', 'y', 93)]
    log = pd.DataFrame(rows, columns=['user', 'item', 'time'])
    items = pd.DataFrame(dict(item=list('xabycde'), title=['one', 'red tea', 'red cup', 'red pot', 'oak', 'elm', 'ash']))
    return Domain('toy', log, items), split_last(Domain('toy', log, items))

def popular(domain, split): return Popularity().fit_dataset(make_dataset(pd.concat([split.train, split.valid]), domain.items))

def bar_of(domain, split, **how): return evaluate(popular(domain, split), split, items=domain.items, audit=False, beyond=False, n_boot=0, **how).bar

def test_popularity_by_hand(world):
    "y has no interaction in training, so popularity ranks it after c or d, or a and b: the same place as the model, which is popularity."
    domain, split = world
    bar = bar_of(domain, split)
    row = {r['shortcut']: r for r in bar['rows']}
    assert row['popularity']['difference'] == 0 == row['popularity']['lo'] == row['popularity']['hi']
    assert set(row) == {'popularity', shortcuts.LAST_ITEMS, shortcuts.EASE_WORDS} and bar['users'] == 6 and not bar['left_out']
    assert [r['value'] for r in bar['rows']] == sorted((r['value'] for r in bar['rows']), reverse=True)

def test_a_bar_is_what_the_same_expert_gets(world):
    "Ranked by evaluate itself, an expert of the bar reaches what the bar says."
    domain, split = world
    data = make_dataset(pd.concat([split.train, split.valid]), domain.items)
    rows = {r['shortcut']: r['value'] for r in bar_of(domain, split)['rows']}
    for name, fit in shortcuts.shortcut_experts(shortcuts.ease_items(10)).items():
        report = evaluate(fit(data), split, items=domain.items, audit=False, beyond=False, n_boot=0, bar=False)
        assert rows[name] == pytest.approx(report['ndcg@10']), name

def test_settings_never_see_the_test(world):
    "Other test items, same candidates: the fitted shortcuts score alike."
    domain, split = world
    other = Split(split.train, split.valid, split.test.assign(item='e'), split.protocol)
    scores = []
    for s in (split, other):
        data, words = shortcuts._learn_from(s, domain.items, pd.Index(domain.items['item']), None)
        scores.append([fit(data).score(['u0', 'v']) for fit in shortcuts.shortcut_experts(words=words).values()])
    for a, b in zip(*scores): np.testing.assert_array_equal(a, b)

def test_repeat_counts_only_where_the_past_may_repeat(world):
    domain, split = world
    assert 'repeat' not in {r['shortcut'] for r in bar_of(domain, split)['rows']}
    again = Split(split.train, split.valid, split.test.assign(item='x'), split.protocol)
    bar = bar_of(domain, again, exclude_seen=False)
    assert 'repeat' in {r['shortcut'] for r in bar['rows']} and bar['rows'][0]['value'] > 0

def test_without_texts_words_are_left_out(world):
    domain, split = world
    plain = Domain('toy', domain.log, domain.items[['item']].assign(title='x'))
    assert {r['shortcut'] for r in bar_of(plain, split)['rows']} == {'popularity', 'last two items', 'EASE'}

@pytest.mark.parametrize('how', [dict(bar=False), dict(bar=0)])
def test_it_can_be_switched_off(world, how):
    domain, split = world
    report = evaluate(popular(domain, split), split, items=domain.items, audit=False, beyond=False, **how)
    assert report.bar == {} and not any('shortcuts' in note for note in report.notes)

def test_seconds_bound_it(world, monkeypatch):
    "A shortcut does not begin when the seconds are spent, and the report says so."
    domain, split = world
    clock = iter(np.arange(0, 1000, 5.))
    monkeypatch.setattr(shortcuts, 'time', SimpleNamespace(process_time=lambda: next(clock)))   # 0; 5 and 10 are within 11, 15 is not
    bar = bar_of(domain, split, bar=11.)
    assert {r['shortcut'] for r in bar['rows']} == {'popularity', shortcuts.LAST_ITEMS}
    assert bar['left_out'] == {shortcuts.EASE_WORDS: '11 seconds were spent'}
    assert any('left out' in line for line in shortcuts.bar_lines(bar))

def test_users_interactions_and_items_are_bounded(world, monkeypatch):
    domain, split = world
    monkeypatch.setattr(shortcuts, 'TEST_USERS', 3)
    assert bar_of(domain, split)['users'] == 3
    monkeypatch.setattr(shortcuts, 'MOST_ROWS', 9)
    assert len(shortcuts._known_log(split, pd.Index(domain.items['item']))) <= 18
    monkeypatch.setattr(shortcuts, 'MOST_ITEMS', 3)
    bar = bar_of(domain, split, bar=11)
    assert [r['shortcut'] for r in bar['rows']] == ['popularity'] and set(bar['left_out'].values()) == {'more than 3 items'}
    assert shortcuts.ease_items(1) < shortcuts.ease_items(10) < shortcuts.ease_items(1e9) == 8000

def test_a_long_log_keeps_whole_users():
    log = pd.DataFrame(dict(user=np.repeat(np.arange(400), 5), item=np.tile(np.arange(5), 400)))
    split = Split(log, log[:0], pd.DataFrame(dict(user=[7, 8], item=[1, 2])), {})
    most, shortcuts.MOST_ROWS = shortcuts.MOST_ROWS, 500
    try: kept = shortcuts._known_log(split, pd.Index(range(5)))
    finally: shortcuts.MOST_ROWS = most
    assert (kept.groupby('user').size() == 5).all() and {7, 8} <= set(kept['user']) and 480 <= len(kept) <= 520

def test_it_stands_in_the_report_and_travels(world):
    domain, split = world
    report = evaluate(popular(domain, split), split, items=domain.items, audit=False, beyond=False)
    line = [note for note in report.notes if note.startswith('shortcuts, ndcg@10 of 6 users: ')]
    assert len(line) == 1 and 'the best of them' in line[0] and line[0] in repr(report) and 'shortcuts, ndcg@10' in report._repr_html_()
    assert Report.from_json(report.to_json()).bar == report.bar
    old = report.to_json().replace('"bar": ', '"was": ')
    assert Report.from_json(old).bar == {}

def test_finished_lists_and_sampled_candidates_have_one(world):
    domain, split = world
    lists = {user: list('xabycde') for user in split.test['user']}
    assert bar_of(domain, split)['rows'] and evaluate(lists, split, items=domain.items, audit=False).bar['rows']
    assert bar_of(domain, split, candidates=3)['metric'] == 'sampled_ndcg@10'

def test_a_source_is_learned_from():
    pair = make_synthetic_pair(0, n_users=(80, 60), n_items=(40, 30), n_rows=(12, 8), shared=.4)
    split = split_last(pair.target)
    model = Popularity().fit_dataset(make_dataset(split.train, pair.target.items))
    one, two = (evaluate(model, split, items=pair.target.items, audit=False, beyond=False, n_boot=0, source=s).bar for s in (None, pair.source))
    value = lambda bar: {r['shortcut']: r['value'] for r in bar['rows']}
    assert value(one)[shortcuts.EASE_WORDS] != value(two)[shortcuts.EASE_WORDS]

def test_a_test_without_training_or_with_one_user_has_none(world):
    domain, split = world
    assert bar_of(domain, Split(split.train[:0], split.valid[:0], split.test, split.protocol)) == {}
    assert bar_of(domain, Split(split.train, split.valid, split.test[:1], split.protocol)) == {}

def test_the_verdict_reads_the_interval():
    row = dict(shortcut='s', value=.1, difference=.01)
    says = lambda lo, hi: shortcuts.bar_lines(dict(metric='ndcg@10', users=5, left_out={}, rows=[row | dict(lo=lo, hi=hi)]))[0]
    assert 'above the best of them by +0.0100 [+0.0010, +0.0200]' in says(.001, .02)
    assert 'BELOW' in says(-.02, -.001) and 'not significantly apart' in says(-.001, .02)
