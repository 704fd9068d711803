"""The gate and the fusion: shapes, sampled NDCG, cold starts, held-out baskets, networks, blocks."""
from dataclasses import replace
import numpy as np
import pandas as pd
import pytest
import torch
from fastcore.test import test_close as close, test_eq as equal
from llmrec.baselines import Popularity
from llmrec.closed_form import EASE
from llmrec.data import make_synthetic_pair
from llmrec.dataset import hold_out_last_basket, make_dataset, select_users
from llmrec.features import item_features
from llmrec.fusion import (
    ChoiceBatch, Fusion, Gate, add_experts, build_choices, choice_ndcg, default_experts, fit_cold_items, fit_cold_start, fit_gate,
    gate_scores, held_out_ndcg, item_log_counts, raise_new_items, rare_item_weights, unique_evidence_pairs)
from llmrec.preprocess import split_last


@pytest.fixture(scope='module')
def planted():
    "Choices of a truth that uses one expert for cold items and another for the rest, and the gate fitted on them."
    rng = np.random.RandomState(0)
    z = torch.from_numpy(rng.randn(3000, 20, 2).astype(np.float32))
    evidence = torch.from_numpy(item_log_counts(rng.choice([0, 50], (3000, 20))))
    truth = torch.where(evidence == 0, 2*z[..., 0], 2*z[..., 1])
    uniform = torch.rand(3000, 20, generator=torch.Generator().manual_seed(0))
    chosen = (truth - torch.log(-torch.log(uniform))).argmax(1)       # Gumbel noise: a softmax choice
    none = torch.zeros(3000, 20)
    choices = ChoiceBatch(z, evidence, none[:, :1], none, chosen, torch.ones(3000), none.long())
    free = dict(slope_l2=.01, weight_l1=0., equality_l2=0.)
    found = fit_gate([choices], 2, **free, focus=0.)
    return z, evidence, none, chosen, choices, found

def test_weights_are_positive_and_scores_are_looked_up(planted):
    z, evidence, none, chosen, choices, found = planted
    gate = Gate(2)
    weights = gate.weights(torch.tensor([0., 1.]), torch.tensor([.5, .5]))
    equal(weights.shape, (2, 2))
    assert (weights > 0).all()
    close(gate_scores(gate, choices, unique_evidence_pairs(choices)).detach(), gate(z, evidence, none[:, :1]).detach(), eps=1e-5)

def test_ndcg_of_choices_is_ndcg(planted):
    z, evidence, none, chosen, choices, found = planted
    ndcg = choice_ndcg(found, choices)
    rank = (found(z, evidence, none[:, :1]) > found(z, evidence, none[:, :1]).gather(
        1, chosen[:, None])).sum(1)
    close(ndcg, torch.where(rank < 10, 1/torch.log2(rank + 2), 0.).numpy(), eps=1e-6)
    held = held_out_ndcg([choices], 2)
    assert ndcg.mean() > choice_ndcg(Gate(2), choices).mean() and abs(held.mean() - ndcg.mean()) < .02
    close(rare_item_weights(np.array([0, 4, 5, 9])).numpy(), [1.5, 1.5, .5, .5], eps=1e-6)
    close(rare_item_weights(np.array([8, 4, 5, 9]), 1.).numpy(), np.ones(4), eps=1e-6)

def test_a_cold_start_teaches_nothing_else(planted):
    z, evidence, none, chosen, choices, found = planted
    new_user = replace(choices, user_evidence=none[:, :1])
    before = {k: v.clone() for k, v in found.state_dict().items()}
    taught = fit_cold_start(copy_of(found), new_user, steps=5)
    same = {k for k, v in taught.state_dict().items() if torch.equal(v, before[k])}
    equal(same, {'bias', 'item_slope', 'cold_item', 'user_slope'})
    assert torch.equal(taught.offset_weights[0], before['offset_weights'][0])

