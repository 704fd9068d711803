"""Fine-tuning: pooling, examples, strategies, effects, and two promises about the whole package."""
import math
import re
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import BertConfig, BertModel
from fastcore.test import ExceptionExpected, expect_fail, test_close as close, test_eq as equal
import llmrec
from llmrec.core import InputError
from llmrec.discrepancy import DomainDiscriminator, coral, mmd
from llmrec.finetune import (
    FINETUNE_STRATEGIES, LoRALinear, NextItemClassifier, TransferClassifier, apply_finetune_strategy, layerwise_groups,
    mlp_encoder, ndcg_next, next_item_examples, transfer_effect, transfer_fit, zero_shot_gain)
from llmrec.learner import DataLoaders, Learner, TensorLoader
from llmrec.transfer import distill, ewc, feature_distance, l2sp, load_pretrained, transfer_loss, transfer_penalty
from llmrec.vectors import interest_vector

V = np.eye(3, dtype=np.float32)
g = np.random.default_rng(0)
base = g.random(400)


def test_padding_does_not_matter_to_a_pooled_transformer():
    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=16)
    bert = BertModel(config).eval()
    tokens = dict(input_ids=torch.tensor([[1, 7, 9]]), attention_mask=torch.tensor([[1, 1, 1]]))
    padded = dict(input_ids=torch.tensor([[1, 7, 9, 0, 0]]),
                  attention_mask=torch.tensor([[1, 1, 1, 0, 0]]))
    for pool in ('cls', 'mean'):
        m = TransferClassifier(bert, 8, 10, pool)
        close(m(tokens).detach(), m(padded).detach(), eps=1e-5)
    states = bert(**tokens).last_hidden_state[0]
    mean = TransferClassifier(bert, 8, 3, 'mean').features(tokens)[0]
    close(mean.detach(), states.mean(0).detach(), eps=1e-6)
    assert [n for n, _ in layerwise_groups(bert)][0] == 'encoder.layer.1'     # the top first

def test_examples_say_whose_and_whether_the_last():
    toy = pd.DataFrame(dict(user=[1, 2, 1, 1], item=['tea', 'cup', 'cup', 'pot']))
    _, _, about = next_item_examples(toy, V, ['tea', 'cup', 'pot'], half_life=1)
    equal(about['last'].tolist(), [False, True])
    equal(about.user.tolist(), [1, 1])
    with pytest.raises(InputError, match='1 rows of the log'): next_item_examples(toy, V[:2], ['tea', 'cup'])

def next_naive(log, V, items, tau, window):
    X, at = [], {j: i for i, j in enumerate(items)}
    for _, g in log.groupby('user'):
        hist = [at[j] for j in g['item']]
        for i in range(1, len(hist)):           # §4.2.1, one user, one moment
            weights = 2.**(-np.arange(i)[::-1]/tau)
            u = interest_vector(V[hist[:i][-window:]], weights[-window:])
            X.append(u/np.linalg.norm(u))
    return np.array(X)

def test_histories_are_interest_vectors():
    g = np.random.default_rng(0)
    W = g.normal(size=(9, 4)).astype(np.float32)
    long = pd.DataFrame(dict(user=g.integers(6, size=80), item=g.integers(9, size=80)))
    fast = next_item_examples(long.sort_values('user', kind='stable'), W, range(9), 3., 5)[0]
    close(fast, next_naive(long, W, range(9), 3., 5), eps=1e-5)

def test_an_untrained_model_is_content_and_popularity_and_fits_any_catalogue():
    torch.manual_seed(0)
    a, b = NextItemClassifier(V, [9, 0, 0]), NextItemClassifier(np.eye(3)[[0, 0, 1, 2]])
    untrained = a(torch.tensor([[0., 1, 0]])).tolist()
    close(untrained, [[.5*math.log(10), math.exp(2.3), 0]], eps=1e-4)      # content and popularity
    equal(set(load_pretrained(b, a).status), {'copied'})      # three items or four: all of it fits

