"""Confidence: nothing held out is learned from, promises hold on data that no model has seen, and what is known too little of abstains."""
import warnings
import numpy as np, pandas as pd, pytest
from llmrec import Recommender
from llmrec.core import InputError
from llmrec.data import Domain, make_synthetic_pair
from llmrec.dataset import make_dataset, histories, histories_from_items, to_domains
from llmrec.expert import expert_key
from llmrec.baselines import Popularity
from llmrec.closed_form import EASE
from llmrec.confidence import (
    EDGES, LEAST, SIZES, Confidence, Events, calibration_error, chance_error, conformal_size, debiased_error, fit_confidence, fit_earlier,
    fit_platt, hold_out_tails, length_edges, list_mass, mass_at, platt_probability, rank_events, reliability, shift_weights, sign_test)

def few(data, budget, seed): return [Popularity(), EASE(30.)]

def world(seed=0, users=700, rows=14):
    return make_synthetic_pair(seed, n_users=(60, users), n_items=(30, 60), n_rows=(8, rows)).target

def fitted(domain, **kw): return Recommender(None, experts=few, **kw).fit(domain)

def shuffled(domain, seed):
    "The same users, times and counts of items; who had which item is left to chance."
    items = np.random.default_rng(seed).permutation(domain.log['item'].to_numpy())
    return domain.with_log(domain.log.assign(item=items).drop_duplicates(['user', 'item']))

@pytest.fixture(scope='module')
def rec(): return fitted(world()).fit_confidence()

def pairs(hist): return set(zip(hist.user.tolist(), hist.item.tolist()))


# What is held out
@pytest.mark.parametrize('seed', range(6))
def test_nothing_of_the_tails_is_left_in_the_log(seed):
    "Random logs with baskets and repeats: an event is new to its history, which ends before its basket; the rest holds no later row."
    rng = np.random.default_rng(seed)
    n = 600
    log = pd.DataFrame(dict(user=rng.integers(0, 40, n), item=rng.integers(0, 25, n), time=rng.integers(0, 12, n)))
    data = make_dataset(log, pd.DataFrame(dict(item=range(25), title=[f't{i}' for i in range(25)])))
    rest, hist, target, user = hold_out_tails(data, events=50, share=.3, seed=seed)
    assert 0 < len(target) == len(hist) == len(user) <= 50
    assert len(rest.hist.item) >= .7*len(data.hist.item)
    assert (hist.lengths > 0).all()
    first = {}
    for number, (u, item) in enumerate(zip(user, target)):
        own, times = data.hist[u], data.time[data.hist.ptr[u]:data.hist.ptr[u + 1]]
        assert item not in hist[number] and np.array_equal(hist[number], own[:len(hist[number])])
        begin = len(hist[number])
        assert times[begin] > times[begin - 1] and item in own[begin:][times[begin:] == times[begin]]
        first[u] = min(first.get(u, begin), begin)
    for u in range(len(data.users)):
        assert np.array_equal(rest.hist[u], data.hist[u][:first[u]] if u in first else data.hist[u])

def test_repeats_are_events_only_where_they_are_learned():
    rows = [(u, i, t) for u in range(30) for t, i in enumerate((0, 1, 0))]
    data = make_dataset(pd.DataFrame(rows, columns=['user', 'item', 'time']), pd.DataFrame(dict(item=[0, 1], title=['a', 'b'])))
    assert set(hold_out_tails(data, 5, .5)[2]) == {1}
    assert set(hold_out_tails(data, 5, .5, repeats=True)[2]) == {0}

def test_a_user_without_a_past_is_no_event():
    data = make_dataset(pd.DataFrame(dict(user=range(9), item=[0]*9)), pd.DataFrame(dict(item=[0, 1], title=['a', 'b'])))
    assert len(hold_out_tails(data)[2]) == 0

@pytest.mark.parametrize('wrong', [dict(events=0), dict(share=0), dict(share=1.), dict(events=None)])
def test_limits_are_checked(rec, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))): hold_out_tails(rec.data, **wrong)

def test_the_calibration_model_is_the_same_model(rec):
    "The same experts and settings, and the fitted one stays as it is."
    hist = histories(rec.data, rec.data.users[:20])
    before = rec.fusion.score_histories(hist)
    rest, *_ = hold_out_tails(rec.data, 300)
    early = fit_earlier(rec.fusion, rest)
    assert [expert_key(x) for x in early.experts] == [expert_key(x) for x in rec.experts]
    assert early.data is rest and np.array_equal(before, rec.fusion.score_histories(hist))


