"""Checks of chapter 04 that teach a reader nothing: masks, blocks, threads, orders, and what cannot be compared."""
import threading
import numpy as np, pandas as pd, pytest
from llmrec.baselines import Popularity
from llmrec.closed_form import EASE
from llmrec.core import InputError
from llmrec.data import make_synthetic_pair
from llmrec.dataset import histories, next_item_ranks
from llmrec.evaluation import Report, compare, evaluate, list_task, make_eval_task, rank_task
from llmrec.metrics import group_labels, ndcg_of_ranks, slice_table, topk_metrics
from llmrec.preprocess import Split, split_last

class Fixed:
    "Given scores."
    def __init__(self, scores, users, items): self.scores, self.users, self.items = scores, list(users), items
    def score(self, users): return self.scores[[self.users.index(user) for user in users]]

@pytest.fixture(scope='module')
def toy(): return make_synthetic_pair(seed=3).target

@pytest.fixture(scope='module')
def two(toy):
    "A split with two test items a user, and scores with ties."
    split = split_last(toy, n_test=2, n_valid=0)
    ids, users = toy.items.item.to_numpy(), pd.unique(split.test.user)
    scores = np.random.default_rng(0).integers(40, size=(len(users), len(ids))).astype(np.float32)
    return split, scores, users, ids

@pytest.fixture(scope='module')
def one(toy):
    "A split with one test item a user, EASE on it, and its report."
    split = split_last(toy, n_valid=0)
    ease = EASE(100.).fit(split.train, toy.items)
    return split, ease, evaluate(ease, split, items=toy.items)


# The task
log = lambda *rows: pd.DataFrame(rows, columns=['user', 'item'])
TINY = Split(log(('u', 'a'), ('v', 'b'), ('w', 'c')), log(), log(('u', 'b'), ('u', 'zzz'), ('v', 'b'), ('w', 'a')))

def test_what_is_ranked():
    task = make_eval_task(TINY, list('abcd'))
    assert (set(task.users), task.repeats, sorted(task.col)) == ({'u', 'w'}, 1, [-1, 0, 1])
    assert make_eval_task(TINY, list('abcd'), exclude_seen=False).repeats == 0
    assert set(make_eval_task(TINY, list('xy')).col) == {-1}          # no test item is a candidate: all are missed
    with pytest.raises(InputError, match='stands twice'): make_eval_task(TINY, list('aabc'))

def test_a_mask_takes_away_candidates():
    task = make_eval_task(TINY, list('abcd'), mask=log(('u', 'd')))
    assert (task.seen.toarray()[:, 3] == (task.users == 'u')).all()

def test_blocks_and_order_of_columns_change_nothing_and_lists_are_judged_alike(two):
    split, scores, users, ids = two
    task = make_eval_task(split, ids)
    top, rank, _, _, _ = rank_task(Fixed(scores, users, ids), task, block=7)
    other = np.random.default_rng(1).permutation(len(ids))
    again = rank_task(Fixed(scores[:, other], users, ids[other]), make_eval_task(split, ids[other]))
    assert (again[1] == rank).all()
    lists = {user: ids[columns] for user, columns in zip(task.users, top)}
    found = list_task(lists, task)
    assert (found[0] == top).all() and (found[1] == np.where(rank < 10, rank, np.inf)).all()

def test_a_model_that_fails_halfway_leaves_no_threads_behind(two):
    split, scores, users, ids = two
    class Broken(Fixed):
        def score(self, users):
            if len(users) < 7: raise RuntimeError('out of memory')
            return super().score(users)
    workers = lambda: sum(t.name.startswith('ThreadPoolExecutor') for t in threading.enumerate())
    running = workers()
    with pytest.raises(RuntimeError, match='out of memory'):
        rank_task(Broken(scores, users, ids), make_eval_task(split, ids), block=len(users) - 3)
    assert workers() == running

