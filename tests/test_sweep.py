"Sweeps on a real Dask cluster: workers and drivers that die, two sweeps at once, workers of another version."

import contextlib, json, os, re, signal, subprocess, sys, time, uuid
from pathlib import Path
import nbformat
import psutil
import pytest
from distributed import Client
from safetensors.numpy import load_file
from sabr.run.sweep import main

ROOT = Path(__file__).parent.parent
PYTHON_PATH = os.environ.get('PYTHONPATH', '')
ENVIRONMENT = os.environ | dict(
    OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join([str(ROOT), PYTHON_PATH]), PYTHONUNBUFFERED='1'
)
# The notebook notes that its work is done, as the stages do: a kernel may outlive its killed worker for a second, and
# finish.
PARAMETERS = "out_dir: str = '.'\nx: int = 0\nwait: float = .3\nseed: int = 0"
CODE = """import os, time
if not os.path.exists(out_dir + '/result'):
    time.sleep(wait)
    open(out_dir + '/log.txt', 'a').write('end\\n')
    open(out_dir + '/result', 'w').close()"""


def write_notebook(path):
    kernel = dict(name='python3', display_name='python3', language='python')
    notebook = nbformat.v4.new_notebook(metadata=dict(kernelspec=kernel))
    notebook.cells = [
        nbformat.v4.new_code_cell(PARAMETERS, metadata=dict(tags=['parameters'])),
        nbformat.v4.new_code_cell(CODE),
    ]
    nbformat.write(notebook, path)


def write_study(folder, n=24, wait=0.3):
    write_notebook(folder / 'wait.ipynb')
    path = folder / 'study.yml'
    path.write_text(
        f"notebooks: {folder}/wait.ipynb\nparameters: {{wait: {wait}}}\ngrid: {{x: {list(range(n // 2))}}}\nseeds: 2\n"
    )
    return path


def start_driver(path, out, *options):
    "The command `sabr_sweep` in a process of its own. All processes that it starts have its name in their environment."
    code = 'import sys; from sabr.run.sweep import main; sys.exit(main(sys.argv[1:]))'
    name = uuid.uuid4().hex
    driver = subprocess.Popen(
        [sys.executable, '-c', code, str(path), '--out', str(out), *options],
        env=ENVIRONMENT | dict(PYTHONFAULTHANDLER='1', SWEEP=name),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    driver.name = name
    return driver


def output(driver, seconds=600) -> str:
    """All that a driver prints until it ends. A driver that does not end fails the test. Then every thread of every
    process that it started, orphans too, prints what it is doing."""
    try:
        return driver.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        code = driver.poll()
    processes = psutil.process_iter(['environ', 'cmdline'])
    left = [process for process in processes if (process.info['environ'] or {}).get('SWEEP') == driver.name]
    for process in reversed(left):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGABRT)  # faulthandler prints and ends it; some others end on their own
            time.sleep(0.5)
    names = [(process.pid, process.info['cmdline'][-3:]) for process in left]
    text = driver.communicate(timeout=30)[0]
    pytest.fail(f'{seconds} s, exit code {code}, left: {names}\n{text}', pytrace=False)


def n_done(out):
    return sum('"status": "done"' in path.read_text() for path in Path(out).glob('*/*/run.json'))


def wait_for(condition, seconds=600):
    start = time.time()
    while not condition():
        assert time.time() - start < seconds, 'took too long'
        time.sleep(0.1)


def check_runs(out, n):
    "There are n complete runs. None was done twice, and no file is half written."
    records = sorted(Path(out).glob('*/*/run.json'))
    assert len(records) == n
    for record in records:
        assert json.loads(record.read_text())['status'] == 'done'
        assert (record.parent / 'log.txt').read_text().count('end') == 1, record
        nbformat.validate(nbformat.read(record.parent / 'wait.ipynb', 4))
    assert not list(Path(out).rglob('*.tmp'))


