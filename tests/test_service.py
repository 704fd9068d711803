"""The service: answers of one snapshot, feedback that counts at once, requests that are refused, pages from nowhere else."""
import copy, json, logging, re, signal, subprocess, sys, threading, urllib.request
from html.parser import HTMLParser
from pathlib import Path
import numpy as np, pandas as pd, pytest
pytest.importorskip('fastapi')
import llmrec
from fastapi.testclient import TestClient
from llmrec.baselines import Content, ItemKNN, Popularity
from llmrec.core import InputError
from llmrec.data import Domain, make_synthetic_pair
from llmrec.online import Online
from llmrec.recommender import Recommender
from llmrec.service import Event, FeedbackRequest, Journal, RecommendRequest, Service, load_service, make_app

ROOT = Path(__file__).resolve().parents[1]
ATTACK = '</script><script>alert(1)</script>"\'&'
few = lambda data, budget, seed: [Popularity(), Content(), ItemKNN()]

def fitted(numbers=False):
    "A small model; ids are texts, or whole numbers."
    d = make_synthetic_pair(0, n_users=(30, 40), n_items=(20, 30), n_rows=(5, 6)).target
    if numbers:
        at = {k: {x: i + 1 for i, x in enumerate(d.items['item'] if k == 'item' else d.log['user'].unique())} for k in ('user', 'item')}
        d = Domain('numbers', d.log.assign(user=d.log['user'].map(at['user']), item=d.log['item'].map(at['item'])),
                   d.items.assign(item=d.items['item'].map(at['item'])))
    items = d.items.assign(title=[ATTACK, *d.items['title'][1:]])
    return Recommender('tfidf', strategy='target', experts=few).fit(Domain(d.name, d.log, items))

@pytest.fixture(scope='module')
def rec(): return fitted()
@pytest.fixture(scope='module')
def rec_numbers(): return fitted(True)

def browser(service): return TestClient(make_app(service), base_url='http://localhost', raise_server_exceptions=False)
@pytest.fixture
def client(rec): return browser(Service(rec))

def ids(answer): return [x['item'] for x in answer.json()['items']]


def test_lists_are_those_of_the_recommender(rec, client):
    user = rec.data.users[3]
    for more in ({}, dict(exclude_seen=False)):
        a = client.post('/recommend', json=dict(user=user, k=7, **more))
        items, scores = rec.recommend(user, 7, **more)
        assert ids(a) == list(items) and np.allclose([x['score'] for x in a.json()['items']], scores, atol=1e-4)
        assert a.json()['known'] is True and [x['rank'] for x in a.json()['items']] == list(range(1, 8))
    history = list(rec.items[:3])
    assert ids(client.post('/recommend', json=dict(history=history))) == list(rec.recommend_from_history(history)[0])
    assert ids(client.post('/similar', json=dict(item=rec.items[2]))) == list(rec.similar(rec.items[2])[0])
    assert ids(client.post('/text', json=dict(text='moon'))) == list(rec.recommend_from_text('moon')[0])
    new = client.post('/recommend', json=dict(user='nobody'))
    assert new.json()['known'] is False and ids(new) == list(rec.recommend('nobody')[0])

def test_an_explanation_adds_up(rec, client):
    user, item = rec.data.users[3], rec.items[5]
    a = client.post('/explain', json=dict(user=user, item=item)).json()
    assert abs(sum(x['part'] for x in a['parts']) - a['score']) < 1e-3 and a['sentences'] and a['reason']
    assert a['title'] == rec.data.table['title'][5]
    why = client.post('/recommend', json=dict(user=user, k=3, why=True)).json()
    assert all(x['reason'] for x in why['items'])

def test_an_address_asks_the_same(rec, client):
    user, item = rec.data.users[3], rec.items[5]
    for path, body in (('recommend', dict(user=user, k=4)), ('recommend', dict(history=[item, rec.items[6]])), ('similar', dict(item=item)),
                       ('text', dict(text='moon')), ('explain', dict(user=user, item=item))):
        assert client.get(f'/{path}', params=body).json() == client.post(f'/{path}', json=body).json()

