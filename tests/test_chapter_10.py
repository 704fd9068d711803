"""Measures and alignment of domains: what chapter 10 does not show."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastcore.test import test_close as close, test_eq as equal
from llmrec.core import InputError
from llmrec.discrepancy import DomainDiscriminator, align_domains, choose_strategy, mmd

rng = np.random.default_rng(0)


def test_mmd_is_unbiased():
    "Over many draws from one distribution the mean is zero, and a shift stands out."
    def draws(shift):
        "MMD² of a hundred pairs of samples."
        sample = lambda: rng.normal(size=(50, 3))
        return [mmd(sample(), sample() + shift).item() for _ in range(100)]

    same, shifted = draws(0.), draws(.7)
    assert abs(np.mean(same)) < 3*np.std(same)/10 and np.min(shifted) > np.mean(same)

def test_whitened_vectors_have_unit_covariance():
    S, T = rng.normal(size=(500, 3)) @ np.diag([3, 1, .2]) + 5, rng.normal(size=(400, 3))
    close(np.cov(align_domains(S, T, 'whiten', shrink=0)[0].T), np.eye(3), eps=1e-4)
    with pytest.raises(InputError, match="how is 'pca'"): align_domains(S, T, 'pca')

def test_a_discriminator_turns_the_gradient():
    torch.manual_seed(0)
    critic = DomainDiscriminator(2)
    f = torch.randn(6, 2, requires_grad=True)
    loss = critic(f[:3], f[3:])
    plain = F.binary_cross_entropy_with_logits(critic.net(f)[:, 0], torch.tensor([1., 1, 1, 0, 0, 0]))
    close(loss.item(), plain.item(), eps=1e-6)
    reversed_, = torch.autograd.grad(loss, f)
    gradient, = torch.autograd.grad(plain, f)
    close(reversed_.tolist(), (-gradient).tolist(), eps=1e-6)

def test_auto_follows_size_and_start():
    equal(choose_strategy(0, 0.)[0], 'unsupervised')
    equal(choose_strategy(10_000, -.01)[0], 'supervised')