@pytest.fixture
def cluster(tmp_path):
    "The address of a scheduler, and a function that starts a worker."
    processes = []

    def start(*options, environment=ENVIRONMENT):
        process = subprocess.Popen(
            [sys.executable, '-m', 'dask', *options],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=tmp_path,
        )
        processes.append(process)
        return process

    file = tmp_path / 'scheduler.json'
    start('scheduler', '--host', '127.0.0.1', '--port', '0', '--no-dashboard', '--scheduler-file', str(file))
    wait_for(file.exists)
    address = json.loads(file.read_text())['address']
    options = f'--nthreads 1 --no-nanny --no-dashboard --memory-limit 0 --local-directory {tmp_path}'.split()

    def start_worker(environment=ENVIRONMENT):
        return start('worker', address, *options, environment=environment)

    start_worker.scheduler = processes[0]
    yield address, start_worker
    for process in processes:
        process.kill()


def other_version(folder):
    "The environment of a worker with sabr 9.9."
    package = folder / 'other/sabr'
    package.mkdir(parents=True)
    (package / '__init__.py').write_text("__version__ = '9.9'\n")
    return ENVIRONMENT | dict(PYTHONPATH=os.pathsep.join([str(package.parent), PYTHON_PATH]))


def wait_for_workers(address, n):
    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(n, timeout=300)


def test_deaths(tmp_path, cluster):
    "One worker is killed halfway, then the driver; the same command finishes the study."
    address, start_worker = cluster
    path, out = write_study(tmp_path), tmp_path / 'out'
    first = start_worker()
    start_worker()
    driver = start_driver(path, out, '--scheduler', address)
    wait_for(lambda: n_done(out) >= 4)
    first.send_signal(signal.SIGKILL)
    n = n_done(out)
    wait_for(lambda: n_done(out) >= n + 4)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    assert n_done(out) < 24
    start_worker()
    driver = start_driver(path, out, '--scheduler', address)
    text = output(driver)
    assert driver.returncode == 0, text
    assert '24 done, 0 failed' in text
    check_runs(out, 24)


def test_local_driver_killed(tmp_path):
    "A cluster of this machine dies with its driver, and the next call continues."
    path, out = write_study(tmp_path, 8), tmp_path / 'out'
    driver = start_driver(path, out, '--workers', '2')
    wait_for(lambda: n_done(out) >= 2)
    driver.kill()
    driver.wait()
    driver = start_driver(path, out, '--workers', '2')
    text = output(driver)
    assert driver.returncode == 0, text
    check_runs(out, 8)


def test_two_sweeps_at_once(tmp_path):
    "Both end with all runs done, and no run is done twice."
    path, out = write_study(tmp_path, 8), tmp_path / 'out'
    drivers = [start_driver(path, out, '--workers', '1') for _ in range(2)]
    for driver in drivers:
        text = output(driver)
        assert driver.returncode == 0 and '8 done, 0 failed' in text, text
    check_runs(out, 8)


def test_other_version(tmp_path, cluster):
    "A worker with another version is named and gets no runs. Where there is no other worker, that is an error."
    address, start_worker = cluster
    path, out = write_study(tmp_path, 2), tmp_path / 'out'
    start_worker(other_version(tmp_path))
    driver = start_driver(path, out, '--scheduler', address)
    text = output(driver, 120)
    assert driver.returncode == 1 and 'it has sabr 9.9' in text and 'no worker has this version' in text, text
    start_worker()
    wait_for_workers(address, 2)
    driver = start_driver(path, out, '--scheduler', address)
    text = output(driver, 120)
    assert driver.returncode == 0 and text.count('it has sabr 9.9') == 1, text
    check_runs(out, 2)