def test_ndcg_of_ties_is_that_of_the_middle():
    equal(ndcg_next([[3., 2, 1], [3, 2, 1]], [0, 1]), [1, 1/np.log2(3)])
    close(ndcg_next([[1., 1, 1]], [0]), [1/np.log2(3)])        # ranks 1, 2, 3: in the middle
    equal(ndcg_next([[3., 2, 1]], [2], k=2), [0])

def test_a_classifier_has_its_classes():
    m = TransferClassifier(mlp_encoder(4, 6), 6, 3)
    equal(m(torch.randn(5, 4)).shape, (5, 3))

def learns(name):
    "A small model under a strategy, the parameters that learn, and the rates of the groups."
    torch.manual_seed(0)
    m = TransferClassifier(mlp_encoder(4, 6), 6, 3)
    before = m(torch.ones(1, 4))
    groups = apply_finetune_strategy(m, name)
    close(m(torch.ones(1, 4)), before, eps=1e-6)           # nothing changes at the start
    return m, [n for n, p in m.named_parameters() if p.requires_grad], [g['lr'] for g in groups]

def test_strategies_free_what_they_say():
    equal(learns('unsupervised')[1:], ([], []))
    equal(learns('frozen')[1], ['head.weight', 'head.bias'])
    equal(len(learns('full')[1]), 4)
    equal(learns('gradual')[1:], (['head.weight', 'head.bias'], [1e-3, 5e-4]))
    with ExceptionExpected(InputError, "strategy is 'magic'"): learns('magic')

def test_gradients_reach_what_a_strategy_frees():
    "And the change of LoRA is its product."
    for name in FINETUNE_STRATEGIES[2:]:
        m, names, _ = learns(name)
        m(torch.randn(8, 4)).pow(2).sum().backward()
        equal([n for n, p in m.named_parameters() if p.grad is not None], names)

    low, W = LoRALinear(3, 4, rank=2, scale=2.), torch.randn(3, 4)
    nn.init.normal_(low.B)
    product = [[sum(float(low.B[i, r]*low.A[r, j]) for r in range(2)) for j in range(4)]
               for i in range(3)]
    close(low(W).tolist(), (W + torch.tensor(product)).tolist(), eps=1e-6)

def test_the_zero_shot_gain_is_that_of_the_source_untouched():
    torch.manual_seed(0)
    own, given = NextItemClassifier(np.eye(3), [9, 1, 0]), NextItemClassifier(np.eye(3))
    with torch.no_grad(): given.rho.fill_(50.)                      # the source says: popularity is all
    unpopular = [(torch.tensor([[0., 1, 0]]), torch.tensor([1]))]
    equal(zero_shot_gain(own, own, unpopular), 0.)
    close(zero_shot_gain(own, given, unpopular), 1/np.log2(3) - 1, eps=1e-6)

def clf(k=3): return TransferClassifier(mlp_encoder(4, 8), 8, k)

@pytest.fixture(scope='module')
def task():
    "Batches of the target, and a source model."
    torch.manual_seed(0)
    X = torch.randn(64, 4)
    dls = DataLoaders(TensorLoader(X, (X[:, 0] > 0).long(), bs=16))
    y3 = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
    return dls, Learner(clf(), DataLoaders(TensorLoader(X, y3, bs=16)), lr=.02).fit(10).model

def test_gradual_frees_the_encoder_and_frozen_does_not(task):
    dls, source = task
    learn = transfer_fit(clf(), dls, source, 'gradual', n_epochs=2, lr=.01)
    equal(set(learn.report.status), {'copied'})
    assert not torch.equal(learn.model.encoder[0].weight, source.encoder[0].weight)
    frozen = transfer_fit(clf(), dls, source, 'frozen', n_epochs=2, lr=.01)
    assert torch.equal(frozen.model.encoder[0].weight, source.encoder[0].weight)

