"""The comparison as a stranger uses it: two folders of images and masks, a CSV that says whose image it is, one command."""

import json
import numpy as np, pandas as pd, pytest
from PIL import Image, ImageDraw
from sabr.evidence.ablate import DEFAULT_PARTS, FREE_PARTS
from sabr.evidence.compare import main
from safetensors.numpy import load_file
from sabr.evidence.protocol import METHODS
from sabr.methods.rivals import RIVALS

PATIENTS, OF_EACH = 14, 2


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp('mine'), np.random.default_rng(0)
    rows = []
    for sub in ('images', 'masks'):
        (root / sub).mkdir()
    for p in range(PATIENTS):
        for k in range(OF_EACH):
            mask = Image.new('L', (50, 40))
            x, y = rng.integers(5, 25, 2)
            ImageDraw.Draw(mask).ellipse((x, y, x + 18, y + 12), fill=255)
            image = np.clip(rng.normal(90, 30, (40, 50)) - 60 * (np.asarray(mask) > 0), 0, 255).astype('uint8')
            Image.fromarray(image).save(root / 'images' / f'{p}_{k}.png')
            mask.save(root / 'masks' / f'{p}_{k}.png')
            rows.append(dict(case=f'{p}_{k}', patient=f'person{p}'))
    pd.DataFrame(rows).to_csv(root / 'list.csv', index=False)
    return root


@pytest.fixture(scope='module')
def done(data, tmp_path_factory):
    out = tmp_path_factory.mktemp('compare')
    rc = main(
        [
            '--dataset',
            'folder',
            '--data_path',
            str(data),
            '--out',
            str(out),
            '--protocol',
            'tiny',
            '--seeds',
            '0',
            '--ablate',
            '--stress',
        ]
    )
    assert rc == 0
    return out


def test_every_method_is_there(done):
    t = pd.read_csv(done / 'compare.csv')
    assert list(
        t
    ) == 'dataset,protocol,method,label_fraction,seed,dice,jaccard,hd95,asd,n_misses,image_passes,wall_s'.split(',')
    assert set(t.method) == set(METHODS) and set(RIVALS) < set(METHODS) and t.image_passes.nunique() == 1
    assert t[t.label_fraction == 1].method.tolist() == ['supervised'] and not (done / 'failed.json').exists()


def test_differences_are_of_patients(done, data):
    t = pd.read_csv(done / 'compare_stats.csv')
    splits = pd.read_csv(done / 'default_0.5_0' / 'splits.csv', dtype=str)
    assert list(t)[:9] == 'dataset,protocol,label_fraction,method,rival,diff,lo,hi,p_holm'.split(',')
    assert (
        set(t.rival) == set(METHODS) - {'default'}
        and (t.n_patients == splits[splits.split == 'test'].patient.nunique()).all()
    )
    assert splits.groupby('patient').split.nunique().max() == 1


def test_tables_of_ablation_and_stress(done):
    a, s = pd.read_csv(done / 'ablate.csv'), pd.read_csv(done / 'stress.csv')
    assert set(DEFAULT_PARTS) | set(FREE_PARTS['default']) == set(a.part) and {
        'dataset',
        'protocol',
        'label_fraction',
        'seed',
        'dice',
        'hd95',
    } < set(a)
    assert set(s.method) == set(METHODS) and set(s.coverage) == {0, 0.2, 0.4, 0.6} and set(s.depth_db) == {0, 12, 30}
    d, r = pd.read_csv(done / 'stress_stats.csv'), pd.read_csv(done / 'real_shadows.csv')
    assert (
        set(d.rival) == set(METHODS) - {'default'}
        and {'diff', 'lo', 'hi', 'p_holm', 'diff_loss', 'p_holm_loss'} < set(d)
        and (d.n_seeds == 1).all()
    )
    assert (
        set(r.method) == set(METHODS)
        and set(r.third) == {'shadow', 'between', 'enhancement'}
        and r.dice.between(0, 1).all()
    )
    assert (
        (done / 'ablate.png').stat().st_size
        and (done / 'compare.png').stat().st_size
        and (done / 'stress.png').stat().st_size
        and 'toprule' in (done / 'compare.tex').read_text()
    )


def test_the_test_split_is_the_same_for_all(done):
    first, *others = [pd.read_csv(p, dtype=str) for p in sorted(done.glob('*_0.5_0/splits.csv'))]
    assert others
    for o in others:
        pd.testing.assert_frame_equal(first, o)


def test_labels_of_unlabelled_images_do_not_matter(data, done, tmp_path):
    "Spoil the masks of the unlabelled training images: nothing that is learnt may change"
    import shutil

    spoilt = tmp_path / data.name
    shutil.copytree(data, spoilt)
    splits = pd.read_csv(done / 'default_0.5_0' / 'splits.csv', dtype=str)
    for case in splits[splits.labelled == 'False'].case:
        Image.new('L', (50, 40), 255).save(spoilt / 'masks' / f'{case}.png')
    methods, a, b = ('default', 'bcp', 'unimatch'), tmp_path / 'a', tmp_path / 'b'
    how = json.dumps(
        dict(warm=0.0, finetune_steps=8, loss_weights=dict(consistency=1.0))
    )  # the teacher is asked from the first step on
    for path, out in ((data, a), (spoilt, b)):
        assert (
            main(
                [
                    '--dataset',
                    'folder',
                    '--data_path',
                    str(path),
                    '--out',
                    str(out),
                    '--protocol',
                    'tiny',
                    '--seeds',
                    '0',
                    '--methods',
                    ','.join(methods),
                    '--set',
                    how,
                ]
            )
            == 0
        )
    old, new = (pd.read_csv(out / 'compare.csv').set_index('method').dice for out in (a, b))
    for m in methods:
        assert old[m] == new[m], m
    h = pd.read_csv(a / 'default_0.5_0' / 'history.csv')
    assert (h[h.stage == 'finetune'].consistency > 0).all()
    for stage in ('pretrain', 'finetune', 'refine'):
        x, y = (load_file(out / 'default_0.5_0' / f'{stage}.safetensors') for out in (a, b))
        assert all((x[k] == y[k]).all() for k in x), stage


def test_mistakes_are_named(data, tmp_path, capsys):
    assert main(['--dataset', 'folder', '--data_path', str(data), '--out', str(tmp_path), '--methods', 'defualt']) == 1
    assert "Did you mean 'default'?" in capsys.readouterr().err
    assert main(['--out', str(tmp_path), '--set', json.dumps(dict(stepz=3))]) == 1
    assert "Did you mean 'steps'?" in capsys.readouterr().err