# Pieces against literal twins
def test_mass_is_the_sum_of_a_softmax():
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 2, (5, 40))
    scores[rng.random(scores.shape) < .2] = -np.inf
    for row, mass in zip(scores, list_mass(scores)):
        p = np.sort(np.exp(row)/np.exp(row).sum())[::-1]
        assert np.allclose(mass, [p[:k].sum() for k in SIZES], atol=1e-6)
    assert np.allclose(list_mass(scores + 700), list_mass(scores), atol=1e-6)
    assert list_mass(np.zeros((0, 4))).shape == (0, len(SIZES))

def test_mass_between_sizes_is_monotone():
    mass = list_mass(np.random.default_rng(1).normal(0, 2, (3, 1500)))
    grown = np.stack([mass_at(mass, k) for k in range(1, 1200)])
    assert (np.diff(grown, axis=0) >= -1e-6).all() and np.allclose(grown[9], mass[:, SIZES.index(10)])

def test_conformal_size_is_the_smallest_that_covers():
    "Against the definition, on all coverages; a coverage that the sample cannot give asks for the whole catalogue."
    rank = np.random.default_rng(2).integers(0, 500, 57).astype(float)
    for coverage in np.linspace(.02, .99, 41):
        size = conformal_size(rank, coverage, 1000)
        enough = [s for s in range(1, 501) if (rank < s).sum() >= (len(rank) + 1)*coverage - 1e-9]
        assert size == (enough[0] if enough else 1000)
    assert conformal_size(np.zeros(0), .9, 7) == 7

@pytest.mark.parametrize('m', [19, 50, 400])
def test_the_guarantee_holds_for_any_model(m):
    "A new event of the same kind is covered with at least 1 - alpha and at most 1 - alpha + 1/(m + 1), over many draws."
    rng = np.random.default_rng(m)
    drawn = rng.gamma(.3, 200, (4000, m + 1))
    covered = np.mean([x[0] < conformal_size(x[1:], .9, 10**9) for x in drawn])
    slack = 3*np.sqrt(.09/4000)
    assert .9 - slack <= covered <= .9 + 1/(m + 1) + slack + .01

def test_errors_of_calibration():
    rng = np.random.default_rng(0)
    p = rng.beta(1, 5, 20_000)
    hit = rng.random(20_000) < p
    assert calibration_error(p, hit) < .01 and abs(calibration_error(p, hit) - chance_error(p)) < .005
    assert abs(calibration_error(p + .1, hit) - .1) < .02
    assert reliability(p, hit)['events'].sum() == 20_000 and len(reliability(p[:3], hit[:3])) == 3

@pytest.mark.parametrize('hits', [np.zeros(300, bool), np.ones(300, bool)])
def test_a_model_that_always_or_never_hits_is_calibrated_too(hits):
    p = platt_probability(fit_platt(np.zeros(300), np.ones(300), hits), np.zeros(3), np.ones(3))
    assert np.abs(p - hits.mean()).max() < .01

def test_groups_have_enough_events():
    rng = np.random.default_rng(0)
    for m in (0, 50, 900, 5000):
        length = rng.geometric(.08, m)
        edges = length_edges(length)
        size = np.bincount(np.digitize(length, edges), minlength=len(edges) + 1)
        assert not edges or size.min() >= 400
        assert set(edges) <= set(EDGES)

def test_a_sign_test_counts_users():
    user = np.repeat(np.arange(6), 50)
    assert sign_test(np.ones(300), np.zeros(300), user) == pytest.approx(.5**6)
    assert sign_test(np.zeros(300), np.ones(300), user) == 1


# Promises on interactions that no model has seen
def test_promises_hold_on_a_test_set():
    "Probabilities and coverage of a model that has not seen the test, on a synthetic world: within sampling error."
    domain = world(3, users=1600)
    data = make_dataset(domain.log, domain.items)
    rest, hist, target, user = hold_out_tails(data, 1600, seed=9)
    model = fitted(domain.with_log(to_domains(rest)[0].log)).fit_confidence()
    ids = data.all_items[0]
    past = histories_from_items(model.data, [ids[hist[i]] for i in range(len(hist))])
    test = rank_events(model.fusion, past, target, user)
    sure = model.confidence.judge(model.fusion, past, 5)
    hit = test.rank < 5
    assert calibration_error(sure.p_hit, hit) < chance_error(sure.p_hit.to_numpy()) + .02
    scale = np.abs(mass_at(test.mass, 5).mean() - mass_at(model.confidence.events.mass, 5).mean())
    assert np.abs(sure.p_hit.mean() - (model.confidence.events.rank < 5).mean()) < .02 < scale   # two gates differ in scale
    assert abs((test.rank < sure['size']).mean() - .9) < .03
    assert not sure.abstain.any()

