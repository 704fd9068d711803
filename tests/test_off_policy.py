"""Off-policy evaluation: values by hand, a known truth, the library of the field where it can be imported, and bad input."""
import importlib.util, warnings, zipfile
import numpy as np, pandas as pd, pytest
from llmrec.core import InputError
from llmrec.off_policy import (METHODS, BanditLog, BanditWorld, direct_method, doubly_robust, draw_actions, effective_sample_size,
                               evaluate_policy, fit_reward_model, importance_weights, ips, load_open_bandit, policy_difference,
                               snips, softmax_policy)

FOUR = dict(action=[0, 0, 0, 1], reward=[0, 1, 0, 1], propensity=[.75, .75, .75, .25], n_actions=2)
NEW = np.array([.25, .75])

def log(**kw): return BanditLog(**FOUR | kw)

def quiet(f, *args, **kw):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return f(*args, **kw)

def test_four_rounds_by_hand():
    w = importance_weights(log(), NEW)
    assert np.allclose(w, [1/3, 1/3, 1/3, 3]) and np.isclose(ips(w, log().reward), 10/12)
    assert np.isclose(snips(w, log().reward), 10/12)              # these weights add up to 4
    assert np.isclose(effective_sample_size(w), 16/(1/3 + 9))
    assert np.allclose(importance_weights(log(), NEW, clip=2), [1/3, 1/3, 1/3, 2])
    q, pi = np.tile([.25, .5], (4, 1)), np.tile(NEW, (4, 1))
    assert np.isclose(direct_method(pi, q), .4375)
    assert np.isclose(doubly_robust(log(), pi, w, q), .4375 + (-.25/3 + .75/3 - .25/3 + 1.5)/4)
    for method, value in dict(ips=10/12, snips=10/12, dm=.4375, dr=10/12).items():
        assert np.isclose(quiet(evaluate_policy, log(), NEW, method, q=q).value, value)

def test_the_old_policy_earns_what_it_earned():
    for method in ('ips', 'snips'):
        v = quiet(evaluate_policy, log(), [.75, .25], method)
        assert np.isclose(v.value, .5) and np.isclose(v.mean_weight, 1) and np.isclose(v.ess, 4)

def worlds(n=3_000, seed=0):
    world = BanditWorld(seed=2)
    old, new = softmax_policy(4*world.click, .5, .3), softmax_policy(12*world.click, .5, .1)
    return world, old, new, world.draw(old, n, seed)

def test_a_known_truth_is_covered():
    "Over 60 logs, the 95 % intervals of IPS, SNIPS and DR hold the truth in 85 % at least, and no bias shows beyond chance."
    world, old, new, _ = worlds()
    truth, hits, values = world.value(new), {m: 0 for m in METHODS}, {m: [] for m in METHODS}
    for seed in range(60):
        l = world.draw(old, 2_000, seed)
        for m in METHODS:
            v = quiet(evaluate_policy, l, new[l.segment], m, n_boot=200)
            hits[m] += v.low <= truth <= v.high
            values[m].append(v.value)
    assert all(hits[m] >= 51 for m in ('ips', 'snips', 'dr'))
    assert all(abs(np.mean(values[m]) - truth) < 4*np.std(values[m])/60**.5 for m in ('ips', 'snips', 'dr'))

def test_the_direct_method_has_no_interval():
    _, _, new, l = worlds()
    v = quiet(evaluate_policy, l, new[l.segment], 'dm')
    assert np.isnan([v.low, v.high]).all() and np.isfinite(v.value)

def test_rounds_of_a_user_belong_together():
    "Each round twice, by the same user: the interval stays as it was; as independent rounds it would be narrower."
    _, _, new, l = worlds(2_000)
    two = np.tile(np.arange(len(l)), 2)
    twice = dict(action=l.action[two], reward=l.reward[two], propensity=l.propensity[two], n_actions=10, segment=l.segment[two])
    width = lambda x: (lambda v: v.high - v.low)(quiet(evaluate_policy, x, new[x.segment]))
    one, together, apart = width(l), width(BanditLog(**twice, user=two)), width(BanditLog(**twice))
    assert abs(together/one - 1) < .1 and abs(apart/one - .5**.5) < .1

def test_users_with_unequal_rounds():
    "The mean stays the mean of rounds, and no user is needed in order."
    users = np.array(['b', 'a', 'b', 'b', 'c', 'a', 'd', 'e', 'e', 'f'])
    l = BanditLog([0, 1]*5, np.arange(10), [.5]*10, 2, user=users)
    v = quiet(evaluate_policy, l, [.5, .5], 'ips')
    assert np.isclose(v.value, 4.5) and v.low < 4.5 < v.high

