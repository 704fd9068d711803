"""Hard cases of chapter 21 (online updates)."""
import tempfile
import numpy as np
import pandas as pd
import pytest
from fastcore.test import ExceptionExpected, test_close as close, test_eq as equal
from llmrec.baselines import Content
from llmrec.closed_form import EASE, Markov, NextItemRidge
from llmrec.core import InputError
from llmrec.data import make_synthetic_pair
from llmrec.dataset import append_interactions, histories, make_dataset
from llmrec.expert import copy_experts
from llmrec.online import Online, RunningUserVectors, follow, pending
from llmrec.recommender import Recommender
from llmrec.vectors import interest_vector


def test_interest_vectors_follow_what_comes_and_goes():
    rng = np.random.default_rng(0)
    D, w, who = rng.normal(size=(500, 8)), rng.random(500), rng.choice(list('abcde'), 500)
    run = RunningUserVectors(8)
    for i in range(500): run.add(who[i:i+1], D[i:i+1], w[i:i+1])
    for x in 'abcde': close(run[[x]][0], interest_vector(D[who == x], w[who == x]), eps=1e-12)
    run.remove(who[:100], D[:100], w[:100])
    left = who[100:] == 'a'
    close(run[['a']][0], interest_vector(D[100:][left], w[100:][left]), eps=1e-12)
    equal(run[['unseen']], np.zeros((1, 8)))


@pytest.fixture(scope='module')
def arrivals():
    "A pair, its log in time, the same without its last 40 rows, and these."
    pair = make_synthetic_pair()
    log = pair.target.log.sort_values('time', kind='stable').reset_index(drop=True)
    return pair, log, log.iloc[:-40], log.iloc[-40:]

def indexed(pair, log): return make_dataset(log, pair.target.items, pair.source)

def changed(data, log): return np.unique(data.users.get_indexer(pd.Index(log.user, dtype=object)))


def test_appended_histories_are_as_if_recomputed(arrivals):
    pair, log, old, new = arrivals
    users = log.user.unique()
    data = indexed(pair, old)
    ease = EASE(1000., 10.).fit_dataset(data)
    for b in (new[:1], new[1:10], new[10:]):
        data = append_interactions(data, b)
        ease.update(data, changed(data, b), exact=True, shared={})
        full = EASE(1000., 10.).fit_dataset(data)
        close(ease.score(users), full.score(users), eps=1e-4)
    anew = indexed(pair, log)
    for u in users: equal(histories(data, [u]).item, histories(anew, [u]).item)
    equal(data.counts, anew.counts)


def test_a_schedule_waits_and_then_learns(arrivals):
    pair, log, old, new = arrivals
    users = log.user.unique()
    def refitted(expert, data):
        "A copy, fitted on all interactions; its text kernel stays as it was fitted."
        return copy_experts([expert])[0].fit_dataset(data)
    rec, far = Recommender('tfidf', budget='fast').fit(pair.target.with_log(old), pair.source), {}
    # in the middle of two histories
    late = pd.DataFrame(dict(user=users[:2], item=log.item.iloc[[5, 9]], time=log.time.min() + 1))
    for b in (new[:1], new[1:10], new[10:], late, new.assign(user='somebody new')):
        rec.update(b, refresh='exact')
        for e in rec.experts:
            if not isinstance(e, (EASE, Markov, NextItemRidge)): continue
            a, b = e.score(users), refitted(e, rec.data).score(users)
            far[e.name] = max(far.get(e.name, 0), np.abs(a - b).max()/np.abs(b).max())
            close(a, b, eps=1e-4*np.abs(b).max())
    before, eases = rec.fusion, [e for e in rec.experts if isinstance(e, EASE)]
    was = [e.score(users) for e in eases]
    rec.update(new.assign(user='one more'), refresh='schedule')        # few: nothing is due yet
    equal(pending(rec.fusion)[1], len(new)*3 + 2)
    for a, e in zip(was, [e for e in rec.experts if isinstance(e, EASE)]): equal(a, e.score(users))
    equal(len(before.data.users) + 1, len(rec.data.users))           # the old fusion is as it was
    with ExceptionExpected(InputError, "expected None, 'exact' or 'schedule'"):
        rec.update(new[:1], refresh='daily')
    moved = follow(rec.fusion, rec.data, np.arange(3), 'schedule', due=.005)
    equal(pending(moved), (np.zeros(0, int), 0))
    learned = [e for e in moved.experts if isinstance(e, EASE)][0]
    close(learned.score(users), refitted(eases[0], rec.data).score(users), eps=1e-5)
    c = next(e for e in rec.experts if isinstance(e, Content))
    close(c.score(users), refitted(c, rec.data).score(users), eps=1e-6)


def test_what_users_declined_outlives_the_process():
    pair = make_synthetic_pair()
    rec = Recommender('tfidf', budget='fast').fit(pair.target, pair.source)
    live = Online(rec)
    a, b = rec.data.users[[3, 4]]
    before, other = live.recommend([a], 5)[0][0], live.score([b])
    live.dislike(a, before[0])
    after = live.recommend([a], 5)[0][0]
    assert before[0] not in after                              # at once
    equal(live.score([b]), other)                            # and for nobody else
    live.dislike(a, category='space')
    shown = live.recommend([a], 5)[0][0]
    assert 'space' not in set(live.data.table.set_index('item').category[list(shown)])
    with tempfile.TemporaryDirectory() as folder:
        live.save(folder)
        back = Online.load(Recommender.load(folder), folder)
        equal(back.recommend([a], 5)[0], live.recommend([a], 5)[0])
    equal(live.allow_again(a).recommend([a], 5)[0][0], before)
    live.like(a, before[0])
    assert before[0] not in live.recommend([a], 5)[0][0]       # taken: seen now
    with ExceptionExpected(InputError, 'needs an item or a rule'): live.dislike(a)
    with ExceptionExpected(InputError, 'not in the catalogue'): live.dislike(a, 'no such')
