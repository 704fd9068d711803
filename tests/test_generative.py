"""Semantic IDs and their generator; a language model that writes titles; the recite test. Small random models, no downloads."""
from types import SimpleNamespace
import numpy as np, pandas as pd, pytest, torch
from llmrec.core import InputError
from llmrec.data import make_synthetic_pair
from llmrec.dataset import histories, insert_items, make_dataset, select_users
from llmrec.encode import train_tokenizer
from llmrec.expert import check_expert, clone_experts, copy_experts
from llmrec.judge import CausalLM, LMScorer
from llmrec.lm_recommender import LMRecommender, recite_test
from llmrec.semantic_ids import (
    GeneratorNet, SemanticID, assign_codes, count_collisions, generate_ids, number_collisions, prefix_tree, residual_kmeans)

TINY = dict(size=4, features=8, dim=16, layers=1, heads=2, max_len=3, beams=12, epochs=1, bs=64)


@pytest.fixture(scope='module')
def data():
    pair = make_synthetic_pair(0, n_users=(20, 15), n_items=(12, 10), n_rows=(6, 5), shared=.5)
    vectors = np.random.default_rng(0).normal(size=(22, 6)).astype(np.float32)
    return make_dataset(pair.target.log, pair.target.items, pair.source, vectors)

@pytest.fixture(scope='module')
def fitted(data): return SemanticID(**TINY).fit_dataset(data)


# Codes
def test_each_level_explains_what_the_ones_before_left():
    X = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    books = residual_kmeans(X, 3, 8)
    codes = assign_codes(X, books)
    rest = [((X - sum(book[codes[:, i]] for i, book in enumerate(books[:n])))**2).sum() for n in range(4)]
    assert rest[0] > rest[1] > rest[2] > rest[3]
    for level, book in enumerate(books):                      # the naive nearest centroid
        left = X - sum((b[codes[:, i]] for i, b in enumerate(books[:level])), np.zeros_like(X))
        assert (np.linalg.norm(left[:, None] - book, axis=2).argmin(1) == codes[:, level]).all()

@pytest.mark.parametrize('X', [np.zeros((5, 3)), np.ones((1, 3)), np.repeat(np.eye(3), 4, 0)])
def test_fewer_distinct_items_than_tokens(X):
    "Equal items share an ID; no more centroids than distinct rows are asked for."
    codes = assign_codes(X, residual_kmeans(X, 2, 8))
    assert len(np.unique(codes, axis=0)) == len(np.unique(X, axis=0))
    assert count_collisions(codes) == (len(X) if len(X) > 1 else 0)
    assert count_collisions(number_collisions(codes, 8)) == 0

@pytest.mark.parametrize('bad', [dict(levels=0), dict(size=1), dict(size='8')])
def test_bad_sizes_are_named(bad):
    with pytest.raises(InputError, match=next(iter(bad))): residual_kmeans(np.eye(4), **bad)


# The generator
def test_exact_with_enough_beams_and_never_an_id_that_is_not_there():
    torch.manual_seed(0)
    ids = [[2, 6], [2, 7], [3, 6], [4, 8]]
    net = GeneratorNet(9, dim=16, layers=1, heads=2).eval()
    history = torch.tensor([[1, 2, 6], [1, 0, 0]])
    found, logp = generate_ids(net, history, prefix_tree(ids), 2, beams=4)
    for user in range(2):
        assert sorted(map(tuple, found[user])) == sorted(map(tuple, ids))
        for one, value in zip(found[user], logp[user]):
            with torch.no_grad(): logits = net(history[user:user + 1], torch.tensor([one.tolist()]))[0]
            assert abs(sum(float(logits[i].log_softmax(-1)[t]) for i, t in enumerate(one)) - value) < 1e-3

def test_protocol(data): check_expert(SemanticID(**TINY), data)
def test_protocol_with_shared_ids(data): check_expert(SemanticID(**TINY, unique=False), data)

def test_items_of_one_id_have_one_score(data):
    expert = SemanticID(**TINY | dict(levels=1, size=2, unique=False)).fit_dataset(data)
    scores = expert.score_histories(select_users(data.hist, np.arange(4)))
    codes = expert.codes[:data.n_target, 0]
    for code in np.unique(codes): assert np.ptp(scores[:, codes == code], axis=1).max() == 0