def test_the_reward_model_has_not_seen_the_round():
    l = BanditLog([0]*10, [0]*9 + [100], [.5]*10, 1)
    assert fit_reward_model(l, prior=0, n_folds=10)[9, 0] == 0
    assert np.isclose(fit_reward_model(l, prior=0, n_folds=10)[0, 0], 100/9)

def test_checks_find_what_they_are_for():
    world, old, new, _ = worlds()
    blind = old.copy()
    np.put_along_axis(blind, np.argmax(new, 1)[:, None], 0, 1)
    blind /= blind.sum(1, keepdims=True)
    l = world.draw(blind, 20_000)
    with pytest.warns(UserWarning, match='mean weight.*never shows'): v = evaluate_policy(l, new[l.segment])
    assert np.isclose(v.mean_weight, 1 - new.max(1).mean(), atol=.05) and np.isclose(v.unseen, new.max(1).mean(), atol=.02)
    with pytest.warns(UserWarning, match='0 rounds with a reward'):
        assert evaluate_policy(BanditLog([0, 1]*50, [0]*100, [.5]*100, 2), [.5, .5]).value == 0
    good = worlds(20_000)[3]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert evaluate_policy(good, new[good.segment]).notes == ()

def test_the_difference_is_paired():
    world, old, new, l = worlds(20_000)
    difference, low, high = policy_difference(l, new[l.segment], old[l.segment])
    assert low < world.value(new) - world.value(old) < high
    assert np.allclose(policy_difference(l, new[l.segment], new[l.segment]), 0)
    logged, low, high = policy_difference(l, new[l.segment])
    assert low < world.value(new) - world.value(old) < high

def test_policies():
    p = softmax_policy([[1., -np.inf, 0]], temperature=1e-3, explore=.2)
    assert np.allclose(p, [[.9, 0, .1]])                          # what must not be shown is not explored
    a, own = draw_actions(np.repeat(p, 5_000, 0), seed=3)
    assert set(a) == {0, 2} and np.allclose(own, p[0][a]) and abs((a == 2).mean() - .1) < .02
    a, own = draw_actions(np.array([[.3, .7]]), seed=3)
    assert a.shape == own.shape == (1,)

@pytest.mark.parametrize('change, said', [
    (dict(propensity=[.75, 0, .75, .25]), 'propensity of round 1 is'), (dict(propensity=[.75, 1.5, .75, .25]), 'propensity of round 1'),
    (dict(propensity=[.75, np.nan, .75, .25]), 'propensity of round 1'), (dict(propensity=[.5]*3), r'propensity has shape \(3,\)'),
    (dict(propensity=['a']*4), 'expected numbers'), (dict(reward=[0, 1, None, 1]), 'reward of round 2'),
    (dict(reward=[0, 1, np.inf, 1]), 'reward of round 2'), (dict(action=[0, 0, 0, 2]), 'action of round 3 is'),
    (dict(action=[0, -1, 0, 1]), 'action of round 1'), (dict(action=list('aaab')), 'factorize'), (dict(action=[0., 0, 0, 1]), 'whole numbers'),
    (dict(action=[], reward=[], propensity=[]), 'the log is empty'), (dict(n_actions=0), 'n_actions'), (dict(segment=[0, 0, 0]), 'segment has shape'),
    (dict(segment=[0, 0, 0, -1]), 'segment of round 3'), (dict(user=['a', 'a', None, 'b']), 'user of round 2')])
def test_a_bad_log_says_where(change, said):
    with pytest.raises(InputError, match=said): log(**change)

@pytest.mark.parametrize('call, said', [
    (lambda: evaluate_policy(log(), [.5, .6]), 'add up to 1'), (lambda: evaluate_policy(log(), [1.5, -.5]), 'add up to 1'),
    (lambda: evaluate_policy(log(), [.2, .3, .5]), r'the policy has shape \(3,\)'), (lambda: evaluate_policy(log(), [np.nan, 1]), 'add up to 1'),
    (lambda: evaluate_policy(log(), NEW, 'best'), "method is 'best'"), (lambda: evaluate_policy(log(), NEW, clip=0), 'clip is 0'),
    (lambda: evaluate_policy(log(), NEW, 'dr', q=np.zeros(2)), 'q has shape'), (lambda: evaluate_policy(log(), NEW, level=2), 'level'),
    (lambda: evaluate_policy(log(action=[0]*4), [0, 1.]), 'all weights are 0'), (lambda: policy_difference(log(), NEW, method='x'), 'method'),
    (lambda: softmax_policy([[1, np.nan]]), 'best score of round 0'), (lambda: softmax_policy([[-np.inf]*2]), 'best score of round 0'),
    (lambda: softmax_policy([[1, 2]], temperature=0), 'temperature is 0'), (lambda: softmax_policy([[1, 2]], explore=2), 'explore is 2'),
    (lambda: draw_actions(np.array([.5, .5])), '1 dimensions'), (lambda: fit_reward_model(log(), n_folds=9), 'n_folds is 9')])
