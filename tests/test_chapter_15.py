"""Sequence models: windows and batches, the loss in blocks, a GPU that is not there, text tables, smoothing."""
import numpy as np
import pandas as pd
import pytest
import torch
from dataclasses import replace
from torch._subclasses.fake_tensor import FakeTensorMode
from fastcore.test import test_close as close, test_eq as equal
from llmrec.core import InputError, l2_normalize
from llmrec.data import make_synthetic_pair
from llmrec.dataset import Histories, histories, make_dataset, mask_interactions, select_users, without_sources
from llmrec.expert import check_expert
from llmrec.features import gp_extend, gp_smooth_embeddings
from llmrec.preprocess import split_last
from llmrec.sequence import (
    SASRec, SeqBatches, SeqNet, SmoothedSASRec, TextSASRec, TextSeqNet, _BlockedNLL, finetune_with_replay, fisher_rows,
    history_directions, initial_vectors,
    prepend_bos, seq_loss, sequence_windows, softmax_nll, softmax_nll_sum)

toy = make_synthetic_pair(seed=0, shared=.5)
cut = split_last(toy.target)
us = cut.test.user.unique()[:5]
h = Histories(np.array([0, 3, 3, 5]), np.array([4, 0, 1, 2, 4]), np.ones(5, np.float32))


def test_every_history_begins_with_the_start_token():
    s = prepend_bos(h, 9)
    equal(s[0], [9, 4, 0, 1])
    equal(s[1], [9])

def test_windows_cover_each_prediction_once():
    ptr = np.cumsum([0, 1, 2, 7, 31])
    for shift in range(5):
        first, stop = sequence_windows(ptr, 5, np.full(4, shift))
        covered = np.concatenate([np.arange(i, j) for i, j in zip(first, stop)])
        equal(np.sort(covered), np.setdiff1d(np.arange(ptr[-1]), ptr[1:] - 1))
        assert (stop - first).max() <= 5

def test_every_interaction_is_predicted_once():
    "Also where a quota fills up with windows of other domains."
    d = make_dataset(cut.train, toy.target.items)
    torch.manual_seed(0)
    bs = list(SeqBatches(d.hist, d.n_items, size=10, tokens=100))
    predicted = np.concatenate([y[y >= 0] for x, y in bs])
    equal(len(predicted), len(d.hist.item))               # every interaction is predicted once
    equal(np.bincount(predicted, minlength=d.n_items), d.counts)
    few = SeqBatches(d.hist, d.n_items, n=2, size=5, quota=400, tokens=100)
    y = np.concatenate([y[y >= 0].numpy() for x, y in few])
    assert 400 <= len(y) < 420
    equal((y < 2).sum(), d.counts[:2].sum())              # all windows with the two items are there

def test_states_depend_on_nothing_but_the_past():
    torch.manual_seed(0)
    net = SeqNet(20, dim=8, size=6).eval()
    x = torch.randint(20, (3, 6))
    g, E = net(x)
    equal(g.shape, (3, 6, 8))
    # the order of the batch changes nothing
    close(net(x[[2, 0, 1]])[0], g[[2, 0, 1]], eps=1e-6)
    y = x.clone()
    y[:, 4:] = 20
    # nor does padding, nor the future
    close(net(y)[0][:, :4], g[:, :4], eps=1e-6)

