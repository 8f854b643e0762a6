"What stands around the notebooks: the package, its pinned environment and how it is made, the README, the check that all is in step."

import ast, importlib, json, os, shutil, subprocess, sys, zipfile
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path
import nbformat, pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as canonical

ROOT = Path(__file__).resolve().parent.parent
CFG = ConfigParser(delimiters=['='])
CFG.read(ROOT / 'settings.ini')
CFG = CFG['DEFAULT']
PINS = {
    canonical(r.name): r
    for r in (Requirement(l) for l in (ROOT / 'constraints.txt').read_text().splitlines() if l and l[0] != '#')
}
RUN, DEV = ([Requirement(r) for r in CFG[k].split()] for k in ('requirements', 'dev_requirements'))


def run(*cmd, ok=True, **kw):
    done = subprocess.run([str(c) for c in cmd], capture_output=True, text=True, **kw)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done.stdout + done.stderr


# --- the package -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "A wheel built as for a plain install, from a copy of what the package is made of"
    src = tmp_path_factory.mktemp('src')
    for n in ('setup.py', 'pyproject.toml', 'settings.ini', 'LICENSE'):
        shutil.copy(ROOT / n, src / n)
    shutil.copytree(ROOT / 'sabr', src / 'sabr', ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copytree(ROOT / 'nbs' / 'experiments', src / 'nbs' / 'experiments')
    nbformat.write(new_notebook(), src / 'nbs' / 'experiments' / '99_proof.ipynb')
    run(
        sys.executable,
        '-m',
        'pip',
        'wheel',
        '-q',
        '--no-deps',
        '--no-build-isolation',
        '--no-index',
        '-w',
        src / 'dist',
        src,
    )
    return zipfile.ZipFile(next((src / 'dist').glob('*.whl')))


def test_wheel_holds_package_and_experiments(wheel):
    names = set(wheel.namelist())
    assert {f'sabr/{p.name}' for p in (ROOT / 'sabr').glob('*.py')} <= names
    assert {f'sabr/experiments/{p.name}' for p in (ROOT / 'nbs' / 'experiments').glob('*.ipynb')} <= names
    assert 'sabr/experiments/99_proof.ipynb' in names
    assert {n.split('/')[0].split('-')[0] for n in names} == {'sabr'}, 'nothing is installed outside of sabr/'


def test_wheel_metadata(wheel):
    read = lambda end: wheel.read(next(n for n in wheel.namelist() if n.endswith(end))).decode()
    meta = read('METADATA')
    assert f"Version: {CFG['version']}\n" in meta and 'Apache-2.0' in meta
    for v in ('3.11', '3.12', '3.13'):
        assert f'Python :: {v}\n' in meta
    assert 'sabr_run = sabr.run.command:main' in read(
        'entry_points.txt'
    ) and 'sabr_predict = sabr.use.predict:main' in read('entry_points.txt')


def test_commands_exist():
    for script in CFG['console_scripts'].split():
        module, func = script.split('=')[1].split(':')
        assert callable(getattr(importlib.import_module(module), func))


def test_every_import_is_a_requirement():
    by_module = metadata.packages_distributions()
    known = {canonical(r.name) for r in RUN}
    for path in (ROOT / 'sabr').rglob('*.py'):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        found = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
        found |= {n.module for n in nodes if isinstance(n, ast.ImportFrom) and not n.level}
        for top in {f.split('.')[0] for f in found} - set(sys.stdlib_module_names) - {'sabr', 'IPython'}:
            assert known & {canonical(d) for d in by_module.get(top, [top])}, (
                f'{path.name} imports {top}: add it to settings.ini'
            )


# --- what it needs ---------------------------------------------------------------------------------------------------------


def test_constraints_pin_exactly():
    for r in PINS.values():
        assert [s.operator for s in r.specifier] == ['=='], f'constraints.txt: {r} is not pinned'


@pytest.mark.parametrize('req', RUN + DEV, ids=lambda r: r.name)
def test_range_starts_at_the_tested_release(req):
    (pin,) = PINS[canonical(req.name)].specifier
    assert f'>={pin.version}' in {str(s) for s in req.specifier}, (
        f'settings.ini: {req}, but the tests run with {pin.version}'
    )
    assert req.specifier.contains(pin.version)


def test_environment_is_the_pinned_one():
    "Every distribution of the environment that make built has the pinned release"
    if not (Path(sys.prefix) / 'sabr-env').exists():
        pytest.skip('these tests do not run in the environment that make builds')
    found = {canonical(d.name): d.version for d in metadata.distributions()}
    found.pop('sabr', None)
    wrong = {n: v for n, v in found.items() if n not in PINS or not PINS[n].specifier.contains(v)}
    assert not wrong, f'not as in constraints.txt: {wrong}'


# --- making the environment ------------------------------------------------------------------------------------------------

FAKE = '''#!/bin/sh
echo "${0##*/} $*" >> "$LOG"
case "$*" in
    "-c import sys"*) exit {fits} ;;
    "-V") echo "Python 3.12.0" ;;
    "-m venv --without-pip "*) mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; touch "$4/nopip" ;;
    "-m venv "*) {venv}; mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    "-m pip --version") [ ! -e "${0%/bin/*}/nopip" ] ;;
    "-m pip --python "*) {host_pip} && rm "${4%/bin/*}/nopip" ;;
    *-e*) {install} ;;
    "-m virtualenv"*) exit 1 ;;
esac
'''


class Bench:
    "A copy of what tools/setup_env.sh needs, and a PATH that has nothing but the interpreters it is given"

    def __init__(self, root):
        self.root, self.bin, self.log = root / 'project', root / 'bin', root / 'log'
        (self.root / 'tools').mkdir(parents=True)
        self.bin.mkdir()
        for n in ('tools/setup_env.sh', 'constraints.txt', 'settings.ini', 'setup.py'):
            shutil.copy(ROOT / n, self.root / n)
        for n in 'sh awk cat cmp mkdir rm mv cp touch id dirname'.split():
            (self.bin / n).symlink_to(shutil.which(n))

    def python(self, name, fits=0, venv='true', host_pip='false', install='true'):
        text = FAKE
        for k, v in dict(fits=fits, venv=venv, host_pip=host_pip, install=install).items():
            text = text.replace('{%s}' % k, str(v))
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def make(self, ok=True, **env):
        "What was said, and the calls that were made"
        self.log.write_text('')
        said = run(
            shutil.which('sh'),
            self.root / 'tools' / 'setup_env.sh',
            ok=ok,
            env=dict(PATH=str(self.bin), LOG=str(self.log), **env),
        )
        return said, self.log.read_text()


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_environment_is_made_once(bench):
    bench.python('python3')
    said, calls = bench.make()
    assert 'once' in said and "-e .[dev]" in calls and '-c constraints.txt' in calls
    said, calls = bench.make()
    assert said == '' and '-m' not in calls


@pytest.mark.parametrize(
    'name,old,new',
    [
        ('constraints.txt', 'tqdm==', 'tqdm==9'),
        ('settings.ini', 'tqdm>=', 'tqdm>=9'),
        ('settings.ini', 'run:main', 'run:other'),
    ],
)
def test_environment_is_remade_after_a_change(bench, name, old, new):
    bench.python('python3')
    bench.make()
    (bench.root / '.venv' / 'old').touch()
    (bench.root / name).write_text((bench.root / name).read_text().replace(old, new))
    said, calls = bench.make()
    assert 'making it again' in said and '-e .[dev]' in calls and not (bench.root / '.venv' / 'old').exists()


def test_other_settings_do_not_remake_it(bench):
    bench.python('python3')
    bench.make()
    (bench.root / 'settings.ini').write_text(
        (bench.root / 'settings.ini').read_text().replace('description = ', 'description = New: ')
    )
    assert bench.make()[0] == ''


def test_interrupted_installation_is_made_again(bench):
    bench.python('python3', install='exit 1')
    assert 'did not finish' in bench.make(ok=False)[0]
    bench.python('python3')
    assert 'was not finished' in bench.make()[0]
    assert bench.make()[0] == ''


def test_moved_project_is_made_again(bench):
    bench.python('python3')
    bench.make()
    bench.root = bench.root.rename(bench.root.with_name('moved'))
    assert 'another place' in bench.make()[0]


def test_foreign_environment_is_left_alone(bench):
    bench.python('python3')
    (bench.root / '.venv').mkdir()
    (bench.root / '.venv' / 'mine').touch()
    assert 'was not made by this Makefile' in bench.make(ok=False)[0] and (bench.root / '.venv' / 'mine').exists()


def test_interpreter_that_fits_is_found(bench):
    bench.python('python3', fits=1)
    bench.python('python3.13', fits=127)
    bench.python('python3.12')
    assert 'python3.12 -m venv' in bench.make()[1]


def test_python3_is_preferred_and_PYTHON_decides(bench):
    bench.python('python3')
    bench.python('python3.13')
    assert 'python3 -m venv' in bench.make(PYTHON='')[1]
    shutil.rmtree(bench.root / '.venv')
    assert 'python3.13 -m venv' in bench.make(PYTHON='python3.13')[1]
    shutil.rmtree(bench.root / '.venv')
    bench.python('python3.13', fits=1)
    assert 'PYTHON=python3.13' in bench.make(ok=False, PYTHON='python3.13')[0]


def test_no_interpreter_says_what_to_do(bench):
    said, _ = bench.make(ok=False)
    assert (
        'no Python 3.11, 3.12 or 3.13 found' in said
        and 'apt-get install' in said
        and not (bench.root / '.venv').exists()
    )


def test_python_without_venv_uses_the_hosts_pip(bench):
    bench.python('python3', venv='exit 1', host_pip='true')
    assert '-m pip --python .venv/bin/python install -q pip' in bench.make()[1]


def test_python_without_venv_or_pip_says_what_to_do(bench):
    bench.python('python3', venv='exit 1')
    said, _ = bench.make(ok=False)
    assert (
        said.splitlines()[-1].endswith("run 'sudo apt-get install python3-venv' and try again")
        and not (bench.root / '.venv').exists()
    )


# --- README and check ------------------------------------------------------------------------------------------------------

PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=='


@pytest.fixture(scope='module')
def in_step(tmp_path_factory):
    "A project of two notebooks in step with its package"
    tmp_path = tmp_path_factory.mktemp('tiny')
    (tmp_path / 'nbs' / 'images').mkdir(parents=True)
    (tmp_path / 'data' / 'sets' / 'big').mkdir(parents=True)
    (tmp_path / 'nbs' / 'images' / 'a.png').write_bytes(b'picture')
    (tmp_path / 'data' / 'sets' / 'README.md').write_text('about')
    shutil.copy(ROOT / 'settings.ini', tmp_path)
    cells = [
        new_markdown_cell(
            '# title\n\n> what for\n\n![a](images/a.png) [core](00_core.ipynb) [set](../data/sets/README.md) '
            '[out](https://example.org/a) `[code](x)` <img src="images/a.png">'
        ),
        new_code_cell('#| hide\nsecret = 1'),
        new_code_cell('tagged = 1', metadata=dict(tags=['hide'])),
        new_code_cell("#| eval: false\nprint('said')", outputs=[new_output('stream', text='\x1b[31msaid\x1b[0m\n')]),
        new_code_cell(
            '#| echo: false\nhidden_code()',
            outputs=[new_output('execute_result', data={'text/plain': 'shown', 'text/html': '<b>x</b>'})],
        ),
        new_code_cell(
            'draw()', outputs=[new_output('display_data', data={'image/png': PNG, 'text/plain': '<Figure>'})]
        ),
        new_markdown_cell('```\n[not a link](nowhere)\n```'),
    ]
    core = [
        new_code_cell('#| default_exp core'),
        new_markdown_cell('# core\n\n> first'),
        new_code_cell('#| export\ndef one(): return 1'),
    ]
    for name, cs in (('index', cells), ('00_core', core)):
        for i, c in enumerate(cs):
            c['id'] = f'{i:08x}'
        nb = new_notebook(
            cells=cs, metadata=dict(kernelspec=dict(display_name='python3', language='python', name='python3'))
        )
        nbformat.write(nb, tmp_path / 'nbs' / f'{name}.ipynb')
    env = {k: v for k, v in os.environ.items() if k not in ('IN_TEST', 'PYTHONPATH')}
    run(
        sys.executable,
        '-c',
        'import nbdev.clean, nbdev.doclinks; nbdev.clean.nbdev_clean(); nbdev.doclinks.nbdev_export()',
        cwd=tmp_path,
        env=env,
    )
    run(sys.executable, ROOT / 'tools' / 'build_readme.py', tmp_path)
    return tmp_path


@pytest.fixture
def tiny(in_step, tmp_path):
    return Path(shutil.copytree(in_step, tmp_path / 'tiny'))


def test_readme(tiny):
    text = (tiny / 'README.md').read_text()
    assert (
        'nbs/images/a.png)' in text
        and '(nbs/00_core.ipynb)' in text
        and '(data/sets/README.md)' in text
        and 'src="nbs/images/a.png"' in text
    )
    assert '(https://example.org/a)' in text and '`[code](x)`' in text and '[not a link](nowhere)' in text
    assert "```python\nprint('said')\n```" in text and '```text\nsaid\n```' in text and '```text\nshown\n```' in text
    for gone in ('secret', 'tagged', 'hidden_code', '#|', '<b>', '<Figure>', '\x1b'):
        assert gone not in text
    (picture,) = (tiny / 'nbs' / 'images').glob('index_*')
    assert f'(nbs/images/{picture.name})' in text


def test_readme_with_a_dead_link_fails(tiny):
    path = tiny / 'nbs' / 'index.ipynb'
    path.write_text(path.read_text().replace('00_core.ipynb', '00_gone.ipynb'))
    before = (tiny / 'README.md').read_text()
    assert 'nbs/00_gone.ipynb' in run(sys.executable, ROOT / 'tools' / 'build_readme.py', tiny, ok=False)
    assert (tiny / 'README.md').read_text() == before


def check(tiny, ok=True):
    return run(sys.executable, ROOT / 'tools' / 'check_sync.py', tiny, ok=ok)


def test_check_passes_when_in_step(tiny):
    before = {p: p.read_bytes() for p in tiny.rglob('*') if p.is_file()}
    assert 'in step' in check(tiny)
    assert {p: p.read_bytes() for p in tiny.rglob('*') if p.is_file()} == before, 'the check changes nothing'


def test_check_shows_every_difference(tiny):
    "Text edited by hand, a notebook that is not clean, code that was not exported, a module whose notebook is gone, one that is missing"

    def edit(name, old, new):
        text = (tiny / name).read_text()
        assert old in text
        (tiny / name).write_text(text.replace(old, new))

    shutil.copy(tiny / 'sabr' / 'core.py', tiny / 'sabr' / 'stale.py')
    (tiny / 'sabr' / '_modidx.py').unlink()
    edit('sabr/core.py', 'return 1', 'return 2')
    edit('README.md', 'what for', 'edited')
    edit('nbs/index.ipynb', '"execution_count": null', '"execution_count": 7')
    edit('nbs/00_core.ipynb', 'return 1', 'return 3')
    said = check(tiny, ok=False).splitlines()
    for line in (
        '-def one(): return 2',
        '+def one(): return 3',
        '-> edited',
        '+> what for',
        '-   "execution_count": 7,',
    ):
        assert line in said
    assert 'sabr/stale.py: comes from no notebook' in said and 'sabr/_modidx.py: is missing' in said
    assert 'make sync (and remove sabr/stale.py)' in said[-1] and not any(
        'nbs/00_core.ipynb' in l and l[:3] == '---' for l in said
    )


def test_check_names_a_broken_notebook(tiny):
    (tiny / 'nbs' / '00_core.ipynb').write_text('{')
    assert 'nbs/00_core.ipynb is not a notebook' in check(tiny, ok=False)


# --- commands --------------------------------------------------------------------------------------------------------------


def test_make_alone_lists_the_targets():
    said = run('make', '-C', ROOT, '--no-print-directory')
    for target in 'demo test lab bench bench-quick readme clean help'.split():
        assert f'make {target} ' in said


def test_make_bench_writes_records(tmp_path):
    if not (ROOT / '.venv' / 'sabr-env').exists():
        pytest.skip('there is no environment built by make')
    said = run(
        'make',
        '-C',
        ROOT,
        'bench',
        f'OUT={tmp_path}',
        'ARGS=--models tiny,monai_unet --sizes 32 --batches 1 --precisions fp32',
    )
    records = json.loads((tmp_path / 'bench.json').read_text())
    assert [tuple(r) for r in records] == [
        (
            'model',
            'image_size',
            'batch',
            'mode',
            'precision',
            'device',
            'median_s',
            'peak_mb',
            'gflop',
            'params',
            'ratio_to_paper',
        )
    ] * 5
    assert {r['mode'] for r in records} == {'forward', 'train', 'step'} and all(r['median_s'] > 0 for r in records)
    assert (
        (tmp_path / 'bench.csv').exists() and (tmp_path / 'bench.png').stat().st_size > 10_000 and str(tmp_path) in said
    )


def test_ci_runs_the_readmes_command():
    lines = [l for l in (ROOT / '.ci' / 'run').read_text().splitlines() if l and l[0] != '#']
    assert lines[-1] == 'exec make test' and os.access(ROOT / '.ci' / 'run', os.X_OK)
