"""Hard cases of chapter 22 (privacy)."""
import copy, hmac, pickle, re, tempfile, warnings
from collections import Counter
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from fastcore.test import ExceptionExpected, test_close as close, test_eq as equal
from torch import nn
from llmrec.closed_form import NextItemRidge
from llmrec.core import InputError
from llmrec.data import Domain, make_synthetic_pair
from llmrec.dataset import drop_users, make_dataset, places_of
from llmrec.expert import clone_experts, copy_experts
from llmrec.features import item_features
from llmrec.fusion import default_experts, fit_experts
from llmrec.learner import DataLoaders, Learner
from llmrec.online import Online, pending
from llmrec.privacy import (
    DPHead, DPSGDCallback, Poisson, Pseudonyms, _mean_auc, _resampled_auc, _unlearn, advantage,
    advantage_bound, auc, by_person, epsilon_spent, iban, iban_length, level, lira, luhn,
    membership_inference, new_key, noise_multiplier, per_user_loss, pseudonymize, redact_domain,
    redact_pii, unicity)
from llmrec.recommender import Recommender


@pytest.fixture
def key(): return bytes(range(32))

@pytest.fixture(scope='module')
def pair(): return make_synthetic_pair()

@pytest.fixture(scope='module')
def fitted(pair): return Recommender('tfidf', budget='fast').fit(pair.target, pair.source)

@pytest.fixture(scope='module')
def rest(pair): return pair.forget(pair.shared_users[0])


def test_another_key_opens_nothing(key):
    p = Pseudonyms(key)
    names = p([7, 'anna@example.org', '7', 7])
    equal(names[0], 'u' + hmac.new(key, b'i7', 'sha256').hexdigest()[:32])   # the definition
    equal(len(set(names)), 3)                                    # 7 and '7' are two users
    equal(names[0], names[3])
    equal(p.back(names[:2], ['bob', 'anna@example.org', 7]), [7, 'anna@example.org'])
    other = Pseudonyms(new_key())                                  # another key opens nothing
    equal(other.back(names, [7, '7', 'anna@example.org']), [None]*4)


def test_a_key_is_refused_if_it_can_be_guessed_and_never_shown(key):
    p = Pseudonyms(key)
    for bad, why in ((b'short', '5 bytes'), ('a'*32, 'is a str'), (b'a'*32, 'can be guessed')):
        with ExceptionExpected(InputError, why): Pseudonyms(bad)
    with ExceptionExpected(InputError, 'not stored'): pickle.dumps(p)
    with ExceptionExpected(InputError, 'not stored'): copy.deepcopy(p)
    assert key.hex() not in repr(p) and str(key) not in repr(p)


def test_pseudonyms_keep_users_shared_and_hide_the_order(key, pair):
    p = Pseudonyms(key)
    hidden = pseudonymize(pair, key)
    equal(len(hidden.shared_users), len(pair.shared_users))      # the same users are shared
    equal(sorted(p.back(hidden.target.users, pair.target.users)), sorted(pair.target.users))
    assert not set(hidden.target.users) & set(pair.target.users)
    a, b = pair.target.log, hidden.target.log
    who = pair.target.users[3]
    equal(a[a.user == who].item.tolist(), b[b.user == p.name(who)].item.tolist())    # the same order
    equal(b.user.tolist(), sorted(b.user))                       # not the order in which users came


def test_other_columns_are_left_out(key, pair):
    extra = pair.target.with_log(pair.target.log.assign(email='x@example.org'))
    left = pseudonymize(extra, key)
    equal('email' in left.log, False)
    with ExceptionExpected(InputError, 'expected a Domain'): pseudonymize(extra.log, key)
    assert 'email' in left.notes[-1]


def test_a_model_under_pseudonyms_ranks_as_before(key, pair, fitted):
    p, hidden = Pseudonyms(key), pseudonymize(pair, key)
    rec, rec_p = fitted, Recommender('tfidf', budget='fast').fit(hidden.target, hidden.source)
    some = pair.target.users[:50]
    same = (rec.recommend(some, 10)[0] == rec_p.recommend(p(some), 10)[0]).mean()
    assert same > .9


