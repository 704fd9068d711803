"""Random rows, late and twice, new people and new items: experts that follow against experts fitted anew; the server against the full scan."""
import copy
import numpy as np, pandas as pd
import pytest
from llmrec.data import make_synthetic_pair
from llmrec.closed_form import EASE, Markov, NextItemRidge
from llmrec.dataset import append_interactions
from llmrec.expert import copy_experts
from llmrec.recommender import Recommender
from llmrec.online import follow, pending


@pytest.fixture(scope='module')
def world():
    pair = make_synthetic_pair(seed=1, n_users=(60, 80), n_items=(40, 30))
    return pair, pair.target.log.sort_values('time', kind='stable').reset_index(drop=True)


@pytest.fixture(scope='module')
def fitted(world): return Recommender('tfidf', budget='fast').fit(world[0].target.with_log(world[1].iloc[:-60]), world[0].source)

@pytest.fixture
def early(fitted): return copy.copy(fitted)      # learned all but the last 60 rows; a new state never changes the old one


def anew(e, d):
    "A copy, fitted on all interactions; a text kernel that knows the index already stays as it was fitted."
    return copy_experts([e])[0].fit_dataset(d)


def rows(rng, rec, log, n):
    "New rows: some people are new, some times lie in the past, some items come twice."
    people = np.concatenate([log['user'].unique()[:20], [f'new {i}' for i in range(3)]]).astype(object)
    return pd.DataFrame(dict(user=rng.choice(people, n), item=rng.choice(rec.items, n), time=rng.integers(log['time'].min(), log['time'].max() + 10**6, n)))


@pytest.mark.parametrize('seed', range(4))
def test_following_equals_fitting_anew(world, seed):
    pair, log = world
    rng = np.random.default_rng(seed)
    rec = Recommender('tfidf', seed=seed, budget='fast').fit(pair.target.with_log(log.iloc[:-60]), pair.source)
    for step in range(4):
        if step == 2: rec.add_items(pd.DataFrame(dict(item=['brand new'], title=['The comet and the soup'])))
        rec.update(rows(rng, rec, log, int(rng.integers(1, 30))), refresh='exact')
        users = list(rec.data.users[:50]) + ['nobody']
        for e in rec.experts:
            if isinstance(e, (EASE, Markov, NextItemRidge)):
                a, b = e.score(users), anew(e, rec.data).score(users)
                np.testing.assert_allclose(a, b, atol=1e-4*np.abs(b).max(), err_msg=f'{e.name}, step {step}')


def test_schedule_learns_everything_again(world, early):
    pair, log = world
    rec = early
    few = int(.26*len(rec.data.hist.item)) + 1    # a fifth of all rows, the new ones included
    rec.update(rows(np.random.default_rng(0), rec, log, few), refresh='schedule')
    assert pending(rec.fusion)[1] == 0
    for e in rec.experts:
        if isinstance(e, (EASE, Markov)): np.testing.assert_allclose(e.score(log['user'].unique()), anew(e, rec.data).score(log['user'].unique()), atol=1e-5)


def test_save_and_load_keep_what_followed(world, tmp_path, early):
    pair, log = world
    rec = early
    rec.update(log.iloc[-60:-30], refresh='exact')
    rec.save(tmp_path/'m'); back = Recommender.load(tmp_path/'m')
    users = log['user'].unique()
    np.testing.assert_allclose(back.score(users), rec.score(users), atol=1e-5)
    for r in (rec, back): r.update(log.iloc[-30:], refresh='exact')
    np.testing.assert_allclose(back.score(users), rec.score(users), atol=1e-3)


def test_server_after_updates_and_new_items(world, early):
    pair, log = world
    rec = early.serve(rank=6, pool=20)
    mask = np.arange(len(rec.items)) % 3 > 0
    for step in range(3):
        if step == 1: rec.update(log.iloc[-60:], refresh='exact')
        if step == 2: rec.add_items(pd.DataFrame(dict(item=['brand new'], title=['The comet and the soup']))); mask = np.append(mask, True)
        for u in [*log['user'].unique()[:15], 'nobody']:
            i, s = rec.recommend([u], 5, mask=mask)
            j = rec.data.all_items[0].get_indexer(i[0])
            assert mask[j].all()
            np.testing.assert_allclose(s[0], rec.score([u])[0, j], atol=1e-4)
    i, s = rec.recommend(['nobody'], 10**3)
    assert (i[0] == None).sum() == 0 or np.isinf(s[0][i[0] == None]).all()


@pytest.mark.parametrize('kriged', [False, True])
def test_a_network_rehearses_on_schedule(world, kriged):
    from llmrec.baselines import Popularity
    from llmrec.sequence import SmoothedSASRec, SASRec
    pair, log = world
    make = lambda d, budget, seed: [Popularity(), EASE(100), (SmoothedSASRec if kriged else SASRec)(dim=8, layers=1, epochs=2, seed=seed)]
    rec = Recommender('tfidf', 'target', experts=make).fit(pair.target.with_log(log.iloc[:-60]))
    before = rec.experts[2].theta.copy()
    rec.update(log.iloc[-60:-50], refresh='schedule')
    assert (rec.experts[2].theta == before).all() and pending(rec.fusion)[1] == 10    # not due yet
    new = log.iloc[-50:]
    data = append_interactions(rec.data, new)
    users = np.unique(data.users.get_indexer(pd.Index(new['user'], dtype=object)))
    fusion, old = follow(rec.fusion, data, users, 'schedule', due=.1), rec.fusion
    after = fusion.experts[2].theta
    assert pending(fusion)[1] == 0 and 0 < np.abs(after - before).max() < .5          # moved, but constrained
    assert rec.fusion is old and (old.experts[2].theta == before).all()                # the old one is as it was
    who, e = ['nobody', *log['user'].unique()[:5]], fusion.experts[2]
    scores = fusion.score(who)
    assert np.isfinite(scores).all()
    if kriged:
        n = len(e.smoothed)
        np.testing.assert_array_equal(e.net.emb.weight[:n].detach().numpy(), e.smoothed)
        assert np.abs(e.trained_net().emb.weight[:n].detach().numpy() - e.smoothed).max() > 1e-3
    kept = type(e).from_state(e.state(), data)
    np.testing.assert_allclose(kept.score(who), e.score(who), atol=1e-6)               # what is kept is what is used