def test_bad_arguments_are_named(call, said):
    with pytest.raises(InputError, match=said): call()

CSV = (',timestamp,item_id,position,click,propensity_score,user_feature_0\n'
       '0,2019-11-24,2,3,0,0.25,a\n1,2019-11-24,0,1,1,0.5,b\n2,2019-11-25,1,1,0,0.125,a\n')

@pytest.fixture
def sample(tmp_path):
    folder = tmp_path/'obp'/'dataset'/'obd'/'bts'/'men'
    folder.mkdir(parents=True)
    (folder/'men.csv').write_text(CSV)
    with zipfile.ZipFile(tmp_path/'obp.whl', 'w') as z: z.write(folder/'men.csv', 'obp/dataset/obd/bts/men/men.csv')
    return tmp_path

@pytest.mark.parametrize('place', ['.', 'obp', 'obp/dataset/obd', 'obp.whl'])
def test_the_sample_is_read_from_a_folder_or_a_wheel(sample, place):
    l = load_open_bandit(sample/place, 'men', 'bts')
    assert l.action.tolist() == [2, 0, 1] and l.reward.tolist() == [0, 1, 0] and l.propensity.tolist() == [.25, .5, .125]
    assert l.segment.tolist() == [1, 0, 0] and l.n_actions == 3   # places on the page, from 0

def test_the_sample_is_found_by_the_variable(sample, monkeypatch):
    monkeypatch.setenv('OPEN_BANDIT', str(sample/'obp.whl'))
    assert len(load_open_bandit(campaign='men', logged_by='bts')) == 3

def test_where_there_is_no_sample_the_error_says_what_to_do(sample, monkeypatch):
    monkeypatch.delenv('OPEN_BANDIT', raising=False)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    for call in (lambda: load_open_bandit(), lambda: load_open_bandit(sample/'missing'), lambda: load_open_bandit(sample/'obp.whl', 'all')):
        with pytest.raises(InputError, match='pip download obp==0.4.1 --no-deps') as error: call()
        assert len(str(error.value)) <= 600
    (sample/'no.whl').write_text('x')
    with pytest.raises(InputError, match='no.whl is no wheel'): load_open_bandit(sample/'no.whl')
    with pytest.raises(InputError, match="campaign is 'kids'"): load_open_bandit(campaign='kids')
    with pytest.raises(InputError, match="logged_by is 'us'"): load_open_bandit(logged_by='us')
    (sample/'obp/dataset/obd/bts/men/men.csv').write_text('a,b\n1,2\n')
    with pytest.raises(InputError, match="no column 'item_id'"): load_open_bandit(sample, 'men', 'bts')
    (sample/'obp/dataset/obd/bts/men/men.csv').write_text('')
    with pytest.raises(InputError, match='cannot be read as a table'): load_open_bandit(sample, 'men', 'bts')

@pytest.mark.parametrize('seed', range(3))
def test_open_bandit_pipeline_gives_the_same(seed):
    "The estimators of `obp` (it needs mypy_extensions, pyyaml and seaborn beside the wheel)."
    ope = pytest.importorskip('obp.ope', exc_type=ImportError)
    _, _, new, l = worlds(500, seed)
    pi, q = new[l.segment], fit_reward_model(l)
    known = dict(reward=l.reward, action=l.action, pscore=l.propensity, action_dist=pi[:, :, None])
    theirs = dict(ips=ope.InverseProbabilityWeighting(), snips=ope.SelfNormalizedInverseProbabilityWeighting(),
                  dm=ope.DirectMethod(), dr=ope.DoublyRobust())
    for method, estimator in theirs.items():
        value = estimator.estimate_policy_value(**known, estimated_rewards_by_reg_model=q[:, :, None])
        assert np.isclose(quiet(evaluate_policy, l, pi, method).value, value)