@pytest.mark.parametrize('seed', range(3))
def test_histories_left_to_chance_abstain(seed):
    "Counts of items stay, so popularity is as good as before; nothing personal is left."
    model = fitted(shuffled(world(seed), seed)).fit_confidence()
    sure = model.recommend(model.data.users[:50], 5, confidence=True)[2]
    assert sure.abstain.all() and sure.reason.str.contains('not better').all()

def test_no_history_abstains_and_says_the_share_of_hits(rec):
    items, scores, sure = rec.recommend('somebody unknown', 5, confidence=True)
    assert sure.abstain and sure.reason == 'no history'
    assert sure.p_hit == pytest.approx((rec.confidence.events.nobody < 5).mean())

def test_too_few_users_promise_nothing():
    model = fitted(world(0, users=90, rows=5))
    with pytest.warns(UserWarning, match='200 are needed'): model.fit_confidence()
    frame = model.recommend(model.data.users[:2], 5, confidence=True, as_frame=True)
    assert frame.p_hit.isna().all() and frame.abstain.all() and (frame['size'] == len(model.items)).all()
    assert frame.reason.str.startswith('only ').all()

def test_a_target_without_interactions_promises_nothing():
    pair = make_synthetic_pair(0, n_users=(60, 60), n_items=(30, 40), n_rows=(8, 8), shared=1.)
    model = Recommender('tfidf', budget='fast').fit(pair.target.with_log(pair.target.log[:0]), pair.source)
    with pytest.warns(UserWarning, match='only 0 interactions'): sure = model.recommend(['u'], 5, confidence=True)[2]
    assert sure.abstain.all() and sure.p_hit.isna().all()


# In the recommender
def test_lists_are_the_same_with_and_without(rec):
    users = rec.data.users[:7]
    items, scores, sure = rec.recommend(users, 5, confidence=True)
    assert np.array_equal(items, rec.recommend(users, 5)[0]) and len(sure) == 7
    frame = rec.recommend(users, 5, confidence=True, as_frame=True)
    assert list(frame) == ['user', 'item', 'score', 'rank', 'p_hit', 'size', 'abstain', 'reason']
    assert np.allclose(frame.groupby('user', sort=False).p_hit.first().astype(float), sure.p_hit)
    assert list(rec.recommend(users, 5, as_frame=True)) == ['user', 'item', 'score', 'rank']
    assert rec.recommend(users[0], 5, confidence=True)[2].p_hit == pytest.approx(sure.p_hit[0])
    assert rec.recommend([], 5, confidence=True)[2].shape == (0, 4)

def test_longer_lists_promise_more(rec):
    p = [rec.recommend(rec.data.users[:50], k, confidence=True)[2].p_hit.mean() for k in (1, 4, 10, 33)]
    sizes = [rec.recommend(rec.data.users[:1], 5, confidence=c)[2]['size'][0] for c in (.5, .8, .9, .99)]
    assert sorted(p) == p and sorted(sizes) == sizes and sizes[0] < sizes[-1] <= len(rec.items)

def test_the_first_question_fits_it():
    model = fitted(world(1))
    assert model.confidence is None
    model.recommend(model.data.users[:1], 3, confidence=True)
    assert isinstance(model.confidence, Confidence)
    kept = model.confidence
    model.recommend(model.data.users[:1], 3, confidence=.5)
    assert model.confidence is kept

@pytest.mark.parametrize('wrong', [0, 1, 1.5, 0., -.1, 'yes', None, np.nan])
def test_a_coverage_that_is_none_is_refused(rec, wrong):
    with pytest.raises(InputError, match='confidence is'): rec.recommend(rec.data.users[:1], 5, confidence=wrong)

def test_lists_that_nothing_is_known_of_are_refused(rec):
    user = rec.data.users[:1]
    for limits in (dict(mask=np.ones(len(rec.items), bool)), dict(items=rec.items[:9]), dict(kind='item')):
        with pytest.raises(InputError, match='all items'): rec.recommend(user, 5, confidence=True, **limits)
    with pytest.raises(InputError, match='exclude_seen'): rec.recommend(user, 5, exclude_seen=False, confidence=True)
    with pytest.raises(InputError, match='fit'): Recommender().recommend(user, confidence=True)

