"""The full softmax in blocks against the plain one: values and gradients, types, padding, several domains, without gradients."""
import copy
import pytest, torch
import torch.nn.functional as F
from torch import nn
from llmrec.sequence import SeqNet, _BlockedNLL, softmax_nll, softmax_nll_sum, seq_loss


def both(dtype=torch.float32, p=300, n=200, lo=0, scale=1., auto=False):
    "Loss, gradients by g and E: plain, and in blocks of 32 positions."
    r = torch.Generator().manual_seed(0)
    g0, E0 = torch.randn(p, 16, generator=r, dtype=torch.float64)*scale, torch.randn(n + lo, 16, generator=r, dtype=torch.float64)
    y, out = torch.randint(lo, lo + n, (p,), generator=r), []
    for f in (lambda g, E: softmax_nll(g, E, y, lo, lo + n).sum(), lambda g, E: _BlockedNLL.apply(g, E.narrow(0, lo, n), y - lo, 32*n)):
        g, E = g0.to(dtype).requires_grad_(), E0.to(dtype).requires_grad_()
        with torch.autocast('cpu', torch.bfloat16, enabled=auto): loss = f(g, E)
        (loss/max(p, 1)).backward(); out.append((loss.detach(), g.grad, E.grad))
    return out


@pytest.mark.parametrize('how, eps', [(dict(), 1e-5), (dict(scale=50.), 1e-5), (dict(lo=7), 1e-5), (dict(p=31), 1e-5), (dict(p=32), 1e-5),
    (dict(p=33), 1e-5), (dict(p=0), 1e-5), (dict(n=1), 1e-5), (dict(dtype=torch.float64), 1e-12), (dict(auto=True), .02),
    (dict(dtype=torch.bfloat16), .03)], ids=str)
def test_blocks_do_the_plain_sums(how, eps):
    for a, b, twice in zip(*both(**how), both(**how)[1]):
        assert b.shape == a.shape and torch.equal(b, twice)                # and the same twice
        assert (a.double() - b.double()).abs().sum() <= eps*a.double().abs().sum()


def test_sum_of_what_is_not_trained():
    g, E, y = torch.randn(9, 4), torch.randn(6, 4), torch.arange(9) % 6
    with torch.no_grad(): plain = softmax_nll_sum(g, E, y, 0, 6)
    torch.testing.assert_close(plain, softmax_nll_sum(g, E, y, 0, 6))
    g.requires_grad_(); softmax_nll_sum(g, E, y, 0, 6).backward()
    assert g.grad is not None and E.grad is None                           # a frozen table stays as it is
    loss = softmax_nll_sum(g, E, y, 0, 6); loss.backward(retain_graph=True); one = g.grad.clone(); loss.backward()
    assert not torch.equal(one, g.grad)                                    # gradients add up, as everywhere


def plain_loss(preds, y, ranges):
    "The mean over all positions that have a next item, without blocks."
    g, E = preds
    parts = [F.cross_entropy(g[at] @ E[lo:hi].T, y[at] - lo, reduction='none') for lo, hi in ranges for at in [(y >= lo) & (y < hi)] if at.any()]
    return torch.cat([g.sum().view(1)*0, *parts]).sum()/max(sum(map(len, parts)), 1)


@pytest.mark.parametrize('ranges', [[(0, 40)], [(0, 15), (15, 40)], [(0, 40), (40, 40)], [(0, 40), (50, 60)]], ids=str)
@pytest.mark.parametrize('padding', [.3, 1.])
def test_a_step_of_the_network(ranges, padding):
    "Dropout and all: the same draws, the same loss, the same gradients; padding says nothing."
    torch.manual_seed(0)
    net, x = SeqNet(60, dim=16, size=12), torch.randint(40, (20, 12))
    y = torch.randint(40, (20, 12)).masked_fill(torch.rand(20, 12) < padding, -1)
    got = []
    for loss in (plain_loss, seq_loss):
        m = copy.deepcopy(net).train(); torch.manual_seed(1)
        l = loss(m(x), y, ranges); l.backward(); got.append([l.detach(), *(p.grad for p in m.parameters())])
    for a, b in zip(*got): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_training_goes_the_same_way():
    torch.manual_seed(0)
    net, x = SeqNet(30, dim=16, size=10, drop=.2), torch.randint(30, (16, 10))
    y, ends = (x + 1) % 30, []
    for loss in (plain_loss, seq_loss):
        m = copy.deepcopy(net).train(); torch.manual_seed(1); opt = torch.optim.SGD(m.parameters(), .5)
        for _ in range(60): l = loss(m(x), y, [(0, 30)]); opt.zero_grad(); l.backward(); opt.step()
        ends.append(nn.utils.parameters_to_vector(m.parameters()).detach())
    assert l < 3.3 and (ends[0] - ends[1]).norm() < 1e-3*ends[0].norm()
