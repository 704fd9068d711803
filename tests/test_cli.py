"""The command line: exit codes, messages without tracebacks, files that appear whole, a run that goes on."""
import json, os, subprocess, sys
from pathlib import Path
import pandas as pd, pytest
from llmrec.cli import main


@pytest.fixture(scope='module')
def shop(tmp_path_factory):
    "Two small domains in files, with other column names, and a title that is an attack."
    from llmrec.data import make_synthetic_pair
    d, p = tmp_path_factory.mktemp('shop'), make_synthetic_pair(3, n_rows=(30, 10), shared=.5)
    for name, dom in (('source', p.source), ('target', p.target)):
        items = dom.items.assign(title=['=cmd()<script>alert(1)</script>', *dom.items['title'][1:]])
        dom.log.rename(columns=dict(user='customer', item='sku')).to_csv(d/f'{name}.csv', index=False)
        items.rename(columns=dict(item='sku', title='name')).to_csv(d/f'{name}-items.csv', index=False)
    return d

def options(d, **kw):
    o = dict(source_log=d/'source.csv', source_items=d/'source-items.csv', target_log=d/'target.csv', target_items=d/'target-items.csv',
             columns='user=customer,item=sku,title=name', encoder='tfidf', out=d/'out') | kw
    return [x for k, v in o.items() if v is not None for x in (f"--{k.replace('_', '-')}", str(v))]

@pytest.fixture(scope='module')
def done(shop):
    assert main(['run', *options(shop)]) == 0
    return shop/'out'


def test_results(done):
    meta = json.loads((done/'metrics.json').read_text())
    assert set(meta['systems']) == {'llmrec', 'twin without the source', 'popularity', 'content', 'EASE'}
    assert meta['verdict']['word'] in ('helped', 'hurt', 'equal', 'not significant')
    page = (done/'report.html').read_text()
    assert 'no effect' not in page and ('Transfer effect not significant' in page or 'Transfer helped' in page or 'Transfer hurt' in page)
    for s in meta['systems'].values(): assert all(0 <= s['metrics'][m] <= 1 for m in ('precision@10', 'recall@10', 'f1@10', 'ndcg@10', 'mrr@10', 'hit@10'))
    rec = pd.read_csv(done/'recommendations.csv')
    assert list(rec.columns) == ['user', 'rank', 'item', 'title', 'score'] and not rec.duplicated(['user', 'item']).any()
    assert {'losses.png', 'metrics.png', 'evidence.png', 'report.html', 'model'} <= {p.name for p in done.iterdir()}
    assert not list(done.rglob('*.tmp'))

def test_hostile_titles(done):
    page, table = (done/'report.html').read_text(), pd.read_csv(done/'recommendations.csv')
    assert '<script' not in page and 'http' not in page.replace('http-equiv', '')
    assert not table['title'].str.startswith(('=', '+', '@')).any()

def test_goes_on(done, shop, capsys):
    before = (done/'model'/'model.json').stat().st_mtime_ns
    assert main(['run', *options(shop)]) == 0
    assert 'taken from the last run' in capsys.readouterr().out
    assert (done/'model'/'model.json').stat().st_mtime_ns == before

def test_dry_run_says_how_files_are_read(shop, capsys):
    out = shop/'nothing'
    assert main(['run', *options(shop, out=out, source_log=None, source_items=None, names='films'), '--dry-run']) == 0
    said = capsys.readouterr().out
    assert 'customer' in said and 'taken for' in said and 'ids: text' in said and 'films: ' in said and 'source' not in said.replace('no source', '')
    assert not out.exists()

def test_options_reach_the_readers(shop, tmp_path, capsys):
    log = pd.read_csv(shop/'target.csv').assign(value=lambda d: range(len(d)))
    log.to_csv(tmp_path/'l.csv', index=False, sep='~', header=False, encoding='utf-16-le')
    items = str(shop/'target-items.csv')
    args = ['--target-log', str(tmp_path/'l.csv'), '--target-items', items, '--columns', 'user=0,log.item=1,time=2,event=3,value=4,items.item=sku,title=name',
            '--sep', '~', '--no-header', '--encoding', 'utf-16-le', '--min-value', '100', '--events', 'view,purchase', '--text-columns', 'text', '--drop-columns', 'year']
    assert main(['run', *args, '--dry-run']) == 0
    said = capsys.readouterr().out
    assert 'a value below 100: dropped' in said and 'with the event favourite: dropped' in said and 'year' not in said

def test_recommend(done, shop, capsys):
    user = pd.read_csv(shop/'target.csv')['customer'].iloc[0]
    for how in (['--user', user], ['--user', 'never seen'], ['--text', 'a whale in the harbour'], ['--history', 'f0001,f0002']):
        assert main(['recommend', '--model', str(done/'model'), '--k', '3', *how]) == 0
        assert len(capsys.readouterr().out.strip().splitlines()) == 4

def test_evaluate(done, shop, capsys):
    log = pd.read_csv(shop/'target.csv').tail(200)
    log.to_csv(shop/'later.csv', index=False)
    assert main(['evaluate', '--model', str(done/'model'), '--log', str(shop/'later.csv'), '--columns', 'user=customer,item=sku', '--out', str(shop/'r.json')]) == 0
    capsys.readouterr()

