"""Lists as files: the same in CSV, JSON lines and Parquet, ids that join back, resumable, whole or not at all."""
import json
import numpy as np, pandas as pd, pytest
from llmrec import report
from llmrec.baselines import Popularity
from llmrec.closed_form import EASE
from llmrec.core import InputError
from llmrec.data import Domain, make_synthetic_pair
from llmrec.recommender import Recommender
from llmrec.report import item_titles, list_frame, write_recommendations

@pytest.fixture(scope='module')
def rec():
    t = make_synthetic_pair(0, n_users=(20, 30), n_items=(20, 20)).target
    items = t.items.assign(item='-' + t.items['item'], title=['Emma', 'Emma', *t.items['title'][2:]], year=np.arange(len(t.items)) + 1990)
    t = Domain('feed', t.log.assign(user='@' + t.log['user'], item='-' + t.log['item']), items)
    return Recommender(None, experts=lambda d, b, s: [Popularity(), EASE(10.)]).fit(t)

def read(path):
    if path.suffix == '.csv': return pd.read_csv(path)
    return pd.read_json(path, lines=True) if path.suffix == '.jsonl' else pd.read_parquet(path)

@pytest.mark.parametrize('name', ['r.csv', 'r.jsonl', 'r.parquet'])
def test_every_kind_holds_the_same_lists(name, rec, tmp_path):
    users = rec.data.users.tolist()
    write_recommendations(rec, users, 3, tmp_path/name, block=7)
    found, want = read(tmp_path/name), list_frame(rec, users, 3)
    assert list(found.columns) == ['user', 'rank', 'item', 'title', 'score'] and len(found) == len(want) == 3*len(users)
    assert found['user'].tolist() == want['user'].tolist() and found['item'].isin(rec.items).all()
    assert np.allclose(found['score'], want['score'], atol=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == [name]

def test_items_of_one_title_are_told_apart(rec):
    assert sorted(t for t in item_titles(rec).values() if t.startswith('Emma')) == ['Emma (1990)', 'Emma (1991)']
    assert len(set(item_titles(rec).values())) == len(rec.items)

def test_a_stopped_run_goes_on(rec, tmp_path, monkeypatch):
    users, asked = rec.data.users.tolist(), []
    whole = report.list_frame
    def failing(rec, users, *a, **kw):
        asked.append(len(users))
        if len(asked) == 3: raise KeyboardInterrupt
        return whole(rec, users, *a, **kw)
    monkeypatch.setattr(report, 'list_frame', failing)
    with pytest.raises(KeyboardInterrupt): write_recommendations(rec, users, 3, tmp_path/'r.jsonl', block=7)
    assert not (tmp_path/'r.jsonl').exists()
    write_recommendations(rec, users, 3, tmp_path/'r.jsonl', block=7)
    assert sum(asked[3:]) == len(users) - 14                 # two blocks were there
    assert len(read(tmp_path/'r.jsonl')) == 3*len(users)

def test_blocks_of_another_job_are_not_mixed_in(rec, tmp_path, monkeypatch):
    users, whole = rec.data.users.tolist(), report._join
    def stop(*a): raise OSError('disk full')
    monkeypatch.setattr(report, '_join', stop)
    with pytest.raises(OSError): write_recommendations(rec, users, 3, tmp_path/'r.jsonl', block=7)
    monkeypatch.setattr(report, '_join', whole)
    write_recommendations(rec, users, 2, tmp_path/'r.jsonl', block=7)
    assert len(read(tmp_path/'r.jsonl')) == 2*len(users)

@pytest.mark.parametrize('name, word', [('r.xlsx', 'ending'), ('nowhere/r.csv', 'no folder')])
def test_files_that_cannot_be_written_are_refused_before_the_work(name, word, rec, tmp_path):
    with pytest.raises(InputError, match=word): write_recommendations(rec, rec.data.users, 3, tmp_path/name)

def test_the_command(rec, tmp_path, capsys):
    from llmrec.cli import main
    rec.save(tmp_path/'m')
    assert main(['recommend', '--model', str(tmp_path/'m'), '--all', '--out', str(tmp_path/'r.parquet'), '--k', '2']) == 0
    assert read(tmp_path/'r.parquet')['user'].nunique() == len(rec.data.users)
    assert main(['recommend', '--model', str(tmp_path/'m'), '--all']) == 2 and '--out' in capsys.readouterr().err
    user = rec.data.users[0]
    assert main(['recommend', '--model', str(tmp_path/'m'), '--user=' + user, '--out', str(tmp_path/'one.jsonl')]) == 0
    assert json.loads((tmp_path/'one.jsonl').read_text().splitlines()[0])['user'] == user
