"""Pretraining that is stopped, repeated, or asked for what cannot be."""
import numpy as np, pytest, transformers
from llmrec.core import InputError
from llmrec.encode import TextEncoder
from llmrec.pretrain import cooccurrence_pairs, pretrain, tiny_encoder

GOODS = [f'{a} {b} {c}' for a in ('green', 'black', 'soy') for b in ('tea', 'milk', 'oil', 'bread') for c in ('large', 'small')]
PAIRS = [(a, b) for a, b in zip(GOODS, GOODS[1:])]
KW = dict(mlm=dict(), contrastive=dict(pairs=PAIRS))

@pytest.fixture
def fresh(tmp_path, monkeypatch):
    "Makes the same tiny encoder in a cache folder of its own."
    def make(name):
        monkeypatch.setenv('LLMREC_CACHE', str(tmp_path/name)); (tmp_path/name).mkdir(exist_ok=True)
        return tiny_encoder(GOODS, dim=32, vocab=300, device='cpu')
    return make

@pytest.fixture
def stop(monkeypatch):
    "Stops a Trainer after so many steps, as a lost machine would."
    step = transformers.Trainer.training_step
    def after(n):
        def broken(self, *a, **k):
            if self.state.global_step >= n: raise KeyboardInterrupt
            return step(self, *a, **k)
        monkeypatch.setattr(transformers.Trainer, 'training_step', broken)
    yield after
    monkeypatch.setattr(transformers.Trainer, 'training_step', step)

def run(enc, objective): return enc.pretrain(GOODS, objective=objective, epochs=4, lr=1e-2, batch_size=8, patience=9, **KW[objective])

@pytest.mark.parametrize('objective', KW)
def test_stopped_and_resumed_is_as_never_stopped(fresh, stop, monkeypatch, objective):
    whole = run(fresh('a'), objective)
    want, curve = whole.encode(GOODS), whole.history
    enc = fresh('b'); old = enc.encode(GOODS, normalize=False)
    with monkeypatch.context() as m:
        stop(7)
        with pytest.raises(KeyboardInterrupt): run(enc, objective)
    assert np.array_equal(TextEncoder(enc.path, cache=False, device='cpu').encode(GOODS, normalize=False), old)
    assert np.array_equal(enc.encode(GOODS + ['new'], normalize=False)[:-1], old)   # no half-trained model answers
    new = TextEncoder(enc.path, cache=False, device='cpu').encode(['new'], normalize=False)
    assert np.allclose(enc.encode(['new'], normalize=False), new, atol=1e-6)
    stop(10**9)
    again = run(enc, objective)
    assert list(again.history.step)[-1] == list(curve.step)[-1] and again.path.exists()
    assert not (again.path/'checkpoints').exists()
    if objective == 'mlm': assert np.allclose(again.history[again.history.curve == 'target'].loss, curve[curve.curve == 'target'].loss, atol=.05)
    assert (again.encode(GOODS)*want).sum(1).min() > .9

def test_a_finished_run_is_not_repeated(fresh, stop):
    a = run(fresh('a'), 'mlm')
    stop(0)                                        # training would fail now
    b = run(fresh('a'), 'mlm')
    assert a.path == b.path and a.report.equals(b.report)
    with pytest.raises(KeyboardInterrupt): fresh('a').pretrain(GOODS, epochs=4, lr=1e-2, batch_size=8, patience=9, seed=1)

def test_report_says_what_changed(fresh):
    e = pretrain(fresh('a'), GOODS[:12], GOODS[12:], 'contrastive', pairs=PAIRS[12:], source_pairs=PAIRS[:12], epochs=1)
    assert set(e.report.measure) == {'loss target', 'loss source', 'recall@10 target', 'recall@10 source'}
    e = pretrain(fresh('a'), GOODS[:12], GOODS[12:], epochs=1)
    assert set(e.report.measure) == {'loss target', 'loss source', 'perplexity target', 'perplexity source'}
    assert np.isfinite(e.report[['before', 'after']].to_numpy()).all()

@pytest.mark.parametrize('kw,word', [(dict(texts=['one']), 'at least 2'), (dict(texts=['a', None]), r'texts\[1\]'), (dict(texts='tea'), 'list of str'),
                                     (dict(objective='clm'), 'encoder'), (dict(objective='x'), 'objective'), (dict(pairs=PAIRS), 'pairs'),
                                     (dict(objective='contrastive', pairs=[('a', 'b', 'c')]*3), 'pairs'),
                                     (dict(objective='contrastive', pairs=[('a', None)]*3), 'texts'),
                                     (dict(objective='contrastive', pairs=PAIRS[:1]), 'pairs')])
def test_bad_requests(fresh, kw, word):
    with pytest.raises(InputError, match=word): fresh('a').pretrain(**{'texts': GOODS, **kw})

def test_co_pairs_of_logs_without_time_and_unknown_items():
    import pandas as pd
    log = pd.DataFrame(dict(user=[1, 1, 1, 2], item=['a', 'b', 'zz', 'a']))
    assert cooccurrence_pairs(log, dict(a='tea', b='milk')) in ([('milk', 'tea')], [])
    assert cooccurrence_pairs(log.iloc[:0], dict(a='tea')) == []