def test_encode_and_doctor(shop, capsys):
    assert main(['encode', '--items', str(shop/'target-items.csv'), '--columns', 'item=sku,title=name', '--encoder', 'tfidf', '--out', str(shop/'v.npy')]) == 0
    assert main(['doctor']) == 0
    out = capsys.readouterr().out
    assert 'texts' in out and 'torch' in out and (shop/'v.npy').exists()


BAD = {
    'unknown command': (['fly'], "invalid choice: 'fly'"),
    'unknown pair': (['run', '--data', 'toi'], "no built-in pair 'toi'"),
    'unknown department': (['run', '--source', 'GROCERIES'], "GROCERIES"),
    'unknown genre': (['run', '--data', 'movielens', '--target', 'Scifi'], "no film has the genre 'Scifi'"),
    'movielens with a source': (['run', '--data', 'movielens', '--source', 'Drama'], 'leave it out'),
    'unknown encoder': (['run', '--data', 'toy', '--encoder', 'nowhere/at-all'], 'nowhere/at-all'),
    'bad strategy': (['run', '--data', 'toy', '--encoder', 'tfidf', '--strategy', 'magic'], "'magic'"),
    'no number': (['run', '--data', 'toy', '--k', 'ten'], "invalid int value: 'ten'"),
    'unknown option': (['run', '--nonsense'], '--nonsense'),
    'bad branch': (['run', '--data', 'toy', '--encoder', 'tfidf', '--sparse', 'maybe'], "'maybe'"),
    'bad budget': (['run', '--data', 'toy', '--encoder', 'tfidf', '--budget', 'huge'], "'huge'"),
    'bad split': (['run', '--data', 'toy', '--split', 'half'], "'half'"),
    'k of nothing': (['run', '--data', 'toy', '--k', '0'], 'k is 0'),
    'negative lambda': (['run', '--data', 'toy', '--lam', '-1'], 'lam is -1'),
    'bad columns': (['run', '--target-log', 'a', '--target-items', 'b', '--columns', 'user'], 'ours=yours'),
    'half a target': (['run', '--target-items', 'a.csv'], 'target_log'),
    'reading of no file': (['run', '--target-log', 'a.csv', '--dates', 'american'], 'dates is'),
    'missing file': (['run', '--target-log', 'nowhere.csv', '--target-items', 'nowhere.csv'], 'nowhere.csv does not exist'),
    'no model': (['recommend', '--model', 'nowhere', '--user', '1'], 'no model.json'),
    'nobody asked for': (['recommend', '--model', 'nowhere'], 'exactly one of'),
    'no log': (['evaluate'], '--log'),
    'no items': (['encode'], '--items'),
}

@pytest.mark.parametrize('case', BAD)
def test_bad_input(case, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args, words = BAD[case]
    assert main(args) == 2
    err = capsys.readouterr().err
    assert words in err and 'Traceback' not in err
    assert not list(tmp_path.rglob('*.csv')) and not list(tmp_path.rglob('report.html'))

FILES = {
    'empty log': ('target.csv', '', 'empty'),
    'no column user': ('target.csv', 'who,sku,time\na,f0000,1\n', 'user'),
    'header alone': ('target.csv', 'customer,sku,time\n', 'rows'),
    'items without rows': ('target-items.csv', 'sku,name\n', 'no rows'),
    'mixed units': ('target.csv', 'customer,sku,time\n' + ''.join(f'u{i},f0000,{1600000000 + i}\n' for i in range(9)) + 'u1,f0001,1600000000000\n', 'milliseconds'),
}

@pytest.mark.parametrize('case', FILES)
def test_bad_files(case, shop, tmp_path, capsys):
    for f in shop.glob('*.csv'): (tmp_path/f.name).write_bytes(f.read_bytes())
    name, text, words = FILES[case]
    (tmp_path/name).write_text(text)
    assert main(['run', *options(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert words in err and 'Traceback' not in err
    assert not (tmp_path/'out'/'report.html').exists()

def test_out_is_a_file(tmp_path, capsys):
    (tmp_path/'out').write_text('')
    assert main(['run', '--data', 'toy', '--encoder', 'tfidf', '--out', str(tmp_path/'out')]) == 2
    assert 'Traceback' not in capsys.readouterr().err

@pytest.mark.skipif(not Path('/dev/full').exists(), reason='no /dev/full here')
def test_full_disk(tmp_path, capsys, monkeypatch):
    "A write that fails leaves the old file, and no half of a new one."
    import llmrec.pipeline as p
    def full(*a, **k): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(p, 'write_recommendations', full)
    assert main(['run', '--data', 'toy', '--encoder', 'tfidf', '--out', str(tmp_path)]) == 2
    assert 'No space left' in capsys.readouterr().err
    assert not (tmp_path/'report.html').exists() and not list(tmp_path.rglob('*.tmp'))

def test_a_command_in_a_process_of_its_own():
    "The entry point hands the exit code to the shell."
    code = 'import sys; from llmrec.cli import main; sys.exit(main())'
    for args, wanted in ((['--version'], 0), ([], 0), (['fly'], 2), (['run', '--k', 'ten'], 2)):
        assert subprocess.run([sys.executable, '-c', code, *args], capture_output=True).returncode == wanted