def test_the_blocked_loss_has_the_slopes_of_the_plain_one():
    torch.manual_seed(0)
    g, E, y = torch.randn(4, 3), torch.randn(50, 3), torch.tensor([10, 11, 48, 30])
    full = softmax_nll(g, E, y, 10, 50)
    def slopes(loss_of):
        g = torch.randn(700, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
        table = E.clone().requires_grad_()
        loss = loss_of(g, table, torch.arange(700) % 40 + 10, 10, 50)
        loss.backward()
        return loss.detach()/700, g.grad, table.grad

    close(seq_loss((g[None], E), y[None], [(0, 10), (10, 50)]), full.mean(), eps=1e-5)
    naive = slopes(lambda *x: softmax_nll(*x).sum())
    blocked = slopes(softmax_nll_sum)
    for a, b in zip(naive, blocked): close(a, b, eps=1e-4)
    double = [torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (70, 9)]
    # three blocks
    assert torch.autograd.gradcheck(lambda g, E: _BlockedNLL.apply(g, E, torch.arange(70) % 9, 9*32), double)

def test_the_same_code_runs_on_a_gpu():
    "Without one, shapes and devices are checked."
    with FakeTensorMode(), torch.no_grad():
        fake, on = SeqNet(20, dim=8, size=6), dict(dtype=torch.long, device='cuda')
        state = {k: torch.zeros(p.shape, device='cuda') for k, p in fake.named_parameters()}
        g, E = torch.func.functional_call(fake, state, (torch.zeros(3, 6, **on),))
        even = torch.full((20,), .05)                            # on the CPU: it follows the states
        loss = softmax_nll(g.flatten(0, 1), E, torch.zeros(18, **on), 0, 20, 5, even).mean()
    equal((g.device.type, g.shape, loss.device.type), ('cuda', (3, 6, 8), 'cuda'))

def test_a_table_of_texts_knows_what_it_knows():
    torch.manual_seed(0)
    net = TextSeqNet(np.eye(4, 3), known=[1, 1, 1, 0], dim=8, size=6).requires_grad_(False)
    equal(net.table()[3], net.adapt.weight.new_zeros(8))      # neither text nor interactions: nothing is known
    close(net.table()[0], net.adapt.weight[:, 0] + net.emb.weight[0])
    net.use_ids = False
    close(net.table()[0], net.adapt.weight[:, 0])
    equal(net.table()[4], net.emb.weight[4])
    with torch.no_grad(): assert net.eval().table() is net.table()
    with torch.no_grad(): assert net.train().table() is not net.table()

def test_scores_depend_on_nobody_else_and_weights_on_the_seed():
    fit = lambda: SASRec(dim=16, epochs=3).fit(cut.train, toy.target.items)
    sas = fit()
    h5 = histories(sas.data, us)
    close(sas.score(us[2:]), sas.score(us)[2:], eps=1e-5)
    close(sas.score_histories(select_users(h5, [3, 0])), sas.score(us)[[3, 0]], eps=1e-5)
    equal(fit().theta, sas.theta)
    s0 = sas.score(us)
    equal(SASRec.from_state(sas.state(), sas.data).score(us), s0)
    equal(sas.to('cpu').score(us), s0)
    q, _ = sas.query(select_users(h5, [3]))
    close(sas.item_matrix() @ q, s0[3], eps=1e-4)

def test_smoothing_is_the_extension_to_items_with_their_own_vectors():
    rng = np.random.RandomState(0)
    phi, c = l2_normalize(rng.randn(6, 3)), np.array([4, 0, 2, 1, 0, 9])
    E = rng.randn(6, 2).astype(np.float32)
    S = np.nonzero(c)[0]
    whole = gp_smooth_embeddings(phi, c, E, 5)
    close(whole, gp_extend(phi, S, c[S], E[S], noise=3.)[:5], eps=1e-4)
    # item 3 has the fewest interactions, and stands beyond the three
    close(gp_smooth_embeddings(phi, c, E, 5, 3., 3., 3)[3], whole[3], eps=1e-4)
    # much evidence: nothing moves
    close(gp_smooth_embeddings(phi, c*10**6, E, 6)[S], E[S], eps=.01)
    equal(gp_smooth_embeddings(phi, c*0, E, 5), E[:5])

def test_a_network_of_the_target_is_the_twins():
    "With `use_source_history=False` other domains do not exist: the same weights and scores as without the sources."
    data = make_dataset(toy.target.log, toy.target.items, toy.source)
    own = without_sources(data)
    alone = SASRec(epochs=2, use_source_history=False).fit_dataset(data)
    twin = SASRec(epochs=2).fit_dataset(own)
    np.testing.assert_array_equal(alone.theta, twin.theta)
    np.testing.assert_array_equal(alone.score_histories(data.hist), twin.score_histories(own.hist))
    check_expert(SASRec(epochs=1, use_source_history=False))

@pytest.mark.parametrize('kind', [TextSASRec, SmoothedSASRec])
def test_networks_on_text_can_know_the_target_alone(kind):
    data = make_dataset(toy.target.log, toy.target.items, toy.source)
    net = kind(epochs=1, use_source_history=False).fit_dataset(data)
    assert net.score_histories(data.hist).shape == (len(data.users), data.n_target)
    own = np.where(data.hist.item < data.n_target)[0]
    foreign = mask_interactions(data.hist, data.hist.item >= data.n_target)
    assert len(own) and np.ptp(net.score_histories(foreign), axis=0).max() == 0, 'a history in other domains changes nothing'

def test_first_vectors_know_who_had_what_and_what_texts_say():
    "Two groups of items that share no user; two of texts, crosswise; an item without either."
    rng = np.random.default_rng(0)
    rows = [(f'u{u}', f'i{i}') for u in range(60) for i in rng.choice(np.arange(u % 2, 40, 2), 8, replace=False)]
    log = pd.DataFrame(rows, columns=['user', 'item']).assign(time=range(len(rows)))
    items = pd.DataFrame(dict(item=[f'i{i}' for i in range(41)], title='x'))
    text = np.zeros((41, 8), np.float32)
    text[:20, 0] = 1
    text[20:40, 1] = 1
    data = make_dataset(log, items, vectors=text)
    hist = data.hist
    def likeness(vectors, groups): # mean cosine within groups less that between them
        unit = vectors[:40]/np.linalg.norm(vectors[:40], axis=1, keepdims=True)
        same = groups[:, None] == groups
        return (unit @ unit.T)[same].mean() - (unit @ unit.T)[~same].mean()
    parity, half = np.arange(40) % 2, np.arange(40)//20
    found = history_directions(hist, 41, 16)
    assert found.shape == (41, 16) and likeness(found, parity) > .2 > 4*abs(likeness(found, half)) and np.abs(found[40]).max() < 1e-9
    both = initial_vectors(data, hist, 41, 16)
    assert both.dtype == np.float32 and abs(both.std() - .1) < 1e-6 and likeness(both, parity) > .1 and likeness(both, half) > .1
    alone = initial_vectors(replace(data, vectors=None, phi=None), hist, 41, 16)
    assert likeness(alone, parity) > .2 and abs(likeness(alone, half)) < .1
    wide = initial_vectors(data, hist, 41, 64)
    assert wide.shape == (41, 64) and np.isfinite(wide).all(), 'more dimensions than users or text has'

def test_a_network_begins_with_data_only_if_asked():
    data = make_dataset(toy.target.log, toy.target.items)
    begun = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SASRec, 'fit_net', lambda self, data: begun.append(self._net.emb.weight.detach().numpy().copy()))
        SASRec().fit_dataset(data)
        SASRec(init='data').fit_dataset(data)
    np.testing.assert_allclose(begun[1][:-1], initial_vectors(data, data.hist, data.n_items, 64), atol=1e-6)
    assert abs(begun[0].std() - .02) < .001
    check_expert(SASRec(epochs=1, init='data'))
    with pytest.raises(InputError, match="expected 'random' or 'data'"): SASRec(init='text').fit_dataset(data)

def test_fisher_and_replay_of_a_network_of_the_target():
    "It has no vectors of other domains: their ranges are not asked for."
    data = make_dataset(toy.target.log, toy.target.items, toy.source)
    net = SASRec(epochs=1, use_source_history=False).fit_dataset(data)
    twin = SASRec(epochs=1).fit_dataset(without_sources(data))
    assert net.known_ranges == [(0, data.n_target)]
    ours, theirs = fisher_rows(net, data.hist, n=5), fisher_rows(twin, without_sources(data).hist, n=5)
    for name in ours: close(ours[name], theirs[name], eps=1e-5)
    finetune_with_replay(net, data, np.arange(3), kind='ewc', epochs=1)
    assert np.isfinite(net.score_histories(data.hist)).all()

def test_first_vectors_are_refused_where_they_would_be_ignored():
    with pytest.raises(InputError, match='reads the texts itself'):
        TextSASRec(init='data').fit_dataset(make_dataset(toy.target.log, toy.target.items))
