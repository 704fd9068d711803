"""What chapter 08 only mentions: tables matched by item, gradients, reports, bad input."""
import pytest
import torch
from torch import nn
from fastcore.test import test_close as close, test_eq as equal
from llmrec.core import InputError
from llmrec.transfer import load_pretrained, load_report, transfer_loss, transfer_penalty


def test_tables_are_compared_item_by_item():
    tea = {'emb': torch.tensor([[1.], [2.]])}
    shop = {'emb': torch.tensor([[9.], [5.], [1.]], requires_grad=True)}
    ids = {'emb': (['green', 'black'], ['cup', 'black', 'green'])}
    p = transfer_penalty(tea, shop, ids=ids)                # black: 2 → 5; the cup is free
    p.backward()
    equal(p.item(), 3.)
    equal(shop['emb'].grad[:, 0].tolist(), [0, 1, 0])

def test_gradients_reach_what_is_trainable_and_nothing_else():
    torch.manual_seed(0)
    def mlp(k=2): return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, k))
    src, tgt = mlp(), mlp()
    tgt[0].weight.requires_grad_(False)
    transfer_loss(tgt(torch.randn(5, 4)).pow(2).mean(), src, tgt, lam=1.).backward()
    assert all(p.grad is None for p in src.parameters()) and tgt[0].weight.grad is None
    assert all(p.grad.abs().sum() > 0 for n, p in tgt.named_parameters() if n != '0.weight')

class Tiny(nn.Module):
    def __init__(self, n_items, n_classes):
        super().__init__()
        self.emb = nn.Embedding(n_items, 2)
        self.body, self.head = nn.Linear(2, 2), nn.Linear(2, n_classes)

def test_every_tensor_is_reported():
    s, t = Tiny(3, 5), Tiny(4, 7)
    t.new = nn.Linear(2, 1, bias=False)
    ids = {'emb.weight': (['tea', 'cup', 'pot'], ['pot', 'jar', 'tea', 'box'])}
    loaded = load_pretrained(t, s, ids=ids)
    equal(t.emb.weight[0].tolist(), s.emb.weight[2].tolist())     # the pot
    equal(t.emb.weight[2].tolist(), s.emb.weight[0].tolist())     # tea
    equal(t.body.weight.tolist(), s.body.weight.tolist())
    t.body.requires_grad_(False)
    report = load_report(t, loaded)
    close(report.share.sum(), 1, eps=1e-9)
    equal(dict(zip(report.name, report.status))['head.weight'], 'skipped')
    equal(dict(zip(report.name, report.state))['body.weight'], 'frozen')

def test_what_does_not_fit_is_named():
    with pytest.raises(InputError, match='no parameter of the target'):
        transfer_penalty(nn.Linear(3, 2), nn.Linear(3, 4))
    source = {'w': torch.tensor([1., 2])}
    with pytest.raises(InputError, match=r"lam names \['body'\]"): transfer_loss(0., source, source, lam={'body': 1})
    with pytest.raises(InputError, match='2 and 4 ids'):
        load_pretrained(Tiny(4, 7), Tiny(3, 5), ids={'emb.weight': ([1, 2], [1, 2, 3, 4])})
