"""The neural experts: the protocol, devices, the choice of epochs, blocks of bounded memory, nothing kept alive, copies that share."""
import copy, gc, pickle, weakref
import numpy as np, pytest, torch
from sklearn.base import clone
from llmrec import sequence, two_tower
from llmrec.core import InputError
from llmrec.data import make_synthetic_pair
from llmrec.dataset import histories, insert_items, make_dataset, mask_interactions, select_users
from llmrec.encode import TextEncoder
from llmrec.expert import check_expert, copy_experts, pack_experts, unpack_experts
from llmrec.features import item_features
from llmrec.learner import Callback, Learner
from llmrec.sequence import (
    SASRec, SeqBatches, SmoothedSASRec, TextSASRec, TextSeqNet, fisher_rows, finetune_with_replay, negative_sampling_probs, softmax_nll)
from llmrec.two_tower import TowerNet, TwoTower

NET = dict(dim=8, layers=1, epochs=1, tokens=100)
MAKE = {'SASRec': lambda: SASRec(**NET), 'sampled': lambda: SASRec(n_neg=5, full=10, **NET), 'epochs chosen': lambda: SASRec(**NET | dict(epochs=None)),
        'TextSASRec': lambda: TextSASRec(pretrain=1, **NET), 'SmoothedSASRec': lambda: SmoothedSASRec(**NET),
        'SmoothedSASRec with a base': lambda: SmoothedSASRec(SASRec(**NET), **NET), 'TwoTower': lambda: TwoTower(dim=8, hidden=8, epochs=1, bs=64)}
KINDS = {k: v for k, v in MAKE.items() if k not in ('sampled', 'epochs chosen')}
DEVICES = ['cpu'] + ['cuda']*torch.cuda.is_available()


@pytest.fixture(scope='module')
def data():
    pair = make_synthetic_pair(seed=0, n_users=(30, 24), n_items=(20, 16), n_rows=(8, 6), shared=.5)
    titles = [*pair.target.items.title, *pair.source.items.title]
    d = make_dataset(pair.target.log, pair.target.items, pair.source, TextEncoder('tfidf').fit(titles).encode(titles))
    item_features(d)                                                       # the index keeps them
    return d


@pytest.mark.parametrize('make', MAKE.values(), ids=MAKE)
def test_protocol(make, data):
    check_expert(make(), data)


@pytest.mark.parametrize('make', MAKE.values(), ids=MAKE)
def test_a_clone_has_all_settings(make):
    e = make()
    assert len(e.get_params(deep=False)) >= 11 and {k: v for k, v in clone(e).get_params().items() if k != 'base'} == {k: v for k, v in e.get_params().items() if k != 'base'}


# E3, E20: devices
class Elsewhere(Learner):
    "A learner whose device is `meta`: one batch forward and backward, all tensors must be there; then back to the CPU."
    def fit(self, n_epochs=1):
        self.model.to('meta')
        for dl in filter(None, (self.dls.train, self.dls.valid)):
            *x, y = (t.to('meta') for t in next(iter(dl)))
            preds = self.model(*x)
            loss = self.loss_func(preds, y)
            if dl is self.dls.train: loss.backward()
            assert preds.device.type == loss.device.type == 'meta'
        self.model.to_empty(device='cpu')
        for p in self.model.parameters(): torch.nn.init.zeros_(p)
        self.recorder.rows = []
        Elsewhere.fits += 1


def test_towers_train_on_another_device(data, monkeypatch):
    "Nothing is prepared by hand: `fit` names the items to choose from, and the learner moves the network."
    Elsewhere.fits = 0
    monkeypatch.setattr(two_tower, 'Learner', Elsewhere)
    e = TwoTower(dim=8, hidden=8, lam=0).fit_dataset(data)
    assert Elsewhere.fits == 2 and np.isfinite(e.score_histories(data.hist)).all()


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('make', MAKE.values(), ids=MAKE)
def test_train_score_and_extend_on_a_device(make, data, device, monkeypatch):
    "From fit to scores, after loading and new items, the network is where the expert says."
    monkeypatch.setenv('LLMREC_DEVICE', device)
    def where(e): return {t.device.type for t in (*e.net.parameters(), *e.net.buffers())}
    e = make().fit_dataset(data)
    s = e.score_histories(data.hist)
    assert where(e) == {device} and s.dtype == np.float32 and np.isfinite(s).all()
    [back] = unpack_experts(*pack_experts([e]), data)
    np.testing.assert_allclose(back.score_histories(data.hist), s, atol=1e-4)
    more = insert_items(data, data.table.iloc[:1].assign(item='new'), data.vectors[:1])
    back.add_items(more, 1)
    back.refresh(more, np.arange(5))
    assert where(back) == {device} and back.score_histories(more.hist).shape == (len(more.users), data.n_target + 1)