def test_a_cold_item_can_be_written_and_known_ids_stay(data, fitted):
    [grown] = copy_experts([fitted])
    more = insert_items(data, data.table.iloc[:1].assign(item='new'), data.vectors[:1])
    grown.add_items(more, 1)
    n = data.n_target
    assert (grown.codes[:n] == fitted.codes[:n]).all() and (grown.codes[n + 1:] == fitted.codes[n:]).all()
    assert (grown.codes[n, :3] == fitted.codes[0, :3]).all() and count_collisions(grown.codes[:n + 1]) == count_collisions(fitted.codes[:n])
    exact = clone_experts([grown])[0].set_params(beams=40)
    scores = grown.score_histories(select_users(more.hist, [0]))[0]
    assert np.isfinite(scores).all() and len(scores) == n + 1

def test_without_source_and_without_interactions(data):
    pair = make_synthetic_pair(0, n_users=(20, 15), n_items=(12, 10), n_rows=(6, 5))
    for log in (pair.target.log, pair.target.log.iloc[:0]):
        expert = SemanticID(**TINY).fit(log, pair.target.items, None, data.vectors[:10])
        assert expert.score(['nobody']).shape == (1, 10)


# The language model
@pytest.fixture(scope='module')
def lm():
    from transformers import AutoModelForCausalLM, LlamaConfig
    titles = make_synthetic_pair().target.items.title.tolist()[:30]
    tok = train_tokenizer(titles, 300, True, 256)
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, vocab_size=len(tok), num_attention_heads=4,
                         num_key_value_heads=2, initializer_range=.3, bos_token_id=0, eos_token_id=0)
    return LMRecommender(AutoModelForCausalLM.from_config(config), tok, titles, beams=30)

def test_a_prompt_does_not_end_the_text(lm):
    "A tokenizer that adds an end token would put it between prompt and title."
    assert lm.tokenizer('a rope')['input_ids'][-1] == lm.tokenizer.eos_token_id
    for text in ('a rope', 'Taken next:'):
        ids = lm.token_ids(text, True)
        assert ids[-1] != lm.tokenizer.eos_token_id and ids[-len(lm.token_ids(text, False)):] == lm.token_ids(text, False)

def test_the_search_is_the_judge_over_the_whole_catalogue(lm):
    prompt = lm.prompt(lm.titles[:2])
    loglik, tokens = LMScorer(lm.model, lm.tokenizer).loglik(prompt, lm.titles)
    for alpha in (0., .5, 1., 2.):
        search = LMRecommender(lm.model, lm.tokenizer, lm.titles, beams=30, length_penalty=alpha)
        exact = loglik/tokens**alpha
        for k in (1, 3, 30):                                   # stopping early loses nothing
            found = search.write(prompt, k)[:k]
            assert [search.columns[row][0] for row, _ in found] == np.argsort(-exact)[:k].tolist()
            assert np.allclose([value for _, value in found], np.sort(exact)[::-1][:k], atol=1e-3)
    found = lm.write(prompt, k=30)
    few = LMRecommender(lm.model, lm.tokenizer, lm.titles, beams=3).write(prompt, k=3)
    assert all(row in lm.columns for row, _ in few) and few[0][1] <= found[0][1] + 1e-4

def test_titles_that_begin_alike_that_are_equal_and_that_are_odd(lm):
    "One title may begin another; two items may share one; line breaks and emptiness are no ends."
    odd = LMRecommender(lm.model, lm.tokenizer, ['The rope', 'The rope and the moon', 'The rope', '', 'a\nb', '🎬'], beams=6)
    found = odd.write(odd.prompt([]), k=6)
    assert sorted(i for row, _ in found for i in odd.columns[row]) == list(range(6))

def test_recommend_leaves_out_what_was_seen_and_says_when_there_is_no_more(lm):
    log = pd.DataFrame(dict(user=['a']*3 + ['b'], item=[0, 1, 2, 0], time=range(4)))
    data = make_dataset(log, pd.DataFrame(dict(item=range(4), title=lm.titles[:4])))
    small = LMRecommender(lm.model, lm.tokenizer, lm.titles[:4])
    items, scores = small.recommend(histories(data, ['a', 'b', 'nobody']), k=3)
    assert items[0].tolist() == [3, -1, -1] and scores[0, 1] == -np.inf
    assert set(items[1]) == {1, 2, 3} and len(set(items[2])) == 3
    assert 0 in small.recommend(histories(data, ['b']), k=4, exclude_seen=False)[0]

def test_bad_input(lm):
    with pytest.raises(InputError, match='titles is empty'): LMRecommender(lm.model, lm.tokenizer, [])
    with pytest.raises(InputError, match='beams'): LMRecommender(lm.model, lm.tokenizer, ['a'], beams=0)
    with pytest.raises(InputError, match='at least 5'): recite_test(lm, ['one', 'two', 'three words here'])

