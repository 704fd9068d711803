"""How a fusion is fitted: settings found on held-out interactions, choices like those to come, sources and networks on trial."""
import numpy as np, pandas as pd, pytest, torch
from llmrec import fusion as F, recommender as R
from llmrec.baselines import Content, ItemKNN, LastItems, Popularity
from llmrec.closed_form import EASE
from llmrec.data import make_synthetic_pair
from llmrec.dataset import hold_out_last_basket, make_dataset, without_sources
from llmrec.expert import fit_itself, grid_settings, nth_best, tune_expert
from llmrec.preprocess import split_last


@pytest.fixture(scope='module')
def pair(): return make_synthetic_pair(0, n_users=(120, 90), n_items=(60, 40), n_rows=(12, 8), shared=.5)

@pytest.fixture(scope='module')
def data(pair):
    vectors = np.random.default_rng(0).normal(size=(100, 12)).astype(np.float32)
    return make_dataset(pair.target.log, pair.target.items, pair.source, vectors)

@pytest.fixture(scope='module')
def held(data): return hold_out_last_basket(data)

def test_the_best_setting_is_the_best(held):
    rest, hist, target = held
    best, tried = tune_expert(EASE(), rest, hist, target)
    assert tried['ndcg@20'].is_monotonic_decreasing and len(tried) == len(grid_settings(EASE(), rest)) == 30
    assert best.lam == tried['lam'][0] and best.half_life == tried['half_life'][0]
    again = EASE(**{k: tried[k][0] for k in tried.columns[:-1]}, max_items=1500, n_neighbours=0).fit_dataset(rest)
    from llmrec.dataset import next_item_ndcg
    assert np.isclose(next_item_ndcg(again.score_histories, hist, target, rest.n_target, 20), tried['ndcg@20'][0])

def test_without_a_source_nothing_is_asked_of_it(pair):
    alone = make_dataset(pair.target.log, pair.target.items)
    assert all('use_source_history' not in x for x in grid_settings(EASE(), alone))

def test_experts_of_one_class_differ(held):
    rest, hist, target = held
    notes = []
    tuned = F.tune_experts([Content(), Content(), EASE(), EASE(), Popularity(), Popularity()], rest, hist, target, notes)
    for kind, name in ((Content, 'half_life'), (EASE, 'half_life'), (Popularity, 'recent')):
        values = [getattr(x, name) for x in tuned if type(x) is kind]
        assert len(values) == len(set(values)) == 2
    assert len(notes) == 3 and notes[1].startswith('EASE: lam')

def test_what_is_found_differs_by_the_kind_of_data():
    "Popularity alone: a strong penalty; clear neighbours in many rows: a weak one."
    rng = np.random.default_rng(0)
    def log(items): return pd.DataFrame(dict(user=np.repeat(np.arange(len(items)), items.shape[1]), item=items.ravel(), time=np.tile(np.arange(items.shape[1]), len(items))))
    share = 1/np.arange(1, 61)
    noise = np.stack([rng.choice(60, 4, replace=False, p=share/share.sum()) for _ in range(400)])
    groups = np.stack([10*rng.integers(6) + rng.permutation(10)[:4] for _ in range(400)])
    items = pd.DataFrame(dict(item=np.arange(60), title=[f't{x}' for x in range(60)]))
    found = [fit_itself(EASE(), make_dataset(log(x), items)) for x in (noise, groups)]
    assert found[0].lam > found[1].lam

def test_a_search_that_finds_nothing_changes_nothing():
    log = pd.DataFrame(dict(user=np.repeat(np.arange(40), 2), item=np.arange(80), time=np.tile([0, 1], 40)))
    items = pd.DataFrame(dict(item=np.arange(80), title='same'))
    rest, hist, target = hold_out_last_basket(make_dataset(log, items))
    notes = []
    [expert] = F.tune_experts([ItemKNN(7, 3.)], rest, hist, target, notes)
    assert (expert.k, expert.shrink) == (7, 3.) and 'no setting' in notes[0]

def test_few_are_held_out_of_a_sparse_target(data):
    assert [F.n_held_out(n) for n in (100, 5_000, 50_000)] == [800, 1000, 2000]
    assert len(hold_out_last_basket(data, most=50)[2]) == 50

def test_validation_for_the_gate_is_drawn_by_users():
    users = np.repeat(np.arange(2000), 2)
    valid = pd.DataFrame(dict(user=users, item=1, time=np.tile([5, 6], 2000)))
    log = pd.DataFrame(dict(user=np.arange(2000), item=1, time=np.where(np.arange(2000) % 2, 9, 0)))
    pick = R._gate_rows(log, valid, 0)
    assert 1150 <= pick.sum() <= 1200 and (pick.reshape(-1, 2).all(1) == pick.reshape(-1, 2).any(1)).all()
    assert R._gate_rows(log.assign(time=0), valid, 0).all()          # a cut in time: nothing of it in training

