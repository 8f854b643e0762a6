"""A whole run end to end: what it leaves behind, going on after a kill, a full disk, wrong parameters, wrong data."""

import errno, json, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pandas as pd, pytest
from PIL import Image
from safetensors.torch import load_file
from sabr import stages
from sabr.run.config import RunConfig, stage_notes
from sabr.core import SabrError, find_data, load_json
from sabr.run.command import main

SMALL = dict(image_size=32, steps=6, batch_size=2, epochs=2, device='cpu')
PHANTOM = dict(data_options=dict(n_patients=10, size=64))
METRICS = {'dice', 'jaccard', 'precision', 'recall', 'hd95', 'asd', 'n_misses'}


def options(**kw):
    return [s for k, v in kw.items() for s in (f'--{k}', json.dumps(v) if isinstance(v, dict) else str(v))]


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp('run') / 'r'
    assert main(options(out_dir=out, **SMALL, **PHANTOM)) == 0
    return out


def test_run_folder_is_complete(run):
    names = {str(p.relative_to(run)) for p in run.rglob('*') if p.is_file()}
    want = {
        'config.json',
        'history.csv',
        'per_case.csv',
        'metrics.json',
        'stages.json',
        'splits.csv',
        'run.log',
        'inception.safetensors',
        'figures/cases.png',
    }
    want |= {f'{s}.safetensors' for s in ('pretrain', 'finetune', 'refine', 'supervised')}
    want |= {f'{n}.ipynb' for n in ('00_inception', '01_pretrain', '02_finetune', '03_refine', '04_test')}
    assert want <= names
    assert not [n for n in names if n.endswith(('.ckpt', '.tmp'))]


def test_metrics(run):
    m = load_json(run / 'metrics.json')
    assert m['unit'] == 'mm' and m['tool'].startswith('MONAI')
    for split in ('validation', 'test'):
        assert METRICS <= set(m[split]['mean']) and set(m[split]['classes']) == {'lv', 'myo', 'la'}
        assert all(METRICS <= set(c) for c in m[split]['classes'].values()) and m[split]['n_cases'] > 0
        assert m[split]['mean']['dice'] == pytest.approx(np.mean([c['dice'] for c in m[split]['classes'].values()]))
    assert set(m['wall_s']) == {'inception', 'pretrain', 'finetune', 'supervised', 'refine', 'test'}
    assert {'supervised', 'pretrain', 'finetune', 'refine', 'refine_best'} <= set(m['stages'])


def test_per_case_agrees_with_metrics(run):
    t, m = pd.read_csv(run / 'per_case.csv'), load_json(run / 'metrics.json')
    t = t[(t.stage == m['final_stage']) & (t.split == 'test')]
    assert t.dice.mean() == pytest.approx(m['test']['mean']['dice'])
    assert set(t.split) == {'test'} and t.case.nunique() == m['test']['n_cases']


def test_config_and_history(run):
    c = load_json(run / 'config.json')
    assert c['parameters']['steps'] == 6 and c['environment']['packages']['torch'] and c['data_fingerprint']
    h = pd.read_csv(run / 'history.csv')
    assert h.groupby('stage').size().to_dict() == dict(pretrain=2, finetune=2, supervised=2, refine=1)
    lines = (run / 'run.log').read_text().splitlines()
    assert sum(' epoch ' in l for l in lines) == 7


def test_second_call_does_nothing_again(run, capsys):
    t = (run / 'refine.safetensors').stat().st_mtime_ns
    assert main(options(out_dir=run, **SMALL, **PHANTOM)) == 0
    assert (run / 'refine.safetensors').stat().st_mtime_ns == t and 'done already' in capsys.readouterr().out


def test_other_parameters_are_refused(run, capsys):
    assert main(options(out_dir=run, **SMALL | dict(steps=7), **PHANTOM)) == 1
    assert 'steps=6 there, 7 here' in capsys.readouterr().err