def test_buffers_and_negatives_follow_the_network():
    net = TowerNet(4).set_candidates(np.eye(4), np.ones(4)).to('meta')
    assert net(torch.zeros(2, 4, device='meta')).shape == (2, 4) and not {'candidates', 'log_counts'} & set(net.state_dict())
    on = dict(device='meta')
    nll = softmax_nll(torch.zeros(3, 8, **on), torch.zeros(20, 8, **on), torch.zeros(3, dtype=torch.long, **on), 0, 20, 5, negative_sampling_probs(np.ones(20)))
    assert nll.device.type == 'meta' and nll.shape == (3,)


@pytest.mark.parametrize('make', KINDS.values(), ids=KINDS)
def test_moving_leaves_the_network_of_others(make, data):
    e = make().fit_dataset(data)
    other, net = copy.copy(e), e.net
    assert e.to('meta') is e and {p.device.type for p in e.net.parameters()} == {'meta'}
    assert other.net is net and {p.device.type for p in net.parameters()} == {'cpu'}


# E10: the choice of epochs
def test_epochs_are_chosen_without_dropout(data):
    flags, same, training = [], [], []
    class Watched(SASRec):
        def score_histories(self, hist):
            s = super().score_histories(hist)
            flags.append(self._net.training); same.append(np.array_equal(s, super().score_histories(hist)))
            return s
        def train(self, hist, epochs, cbs=(), lr=None): super().train(hist, epochs, [*cbs, Mode()], lr)
    class Mode(Callback):
        def after_batch(self, learn): training.append(learn.model.training)
    Watched(dim=8, layers=1, epochs=None, tokens=400, drop=.5).fit_dataset(data)
    assert flags and set(flags) == {False} and all(same) and set(training) == {True}


def test_choosing_epochs_leaves_the_index_and_starts_anew(data):
    e = SASRec(dim=8, layers=1, epochs=None, tokens=400).fit_dataset(data)
    assert e.data is data
    first = fresh_net(e)
    first.choose_epochs(data)
    torch.testing.assert_close(first._net.emb.weight, fresh_net(e)._net.emb.weight, atol=0, rtol=0)     # as it began
    np.testing.assert_array_equal(SASRec(dim=8, layers=1, epochs=SASRec.choose_epochs(fresh_net(e), data), tokens=400).fit_dataset(data).theta, e.theta)


def fresh_net(e):
    "An expert as it is when it begins to learn."
    from llmrec.core import set_seed
    new = clone(e); new.data = e.data; set_seed(e.seed); new._net = new.build()
    new._net.requires_grad_(True)
    return new


# Memory
@pytest.mark.parametrize('make', KINDS.values(), ids=KINDS)
def test_nothing_of_the_training_stays(make, data, monkeypatch):
    alive = []
    for module in (sequence, two_tower):
        class Seen(module.Learner):
            def fit(self, *args):
                super().fit(*args)
                alive.extend(map(weakref.ref, (self, self.dls, self.dls.train, self.opt)))
        monkeypatch.setattr(module, 'Learner', Seen)
    e = make().fit_dataset(data)
    gc.collect()
    assert alive and not any(r() is not None for r in alive)
    kept = set(vars(e)) - set(e.get_params()) - set(e.saved)
    assert kept <= {'data', '_net', '_device'}, kept        # where it was fitted is a setting


def test_blocks_have_bounded_memory(data):
    "64 MiB a block on a CPU, whatever the catalogue; and the block changes nothing."
    for n, least in ((100, 100), (30_000, 100), (1_000_000, 8)):
        e = SASRec(); e.data = type('Index', (), dict(n_target=n))
        rows = e.block_rows()
        assert rows >= least and rows*4*n <= 2**26
    e = SASRec(**NET).fit_dataset(data)
    s = e.score_histories(data.hist)
    e.block_rows = lambda: 7
    np.testing.assert_allclose(e.score_histories(data.hist), s, atol=1e-5)


def test_the_table_of_texts_is_computed_once(data, monkeypatch):
    e, calls, project = TextSASRec(pretrain=0, **NET).fit_dataset(data), [], TextSeqNet.project
    monkeypatch.setattr(TextSeqNet, 'project', lambda self: calls.append(self.training) or project(self))
    e.block_rows = lambda: 5
    s = e.score_histories(data.hist); e.score_histories(data.hist); e.item_matrix(); e.query(select_users(data.hist, [0]))
    assert len(calls) <= 1
    net = e.trained_net()
    with torch.no_grad():
        old = net.table(); net.adapt.weight.mul_(2); net.train(); assert net.cached is None
        net.eval(); assert not torch.equal(net.table(), old)                # trained on: computed anew
        assert net.to('meta').table().device.type == 'meta'                # and it moves with the network


# Copies
@pytest.mark.parametrize('make', KINDS.values(), ids=KINDS)
@pytest.mark.parametrize('change', ['add_items', 'update', 'refresh', 'forget', 'to'])
def test_a_copy_is_never_written_into(make, change, data):
    "What a reader in another thread holds stays as it is, to the bit."
    e = make().fit_dataset(data)
    before = [e.theta.copy(), *(t.clone() for t in e.net.state_dict().values())]
    s = e.score_histories(data.hist)
    [new] = copy_experts([e])
    more = insert_items(data, data.table.iloc[:1].assign(item='new'), data.vectors[:1])
    gone = np.arange(len(data.users)) < 3
    from llmrec.dataset import drop_users
    dict(add_items=lambda: new.add_items(more, 1), update=lambda: new.update(data, np.arange(3)), refresh=lambda: new.refresh(data, np.arange(3)),
         forget=lambda: new.forget(drop_users(data, gone), gone), to=lambda: new.to('cpu'))[change]()
    assert e.data is data and np.array_equal(e.score_histories(data.hist), s)
    assert all(np.array_equal(a, b) for a, b in zip(before, [e.theta, *e.net.state_dict().values()]))