def test_new_items_are_raised_until_they_are_hit_or_cost_too_much(planted):
    *_, nobody, found = planted
    choices = replace(nobody, user_evidence=nobody.user_evidence + .5)    # users with a history
    buried = copy_of(found)
    buried.offset_weights[0, 0] -= 4
    of_new = (choices.item_evidence.gather(1, choices.target[:, None]) == 0)[:, 0].numpy()
    def after(lift):
        other = copy_of(buried)
        other.offset_weights[0, 0] += lift
        return choice_ndcg(other, choices)
    def hits(ndcg): return (ndcg[of_new] > 0).mean()
    best = max(hits(choice_ndcg(one_expert(i), choices)) for i in (0, 1))
    best += np.sqrt(best*(1 - best)/of_new.sum())
    gate, notes = copy_of(buried), []
    lift = raise_new_items(gate, choices, loss=.9, notes=notes)
    assert 0 < lift < 8 and hits(after(lift)) >= best > hits(after(lift - .25))
    changed = {k: v - buried.state_dict()[k] for k, v in gate.state_dict().items()}
    close(changed.pop('offset_weights').numpy(), np.array([[lift, 0, 0], [0, 0, 0]]), eps=1e-5)
    assert not any(x.any() for x in changed.values())                    # the rest of the gate stays
    assert f'raised by {lift:g}' in notes[0] and f'{after(lift).mean() - after(0).mean():+.4f}' in notes[0]
    buried.offset_weights[0, 0] += 12
    equal(raise_new_items(buried, choices), 0.)                            # they are hit often enough
    known = replace(choices, item_evidence=choices.item_evidence + .1)
    equal([raise_new_items(gate, x) for x in (known, nobody)], [0., 0.])   # no item is new, no user known

def test_new_items_are_raised_by_what_known_ones_can_bear(planted):
    *_, nobody, found = planted
    choices = replace(nobody, user_evidence=nobody.user_evidence + .5)
    known = choices.item_evidence.gather(1, choices.target[:, None])[:, 0] > 0
    few = torch.from_numpy(np.random.default_rng(0).random(len(known)) < .03)   # hardly any choice is new
    some = ChoiceBatch(**{k: v[known | few] for k, v in vars(choices).items()})
    def after(lift):
        other = copy_of(found)
        other.offset_weights[0, 0] += lift - 8
        return choice_ndcg(other, some).mean()
    buried = copy_of(found)
    buried.offset_weights[0, 0] -= 8
    lift = raise_new_items(buried, some)
    assert lift > 0 and after(lift) >= .98*after(0)
    assert after(lift + .25) < .98*after(0)                               # one step more costs too much
    more = copy_of(found)
    more.offset_weights[0, 0] -= 8
    assert raise_new_items(more, some, crowd=5.) <= lift                   # a crowd of new items costs more

def one_expert(number):
    "A gate that asks one of two experts alone."
    gate = Gate(2).requires_grad_(False)
    gate.bias[:] = torch.tensor([-30., -30.])
    gate.bias[number] = 3.
    return gate

def test_new_items_are_raised_in_a_fusion():
    pair = make_synthetic_pair(seed=5, n_users=(300, 300), n_rows=(12, 12))
    data = make_dataset(pair.target.log, pair.target.items)
    fusion = Fusion(lambda *a: [Popularity(), EASE()], budget='fast').fit_dataset(data)
    [line] = [x for x in fusion.plan if x.startswith('new items raised by')]
    assert float(line.split('raised by ')[1].split(':')[0]) >= 0

def copy_of(gate):
    "The same gate, to be changed."
    new = Gate(2).requires_grad_(False)
    new.load_state_dict(gate.state_dict())
    return new

def test_a_basket_does_not_predict_itself():
    log_rows = dict(user=list('aaaabb'), item=['tea', 'milk', 'jam', 'oat', 'tea', 'milk'])
    shop = make_dataset(pd.DataFrame(log_rows | dict(time=[1, 2, 2, 2, 5, 5])),
                        pd.DataFrame(dict(item=['tea', 'milk', 'jam', 'oat'])))
    rest, hist, target = hold_out_last_basket(shop)
    equal(list(shop.items[hist[0]]), ['tea'])            # what came before the basket
    assert shop.items[target[0]] in {'milk', 'jam', 'oat'}
    equal({*shop.items[hist[1]], shop.items[target[1]]}, {'tea', 'milk'})  # one basket is all b has
    equal(len(rest.hist.item), 4)
    rest, hist, target = hold_out_last_basket(replace(shop, time=None))
    equal(len(hist[0]), 3)                               # without times there is only an order

def test_networks_join_where_there_is_something_for_them():
    many = make_synthetic_pair(seed=5, n_users=(1000, 1500), n_rows=(20, 12))
    events, items, source = many.target.log, many.target.items, many.source
    def networks(data, budget='auto'):
        return [x.name for x in default_experts(data, budget) if x.neural]

    data = make_dataset(events, items, source)
    none = make_dataset(events.iloc[:0], items, source)
    found = {'target and source': networks(data), 'no source': networks(make_dataset(events, items)),
             'fast': networks(data, 'fast'), 'no target interactions': networks(none),
             'no target interactions, full': networks(none, 'full'),
             'no text': networks(make_dataset(events, items[['item', 'title']]))}
    equal(found['no target interactions, full'], ['SmoothedSASRec', 'TextSASRec'])
    equal(found['target and source'], ['SASRec', 'SASRec of the target'])
    equal(found['no source'], ['SASRec'])
    equal(found['no text'], ['SASRec'])
    equal(found['fast'] + found['no target interactions'], [])
    equal(networks(data, 'full'), ['TwoTower', 'SASRec', 'SmoothedSASRec', 'TextSASRec'])