def test_ids_keep_their_type(rec_numbers):
    client = browser(Service(rec_numbers))
    for user in (3, '3'):
        a = client.post('/recommend', json=dict(user=user))
        assert a.json()['known'] and ids(a) == [int(x) for x in rec_numbers.recommend(3)[0]]
    item = int(rec_numbers.recommend(3, 1)[0][0])
    assert client.post('/feedback', json=dict(events=[dict(user='3', item=str(item))])).status_code == 200
    assert item not in ids(client.get('/recommend?user=3'))
    refused = client.post('/feedback', json=dict(events=[dict(user='Ann', item=item)]))
    assert refused.status_code == 422 and "user 'Ann' is no whole number" in refused.json()['detail']
    assert client.get('/health').json()['users'] == len(rec_numbers.data.users)


def test_feedback_counts_at_once_and_leaves_the_model_alone(rec, client):
    user = rec.data.users[3]
    before, first = list(rec.recommend(user)[0]), rec.recommend(user, 1)[0][0]
    written = client.post('/feedback', json=dict(events=[dict(user=user, item=first)])).json()
    after = client.post('/recommend', json=dict(user=user))
    assert written == dict(version=1, events=1) and after.json()['version'] == 1 and first not in ids(after)
    other = copy.copy(rec)
    other.update(pd.DataFrame(dict(user=[user], item=[first])))
    assert ids(after) == list(other.recommend(user)[0]) and list(rec.recommend(user)[0]) == before
    assert client.get('/health').json()['events'] == 1

def test_a_user_who_is_new_is_known_afterwards(rec, client):
    assert client.post('/feedback', json=dict(events=[dict(user='new', item=rec.items[0])])).status_code == 200
    a = client.post('/recommend', json=dict(user='new'))
    assert a.json()['known'] and rec.items[0] not in ids(a)

def test_what_is_declined_does_not_come_back_until_it_is_taken(rec, client):
    user, first = rec.data.users[3], rec.recommend(rec.data.users[3], 1)[0][0]
    client.post('/feedback', json=dict(events=[dict(user=user, item=first, action='decline')]))
    full = client.post('/recommend', json=dict(user=user, k=30, exclude_seen=False))
    assert first not in ids(full) and ids(full) == [x for x in Online_of(rec, user, first) if x is not None]
    assert first in ids(client.post('/recommend', json=dict(user=rec.data.users[4], k=30, exclude_seen=False)))
    client.post('/feedback', json=dict(events=[dict(user=user, item=first)]))
    assert first in ids(client.post('/recommend', json=dict(user=user, k=30, exclude_seen=False)))

def Online_of(rec, user, item): return list(Online(rec).dislike(user, item).recommend([user], 30, exclude_seen=False)[0][0])

def test_all_of_a_request_counts_or_none(rec, client):
    good, bad = dict(user='x', item=rec.items[0]), dict(user='x', item='nonsense')
    a = client.post('/feedback', json=dict(events=[good, bad]))
    assert a.status_code == 422 and "'nonsense' is not in the catalogue" in a.json()['detail']
    assert client.get('/health').json() | dict(seconds=0) == dict(status='ok', name='llmrec', llmrec=llmrec.__version__, version=0,
                                                                  items=30, users=len(rec.data.users), events=0, seconds=0)
    assert client.get('/recommend?user=x').json()['known'] is False

def test_a_wrong_neighbour_in_a_batch_harms_nobody(rec):
    s = Service(rec)
    ask = [RecommendRequest(user='u', k=3), RecommendRequest(user='u', k=3, kind='?'), RecommendRequest(user=rec.data.users[0], k=2)]
    one, error, two = s.recommend_all(ask)
    assert isinstance(error, InputError) and len(one[1].items) == 3 and len(two[1].items) == 2
    events = [FeedbackRequest(events=[Event(user='a', item=i)]) for i in (rec.items[0], 'no', rec.items[1])]
    a, b, c = s.write_all(events)
    assert (a.version, c.version, s.events) == (1, 1, 2) and isinstance(b, InputError)