def test_papermill_refuses_an_unknown_parameter(tmp_path):
    import papermill as pm

    nb = Path(__file__).parent.parent / 'nbs' / 'experiments' / '01_pretrain.ipynb'
    with pytest.raises(pm.PapermillExecutionError, match="Did you mean 'batch_size'"):
        pm.execute_notebook(
            str(nb), str(tmp_path / 'x.ipynb'), dict(batchsize=4), progress_bar=False, kernel_name='python3'
        )


def test_predicts_without_notebook_packages(run, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70), np.uint8)).save(tmp_path / 'a.png')
    code = (
        "import sys; from sabr.use.predict import main; main(sys.argv[1:]);"
        "print([m for m in ('IPython', 'matplotlib', 'ipywidgets', 'fastai', 'monai') if m in sys.modules])"
    )
    r = subprocess.run(
        [sys.executable, '-c', code, str(run), str(tmp_path / 'a.png'), '--out_dir', str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert r.stdout.splitlines()[-1] == '[]', r.stderr
    assert np.array(Image.open(tmp_path / 'a_seg.png')).shape == (50, 70)


def test_goes_on_after_sigkill(tmp_path):
    "A process killed in the middle of pretraining and called again ends with the weights of one that was left alone."
    kw = SMALL | PHANTOM | dict(epochs=6, steps=12)
    code = "import sys, json; from sabr import stages; from sabr.run.config import RunConfig; stages.pretrain(RunConfig(**json.loads(sys.argv[1])), bar=False)"
    start = lambda name: subprocess.Popen(
        [sys.executable, '-c', code, json.dumps(kw | dict(out_dir=str(tmp_path / name)))]
    )
    p = start('torn')
    for _ in range(600):
        if (tmp_path / 'torn' / 'pretrain.ckpt').exists() or p.poll() is not None:
            break
        time.sleep(0.1)
    p.send_signal(signal.SIGKILL)
    p.wait()
    assert 'pretrain' not in stage_notes(tmp_path / 'torn'), 'the kill came too late to prove anything'
    assert start('torn').wait() == 0 and start('whole').wait() == 0
    assert 'goes on after epoch' in (tmp_path / 'torn' / 'run.log').read_text()
    a, b = (load_file(tmp_path / n / 'pretrain.safetensors') for n in ('torn', 'whole'))
    assert all((a[k] == b[k]).all() for k in a)


def test_full_disk_at_the_end_of_training(tmp_path, monkeypatch):
    "The weights cannot be written: one clear error, nothing lost, and the next call does not train again."
    import sabr.nets.model

    cfg = RunConfig(out_dir=str(tmp_path / 'r'), **SMALL, **PHANTOM)
    real = sabr.nets.model.save

    def full(*a, **k):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(sabr.nets.model, 'save', full)
    with pytest.raises(SabrError, match='pretrain.safetensors.*Free some space'):
        stages.pretrain(cfg, bar=False)
    history = (tmp_path / 'r' / 'history.csv').read_text()
    assert (tmp_path / 'r' / 'pretrain.ckpt').exists()
    monkeypatch.setattr(sabr.nets.model, 'save', real)
    stages.pretrain(cfg, bar=False)
    assert (tmp_path / 'r' / 'history.csv').read_text() == history and (
        tmp_path / 'r' / 'pretrain.safetensors'
    ).exists()


# --- wrong data: one line each, before anything is trained ------------------------------------------------------


def folder(tmp, n=12, patients=None, mask=lambda i: True):
    (tmp / 'images').mkdir(parents=True)
    (tmp / 'masks').mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        Image.fromarray(rng.integers(0, 255, (40, 40), np.uint8)).save(tmp / 'images' / f'c{i}.png')
        m = np.zeros((40, 40), np.uint8)
        m[10:30, 10:30] = 255
        if mask(i):
            Image.fromarray(m).save(tmp / 'masks' / f'c{i}.png')
    pd.DataFrame(dict(case=[f'c{i}' for i in range(n)], patient=[(patients or str)(i) for i in range(n)])).to_csv(
        tmp / 'list.csv', index=False
    )
    return tmp


def refused(capsys, path, *words, **kw):
    code = main(options(dataset='folder', data_path=path, out_dir=path / 'run', **SMALL | kw))
    err = capsys.readouterr().err
    assert code == 1 and len(err.strip().splitlines()) == 1, err
    for w in words:
        assert w in err, err
    assert not (path / 'run' / 'pretrain.ckpt').exists()


def test_one_patient_only(tmp_path, capsys):
    refused(capsys, folder(tmp_path / 'd', patients=lambda i: 'p1'), 'patient', 'three are needed')


def test_fewer_labelled_than_a_batch(tmp_path):
    "They come more than once in it, and this is said"
    with pytest.warns(UserWarning, match='batch_size=8, but there are only . training images with a label'):
        assert (
            main(
                options(
                    dataset='folder',
                    data_path=folder(tmp_path / 'd'),
                    out_dir=tmp_path / 'run',
                    **SMALL | dict(batch_size=8, label_fraction=0.2),
                )
            )
            == 0
        )
    assert (tmp_path / 'run' / 'metrics.json').exists()


def test_no_mask_in_a_labelled_role(tmp_path, capsys):
    d = folder(tmp_path / 'd', mask=lambda i: i != 3)
    t = pd.read_csv(d / 'list.csv')
    t['split'] = ['test' if i < 4 else 'valid' if i < 6 else 'train' for i in range(len(t))]
    t.to_csv(d / 'list.csv', index=False)
    refused(capsys, d, 'c3', 'no mask in a labelled role')


def test_truncated_image(tmp_path, capsys):
    d = folder(tmp_path / 'd')
    p = d / 'images' / 'c5.png'
    p.write_bytes(p.read_bytes()[:400])
    refused(capsys, d, 'c5.png', "on_bad='warn'")


def test_sizes_differ(tmp_path, capsys):
    d = folder(tmp_path / 'd')
    Image.new('L', (20, 20)).save(d / 'masks' / 'c2.png')
    refused(capsys, d, 'c2.png', '20')


def test_undeclared_label(tmp_path, capsys):
    d = folder(tmp_path / 'd')
    m = np.zeros((40, 40), np.uint8)
    m[:9], m[9:15] = 1, 7
    Image.fromarray(m).save(d / 'masks' / 'c2.png')
    refused(capsys, d, 'c2.png', '7', data_options=dict(classes=['a', 'b'], labels={'0': 0, '1': 1, '2': 2, '255': 1}))


def test_empty_folder(tmp_path, capsys):
    (tmp_path / 'd').mkdir()
    refused(capsys, tmp_path / 'd', 'd')


def test_bad_files_may_be_left_out(tmp_path):
    "With on_bad='warn' the run goes on, and the list of what was left out can be read."
    d = folder(tmp_path / 'd', n=16)
    p = d / 'images' / 'c5.png'
    p.write_bytes(p.read_bytes()[:400])
    cfg = RunConfig(dataset='folder', data_path=str(d), out_dir=str(d / 'run'), on_bad='warn', **SMALL)
    with pytest.warns(UserWarning, match='1 of 16 cases'):
        data = stages.load_data(cfg)
    assert len(data.cases) == 15 and data.cache.bad.case.tolist() == ['c5']


# --- real data, where there are any ------------------------------------------------------------------------------


@pytest.mark.parametrize('name,unit', [('camus', 'mm'), ('busi', 'px'), ('ddti', 'px')])
def test_real_data(name, unit, tmp_path):
    path = find_data(name)
    if path is None:
        pytest.skip(f'no real {name} images here (data/{name}/README.md says where to get them)')
    cfg = RunConfig(
        dataset=name,
        data_path=str(path),
        out_dir=str(tmp_path / 'r'),
        label_fraction=0.5,
        **SMALL | dict(steps=2, epochs=1),
    )
    data = stages.load_data(cfg)
    stages.pretrain(cfg, False, data)
    per_case = stages.score_cases(
        data.cases[data.cases.split == 'test'].head(4), lambda row, im: np.zeros(im.shape, np.uint8), progress=False
    )
    assert set(per_case.unit) == {unit} and per_case.dice.between(0, 1).all()
    if name == 'camus':
        assert data.cases.groupby('split').patient.nunique().to_dict() == dict(train=3, valid=1, test=1)