def test_cells_add_up(two):
    split, scores, users, ids = two
    task = make_eval_task(split, ids)
    rank = rank_task(Fixed(scores, users, ids), task)[1]
    cells = slice_table('evidence', rank, task.row, group_labels('evidence', task.pairs, split.train))
    total = cells[(cells['item'] == 'all') & (cells.user == 'all')].iloc[0]
    assert total.rows == len(task.row) == cells[(cells['item'] != 'all') & (cells.user != 'all')].rows.sum()
    assert np.isclose(total['ndcg@10'], topk_metrics(rank, task.row, len(task.users))['ndcg@10'].mean())


# Reports
def test_a_report_survives_json(toy, two):
    split = two[0]
    r = evaluate(EASE(100.).fit(split.train, toy.items), split, (5, 10), items=toy.items, slices=('evidence', 'time', 'kind'))
    back = Report.from_json(r.to_json())
    assert back.metrics == r.metrics and back.per_user.equals(r.per_user)
    assert r.metrics.keys() - r.intervals.keys() == {'coverage@5', 'gini@5', 'coverage@10', 'gini@10'}

def test_a_report_agrees_with_the_quick_helpers(toy, one):
    split, ease, r = one
    target = pd.Index(ease.items).get_indexer(split.test.item)
    ranks = next_item_ranks(ease.score_histories, histories(ease.data, split.test.user), target, ease.data.n_target)
    known = split.train[['user', 'item']].drop_duplicates()
    new = ~split.test.merge(known, how='left', indicator=True)._merge.eq('both')
    assert abs(r['ndcg@10'] - ndcg_of_ranks(ranks)[new].mean()) < 2e-3        # they count ties half, we draw

def test_no_order_moves_a_number(toy, one, two):
    split, _, r = one
    mix = lambda table: table.sample(frac=1, random_state=5).reset_index(drop=True)
    mixed = Split(split.train, split.valid, mix(split.test), split.protocol)
    again = evaluate(EASE(100.).fit(split.train, mix(toy.items)), mixed, items=mix(toy.items))
    assert abs(again['auc'] - r['auc']) < 1e-4 and again.per_user.index.equals(r.per_user.index)
    test, _, users, _ = two
    const = lambda items: evaluate(Fixed(np.zeros((len(users), len(items))), users, items.item.to_numpy()), test)
    assert const(toy.items).metrics == const(mix(toy.items)).metrics and abs(const(toy.items)['auc'] - .5) < 1e-9

def test_categories_are_read_by_one_rule(toy, one):
    split, ease, _ = one
    def miscalibration(style):
        column = [style(['Action', 'Comedy'][:1 + i % 2]) for i in range(len(toy.items))]
        return evaluate(ease, split, items=toy.items.assign(category=column))['miscalibration@10']
    values = [miscalibration(style) for style in ('|'.join, ', '.join, ' > '.join, list)]
    assert np.allclose(values, values[0], atol=1e-12)


# Comparisons
def test_what_can_and_cannot_be_compared(toy, one, two):
    split, ease, r = one
    pop = evaluate(Popularity().fit(split.train, toy.items), split, items=toy.items)
    c = compare({'EASE': r, 'popularity': pop}, metric=('ndcg@10', 'novelty@10'))
    assert c.wins + c.ties + c.losses == len(r.per_user) and compare({'a': r, 'b': r}).p == 1
    kept = evaluate(ease, split, items=toy.items, exclude_seen=False)
    other = evaluate(EASE(100.).fit(two[0].train, toy.items), two[0], items=toy.items)
    sampled = evaluate(ease, split, items=toy.items, candidates=20, slices=())
    for b, metric, said in ((kept, 'ndcg@10', 'seen is'), (other, 'ndcg@10', 'split.n_test is 1'), (pop, 'ndcg@3', "'ndcg@3' is not in"),
                            (sampled, 'ndcg@10', 'candidates is')):
        with pytest.raises(InputError, match=said): compare({'a': r, 'b': b}, metric)