def test_mixed_cluster_and_scheduler_killed(tmp_path, cluster):
    """Beside a worker of another version, the only good one dies and is replaced. Then the scheduler dies: the driver
    prints one line and ends, and the next call finishes the study."""
    address, start_worker = cluster
    path, out = write_study(tmp_path, 12), tmp_path / 'out'
    good = start_worker()
    start_worker(other_version(tmp_path))
    wait_for_workers(address, 2)
    driver = start_driver(path, out, '--scheduler', address)
    wait_for(lambda: n_done(out) >= 2)
    good.kill()
    n = n_done(out)
    start_worker()
    wait_for(lambda: n_done(out) >= n + 2)
    start_worker.scheduler.kill()
    text = output(driver, 120)
    assert driver.returncode == 1 and 'the scheduler is gone' in text, text
    assert 'Traceback' not in text and 'failed ' not in text, text
    driver = start_driver(path, out, '--workers', '2')
    text = output(driver)
    assert driver.returncode == 0, text
    check_runs(out, 12)


def test_run_that_kills_its_kernel(tmp_path, capsys):
    "It fails with one line, and the other run is done."
    path, out = write_study(tmp_path, 2), tmp_path / 'out'
    notebook = nbformat.read(tmp_path / 'wait.ipynb', 4)
    notebook.cells[1].source = 'import os, signal\nif x == 0: os.kill(os.getpid(), signal.SIGKILL)'
    nbformat.write(notebook, tmp_path / 'wait.ipynb')
    path.write_text(path.read_text().replace('{x: [0]}', '{x: [0, 1]}').replace('seeds: 2', 'seeds: 1'))
    assert main([str(path), '--out', str(out), '--workers', '1']) == 1
    text = capsys.readouterr().out
    assert 'its kernel died' in text and '1 done, 1 failed' in text


def test_folder_that_cannot_be_written(tmp_path, capsys):
    "The error names the folder."
    path = write_study(tmp_path, 2)
    (tmp_path / 'file').write_text('')
    assert main([str(path), '--out', str(tmp_path / 'file/out')]) == 1
    assert re.search('sabr_sweep: .*file/out', capsys.readouterr().err)


def local_workers(driver):
    children = psutil.Process(driver.pid).children(recursive=True)
    return [child for child in children if 'spawn_main' in ' '.join(child.cmdline())]


@pytest.mark.slow
def test_study_of_phantoms(tmp_path):
    """The 24 trainings of studies/phantoms.yml on a cluster of this machine: one worker is killed, then the driver,
    then the same command finishes the study."""
    path, out, start = ROOT / 'nbs/experiments/studies/phantoms.yml', tmp_path / 'out', time.time()

    def report(*words):
        print(f'{time.time() - start:5.0f} s', *words, flush=True)

    driver = start_driver(path, out, '--workers', '2')
    wait_for(lambda: n_done(out) >= 5, 1200)
    local_workers(driver)[0].kill()
    n = n_done(out)
    report('killed a worker;', n, 'done')
    wait_for(lambda: n_done(out) >= n + 6, 1200)
    driver.kill()
    first, _ = driver.communicate()
    n = n_done(out)
    report('killed the driver;', n, 'done')
    assert n < 24
    driver = start_driver(path, out, '--workers', '2')
    second = output(driver, 2400)
    report('finished')
    assert driver.returncode == 0, second
    records = [json.loads(path.read_text()) for path in out.glob('*/*/run.json')]
    report(len(records), 'runs; attempts', sorted(record['attempt'] for record in records))
    print(first + second)
    check_trainings(out, records, first + second)


def check_trainings(out, records, text):
    "All trainings are done and have a score, none is reported twice, and all files can be read."
    assert len(records) == 24
    assert all(record['status'] == 'done' and 0 < record['result']['dice'] < 1 for record in records)
    assert max(record['attempt'] for record in records) >= 2
    for record in records:
        assert len(re.findall(f"^done +{record['key']}", text, re.M)) <= 1, record['key']
    for path in out.rglob('*.safetensors'):
        assert load_file(path)
    for path in out.rglob('*.ipynb'):
        nbformat.validate(nbformat.read(path, 4))
    assert not [path for path in out.rglob('*') if '.tmp' in path.name]