def test_unicity_by_hand():
    tiny = pd.DataFrame(dict(user=[1, 1, 2, 2, 3], item=list('abacb')))
    equal(unicity(tiny, 2), 1.)                        # {a, b} is 1 alone, {a, c} is 2 alone
    equal(unicity(tiny[tiny.item == 'a'], 1), 0.)                # a alone is both


def test_check_digits_are_the_textbook_ones():
    equal(level('٠٥٠ ９８７ १२३–4'), '050 987 123-4')
    double = lambda d: 2*d if 2*d < 10 else 2*d - 9
    naive = lambda s: sum(double(int(d)) if i % 2 else int(d) for i, d in enumerate(s[::-1])) % 10 == 0
    for s in ('4111111111111111', '378282246310005', '4111111111111112', '79927398713'):
        equal(luhn(s), naive(s))
    naive_iban = lambda s: int(''.join(str(int(c, 36)) for c in s[4:] + s[:4])) % 97 == 1
    for s in ('DE89370400440532013000', 'DE89370400440532013001', 'gb29nwbk60161331926819'):
        equal(iban(s), naive_iban(s))
    equal([iban_length(c) for c in ('DE', 'NO', 'mt', 'XX')], [22, 15, 31, 0])
    assert sum(luhn(str(i)) for i in range(10**4, 2*10**4)) == 1000 # one in ten by chance: prefixes must fit, too


def test_what_is_personal_goes():
    find = """anna.lee+news@mail.example.org | contact: (bob_9@example.co.uk) | 邮箱wang@example.com请联系
    иван@пример.рф | ａｎｎａ＠ｅｘａｍｐｌｅ．ｃｏｍ | anna [at] example [dot] org | call 212-555-2368 now
    (212) 555-2368 | +49 30 901820 | 0171 1234567 | +44 20 7946 0958 | 电话13812345678。
    01 42 68 53 00 | ९८७६५ ४३२१० | +٩٦٦٥٠١٢٣٤٥٦٧ | 8 (912) 345-67-89 | (11) 96123-4567
    090-1234-5678 | 0049 30 901820 | 4111 1111 1111 1111 | 4111-1111-1111-1111 123
    378282246310005 | 5555 5555 5555 4444 2024 | ４１１１１１１１１１１１１１１１
    DE89 3704 0044 0532 0130 00 BIC | gb29nwbk60161331926819
    FR14 2004 1010 0505 0001 3M02 606"""
    found = [t.strip() for t in re.split(r'[|\n]', find)]
    clean, count = redact_pii(found)
    equal([t for t, c in zip(found, clean) if not re.search(r'\[(email|phone|card|iban)\]', c)], [])
    equal(redact_pii(clean), (clean, Counter()))                      # once is enough
    assert clean[2] == '邮箱[email]请联系' and clean[22] == '[card] 2024'


def test_what_only_looks_personal_stays():
    keep = """$1,299.00 | 1 299 000 Ft | 1999-2005 | 2024-05-12 | 12.05.2024 14:30 | EAN 4006381333931
    5901234123457 | UPC 012345678905 | 978-3-16-148410-0 | ISBN 0-306-40615-2
    100-200-300 mm | 10 x 20 x 30 | 10.5-12.5-14 | v1.2.3.4 | 192.168.10.12 | model 800-1200
    24 ct 12 fl oz | order 20240512 | 2 @ 3.50 | buy 2@1.99 | 1080 1920 2160
    100 200 400 800 1600 | No. 123-456-789 | 2017 2018 2019 | 4111 1111 1111 1112
    DE89 3704 0044 0532 0130 01 | @handle | a@b"""
    kept = [t.strip() for t in re.split(r'[|\n]', keep)]
    equal([(t, c) for t, c in zip(kept, redact_pii(kept)[0]) if t != c], [])
    for bad, why in (('one text', 'pass a list'), ([7], r'texts\[0\] is a int')):
        with ExceptionExpected(InputError, why): redact_pii(bad)
    with ExceptionExpected(InputError, 'unknown'): redact_pii(['x'], kinds=['ssn'])