def test_readers_and_writers_at_once(rec):
    "Every answer is that of the version it names; a writer's next list knows what was written."
    service = Service(rec)
    versions, wrong, stop = {0: rec}, [], threading.Event()
    users = list(rec.data.users[:8])
    answers = []
    with browser(service) as client:
        def read(number):
            rng = np.random.default_rng(number)
            while not stop.is_set():
                u = users[rng.integers(len(users))]
                a = client.post('/recommend', json=dict(user=u, k=5))
                answers.append((u, a.status_code, a.json()))
        threads = [threading.Thread(target=read, args=[i]) for i in range(8)]
        for t in threads: t.start()
        for turn in range(12):
            u = users[turn % len(users)]
            item = client.post('/recommend', json=dict(user=u, k=1)).json()['items'][0]['item']
            v = client.post('/feedback', json=dict(events=[dict(user=u, item=item)])).json()['version']
            now = client.post('/recommend', json=dict(user=u, k=5)).json()
            if now['version'] < v or item in [x['item'] for x in now['items']]: wrong.append((u, item))
            versions[v] = service.now.rec
        stop.set()
        for t in threads: t.join()
    assert not wrong and len(answers) > 8 and len(versions) == 13
    expected = {v: dict(zip(users, r.recommend(users, 5)[1])) for v, r in versions.items()}
    for u, status, a in answers:
        assert status == 200 and np.allclose([x['score'] for x in a['items']], expected[a['version']][u], atol=1e-4)


def test_a_journal_outlives_the_process(rec, tmp_path, caplog):
    path = tmp_path/'feedback.jsonl'
    one = browser(Service(rec, journal=path))
    one.post('/feedback', json=dict(events=[dict(user='new', item=rec.items[0]), dict(user='new', item=rec.items[1], action='decline')]))
    with open(path, 'a') as f: f.write('{"user":"new","it')
    with caplog.at_level(logging.WARNING): two = browser(Service(rec, journal=path))
    assert 'cut off' in caplog.text and path.read_text().endswith('}\n') and not path.stat().st_mode & 0o077
    assert two.get('/health').json()['events'] == 2
    assert ids(two.get('/recommend?user=new')) == ids(one.get('/recommend?user=new'))
    two.post('/feedback', json=dict(events=[dict(user='new', item=rec.items[2])]))
    assert len(Journal(path).read()) == 3
    path.write_text('{"user":"new","item":"gone"}\n' + path.read_text())
    with caplog.at_level(logging.WARNING): assert Service(rec, journal=path).events == 3
    assert '1 of 4 events are not of this model' in caplog.text
    path.write_text('nonsense\n')
    with pytest.raises(InputError, match='line 1 is no feedback'): Service(rec, journal=path)
    for wrong in (tmp_path, tmp_path/'no'/'file'):
        with pytest.raises(InputError, match='journal'): Service(rec, journal=wrong)

def test_a_saved_model_brings_what_was_declined(rec, tmp_path):
    user, first = rec.data.users[3], rec.recommend(rec.data.users[3], 1)[0][0]
    Online(rec).dislike(user, first).save(tmp_path/'m')
    a = browser(load_service(tmp_path/'m')).get(f'/recommend?user={user}&k=30&exclude_seen=false')
    assert first not in ids(a)