@pytest.mark.parametrize('make', KINDS.values(), ids=KINDS)
def test_pickled_and_deeply_copied(make, data):
    e = make().fit_dataset(data)
    for new in (pickle.loads(pickle.dumps(e)), copy.deepcopy(e)): np.testing.assert_array_equal(new.score_histories(data.hist), e.score_histories(data.hist))


# What SmoothedSASRec shares
def test_shared_weights(data, monkeypatch):
    fits, fit = [], Learner.fit
    monkeypatch.setattr(Learner, 'fit', lambda self, *a: fits.append(1) or fit(self, *a))
    alone = SmoothedSASRec(**NET).fit_dataset(data)
    base = SASRec(**NET).fit_dataset(data); fits.clear()
    both = SmoothedSASRec(base, **NET).fit_dataset(data)
    assert not fits and both.theta is base.theta
    np.testing.assert_array_equal(both.score_histories(data.hist), alone.score_histories(data.hist))
    base.refresh(data, np.arange(9)); both.refresh(data, np.arange(9)); alone.refresh(data, np.arange(9))     # in the order of a list
    assert len(fits) == 2 and both.theta is base.theta
    np.testing.assert_array_equal(both.score_histories(data.hist), alone.score_histories(data.hist))
    both.refresh(data, np.arange(9))                                                                          # a base that is in no list learns with it
    assert len(fits) == 3 and both.theta is base.theta
    more = insert_items(data, data.table.iloc[:1].assign(item='new'), data.vectors[:1])
    both.add_items(more, 1); base.add_items(more, 1)                                                          # whoever comes first
    assert base.score_histories(more.hist).shape == both.score_histories(more.hist).shape
    with pytest.raises(InputError, match='another dim'): SmoothedSASRec(base, **NET | dict(dim=16)).fit_dataset(data)


def test_without_target_interactions_the_base_is_not_asked(data):
    "A base has learned nothing then; the smoothed one learns from the source."
    from dataclasses import replace
    cold = replace(data, hist=mask_interactions(data.hist, data.hist.item >= data.n_target), time=None)
    base = SASRec(**NET).fit_dataset(cold)
    e, alone = SmoothedSASRec(base, **NET).fit_dataset(cold), SmoothedSASRec(**NET).fit_dataset(cold)
    assert e.theta is not base.theta and np.array_equal(e.theta, alone.theta)


def test_new_items_after_loading(data):
    "Features of new items come after the weights have found their network."
    e = TextSASRec(pretrain=1, **NET).fit_dataset(data)
    [back] = unpack_experts(*pack_experts([e]), data)
    more = insert_items(data, data.table.iloc[:2].assign(item=['x', 'y']), data.vectors[:2])
    for x in (e, back): x.add_items(more, 2)
    np.testing.assert_allclose(back.score_histories(more.hist), e.score_histories(more.hist), atol=1e-5)


# Training on
def test_fisher_information(data):
    "Mean one, not negative, and literally the mean of squared slopes."
    e = SASRec(**NET).fit_dataset(data)
    one = select_users(data.hist, [3])
    f = fisher_rows(e, one)
    net = e.trained_net().requires_grad_(True)
    total = {k: 0 for k, _ in net.named_parameters()}
    torch.manual_seed(0)
    for x, y in SeqBatches(one, data.n_items, data.n_target, e.size, 10**6):
        g, E = net(x)
        sequence.seq_loss((g, E), y, [(0, data.n_target), (data.n_target, data.n_items)]).backward()
        total = {k: total[k] + p.grad**2 for k, p in net.named_parameters()}
    flat = torch.cat([v.flatten() for v in total.values()])
    got = torch.cat([f[k].flatten() for k in total])
    torch.testing.assert_close(got, flat/flat.mean(), rtol=1e-3, atol=1e-4)
    assert got.min() >= 0 and abs(got.mean() - 1) < 1e-3


@pytest.mark.parametrize('kw', [dict(lam=0), dict(), dict(kind='ewc')], ids=str)
def test_training_on_starts_from_the_weights_and_is_held(kw, data):
    e = SASRec(**NET).fit_dataset(data)
    new = finetune_with_replay(copy.copy(e), data, np.arange(20), **kw)
    far = np.linalg.norm(new.theta - e.theta)
    assert 0 < far < np.linalg.norm(e.theta) and new.lr == e.lr
    if kw != dict(lam=0): assert far <= np.linalg.norm(finetune_with_replay(copy.copy(e), data, np.arange(20), lam=0).theta - e.theta)
    assert finetune_with_replay(copy.copy(e), data, np.arange(0)).theta is e.theta