def test_a_domain_without_personal_data():
    shop = Domain('shop', pd.DataFrame(dict(user=[1, 2], item=['a', 'b'])),
                  pd.DataFrame(dict(item=['a', 'b'], title=['Lamp 20 x 30', 'Desk'],
                  text=['Ask anna@example.org or 212-555-2368', None], price=[1299., 20.])))
    out = redact_domain(shop)
    equal(out.items.text.tolist(), ['Ask [email] or [phone]', ''])
    equal(out.items.title.tolist(), shop.items.title.tolist())
    equal(shop.items.text[0], 'Ask anna@example.org or 212-555-2368')   # the old domain is untouched
    with ExceptionExpected(InputError, 'no column'): redact_domain(shop, ['author'])
    assert '1 email' in out.notes[-1] and '1 phone' in out.notes[-1]


def test_a_pair_forgets_a_user(pair):
    anna = pair.shared_users[0]                                    # stands in both domains
    rest = pair.forget(anna)
    equal(anna in rest.source.users or anna in rest.target.users, False)
    equal(len(pair.target.log) - len(rest.target.log), (pair.target.log.user == anna).sum())
    equal(rest.target.items, pair.target.items)                  # items stay
    wrong = r'users\[1\] \(int\) has no rows here .* type str'
    with ExceptionExpected(InputError, wrong): pair.forget([anna, 7])
    with ExceptionExpected(InputError, 'nothing was forgotten'): pair.target.forget('nobody')


def test_an_index_forgets_as_if_it_had_never_known(pair, rest):
    anna = pair.shared_users[0]
    for both in (True, False):                      # one user in both domains, or two by accident
        full, twin = (make_dataset(x.target.log, x.target.items, x.source, share_users=both)
                      for x in (pair, rest))
        less = drop_users(full, places_of(full, anna))
        equal(less.users.tolist(), twin.users.tolist())
        for k in ('time', 'counts'): equal(getattr(less, k), getattr(twin, k))
        for k in ('ptr', 'item', 'weight'): equal(getattr(less.hist, k), getattr(twin.hist, k))


def test_an_expert_unlearns_all_but_its_parameters(pair):
    full = make_dataset(pair.target.log, pair.target.items, pair.source)
    fitted = fit_experts(default_experts(full), full)
    place = next(i for i, e in enumerate(fitted) if isinstance(e, NextItemRidge))
    mine = copy_experts(fitted)                                    # children are copied, too
    _unlearn(mine[place])
    assert not hasattr(mine[place], 'data') and not hasattr(mine[place].kernel, 'data')
    equal(set(vars(mine[place])), set(mine[place].get_params(deep=False)))
    assert hasattr(fitted[place], 'data') and hasattr(fitted[place].kernel, 'data')


def test_a_recommender_forgets_as_if_it_had_never_known(pair, rest, fitted):
    anna = pair.shared_users[0]
    rec = copy.copy(fitted)                                        # a new state never changes the old one
    gone = rec.forget(anna)
    clean = make_dataset(rest.target.log, rest.target.items, rest.source, rec.data.vectors)
    clean.phi = item_features(rec.data)
    others = rest.target.users
    for e, x in zip(rec.experts, fit_experts(clone_experts(rec.experts), clean)):
        close(e.score(others), x.score(others), eps=1e-5)
    equal(rec.recommend([anna], 5)[0], rec.recommend(['a stranger'], 5)[0])
    equal({s.split(':')[0] for s in gone.state[:-1]}, {'exact'})
    with ExceptionExpected(InputError, 'has no rows here'): rec.forget(anna)       # not known any more
    with ExceptionExpected(InputError, "gate='maybe'"): rec.forget(others[0], gate='maybe')
    live = Online(copy.copy(fitted))
    live.dislike(anna, pair.target.items.item[3])
    live.forget(anna)
    equal(live.declined, {})
    for a, b in zip(live.rec.experts, rec.experts):
        close(a.score(others), b.score(others), eps=1e-4)


