"Sweeps on a real Dask cluster: workers and drivers that die, two sweeps at once, workers of another version."

import contextlib, json, os, re, signal, subprocess, sys, time, uuid
from pathlib import Path
import nbformat
import psutil
import pytest
from sabr.run.sweep import main

HERE = Path(__file__).parent.parent
ENV = os.environ | dict(
    OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join([str(HERE), os.environ.get('PYTHONPATH', '')]), PYTHONUNBUFFERED='1'
)
# as the stages do, it notes that its work is done: a kernel may outlive its killed worker for a second, and finish
CODE = """import os, time
if not os.path.exists(out_dir + '/result'):
    time.sleep(wait); open(out_dir + '/log.txt', 'a').write('end\\n'); open(out_dir + '/result', 'w').close()"""


def notebook(path):
    nb = nbformat.v4.new_notebook(
        metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python'))
    )
    nb.cells = [
        nbformat.v4.new_code_cell(
            "out_dir: str = '.'\nx: int = 0\nwait: float = .3\nseed: int = 0", metadata=dict(tags=['parameters'])
        ),
        nbformat.v4.new_code_cell(CODE),
    ]
    nbformat.write(nb, path)


def study(folder, n=24, wait=0.3):
    notebook(folder / 'wait.ipynb')
    (folder / 'study.yml').write_text(
        f"notebooks: {folder}/wait.ipynb\nparameters: {{wait: {wait}}}\ngrid: {{x: {list(range(n // 2))}}}\nseeds: 2\n"
    )
    return folder / 'study.yml'