def test_effects_match_users():
    equal(transfer_effect(base + np.random.default_rng(1).normal(0, .1, 400), base).word, 'not significant')
    close(transfer_effect([base + .1]*2, [base]*2).difference, .1, eps=1e-9)
    users = pd.Series(base, index=np.arange(400))
    mixed = users.sample(frac=1, random_state=1)
    close(transfer_effect(users + .1, mixed).lo, .1, eps=1e-9)
    with pytest.raises(InputError, match='not the same users'): transfer_effect(users, users[1:])
    with pytest.raises(InputError, match='finite'): transfer_effect(base*np.nan, base)

def test_an_effect_has_slices():
    split = np.where(base > .5, 'warm', 'cold')
    v = transfer_effect(base + np.where(base > .5, .1, -.1), base, slices=split)
    equal(list(v.slices.word), ['hurt', 'helped'])

def test_equality_needs_a_test_a_margin_and_users():
    "Words are helped, hurt, equal, not significant; equal only if the 90 % interval lies within the margin, and never of few users."
    many, quick = np.random.default_rng(2).random(3000), dict(n_boot=300)
    noise = np.random.default_rng(3).normal(0, .1, 3000)
    noise -= noise.mean()
    near = transfer_effect(many + noise, many, **quick)
    equal(near.word, 'equal')
    assert 'equal to none within ±0.005' in str(near) and near.margin == .005
    equal(transfer_effect(many + noise, many, margin=0., **quick).word, 'not significant')
    wide = transfer_effect(many + 5*noise, many, **quick)
    equal(wide.word, 'not significant')
    assert str(wide).startswith('Transfer effect not significant: ')
    equal([transfer_effect(many[:n], many[:n], **quick).word for n in (1, 35, 599, 600)], ['not significant']*3 + ['equal'])
    equal(transfer_effect([many + noise]*2, [many]*2, **quick).word, 'equal')
    equal(transfer_effect(many + .001, many, **quick).word, 'helped')          # significant, however small
    slices = transfer_effect(many, many, slices=np.where(np.arange(3000) < 7, 'few', 'many'), **quick).slices
    equal(list(slices.word), ['not significant', 'equal'])
    for margin in (-.1, np.nan):
        with pytest.raises(InputError, match='margin'): transfer_effect(many, many, margin=margin)

def test_nothing_is_loaded_in_silence():
    "What does not fit is in the report or an error."
    code = {p.name: p.read_text() for p in Path(llmrec.__file__).parent.glob('*.py')}
    equal([n for n, c in code.items() if re.search(r'strict\s*=\s*False', c)], [])
    small, large = nn.Linear(3, 5), nn.Linear(4, 7)
    with expect_fail(RuntimeError, contains='size mismatch'): large.load_state_dict(small.state_dict())

def losses_on(device, grad=True):
    "Every loss and distance, of tensors of a device."
    r = lambda *s: torch.randn(*s, device=device, requires_grad=grad)
    A, B = {'w': r(3, 4)}, {'w': r(3, 4), 'new': r(2)}
    fisher = {'w': torch.ones(3, 4, device=device)}
    yield from (transfer_penalty(A, B), transfer_penalty(A, B, squared=True))
    yield from (transfer_loss(r(1).sum(), A, B, .1), l2sp(A, B), ewc(A, B, fisher))
    X, Y = r(6, 4), r(5, 4)
    yield from (feature_distance(X, r(6, 4)), distill(X, r(6, 4)), mmd(X, Y, gamma=1.), coral(X, Y))
    critic = DomainDiscriminator(4)
    params = {k: r(*p.shape) for k, p in critic.named_parameters()}
    yield torch.func.functional_call(critic, params, (X, Y))

def test_every_loss_stays_on_its_device():
    for device in ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']:
        for loss in losses_on(device): loss.backward()
    with FakeTensorMode(), torch.no_grad():
        for loss in losses_on('cuda', grad=False): equal((loss.device.type, loss.shape), ('cuda', ()))