def test_the_index_without_sources(data, pair):
    own = without_sources(data)
    assert own.n_items == own.n_target == len(pair.target.items) and len(own.users) == len(data.users)
    target = make_dataset(pair.target.log, pair.target.items)
    at = own.users.get_indexer(target.users)
    assert all((own.hist[a] == target.hist[b]).all() for a, b in zip(at, range(len(target.users))))

def fitted(data, monkeypatch, gains, **kw):
    "A fusion whose trials end as we like: NDCG of the choices in the order in which they are asked."
    values = iter(gains)
    monkeypatch.setattr(F, 'held_out_ndcg', lambda sets, n, steps=50: next(values) + np.arange(len(sets[0].target))*1e-9)
    return F.Fusion(**kw).fit_dataset(data)

def test_a_source_that_hurts_is_left_out(data, monkeypatch):
    made = lambda *a: [Popularity(), EASE(100.), ItemKNN()]
    kept = fitted(data, monkeypatch, [.2, .1], make_experts=made)
    assert kept.data is data and any('source: helps' in x for x in kept.plan)
    left = fitted(data, monkeypatch, [.1, .2], make_experts=made)
    assert left.data.n_items == left.data.n_target and any('would hurt' in x for x in left.plan)
    assert np.isfinite(left.score_histories(left.data.hist)).all()

def test_networks_that_add_nothing_are_left_out(data, monkeypatch):
    class Net(ItemKNN):
        neural = True
    monkeypatch.setattr(F, 'default_experts', lambda *a: [Popularity(), EASE(100.), Net(), Net(shrink=5.)])
    own = without_sources(data)
    out = fitted(own, monkeypatch, [.2, .2, .2], budget='auto')
    assert not any(x.neural for x in out.experts) and any('network left out' in x for x in out.plan)
    join = fitted(own, monkeypatch, [.1, .2, .3], budget='auto')
    assert [x.shrink for x in join.experts if x.neural] == [5] and join.score_histories(own.hist).shape == (len(own.users), own.n_target)

def test_the_better_of_two_networks_joins_and_the_twin_has_its_own(data, monkeypatch):
    "One reads all domains, one the target alone; a source is judged against the model without it, network and all."
    class Net(ItemKNN):
        neural = True
    monkeypatch.setattr(F, 'default_experts', lambda *a: [Popularity(), EASE(100.), Net(), Net(use_source_history=False)])
    seen = []
    real = F._twin
    monkeypatch.setattr(F, '_twin', lambda *a: seen.append(real(*a)) or seen[-1])
    joint = fitted(data, monkeypatch, [.1, .3, .2, .3, .2], budget='auto')
    [net] = [x for x in joint.experts if x.neural]
    assert net.use_source_history and seen[-1].scores.shape[-1] == 3
    alone = fitted(data, monkeypatch, [.1, .2, .3, .3, .3], budget='auto')
    assert not [x for x in alone.experts if x.neural][0].use_source_history
    neither = fitted(data, monkeypatch, [.1, .1, .1, .3, .2], budget='auto')
    assert not any(x.neural for x in neither.experts) and seen[-1].scores.shape[-1] == 2
    hurts = fitted(data, monkeypatch, [.1, .3, .2, .1, .2, .1, .2, .1], budget='auto')
    assert hurts.data.n_items == hurts.data.n_target and sum(x.neural for x in hurts.experts) == 1

def test_last_items_by_hand():
    log = pd.DataFrame(dict(user=[1, 1, 1, 2, 2], item=list('abcab'), time=[0, 1, 2, 0, 1]))
    e = LastItems(2, 1.).fit(log, pd.DataFrame(dict(item=list('abc'), title=list('abc'))))
    # edges a–b twice, b–c once; user 1 ends b, c: c weighs 1, b half
    np.testing.assert_allclose(e.score([1])[0], [.5*np.log(3), np.log(2), .5*np.log(2)], rtol=1e-6)

def test_rare_items_count_more():
    counts = np.array([0, 1, 7, 9])
    w = F.rare_item_weights(counts)
    assert torch.isclose(w.mean(), torch.tensor(1.)) and w[0] == w[1] > w[2] == w[3]

def test_a_second_of_its_class_shares_the_first_ones_fit(held):
    "What differs is a matter of scoring: one inverse serves both."
    rest, hist, target = held
    _, tried = tune_expert(EASE(), rest, hist, target)
    first, second = nth_best(EASE(), tried, 0), nth_best(EASE(), tried, 1)
    assert (first.lam, first.use_source_history) == (second.lam, second.use_source_history) and first.half_life != second.half_life