def driver(path, out, *more):
    p = subprocess.Popen(
        [
            sys.executable,
            '-c',
            'import sys; from sabr.run.sweep import main; sys.exit(main(sys.argv[1:]))',
            str(path),
            '--out',
            str(out),
            *more,
        ],
        env=ENV | dict(PYTHONFAULTHANDLER='1', SWEEP=(name := uuid.uuid4().hex)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    p.name = name
    return p


def ended(p, seconds=240) -> str:
    "All that a driver printed. One that does not end fails the test, and prints what every thread of every process it started, orphans too, is doing."
    try:
        return p.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        code, left = (
            p.poll(),
            [
                q
                for q in psutil.process_iter(['environ', 'cmdline'])
                if (q.info['environ'] or {}).get('SWEEP') == p.name
            ],
        )
    for q in reversed(left):
        with contextlib.suppress(psutil.NoSuchProcess):
            q.send_signal(signal.SIGABRT)
            time.sleep(0.5)  # faulthandler prints and ends it; some follow on their own
    pytest.fail(
        f"{seconds} s, exit code {code}, left: {[(q.pid, q.info['cmdline'][-3:]) for q in left]}\n{p.communicate(timeout=30)[0]}",
        pytrace=False,
    )


def finished(out):
    return sum('"status": "done"' in p.read_text() for p in Path(out).glob('*/*/run.json'))


def wait_for(condition, seconds=120):
    t0 = time.time()
    while not condition():
        assert time.time() - t0 < seconds, 'took too long'
        time.sleep(0.1)


def check(out, n):
    "n complete runs, none of them done twice, nothing torn"
    runs = sorted(Path(out).glob('*/*/run.json'))
    assert len(runs) == n
    for r in runs:
        assert json.loads(r.read_text())['status'] == 'done'
        assert (r.parent / 'log.txt').read_text().count('end') == 1, r
        nbformat.validate(nbformat.read(r.parent / 'wait.ipynb', 4))
    assert not [p for p in Path(out).rglob('*.tmp')]


@pytest.fixture
def cluster(tmp_path):
    "A scheduler and a function that starts workers."
    procs, file = [], tmp_path / 'scheduler.json'
    start = lambda *a, env=ENV: (
        procs.append(
            subprocess.Popen(
                [sys.executable, '-m', 'dask', *a],
                env=env,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=tmp_path,
            )
        )
        or procs[-1]
    )
    start('scheduler', '--host', '127.0.0.1', '--port', '0', '--no-dashboard', '--scheduler-file', str(file))
    wait_for(file.exists)
    address = json.loads(file.read_text())['address']

    def worker(env=ENV):
        return start(
            'worker',
            address,
            '--nthreads',
            '1',
            '--no-nanny',
            '--no-dashboard',
            '--memory-limit',
            '0',
            '--local-directory',
            str(tmp_path),
            env=env,
        )

    worker.scheduler = procs[0]
    yield address, worker
    for p in procs:
        p.kill()


def test_deaths(tmp_path, cluster):
    "One worker is killed in the middle, then the driver; the same command finishes the study."
    address, worker = cluster
    path, out = study(tmp_path), tmp_path / 'out'
    first, _ = worker(), worker()
    a = driver(path, out, '--scheduler', address)
    wait_for(lambda: finished(out) >= 4)
    first.send_signal(signal.SIGKILL)
    n = finished(out)
    wait_for(lambda: finished(out) >= n + 4)
    os.killpg(a.pid, signal.SIGKILL)
    a.wait()
    assert finished(out) < 24
    worker()
    b = driver(path, out, '--scheduler', address)
    text = ended(b)
    assert b.returncode == 0, text
    assert '24 done, 0 failed' in text
    check(out, 24)


def test_local_driver_killed(tmp_path):
    "A cluster of this machine dies with its driver, and the next call goes on."
    path, out = study(tmp_path, 8), tmp_path / 'out'
    a = driver(path, out, '--workers', '2')
    wait_for(lambda: finished(out) >= 2)
    a.kill()
    a.wait()
    b = driver(path, out, '--workers', '2')
    text = ended(b)
    assert b.returncode == 0, text
    check(out, 8)


def test_two_sweeps_at_once(tmp_path):
    path, out = study(tmp_path, 8), tmp_path / 'out'
    both = [driver(path, out, '--workers', '1') for _ in range(2)]
    for p in both:
        text = ended(p)
        assert p.returncode == 0 and '8 done, 0 failed' in text, text
    check(out, 8)


def test_other_version(tmp_path, cluster):
    "A worker with another version is named and gets nothing; alone, it is an error."
    address, worker = cluster
    path, out = study(tmp_path, 2), tmp_path / 'out'
    (tmp_path / 'other/sabr').mkdir(parents=True)
    (tmp_path / 'other/sabr/__init__.py').write_text("__version__ = '9.9'\n")
    worker(env=ENV | dict(PYTHONPATH=os.pathsep.join([str(tmp_path / 'other'), os.environ.get('PYTHONPATH', '')])))
    a = driver(path, out, '--scheduler', address)
    text = ended(a, 120)
    assert a.returncode == 1 and 'it has sabr 9.9' in text and 'no worker has this version' in text, text
    worker()
    from distributed import Client

    with Client(address, set_as_default=False) as c:
        c.wait_for_workers(2, timeout=60)
    b = driver(path, out, '--scheduler', address)
    text = ended(b, 120)
    assert b.returncode == 0 and text.count('it has sabr 9.9') == 1, text
    check(out, 2)


def test_mixed_cluster_and_scheduler_killed(tmp_path, cluster):
    "Beside a worker of another version the only good one dies and is replaced; then the scheduler goes: one line, and the next call finishes."
    address, worker = cluster
    path, out = study(tmp_path, 12), tmp_path / 'out'
    (tmp_path / 'other/sabr').mkdir(parents=True)
    (tmp_path / 'other/sabr/__init__.py').write_text("__version__ = '9.9'\n")
    good = worker()
    worker(env=ENV | dict(PYTHONPATH=os.pathsep.join([str(tmp_path / 'other'), os.environ.get('PYTHONPATH', '')])))
    from distributed import Client

    with Client(address, set_as_default=False) as c:
        c.wait_for_workers(2, timeout=60)
    a = driver(path, out, '--scheduler', address)
    wait_for(lambda: finished(out) >= 2)
    good.kill()
    n = finished(out)
    worker()
    wait_for(lambda: finished(out) >= n + 2)
    worker.scheduler.kill()
    text = ended(a, 120)
    assert (
        a.returncode == 1 and 'the scheduler is gone' in text and 'Traceback' not in text and 'failed ' not in text
    ), text
    b = driver(path, out, '--workers', '2')
    text = ended(b)
    assert b.returncode == 0, text
    check(out, 12)


def test_run_that_kills_its_worker_and_one_that_cannot_be_written(tmp_path, capsys):
    path = study(tmp_path, 2)
    out = tmp_path / 'out'
    nb = nbformat.read(tmp_path / 'wait.ipynb', 4)
    nb.cells[1].source = "import os, signal\nif x == 0: os.kill(os.getpid(), signal.SIGKILL)"
    nbformat.write(nb, tmp_path / 'wait.ipynb')
    path.write_text(path.read_text().replace('{x: [0]}', '{x: [0, 1]}').replace('seeds: 2', 'seeds: 1'))
    assert main([str(path), '--out', str(out), '--workers', '1']) == 1
    said = capsys.readouterr().out
    assert 'its kernel died' in said and '1 done, 1 failed' in said
    (tmp_path / 'file').write_text('')
    assert main([str(path), '--out', str(tmp_path / 'file/out')]) == 1
    assert re.search('sabr_sweep: .*file/out', capsys.readouterr().err)


@pytest.mark.slow
def test_study_of_phantoms(tmp_path):
    "The 24 trainings of studies/phantoms.yml on a cluster of this machine: one worker is killed, then the driver, then the same command finishes the study."
    from safetensors.numpy import load_file

    path, out, t0 = HERE / 'nbs/experiments/studies/phantoms.yml', tmp_path / 'out', time.time()
    said = lambda *a: print(f'{time.time() - t0:5.0f} s', *a, flush=True)
    workers = lambda p: [
        c for c in psutil.Process(p.pid).children(recursive=True) if 'spawn_main' in ' '.join(c.cmdline())
    ]
    a = driver(path, out, '--workers', '2')
    wait_for(lambda: finished(out) >= 5, 1200)
    victim = workers(a)[0]
    victim.kill()
    said('killed a worker;', finished(out), 'done')
    n = finished(out)
    wait_for(lambda: finished(out) >= n + 6, 1200)
    a.kill()
    first, _ = a.communicate()
    n = finished(out)
    said('killed the driver;', n, 'done')
    assert n < 24
    b = driver(path, out, '--workers', '2')
    second = ended(b, 2400)
    said('finished')
    assert b.returncode == 0, second
    states = [json.loads(p.read_text()) for p in out.glob('*/*/run.json')]
    said(len(states), 'runs; attempts', sorted(s['attempt'] for s in states))
    print(first + second)
    assert len(states) == 24 and all(s['status'] == 'done' and 0 < s['result']['dice'] < 1 for s in states)
    assert max(s['attempt'] for s in states) >= 2
    for k in (s['key'] for s in states):
        assert len(re.findall(f'^done +{k}', first + second, re.M)) <= 1, k
    for p in out.rglob('*.safetensors'):
        assert load_file(p)
    for p in out.rglob('*.ipynb'):
        nbformat.validate(nbformat.read(p, 4))
    assert not [p for p in out.rglob('*') if '.tmp' in p.name]