def test_repeats_are_judged_on_lists_with_repeats():
    model = fitted(world(2), repeats=True)
    user = model.data.users[:3]
    with pytest.raises(InputError, match='exclude_seen=False'): model.recommend(user, 5, confidence=True)
    assert model.recommend(user, 5, exclude_seen=False, confidence=True)[2].p_hit.notna().all()

def test_saved_and_loaded(rec, tmp_path):
    users = [*rec.data.users[:9], 'somebody unknown']
    rec.save(tmp_path/'with')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        again = Recommender.load(tmp_path/'with').recommend(users, 5, confidence=True)[2]
    pd.testing.assert_frame_equal(again, rec.recommend(users, 5, confidence=True)[2])
    plain = fitted(world())
    plain.save(tmp_path/'without')
    back = Recommender.load(tmp_path/'without')
    assert back.confidence is None
    back.fit_confidence()     # own experts are not saved as a function, but as experts
    assert [expert_key(x) for x in back.experts] == [expert_key(x) for x in plain.experts]
    assert np.allclose(back.confidence.events.rank, rec.confidence.events.rank)

def test_news_makes_it_stale_and_it_says_so():
    model = fitted(world(4)).fit_confidence()
    user = model.data.users[0]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model.recommend(user, 5, confidence=True)
    item = model.recommend(user, 1)[0][0]
    model.update(pd.DataFrame(dict(user=[user], item=[item])))
    with pytest.warns(UserWarning, match=r'\+1 interactions and \+0 items'): model.recommend(user, 5, confidence=True)
    model.add_items(pd.DataFrame(dict(item=['new'], title=['new'])))
    with pytest.warns(UserWarning, match=r'\+1 interactions and \+1 items.*fit_confidence'):
        frame = model.recommend([user], 5, confidence=True, as_frame=True)
    assert frame.p_hit.between(0, 1).all()
    model.fit_confidence()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model.recommend(user, 5, confidence=True)

def test_forgetting_drops_it():
    model = fitted(world(5)).fit_confidence()
    report = model.forget(model.data.users[0])
    assert model.confidence is None and report.iloc[-1].tolist()[0] == 'confidence'
    assert 'confidence' not in model.forget(model.data.users[0]).part.tolist()

def test_nothing_personal_is_kept(rec):
    "The saved state: numbers only, one row an event, users as running numbers."
    plain, arrays = rec.confidence.state()
    assert all(x.dtype.kind in 'if' for x in arrays.values()) and all(np.ndim(x) == 0 for x in plain.values())
    user = arrays['event.user']
    assert set(user) == set(range(len(set(user)))) and len(arrays['mass_now']) == len(set(user))


# More events, the scale of now, the shift of now
def test_further_calibration_models_hold_out_other_users():
    "A small log gives more events in three parts than in one, each user in one part only; numbers of users are of one row."
    model = fitted(world(6, 1500, 4)).fusion
    one, three = (fit_confidence(model, 5000, folds=n) for n in (1, 3))
    assert len(three.events) > 1.5*len(one.events) and len(np.unique(three.events.user)) == len(three.mass_now) == len(three.length_now)
    assert set(three.events.user) == set(range(len(three.mass_now)))
    enough = fit_confidence(model, 300)
    assert len(enough.events) <= 300 and len(enough.mass_then) == len(np.unique(enough.events.user))
    with pytest.raises(InputError, match='folds'): fit_confidence(model, folds=0)

@pytest.mark.parametrize('share', [.05, .1])
def test_users_of_a_part_are_those_that_may_be(share):
    data = fitted(world(7)).data
    allowed = np.arange(len(data.users)) % 3 == 0
    rest, hist, target, user = hold_out_tails(data, 5000, share, users=allowed)
    assert len(user) and allowed[user].all()

def test_what_both_models_promise_less_now_is_promised_less(rec):
    "The scale is that of the calibration model on the same histories; where it falls, the probability falls."
    known = rec.confidence
    same = Confidence(known.events, known.mass_now, known.n_items, known.n_rows, mass_then=known.mass_then, length_now=known.length_now)
    less = Confidence(known.events, known.mass_now, known.n_items, known.n_rows, mass_then=known.mass_then*.5, length_now=known.length_now)
    lengths = np.full(len(known.mass_now), 5)
    assert less._probability(known.mass_now, lengths, 5).mean() < same._probability(known.mass_now, lengths, 5).mean() - .01