BAD = [('/recommend', {}), ('/recommend', dict(user='a', history=['b'])), ('/recommend', dict(user='a', k=0)), ('/recommend', dict(user='a', k=101)),
       ('/recommend', dict(user='a', k='ten')), ('/recommend', dict(user=True)), ('/recommend', dict(user=1.5)), ('/recommend', dict(user='')),
       ('/recommend', dict(user='a'*201)), ('/recommend', dict(user='0\x1fa')), ('/feedback', dict(events=[dict(user='\n', item='f0001')])), ('/recommend', dict(user=2**63)), ('/recommend', dict(user=['a'])), ('/recommend', dict(user='a', more=1)),
       ('/recommend', dict(history=[])), ('/recommend', dict(history=['f0001']*501)), ('/recommend', dict(history=['nonsense'])),
       ('/recommend', dict(user='a', kind='nonsense')), ('/similar', {}), ('/similar', dict(item='nonsense')), ('/similar', dict(item='f0001', by='magic')),
       ('/text', dict(text='')), ('/text', dict(text=' ')), ('/text', dict(text='x'*1001)), ('/text', dict(text=7)), ('/explain', dict(user='a')),
       ('/explain', dict(user='a', item='nonsense')), ('/feedback', {}), ('/feedback', dict(events=[])), ('/feedback', dict(events=[{}])),
       ('/feedback', dict(events=[dict(user='a', item='f0001', action='hate')])), ('/feedback', dict(events=[dict(user='a', item='f0001')]*1001)),
       ('/feedback', [1]), ('/feedback', 'x'), ('/recommend', None)]

@pytest.mark.parametrize('path, body', BAD, ids=[f'{p}-{str(b)[:40]}' for p, b in BAD])
def test_what_cannot_be_answered_is_refused_in_one_sentence(client, path, body):
    a = client.post(path, json=body)
    assert a.status_code == 422, a.text
    said = a.json()['detail']
    assert isinstance(said, str) and 0 < len(said) <= 600 and 'Traceback' not in said and '\n' not in said

@pytest.mark.parametrize('raw', [b'', b'{', b'\xff\xfe', b'{"user": NaN}', b'[' * 100_000, b'null'])
def test_what_is_no_request_is_refused(client, raw):
    a = client.post('/recommend', content=raw, headers={'content-type': 'application/json'})
    assert a.status_code in (400, 422) and len(a.text) < 700

def test_sizes_are_limited_whatever_a_request_says_of_itself(client):
    big = json.dumps(dict(text='x'*2**21)).encode()
    assert client.post('/text', content=big, headers={'content-type': 'application/json'}).status_code == 413
    parts = (big[i:i + 2**16] for i in range(0, len(big), 2**16))        # no length said
    a = client.post('/text', content=parts, headers={'content-type': 'application/json'})
    assert a.status_code == 413 and '1,048,576 bytes' in a.json()['detail']

def test_only_its_own_name_is_answered(client):
    assert client.get('/health', headers=dict(host='evil.example')).status_code == 400
    for host in ('localhost:8000', '127.0.0.1:9', '[::1]:8000'): assert client.get('/health', headers=dict(host=host)).status_code == 200

def test_another_site_cannot_write(rec, client):
    "A form or a simple request of a foreign page is no JSON; nothing allows it to read answers."
    body = json.dumps(dict(events=[dict(user='a', item=rec.items[0])]))
    a = client.post('/feedback', content=body, headers={'content-type': 'text/plain', 'origin': 'http://evil.example'})
    assert a.status_code == 422 and client.get('/health').json()['events'] == 0
    assert 'access-control-allow-origin' not in client.get('/health', headers=dict(origin='http://evil.example')).headers


class Page(HTMLParser):
    "Tags, addresses and texts of a page."
    def __init__(self, html):
        super().__init__(); self.tags, self.urls = [], []
        self.feed(html)
    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.urls += [v for k, v in attrs if k in ('href', 'src', 'action')]

@pytest.mark.parametrize('path', ['/', '/docs'])
def test_pages_ask_nobody_else(client, path):
    a = client.get(path)
    page = Page(a.text)
    assert a.status_code == 200 and not [u for u in page.urls if '//' in u]
    assert "default-src 'none'" in a.headers['content-security-policy'] and 'unsafe' not in a.headers['content-security-policy']
    for u in page.urls:
        if not u.startswith(('data:', '#')): assert client.get('/' + u.removeprefix('./')).status_code == 200, u
    assert all(not attrs or 'src' in attrs for tag, attrs in page.tags if tag == 'script')          # no script in the page
    assert not any(k.startswith('on') or k == 'style' for _, attrs in page.tags for k in attrs)      # the policy would block them
    assert '<script>alert' not in a.text                                                           # the title of the first item
    assert any(tag == 'meta' and attrs.get('name') == 'viewport' for tag, attrs in page.tags)