def test_the_lightest_stock_experts_are_left_out_and_named(data, monkeypatch):
    fusion = F.Fusion(budget='fast', seed=0)
    monkeypatch.setattr(F, 'weight_shares', lambda gate, sets: np.r_[.001, np.full(len(gate.bias) - 1, .1)])
    fusion.fit_dataset(data)
    [line] = [x for x in fusion.plan if x.startswith('left out, with less than 1 %')]
    name = line.rpartition(': ')[2]
    assert name == 'KernelTransfer' and name not in F.expert_names(fusion.experts)
    own = F.Fusion(lambda *a: [Popularity(), EASE()], 'fast').fit_dataset(data)
    assert len(own.experts) == 2, 'who names experts keeps them'

def test_a_twin_scores_what_the_source_does_not_touch_as_before(data):
    experts = F.fit_experts([EASE(use_source_history=False), ItemKNN()], data)
    rest, hist, target = hold_out_last_basket(data)
    choices = F.build_choices(experts, hist, target, data.counts[:data.n_target])
    twin = F._of_target(choices, experts, hist, [])
    assert torch.equal(twin.scores[..., 0], choices.scores[..., 0]) and not torch.equal(twin.scores[..., 1], choices.scores[..., 1])
    alone = without_sources(data)
    plain = F.add_experts(F.replace(choices, scores=choices.scores[..., :0]), [ItemKNN().fit_dataset(alone)],
                          F.mask_interactions(hist, hist.item < data.n_target))
    assert torch.equal(plain.scores[..., 0], twin.scores[..., 1])

def test_cold_items_are_ordered_without_touching_the_others(data):
    "What one expert knows of new items is found in choices among hidden ones; the order of known items stays."
    g = torch.Generator().manual_seed(0)
    def batch(evidence):
        scores = torch.randn(300, 6, 2, generator=g)
        liked = scores[..., 0 if evidence else 1].argmax(1)      # known items by the first, new ones by the second
        return F.ChoiceBatch(scores, torch.full((300, 6), evidence), torch.full((300, 1), .3), torch.zeros(300, 6), liked,
                             torch.ones(300), torch.arange(6).repeat(300, 1))
    natural, hidden = batch(.5), batch(0.)
    before = F.fit_gate([natural], 2)
    after = F.fit_cold_items(F.fit_gate([natural], 2), natural, hidden)
    for name in ('bias', 'item_slope', 'user_slope', 'cold_user'): assert torch.equal(getattr(before, name), getattr(after, name))
    assert F.choice_ndcg(after, hidden).mean() > F.choice_ndcg(before, hidden).mean() + .1
    assert np.array_equal(F.choice_ndcg(after, natural), F.choice_ndcg(before, natural))

def test_hidden_items_are_a_tenth_unless_new_ones_are_common(data):
    fusion, rng = F.Fusion(seed=0), np.random.default_rng(0)
    counts = data.counts[:data.n_target]
    warm = np.nonzero(counts)[0]
    assert fusion._hidden_items(data, warm, rng).sum() == len(warm)//10
    bare = F.drop_items(data, np.arange(data.n_items) < data.n_target//2)
    new = np.arange(data.n_target//2)
    assert not fusion._hidden_items(bare, np.r_[new, new], rng).any()

def test_a_source_is_judged_where_some_choices_were_hidden():
    "New items among the held-out ones, and a tenth of the others hidden: fewer choices than held-out interactions."
    pair = make_synthetic_pair(1, n_users=(300, 1500), n_items=(60, 300), n_rows=(5, 6), shared=.1)
    data = make_dataset(pair.target.log, pair.target.items, pair.source)
    rest, hist, target = hold_out_last_basket(data)
    values, times = np.unique(target, return_counts=True)
    new = np.zeros(data.n_items, bool)
    new[values[np.argsort(times)][:(np.cumsum(np.sort(times)) < 45).sum()]] = True
    assert 30 <= new[target].sum() < len(target)/7
    hist = F.mask_interactions(hist, ~new[hist.item])
    fusion = F.Fusion(budget='fast').fit_dataset(data, held_out=(F.drop_items(rest, new), hist, target))
    assert any(x.startswith('source: ') for x in fusion.plan)

def test_networks_have_no_say_among_hidden_items(data):
    "They were fitted with the interactions that are asked for there."
    fusion = F.Fusion(budget='fast')
    fusion.plan = []
    rest, hist, target = hold_out_last_basket(data)
    training = fusion._training_set(rest, hist, target)
    more = fusion._extended(training, [Popularity(.7)])
    assert training.hidden and len(more.experts) == len(training.experts) + 1
    assert more.sets[0].scores[..., -1].abs().max() > 0 and more.sets[1].scores[..., -1].abs().max() == 0