def test_a_folder_of_before_is_read(rec):
    "Without masses of the calibration model: the moments of the events, and equal weights, as it was."
    plain, arrays = rec.confidence.state()
    old = Confidence.from_state(plain, {k: x for k, x in arrays.items() if k not in ('mass_then', 'length_now')})
    assert (old.weight == 1).all() and old._probability(old.mass_now, np.full(len(old.mass_now), 5), 5).shape == (len(old.mass_now),)
    new = Confidence.from_state(plain, arrays)
    assert np.array_equal(new.weight, rec.confidence.weight) and np.array_equal(new.mass_then, rec.confidence.mass_then)

@pytest.mark.parametrize('seed', range(3))
def test_weights_restore_coverage_under_a_shift(seed):
    rng = np.random.default_rng(seed)
    then, now = rng.normal(size=(4000, 2)), rng.normal([.8, 0], 1, size=(4000, 2))
    def ranks(x): return rng.geometric(1/(1 + np.exp(3 + x[:, 0])))
    weight = shift_weights(then, now)
    assert np.isclose(weight.mean(), 1) and weight.max()/weight.min() <= 25
    plain, moved = conformal_size(ranks(then), .9, 10**6), conformal_size(ranks(then), .9, 10**6, weight)
    later = ranks(now)
    assert (later < plain).mean() < .87 < .88 < (later < moved).mean() < .92
    flat = shift_weights(then, then[rng.permutation(4000)])
    assert np.allclose(flat, 1, atol=.02)

def test_equal_weights_are_no_weights():
    rank = np.random.default_rng(0).integers(0, 500, 333)
    for coverage in (.5, .9, .99, .999): assert conformal_size(rank, coverage, 500) == conformal_size(rank, coverage, 500, np.full(333, 7.))
    assert conformal_size(np.zeros(0), .9, 77) == 77

def test_the_error_beyond_chance():
    "An exact forecast has none on average, a wrong one its own; events in groups count by group."
    rng = np.random.default_rng(0)
    exact, wrong, grouped = [], [], []
    for _ in range(60):
        p = rng.beta(1, 6, 1000)
        exact.append(debiased_error(p, rng.random(1000) < p))
        wrong.append(debiased_error(p + .04, rng.random(1000) < p))
        user = np.repeat(np.arange(200), 5)
        lot = np.repeat(rng.random(200), 5)                    # all five events of a user hit or none
        grouped.append([debiased_error(np.full(1000, .2), lot < .2, u) for u in (user, None)])
    assert np.mean(exact) < .012 and abs(np.mean(wrong) - .04) < .01
    assert np.mean(grouped, axis=0)[0] < .75*np.mean(grouped, axis=0)[1]
    assert debiased_error(np.zeros(0), np.zeros(0)) == 0

def bent(seed, n=4000):
    "Events whose odds of a hit bend: a parabola of what the model promises; all lists have the same mass."
    g = np.random.default_rng(seed)
    odds = g.normal(-1, 1.5, n)
    hit = g.random(n) < 1/(1 + np.exp(-(.25*odds**2 - 1.5)))
    mass = np.tile((1/(1 + np.exp(-odds)))[:, None], (1, len(SIZES)))
    rank = np.where(hit, 3, 50)
    return Events(rank=rank, popular=rank, nobody=rank, random=rank, length=np.full(n, 5), mass=mass, user=np.arange(n))

def test_a_bent_promise_is_straightened():
    "The regression of a list has a square: where hits are no straight line of the promise in log odds, its probabilities are right all the same."
    then, now = bent(0), bent(1)
    sure = Confidence(then, then.mass, 1000, 10**5)
    hit = now.rank < 10
    p = sure.answer(now.mass, now.length, np.zeros(len(hit), bool))['p_hit'].to_numpy()
    odds = [np.log(e.mass[:, 0]/(1 - e.mass[:, 0])) for e in (then, now)]
    straight = platt_probability(fit_platt(odds[0], then.length, then.rank < 10), odds[1], now.length)
    assert debiased_error(p, hit) < .015 < .05 < debiased_error(straight, hit)

def test_events_of_users_who_are_met_more_often_weigh_more():
    odds, hit = np.zeros(400), np.arange(400) < 100
    p = platt_probability(fit_platt(odds, odds, hit, np.where(hit, 3., 1.)), odds[:1], odds[:1])
    assert abs(p[0] - .5) < 1e-3