def test_recite_by_token_is_recite_by_writing(lm):
    "Teacher forcing finds what greedy decoding would write."
    result = recite_test(lm, lm.titles, n=6)
    for _, row in result.table.iterrows():
        ids, then = lm.token_ids(row['shown'], True), lm.token_ids(' ' + row['hidden'], False)
        with torch.no_grad():
            for _ in then: ids = ids + [int(lm.model(torch.tensor([ids])).logits[0, -1].argmax())]
        assert (ids[-len(then):] == then) == row['recited']
    assert (result.table['hidden'] != result.table['control']).any() and 0 <= result.recited <= 1
    assert recite_test(lm, lm.titles, n=6).table.equals(result.table)

def test_loglik_is_that_of_the_whole_text_one_token_after_the_other(lm):
    "No cache, no padding, prompt and title as one text: the plain reference of the scores, and of the search's values."
    for prompt in (lm.prompt([]), lm.prompt(lm.titles[:3])):
        loglik, tokens = lm.loglik(prompt, lm.titles[:6])
        start = lm.token_ids(prompt, True)
        for title, value, n in zip(lm.titles, loglik, tokens):
            ids, plain = list(start), 0.
            for token in lm.token_ids(f' {title}\n', False):
                with torch.no_grad(): plain += float(lm.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[token])
                ids.append(token)
            assert value == pytest.approx(plain, abs=1e-3) and n == len(ids) - len(start)

# Planted: a language model that can do one thing, and a catalogue that one can learn by heart
TEN = ['Red river', 'Blue valley', 'The old mill', 'A long road', 'Winter star', 'Green door', 'Night train', 'Paper moon', 'First snow', 'Last boat']

class Read:
    "All tokens that were read: the cache of `Copies`."
    def __init__(self, tokens): self.tokens = tokens
    def reorder_cache(self, rows): self.tokens = self.tokens[rows]
    def batch_repeat_interleave(self, n): self.tokens = self.tokens.repeat_interleave(n, 0)

class Copies(torch.nn.Module):
    "After a token comes what came after it before."
    def __init__(self, vocabulary):
        super().__init__()
        self.vocabulary, self.device = vocabulary, torch.device('cpu')
    def forward(self, tokens, attention_mask=None, past_key_values=None, use_cache=False):
        seen = tokens if past_key_values is None else torch.cat([past_key_values.tokens, tokens], 1)
        logits = torch.zeros(*seen.shape, self.vocabulary)
        for row, ids in enumerate(seen.tolist()):
            for at, token in enumerate(ids):
                for back in range(at):
                    if ids[back] == token: logits[row, at, ids[back + 1]] += 5
        return SimpleNamespace(logits=logits[:, -tokens.shape[1]:], past_key_values=Read(seen))

@pytest.fixture(scope='module')
def ten(): return train_tokenizer(TEN, 300, True, 256)

@pytest.mark.parametrize('history', [[3, 7], [0, 1, 2, 3, 4], [9]*3])
def test_a_model_that_copies_puts_the_titles_of_the_history_first(ten, history):
    "If prompt, tokens, cache or beams were out of step, what was read would not be found again."
    lm = LMRecommender(Copies(len(ten)), ten, TEN, beams=10)
    prompt = '\n ' + '\n '.join(TEN[i] for i in history) + '\n'
    loglik, tokens = lm.loglik(prompt, TEN)
    for value in (loglik, loglik/tokens): assert set(np.argsort(-value)[:len(set(history))]) <= set(history)
    found = lm.write(prompt, len(set(history)))
    assert {item for row, _ in found for item in lm.columns[row]} == set(history)
    assert np.allclose([value for _, value in found], np.sort(loglik/tokens)[::-1][:len(found)], atol=1e-3)

def test_a_tuned_model_learns_ten_items_by_heart(ten):
    "Item i is followed by item i + 1: after `fit` each list begins with the right one, and the same candidate has the highest likelihood."
    from transformers import AutoModelForCausalLM, LlamaConfig
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, vocab_size=len(ten), num_attention_heads=4,
                         num_key_value_heads=2, initializer_range=.3, bos_token_id=0, eos_token_id=0)
    log = pd.DataFrame([(user, (user + place) % 10, place) for user in range(10) for place in range(4)], columns=['user', 'item', 'time'])
    data = make_dataset(log, pd.DataFrame(dict(item=range(10), title=TEN)))
    lm = LMRecommender(AutoModelForCausalLM.from_config(config), ten, TEN, beams=10).fit(data.hist, epochs=60, lr=2e-2)
    for first in range(10):
        prompt = lm.prompt([TEN[(first + place) % 10] for place in range(3)])
        assert lm.columns[lm.write(prompt, 1)[0][0]] == [(first + 3) % 10]
        assert np.argmax(lm.loglik(prompt, TEN)[0]) == (first + 3) % 10

