"""Text vectors tuned on behaviour: the loss by hand, items that play new, and what happens where there is little to learn from."""
import numpy as np, pandas as pd, pytest, torch
from safetensors.torch import load_file
from llmrec import Recommender
from llmrec.baselines import Content, Popularity
from llmrec.core import InputError
from llmrec.data import Domain
from llmrec.dataset import insert_items, make_dataset
from llmrec.encode import TextEncoder
from llmrec.pretrain import save_trained, tiny_encoder
import llmrec.tuned_text as tuned_text
from llmrec.tuned_text import (
    DistilledText, MappedText, PairBatches, TunedNet, TunedText, consecutive_pairs, contrastive_loss, draw_from_group,
    found_again, item_groups, tune_encoder)

def shop(n_users=80, own=True, seed=0, n=40):
    "A source and a target of `n` items each, in eight kinds that the first eight numbers of a vector name quietly."
    rng = np.random.default_rng(seed)
    kind = np.tile(np.arange(8), n//4)
    V = np.concatenate([.3*np.eye(8)[kind], rng.normal(size=(2*n, 8))], 1).astype(np.float32)
    def log(first, users):
        rows = [(u, first + j) for u in users for j in rng.permutation(np.nonzero(kind[:n] == u % 8)[0])[:6]]
        return pd.DataFrame(rows, columns=['user', 'item']).assign(time=lambda t: np.arange(len(t)))
    items = lambda first: pd.DataFrame(dict(item=np.arange(first, first + n), title='x'))
    source = Domain('source', log(1000, range(n_users)), items(1000))
    target = Domain('target', log(0, range(n_users if own else 0)), items(0))
    return target, source, V, kind

def index(**kw):
    target, source, V, kind = shop(**kw)
    return make_dataset(target.log, target.items, source, V), kind

def test_loss_is_the_naive_one():
    rng = np.random.default_rng(0)
    logits, pairs = torch.tensor(rng.normal(size=(4, 8))), torch.tensor([[1, 2], [3, 1], [1, 4], [5, 6]])
    items, values = pairs.T.reshape(-1), []
    for i in range(4):
        open_columns = [j for j in range(8) if j == i or items[j] != pairs[i, 0]]
        values.append(-logits[i, i] + torch.logsumexp(logits[i, open_columns], 0))
    assert float(contrastive_loss(logits, pairs)) == pytest.approx(float(sum(values)/4))

def test_an_item_of_the_same_group_is_another_one_if_there_is_one():
    group = np.array([3, 0, 3, 1, 0, 3])
    drawn = np.array([draw_from_group(np.arange(6), group, np.random.default_rng(s)) for s in range(40)])
    assert (group[drawn] == group).all()
    assert (drawn[:, [0, 1, 2, 4, 5]] != [0, 1, 2, 4, 5]).all() and (drawn[:, 3] == 3).all()
    assert {2, 5} == set(drawn[:, 0])
    assert len(draw_from_group(np.array([], int), group, np.random.default_rng(0))) == 0

def test_groups_are_categories_or_clusters():
    data, _ = index()
    data.table['category'] = ['a|b', 'a', 'c', 'c']*20
    assert item_groups(data, data.vectors)[:4].tolist() == [0, 0, 1, 1]
    del data.table['category']
    assert len(item_groups(data, data.vectors)) == 80

def test_items_that_play_new_teach_nothing():
    data, _ = index()
    expert = TunedText()
    source, target, valid = expert.examples(data, data.vectors)
    new = np.random.default_rng(0).random(80) < .1
    assert not new[source[1][:, 0]].any() and not new[target[1][:, 0]].any() and new[valid[1][:, 0]].all()
    assert (source[1][:, 0] >= 40).all() and (target[1][:, 0] < 40).all()

def test_frozen_map_is_content():
    data, _ = index()
    np.testing.assert_allclose(MappedText(5.).fit_dataset(data).score_histories(data.hist),
                               Content(5.).fit_dataset(data).score_histories(data.hist), atol=1e-5)

def test_the_source_alone_teaches_a_target_without_interactions():
    data, kind = index(own=False, n_users=400, n=160)
    expert = TunedText(bs=64).fit_dataset(data)
    scores, frozen = (x.score_histories(data.hist) for x in (expert, MappedText().fit_dataset(data)))
    own = np.asarray(data.users, int)[:, None] % 8 == kind[None, :160]
    reach = lambda s: np.take_along_axis(own, np.argsort(-s, 1)[:, :10], 1).mean()
    assert expert.found['source'] > expert.found['frozen'] and 'target' not in expert.found
    assert reach(scores) > reach(frozen) + .1

def test_what_does_not_help_is_undone(monkeypatch):
    data, _ = index()
    monkeypatch.setattr(tuned_text, 'found_again', lambda *_: .5)
    expert = TunedText(epochs=1, bs=64).fit_dataset(data)
    np.testing.assert_allclose(expert.M, np.eye(len(expert.M)))

def test_too_few_interactions_leave_the_text_as_it_is():
    data, _ = index(n_users=3)
    expert = TunedText().fit_dataset(data)
    np.testing.assert_allclose(expert.M, np.eye(len(expert.M)))

def test_found_again_counts_ties_against_itself():
    net = TunedNet(np.array([[1, 0], [1, 0], [0, 1]], np.float32))
    found = found_again(net, np.array([[1, 0], [0, 1]], np.float32), np.array([[0, 1], [2, 1]]))
    assert found == pytest.approx(1)
    found = found_again(net, np.array([[1, 0], [1, 0]], np.float32), np.array([[0, 1], [1, 2]]))
    assert found == pytest.approx(1/np.log2(3))

@pytest.mark.parametrize('make', [MappedText, lambda: TunedText(epochs=1, bs=64), lambda: DistilledText(rank=4)])
def test_a_new_item_reads_like_its_twin(make):
    data, _ = index()
    expert = make().fit_dataset(data)
    before = expert.score_histories(data.hist)
    more = insert_items(data, data.table.iloc[:1].assign(item='new'), data.vectors[:1])
    expert.add_items(more, 1)
    after = expert.score_histories(more.hist)
    np.testing.assert_allclose(after[:, :40], before, atol=1e-5)
    np.testing.assert_allclose(after[:, 40], before[:, 0], atol=1e-5)

@pytest.mark.parametrize('expert', [MappedText(), TunedText(), DistilledText()])
def test_without_vectors_the_error_says_what_to_pass(expert):
    target, source, _, _ = shop()
    with pytest.raises(InputError, match=f'{type(expert).__name__} needs vectors: pass vectors='):
        expert.fit_dataset(make_dataset(target.log, target.items, source))

def test_it_enters_the_fusion_by_name_and_comes_back_from_a_file(tmp_path):
    target, source, V, _ = shop()
    make = lambda data, budget, seed: [Popularity(), TunedText(epochs=1, bs=64)]
    rec = Recommender(encoder=None, experts=make, budget='fast').fit(target, source, vectors=dict(text=V))
    assert [x.name for x in rec.experts] == ['Popularity', 'TunedText']
    rec.save(tmp_path/'model')
    back = Recommender.load(tmp_path/'model')
    np.testing.assert_allclose(back.score([0, 1, 2]), rec.score([0, 1, 2]), atol=1e-5)


# ---- the encoder's own layers

KINDS = ('tea', 'lamp', 'soap', 'rope')

@pytest.fixture(scope='module')
def words(tmp_path_factory):
    "A small encoder that knows no word, a catalogue of four kinds that the titles name, and its index."
    rng = np.random.default_rng(0)
    kind = np.tile(np.arange(4), 30)
    titles = [f'maker{a} {KINDS[k]} ornament{b}' for k, a, b in zip(kind, rng.integers(9, size=120), rng.integers(9, size=120))]
    rows = [(u, j) for u in range(160) for j in rng.permutation(np.nonzero(kind == u % 4)[0])[:6]]
    log = pd.DataFrame(rows, columns=['user', 'item']).assign(time=range(len(rows)))
    items = pd.DataFrame(dict(item=range(120), title=titles))
    encoder = tiny_encoder(titles, dim=32, heads=2, vocab=120, out=tmp_path_factory.mktemp('small'), cache=False)
    return encoder, make_dataset(log, items), titles, Domain('shop', log, items)

@pytest.fixture(scope='module')
def tuned(words, tmp_path_factory):
    encoder, data, titles, _ = words
    return tune_encoder(encoder, data, titles, tmp_path_factory.mktemp('tuned'), lr=3e-3, epochs=3, max_pairs=600)

def weights(path): return load_file(path/'model.safetensors')

def test_tuned_layers_find_new_items_better_and_the_encoder_given_stays(words, tuned):
    encoder, _, titles, _ = words
    assert tuned.found['tuned'] > tuned.found['frozen'] and 500 < tuned.found['pairs'] <= 600     # of one text are none
    again = TextEncoder(encoder.path, cache=False)
    np.testing.assert_array_equal(again.encode(titles), encoder.encode(titles))
    assert not any(p.requires_grad and 'lora' in n for n, p in encoder.model.named_parameters())
    assert np.abs(tuned.encode(titles) - encoder.encode(titles)).max() > .01

def test_only_linear_layers_move(words, tuned):
    before = {k.removeprefix('bert.'): v for k, v in weights(words[0].path).items()}
    after = weights(tuned.path)
    both = [k for k in after if k in before]
    assert len(both) >= len(after) - 2                       # the small one was saved without a pooler, which no vector asks for
    moved = {k for k in both if not torch.allclose(after[k], before[k], atol=1e-7)}
    assert moved and all(k.endswith('weight') and ('dense' in k or 'query' in k or 'key' in k or 'value' in k) for k in moved)

def test_frozen_weights_stay_while_lora_learns(words):
    encoder, data, titles, _ = words
    model = tuned_text._tunable(encoder, 4, .05)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    task = tuned_text._tuning(encoder, data, titles, 100, 50, 0)
    tuned_text._tune(model, task, 32, 1, torch.device('cpu'), lr=1e-2, precision='no', seed=0)
    for name, p in model.named_parameters():
        assert p.requires_grad == ('lora_' in name)
        if 'lora_' not in name: assert torch.equal(p, before[name]), name
    assert any(not torch.equal(p, before[n]) for n, p in model.named_parameters() if 'lora_B' in n)

@pytest.mark.parametrize('rank', [4, 0])
def test_merged_is_unmerged_and_comes_back_from_the_folder(words, rank, tmp_path):
    encoder, _, titles, _ = words
    model = tuned_text._tunable(encoder, rank, .05)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad: p.add_(.05*torch.randn_like(p))
    ids = encoder.tokenize(titles)
    unmerged = tuned_text._text_vectors(model, ids, encoder.tokenizer.pad_token_id)
    path = save_trained(encoder, model.body, tmp_path/'out')
    np.testing.assert_allclose(TextEncoder(path, cache=False).encode(titles), unmerged, atol=1e-5)
    assert np.abs(unmerged - encoder.encode(titles)).max() > .01
    assert sorted(weights(path)) == sorted(k for k in weights(path) if 'lora' not in k)

def test_vectors_of_a_model_in_training_are_the_encoders(words):
    encoder, _, titles, _ = words
    model = tuned_text._tunable(encoder, 4, .05).train()
    found = tuned_text._text_vectors(model, encoder.tokenize(titles), encoder.tokenizer.pad_token_id, bs=7)
    np.testing.assert_allclose(found, encoder.encode(titles), atol=1e-5)
    assert model.training

def test_where_new_items_are_found_no_better_the_frozen_encoder_comes_back(words, tmp_path, monkeypatch):
    encoder, data, titles, _ = words
    monkeypatch.setattr(tuned_text._Tuning, 'found', lambda self, model: .5)
    same = tune_encoder(encoder, data, titles, tmp_path, epochs=1, max_pairs=80)
    assert same.found['frozen'] == same.found['tuned'] == .5
    np.testing.assert_array_equal(same.encode(titles), encoder.encode(titles))

def test_too_few_pairs_leave_the_encoder_as_it_is_and_say_so(words, tmp_path):
    encoder, data, titles, _ = words
    with pytest.warns(UserWarning, match=r'\d+ pairs to learn from and .* stays as it is'):
        same = tune_encoder(encoder, data, titles, tmp_path, max_pairs=10)
    np.testing.assert_array_equal(same.encode(titles), encoder.encode(titles))

def test_the_same_seed_gives_the_same_encoder(words, tmp_path):
    encoder, data, titles, _ = words
    two = [tune_encoder(encoder, data, titles, tmp_path/str(n), lr=3e-3, epochs=1, max_pairs=200) for n in range(2)]
    np.testing.assert_allclose(two[0].encode(titles), two[1].encode(titles), atol=1e-5)

@pytest.mark.parametrize('encoder, match', [('tfidf', 'has no layers to tune'), (None, 'has no layers to tune')])
def test_what_has_no_layers_is_named(words, encoder, match, tmp_path):
    _, data, titles, _ = words
    with pytest.raises(InputError, match=match): tune_encoder(encoder, data, titles, tmp_path)

def test_a_text_for_each_item(words, tmp_path):
    encoder, data, titles, _ = words
    with pytest.raises(InputError, match='119 texts for 120 items: expected one for each'):
        tune_encoder(encoder, data, titles[1:], tmp_path)

def test_pairs_follow_each_other_hold_no_new_item_and_begin_with_the_target():
    target, source, V, _ = shop()
    data = make_dataset(target.log, target.items, source, V)
    allowed = np.arange(80) % 5 > 0
    pairs = consecutive_pairs(data, allowed, 50)
    neighbours = {(a, b) for u in range(len(data.hist)) for a, b in zip(data.hist[u][:-1], data.hist[u][1:])}
    assert len(pairs) == 50 and allowed[pairs].all() and {tuple(p) for p in pairs} <= neighbours
    own = (pairs < data.n_target).all(1)
    assert own[:25].all() and not own[25:].any()
    every = consecutive_pairs(data, np.ones(80, bool), 10_000)
    assert {tuple(p) for p in every} == neighbours and len(every) == len(neighbours)

def test_runs_of_pairs_share_a_group():
    rng = np.random.default_rng(0)
    pairs, group = rng.integers(40, size=(64, 2)), np.arange(40) % 4
    batches = PairBatches([[1, 2], [3]]*20, pairs, group, bs=16, run=4)
    order = batches.order()
    assert sorted(order) == list(range(64))
    groups = group[pairs[order, 1]].reshape(-1, 4)
    assert (groups == groups[:, :1]).all(1).sum() >= 12                  # where one group ends, a run is mixed
    for ids, mask, numbers, same in batches:
        assert ids.shape == mask.shape == (32, 2) and torch.equal(numbers, same)
        assert (mask.sum(1) == torch.where(numbers % 2 == 0, 2, 1)).all()
    assert len(list(batches)) == len(batches) == 4

@pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU'))])
def test_it_is_trained_and_read_where_the_encoder_is(words, device, tmp_path):
    encoder, data, titles, _ = words
    there = TextEncoder(encoder.path, device=device, cache=False)
    model = tuned_text._tunable(there, 4, .05)
    assert {p.device.type for p in model.parameters()} == {device}
    found = tune_encoder(there, data, titles, tmp_path, lr=3e-3, epochs=1, max_pairs=200)
    assert found.device == device and np.isfinite(found.encode(titles)).all()

def test_a_recommender_reads_by_it_and_takes_it_along(words, tuned, tmp_path):
    domain = words[-1]
    make = lambda data, budget, seed: [Popularity(), MappedText()]
    rec = Recommender(encoder=tuned, experts=make, budget='fast').fit(domain)
    rec.save(tmp_path/'model')
    np.testing.assert_allclose(Recommender.load(tmp_path/'model').score([0, 1, 2]), rec.score([0, 1, 2]), atol=1e-4)