@pytest.fixture(scope='module')
def fitted():
    "A fusion, its index, and the split."
    pair = make_synthetic_pair(seed=0, shared=.5)
    split = split_last(pair.target)
    data = make_dataset(split.train, pair.target.items, pair.source)
    experts = lambda *a: [Popularity(), EASE(300.)]
    return Fusion(experts).fit_dataset(replace(data, phi=item_features(data))), data, split, pair

def test_blocks_copies_and_empty_training_sets(fitted):
    "A gate without a training set weighs all experts alike."
    fusion, data, split, pair = fitted
    scores = fusion.score_histories(data.hist)
    one = np.concatenate([fusion.score_histories(select_users(data.hist, [u])) for u in range(5)])
    close(one, scores[:5], eps=1e-5)
    changed = fusion.copy()
    changed.add_items(data, 0)
    assert changed is not fusion and changed.experts[0] is not fusion.experts[0]
    few = Fusion(lambda *a: [Popularity(), EASE(300.)]).fit_dataset(make_dataset(split.train[:20],
                                                                                 pair.target.items))
    equal(len(few.gate.bias.unique()), 1)

def test_further_experts_join_the_same_choices(fitted):
    fusion, data, split, pair = fitted
    small = [Popularity().fit_dataset(data), EASE().fit_dataset(data)]
    rest, hist, target = hold_out_last_basket(data, most=100)
    equal(len(target), 100)
    both = build_choices(small, hist, target, data.counts[:data.n_target])
    more = add_experts(both, small[1:], hist).scores
    real = both.log_weight > -1e8                        # the rest pads
    close(more[..., 2][real].numpy(), both.scores[..., 1][real].numpy(), eps=1e-5)


def among_hidden(n_choices, item, seed=0, n=40):
    "Choices among n hidden items; `item` are those that were chosen. Expert 0 has noise, expert 1 will be told."
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.normal(size=(n_choices, n, 2)).astype(np.float32))
    blank = torch.zeros(n_choices, n)
    return ChoiceBatch(scores, blank, torch.full((n_choices, 1), .5), blank, torch.as_tensor(item), torch.ones(n_choices),
                       torch.arange(n).repeat(n_choices, 1))

def both(hidden):
    "A gate that likes expert 0, choices among known items, and what hidden items make of it."
    gate = Gate(2).requires_grad_(False)
    gate.bias[0] = 2.
    known = replace(hidden, item_evidence=torch.full_like(hidden.item_evidence, .5))
    notes = []
    new = fit_cold_items(gate, known, hidden, notes=notes)
    return gate, new, notes[0]

def test_hidden_items_teach_the_weights_of_new_items():
    item = np.random.default_rng(1).integers(40, size=400)
    hidden = among_hidden(400, item)
    hidden.scores[torch.arange(400), torch.as_tensor(item), 1] += 3.
    gate, new, note = both(hidden)
    cold = new.weights(torch.zeros(1), torch.full((1,), .5))[0]
    warm = new.weights(torch.ones(1), torch.full((1,), .5))[0]
    assert cold[1] > cold[0] and warm[0] > warm[1]           # the order of known items stays
    assert 'weights stay' not in note and '+' in note
    assert not (gate.cold_item != 0).any()                   # the gate that was given is as it was

def test_one_item_that_many_took_teaches_nothing():
    "Nine of ten choices are of one item, and expert 1 knows that one only; expert 0 knows the others."
    item = np.r_[np.zeros(360, int), np.random.default_rng(1).integers(1, 40, size=40)]
    hidden = among_hidden(400, item)
    hidden.scores[torch.arange(400), torch.as_tensor(item), 0] += 3.
    hidden.scores[..., 1] = 0.
    hidden.scores[:, 0, 1] = 5.
    gate, new, note = both(hidden)
    assert new is gate and 'weights stay' in note
    assert both(among_hidden(3, [0, 0, 0]))[1] is gate or 'weights stay' in both(among_hidden(3, [0, 0, 0]))[2]