def test_nothing_is_left_after_updates(pair, rest, fitted):
    anna, others = pair.shared_users[0], rest.target.users
    late = pair.target.log.iloc[-30:].assign(user=anna)
    a, b = copy.copy(fitted), copy.copy(fitted)
    a.update(late, refresh='exact').forget(anna)
    b.forget(anna)
    number = a.data.users.get_indexer(pd.Index([anna]))[0]
    equal(number, -1)
    equal(pending(a.fusion)[0], np.zeros(0, int))
    assert anna.encode() not in pickle.dumps(a.fusion)
    for x, y in zip(a.experts, b.experts): close(x.score(others), y.score(others), eps=1e-4)


def test_attacks_on_a_world_whose_truth_is_known():
    rng = np.random.default_rng(0)
    naive = lambda m, s: np.mean([(a > b) + (a == b)/2 for a in s[m] for b in s[~m]])
    m, s = rng.random(60) < .4, rng.integers(9, size=60)
    close(auc(m, s), naive(m, s), eps=1e-12)
    K, N = 8, 600                                         # users differ much, membership little
    half = np.array([rng.permutation(N) < N//2 for _ in range(K//2)])
    member = np.concatenate([half, ~half])                         # everyone is in half of the models
    hard, shift = rng.normal(0, 3, N), .5
    L = hard - shift*member + rng.normal(0, .15, (K, N))
    simple, better = (_mean_auc(member, x) for x in (-L, lira(L, member)))
    assert .5 < simple < .6 < .9 < better
    with ExceptionExpected(InputError, 'more of them'): lira(L[:2], np.ones((2, N), bool))
    found = membership_inference(L, member)
    twice = np.append(np.arange(N), 0)                    # one user stands there twice
    counts = np.bincount(twice)[None].astype(float)
    close(_resampled_auc(member[0], -L[0], counts), auc(member[0][twice], -L[0][twice]), eps=1e-12)
    assert (found.low < found.auc).all() and (found.auc < found.high).all()
    # membership does not matter
    nothing = membership_inference(hard + rng.normal(0, .15, (K, N)), member)
    assert (nothing.auc - .5).abs().max() < .02 and (nothing.found_at_1pc < .04).all()


def test_a_step_without_gradients_is_noise_and_no_hook_stays():
    torch.manual_seed(0)
    net = nn.Linear(3, 2, bias=False)
    sq = lambda o, y: ((o - y)**2).sum((1, 2)).mean()
    class Everyone(Poisson):
        def __iter__(self): yield self.arrays
        def __len__(self): return 1
    def run(net, cb, X, Y, loss=sq):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            dls = DataLoaders(Everyone(X, Y, rate=.5))
            Learner(net, dls, loss, torch.optim.SGD, 1., [cb]).fit(1)
    net, still = nn.Linear(200, 200, bias=False), torch.zeros(100, 1, 200)
    theta = net.weight.detach().clone()
    run(net, DPSGDCallback(3., .5), still, still)     # no gradient: only noise is left, sigma*C/(qn)
    noise = (net.weight.detach() - theta).numpy()
    close(noise.std(), 3*.5/50, eps=.001)
    again = nn.Linear(200, 200, bias=False)
    again.load_state_dict({'weight': theta})
    run(again, DPSGDCallback(3., .5), still, still)
    # a public seed would give it away
    assert np.corrcoef(noise.ravel(), (again.weight.detach() - theta).numpy().ravel())[0, 1] < .05
    plain = DataLoaders([(still, still)])
    with ExceptionExpected(InputError, 'needs Poisson'):
        Learner(net, plain, sq, cbs=[DPSGDCallback(1.)]).fit(1)
    with ExceptionExpected(InputError, '10 a batch'): Poisson(still, rate=.1)
    def breaks(o, y): raise RuntimeError('in the middle')
    with ExceptionExpected(RuntimeError, 'in the middle'):
        run(again, DPSGDCallback(3., .5), still, still, breaks)
    equal([len(again._forward_hooks), len(again._backward_hooks)], [0, 0])   # no hook is left


def test_noise_for_an_epsilon_costs_that_epsilon():
    s = noise_multiplier(2., 1e-5, .1, 100)
    assert 1.9 < epsilon_spent(s, .1, 100, 1e-5) <= 2.
    with ExceptionExpected(InputError, 'epsilon is 0'): noise_multiplier(0, 1e-5, .1, 10)


def test_a_user_is_one_sample():
    u, y, who = np.eye(5, dtype=np.float32), np.array([4, 3, 2, 1, 0]), np.array([1, 0, 1, 1, 0])
    X, Y, ids = by_person(u, y, who, rows=2)
    equal(X.shape, (2, 2, 6))
    equal(ids, [0, 1])
    equal(sorted(Y[0].tolist()), [0, 3])
    assert set(Y[1].tolist()) < {4, 2, 1}
    for x, j in zip(X.flatten(0, 1), Y.flatten()):
        equal(int(x[:5].argmax()), 4 - int(j))
        equal(float(x[5]), 1.)

    o, y = torch.randn(2, 3, 7), torch.tensor([[1, 2, -1], [3, -1, -1]])
    # a user's interactions, averaged
    hand = torch.stack([F.cross_entropy(o[0, :2], y[0, :2]), F.cross_entropy(o[1, :1], y[1, :1])])
    close(per_user_loss(o, y).numpy(), hand.numpy(), eps=1e-6)


def test_a_private_head_starts_from_users_who_are_not_in_the_target(pair):
    d = make_dataset(pair.target.log, pair.target.items, pair.source)
    head = DPHead(8., dim=16, epochs=10).fit_dataset(d)
    assert head.guarantee['epsilon'] <= 8
    equal(head.score(['nobody']).shape, (1, d.n_target))
    bias = head.W[:, -1] @ head.phi[:d.n_target].T + head.b[:, 0]
    close(head.score(['nobody'])[0], bias, eps=1e-4)
    mine = pair.target.users                                       # the source must not know them
    strangers = ~d.users.isin(mine)
    X, Y, ids = head.samples(d, strangers, np.arange(d.n_items) >= d.n_target)
    equal(set(d.users[strangers][ids]) & set(mine), set())
    assert len(ids) > 300


def test_a_private_head_is_saved_with_its_guarantee(pair):
    mine = pair.target.users
    with tempfile.TemporaryDirectory() as tmp:
        rec = Recommender(None, experts=lambda d, b, s: [DPHead(8., dim=16, epochs=5)])
        rec.fit(pair.target, pair.source).save(tmp)
        old = Recommender.load(tmp)
    close(old.score(mine[:5]), rec.score(mine[:5]), eps=1e-5)
    equal(old.experts[0].guarantee, rec.experts[0].guarantee)


def test_advantage_and_its_bound_by_hand():
    rng = np.random.default_rng(0)
    equal(advantage(np.array([True, True, False]), [3, 2, 1]), 1.)
    equal(advantage(np.array([True, False]), [1, 1]), 0.)                # equal scores tell nothing
    close(advantage_bound(0.), 0.)
    close(advantage_bound(np.log(3)), .5, eps=1e-12)
    # randomised response is as bad as ε = log 3 allows
    ok = rng.random(20_000) < .5
    told = np.where(rng.random(20_000) < .75, ok, ~ok)
    close(advantage(ok, told.astype(float)), advantage_bound(np.log(3)), eps=.02)

def test_the_least_epsilon_is_that_of_the_accountant():
    "The orders that Opacus tries are those from which the bound is computed."
    from llmrec.privacy import _least_epsilon
    accountants = pytest.importorskip('opacus.accountants')
    orders = np.array(accountants.RDPAccountant.DEFAULT_ALPHAS)
    for delta in (1e-6, 1e-5, 1e-3):
        wanted = np.min(np.log1p(-1/orders) - np.log(delta*orders)/(orders - 1))
        assert abs(_least_epsilon(delta) - wanted) < 1e-9