class Chain(torch.nn.Module):
    "The next token depends on the last one alone: probabilities by (last token, next token), the rest shared by all others."
    def __init__(self, vocabulary, steps):
        super().__init__()
        self.vocabulary, self.steps, self.device = vocabulary, steps, torch.device('cpu')
    def forward(self, tokens, attention_mask=None, past_key_values=None, use_cache=False):
        seen = tokens if past_key_values is None else torch.cat([past_key_values.tokens, tokens], 1)
        p = torch.zeros(*tokens.shape, self.vocabulary)
        for row, ids in enumerate(tokens.tolist()):
            for at, last in enumerate(ids):
                for token, value in self.steps.get(last, {}).items(): p[row, at, token] = value
        p[p == 0] = 1e-4
        return SimpleNamespace(logits=p.log(), past_key_values=Read(seen))

SHORT, LONG = 'Boat', 'The very long night train over a blue valley'

@pytest.fixture(scope='module')
def planted():
    "A language model that begins the short title with .3 and the long one with .25, and is then nearly sure."
    tok = train_tokenizer([SHORT, LONG, *TEN], 300, True, 256)
    plain = LMRecommender(Chain(len(tok), {}), tok, [SHORT, LONG, *TEN])
    start = plain.token_ids('Taken next:', False)[-1]
    steps = {start: {plain.rows[0][0]: .3, plain.rows[1][0]: .25}}
    for row in plain.rows[:2]:
        for last, token in zip(row, row[1:]): steps.setdefault(last, {}).setdefault(token, .9)
    return Chain(len(tok), steps), tok

@pytest.mark.parametrize('beams', [2, 12])
def test_the_sum_favours_the_short_title_and_the_mean_finds_the_long_one(planted, beams):
    model, tok = planted
    first = {}
    for alpha in (0., 1.):
        lm = LMRecommender(model, tok, [SHORT, LONG, *TEN], beams=beams, length_penalty=alpha, words='{} Taken next:')
        assert len(lm.rows[1]) > 2*len(lm.rows[0])
        [(row, value)] = lm.write(lm.prompt([]), 1)[:1]
        loglik, tokens = lm.loglik(lm.prompt([]), lm.titles)
        assert value == pytest.approx((loglik/tokens**alpha).max(), abs=1e-3)
        first[alpha] = lm.titles[lm.columns[row][0]]
    assert first == {0.: SHORT, 1.: LONG}

def test_held_out_titles_choose_the_length_penalty(planted):
    "Whose held-out title is the long one gets the mean, whose is the short one the sum; of equals the first."
    model, tok = planted
    titles = [SHORT, LONG, *TEN]
    table = pd.DataFrame(dict(item=range(12), title=titles))
    for right, alpha in ((1, 1.), (0, 0.)):
        log = pd.DataFrame([(user, item, time) for user in range(8) for time, item in enumerate([2 + user, right])], columns=['user', 'item', 'time'])
        lm = LMRecommender(model, tok, titles, length_penalty=.3, words='{} Taken next:')
        found = lm.choose_length_penalty(make_dataset(log, table).hist, penalties=(0., 1.), n=8, others=10)
        assert lm.length_penalty == alpha == found['ndcg'].idxmax() and (found['users'] == 8).all()
        assert found.loc[alpha, 'ndcg'] == 1 > found.loc[1 - alpha, 'ndcg']
    lm.choose_length_penalty(make_dataset(log, table).hist, penalties=(.5, .5), n=2)
    assert lm.length_penalty == .5

@pytest.mark.parametrize('bad', [-1, np.nan, np.inf, '1', None, True])
def test_a_length_penalty_that_is_none_is_named(lm, bad):
    with pytest.raises(InputError, match='length_penalty'): LMRecommender(lm.model, lm.tokenizer, lm.titles, length_penalty=bad)

def test_no_title_to_hold_out_is_said(lm):
    data = make_dataset(pd.DataFrame(dict(user=['a', 'b'], item=[0, 1], time=0)), pd.DataFrame(dict(item=range(2), title=lm.titles[:2])))
    with pytest.raises(InputError, match='no title to hold out'): LMRecommender(lm.model, lm.tokenizer, lm.titles[:2]).choose_length_penalty(data.hist)

def test_the_default_length_penalty_is_the_one_that_held_out_titles_chose():
    "On users who are not tested (bench/lm_gpu.py)."
    import inspect
    from pathlib import Path
    table = pd.read_csv(Path(__file__).resolve().parents[1]/'bench'/'lm_length.csv').set_index('length_penalty')
    assert inspect.signature(LMRecommender).parameters['length_penalty'].default == table['ndcg'].idxmax()