def test_script_and_style_ask_nobody_else(client):
    for path in ('/page.js', '/page.css'):
        text = client.get(path).text
        assert not re.search(r'https?:|//[a-z]|@import|url\(|innerHTML|eval\(', text), path
    assert 'prefers-color-scheme:dark' in text

def contrast(a, b):
    def light(c): return sum(w*(x/12.92 if x <= .04045 else ((x + .055)/1.055)**2.4) for w, x in zip((.2126, .7152, .0722), c))
    c = [[int(h[i:i + 2], 16)/255 for i in (0, 2, 4)] for h in ([x*2 for x in y[1:]] if len(y) == 4 else [y[1:]] for y in (a, b)) for h in [''.join(h)]]
    low, high = sorted(map(light, c))
    return (high + .05)/(low + .05)

def test_the_page_can_be_read_in_light_and_dark(client):
    css = client.get('/page.css').text
    for theme in re.findall(r':root\{([^}]*)\}', css):
        v = dict(re.findall(r'--(\w+):(#\w+)', theme))
        for fore, ground in (('fg', 'bg'), ('fg', 'card'), ('soft', 'bg'), ('soft', 'card'), ('main', 'bg'), ('on', 'main')):
            assert contrast(v[fore], v[ground]) >= 4.5, (fore, ground, v)

def test_the_requests_are_described(client):
    spec = client.get('/openapi.json').json()
    assert set(spec['paths']) == {'/recommend', '/similar', '/text', '/explain', '/feedback', '/health'}
    docs = client.get('/docs').text
    for path, methods in spec['paths'].items():
        assert f'<code>{path}</code>' in docs and all(m['summary'] for m in methods.values())
    for text in ('integer, from 1, to 100', 'string, not empty, up to 1000 characters', 'Length of the list. Default: 10.', 'Required.'): assert text in docs, text
    ids_ = [m['operationId'] for p in spec['paths'].values() for m in p.values()]
    assert len(ids_) == len(set(ids_))
    examples = re.findall(r'data-path="(\w+)"[^>]*>\s*<textarea[^>]*>(.*?)</textarea>', docs, re.S)
    import html
    for path, body in examples: assert client.post(f'/{path}', json=json.loads(html.unescape(body))).status_code == 200, path
    assert len(examples) == 5


def test_the_command(rec, tmp_path):
    "It says where it listens, answers there, refuses a port that is taken, and stops when told."
    rec.save(tmp_path/'m')
    code = 'import sys; from llmrec.cli import main; sys.exit(main(sys.argv[1:]))'
    args = [sys.executable, '-c', code, 'serve', '--model', str(tmp_path/'m'), '--journal', str(tmp_path/'j')]
    p = subprocess.Popen([*args, '--port', '0'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
                         preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))     # tests in the background ignore it
    try:
        url = re.search(r'http://127\.0\.0\.1:(\d+)', p.stdout.readline())
        assert json.load(urllib.request.urlopen(url[0] + '/health'))['name'] == 'm'
        taken = subprocess.run([*args, '--port', url[1]], capture_output=True, text=True, cwd=ROOT)
        assert taken.returncode == 2 and '--port' in taken.stderr and len(taken.stderr.splitlines()) == 1
        p.send_signal(2)
        assert p.wait(60) == 130 and 'Traceback' not in p.stderr.read()
    finally: p.kill()

def test_what_is_missing_is_said(monkeypatch, tmp_path, capsys):
    from llmrec.cli import main
    assert main(['serve', '--model', str(tmp_path/'no')]) == 2
    monkeypatch.setitem(sys.modules, 'llmrec.service', None)
    monkeypatch.delitem(sys.modules, 'llmrec.service')
    monkeypatch.setitem(sys.modules, 'fastapi', None)
    assert main(['serve', '--model', str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert 'pip install "llmrec[serve]"' in said and 'Traceback' not in said
