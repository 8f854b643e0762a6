"""The widgets without a browser: values of controls are set from here, and what would be on the screen is looked at.

The run behind the case browser is made by hand (networks that have learnt nothing, real scores of theirs), so that this takes seconds."""

import io, shutil
import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np, pandas as pd, pytest, torch
from ipywidgets import Widget
from PIL import Image
from sabr import plots, widgets
from sabr.nets.boundary import RefineNet
from sabr.data.cache import build_cache
from sabr.run.config import RunConfig, open_run
from sabr.core import ConfigError, DataError
from sabr.data.readers import read_cases, read_image, read_mask
from sabr.judge.scores import score_cases
from sabr.use.predict import Predictor
from sabr.nets.model import SABRNet, preset, save_weights
from sabr.data.phantom import make_phantom
from sabr.shadow.imitate import geometries
from sabr.data.split import draw_labelled, save_splits, split_cases

STAGES = ('supervised', 'pretrain', 'finetune', 'refine', 'refine_best')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "The folder of a run that was tested"
    top = tmp_path_factory.mktemp('widgets')
    cfg = RunConfig(
        out_dir=str(top / 'run'),
        data_path=str(top / 'data'),
        image_size=32,
        device='cpu',
        data_options=dict(n_patients=6, size=64),
    )
    cases, cache = build_cache(
        read_cases(cfg.dataset, cfg.data_path, **cfg.data_options), 32, top / 'cache', progress=False
    )
    cases = draw_labelled(split_cases(cases), 0.5)
    out = open_run(cfg, cache.fingerprint)
    save_splits(cases, out / 'splits.csv')
    tables = []
    for i, stage in enumerate(STAGES):
        torch.manual_seed(i)
        net = SABRNet(preset('tiny', n_classes=4))
        meta = dict(classes=cases.attrs['classes'], image_size=32)
        if stage.startswith('refine'):
            net = RefineNet(net, 32)
            meta['refine_size'] = 32
        save_weights(net, out / f'{stage}.safetensors', **meta)
        predict = Predictor(out / f'{stage}.safetensors', device='cpu')
        tables.append(
            score_cases(cases[cases.split != 'train'], lambda row, image: predict(image), progress=False).assign(
                stage=stage
            )
        )
    pd.concat(tables).to_csv(out / 'per_case.csv', index=False)
    return out


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    plt.close('all')
    yield
    left = plt.get_fignums()
    plt.close('all')
    assert not left, 'a widget left figures open, each redraw would cost memory'


@pytest.fixture
def calls(monkeypatch):
    "Makes the plain functions note what they were called with"
    seen = []

    def watch(name):
        f = getattr(widgets, name)
        monkeypatch.setattr(widgets, name, lambda *a, **kw: seen.append((name, a, kw)) or f(*a, **kw))

    watch('shadow_view')
    watch('case_view')
    return seen


@pytest.fixture(scope='module')
def heart():
    images = np.stack([make_phantom(0, i, size=64).image for i in range(2)])
    return images, geometries(images)


def picture(ui):
    return np.asarray(Image.open(io.BytesIO(ui.picture.value)).convert('RGB'))


def drawn(fig, i, layer=0):
    return np.asarray(fig.axes[i].images[layer].get_array())


# --- shadows ---------------------------------------------------------------------------------------------------------------


def test_every_slider_calls_the_plain_function(heart, calls):
    ui = widgets.shadow_explorer(*heart)
    assert len(calls) == 1 and calls[0][2] == dict(mode='acoustic', coverage=0.3, strength_db=20, seed=0)
    before = picture(ui)
    assert before.shape[1] > 300 and before.std() > 20
    for name, value in dict(mode='freeform', coverage=0.6, seed=3, image=1).items():
        n, old = len(calls), ui.picture.value
        ui.controls[name].value = value
        assert len(calls) == n + 1 and ui.picture.value != old
        if name != 'image':
            assert calls[-1][2][name] == value
    assert (calls[-1][1][0] == heart[0][1]).all() and (calls[-1][1][1] == heart[1][1]).all()


def test_the_picture_is_that_of_the_plain_function(heart):
    ui = widgets.shadow_explorer(*heart)
    ui.controls['coverage'].value = 0.45
    ui.controls['strength_db'].value = 33
    assert ui.picture.value == widgets.png(widgets.shadow_view(heart[0][0], heart[1][0], coverage=0.45, strength_db=33))


def test_setting_the_same_value_draws_nothing(heart, calls):
    ui = widgets.shadow_explorer(*heart)
    ui.controls['seed'].value = 0
    assert len(calls) == 1


@pytest.mark.parametrize('mode', ['acoustic', 'freeform'])
@pytest.mark.parametrize('coverage', [0, 0.05, 0.4, 0.8])
def test_any_coverage_can_be_drawn(heart, mode, coverage):
    fig = widgets.shadow_view(heart[0][0], heart[1][0], mode, coverage)
    plt.close(fig)
    hidden = (drawn(fig, 2) == plots.HIDDEN).all(-1).mean()
    assert hidden <= coverage + 0.06 and (hidden > 0) == (coverage > 0)


def test_uint8_and_float_are_the_same_image(heart):
    a, b = (widgets.shadow_view(x, heart[1][0]) for x in (heart[0][0], heart[0][0] / np.float32(255)))
    plt.close('all')
    assert np.allclose(drawn(a, 1), drawn(b, 1))


def test_louder_occluders_are_darker(heart):
    mean = [drawn(widgets.shadow_view(heart[0][0], heart[1][0], strength_db=db), 1).mean() for db in (3, 12, 40)]
    plt.close('all')
    assert mean[0] > mean[1] > mean[2]


def test_unknown_mode(heart):
    with pytest.raises(ConfigError, match="Did you mean 'acoustic'"):
        widgets.shadow_view(heart[0][0], heart[1][0], 'acustic')


def test_one_image_is_enough(heart):
    assert widgets.shadow_explorer(heart[0][:1], heart[1][:1]).picture.value


# --- table -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('stage,split', [('', 'test'), ('finetune', 'test'), ('refine_best', 'valid')])
def test_table(run, stage, split):
    t = widgets.browse_table(run, stage, split)
    assert list(t.columns) == ['case', 'patient', 'dice', 'lv', 'myo', 'la'] and t.dice.is_monotonic_increasing
    raw = pd.read_csv(run / 'per_case.csv')
    raw = raw[(raw.stage == (stage or 'refine')) & (raw.split == split)]
    assert np.allclose(t.set_index('case').dice, raw.groupby('case').dice.mean()[t.case]) and set(t.case) == set(
        raw.case
    )
    assert all(c.startswith(p) for c, p in zip(t.case, t.patient))


def test_stage_of_the_headline(run, tmp_path):
    "The final stage is the best one, where the run was made with select='best'"
    shutil.copytree(run, tmp_path / 'r')
    path = tmp_path / 'r' / 'config.json'
    path.write_text(path.read_text().replace('"select": "last"', '"select": "best"'))
    assert widgets.browse_table(tmp_path / 'r').equals(widgets.browse_table(run, 'refine_best'))


def test_mistakes_are_named(run, tmp_path):
    with pytest.raises(DataError, match="no stage 'finetun'. Did you mean 'finetune'"):
        widgets.browse_table(run, 'finetun')
    with pytest.raises(DataError, match='was not tested'):
        widgets.load_run(tmp_path)
    (tmp_path / 'per_case.csv').touch()
    with pytest.raises(DataError, match='config.json'):
        widgets.load_run(tmp_path)


# --- cases -----------------------------------------------------------------------------------------------------------------


def test_case_view_shows_what_was_predicted(run):
    r = widgets.load_run(run)
    row = r.cases[r.cases.split == 'test'].iloc[0]
    fig = widgets.case_view(r, row.case)
    plt.close(fig)
    assert np.allclose(drawn(fig, 0), read_image(row.image)) and [ax.get_title() for ax in fig.axes] == [
        'image',
        'prediction',
        'truth',
        'boundary',
    ]
    colors = plots.class_colors(4)
    pred = Predictor(run / 'refine.safetensors', device='cpu')(row.image)
    truth = read_mask(row['mask'], r.cases.attrs['labels'], 4)
    for i, labels in ((1, pred), (2, truth)):
        rgba = drawn(fig, i, 1)
        assert np.allclose(rgba[..., :3], colors[labels][..., :3]) and ((rgba[..., 3] > 0) == (labels > 0)).all()
    assert fig.axes[0].get_aspect() == pytest.approx(row.spacing[0] / row.spacing[1])


def test_case_view_of_a_folder_of_another_stage_and_of_a_training_case(run):
    r = widgets.load_run(run)
    case = r.cases.case[r.cases.split == 'train'].iloc[0]
    fig = widgets.case_view(run, case, 'finetune')
    plt.close(fig)
    assert fig.get_suptitle() == f'{case}   (finetune)'  # was not scored
    with pytest.raises(DataError, match='has no case'):
        widgets.case_view(run, 'patient9999')
    with pytest.raises(DataError, match='nothing.safetensors'):
        widgets.case_view(run, case, 'nothing')


def test_browser(run, calls):
    ui = widgets.case_browser(run)
    case, stage = ui.controls['case'], ui.controls['stage']
    worst = widgets.browse_table(run)
    assert [v for _, v in case.options] == list(worst.case) and case.value == worst.case[0] and stage.value == 'refine'
    assert case.options[0][0].startswith(f'{worst.dice[0]:.3f}') and calls[-1][2] == dict(
        stage='refine', case=worst.case[0]
    )
    old = ui.picture.value
    case.value = worst.case[1]
    assert ui.picture.value != old and calls[-1][2]['case'] == worst.case[1]
    stage.value = 'supervised'  # sorted anew, the case stays chosen
    assert [v for _, v in case.options] == list(widgets.browse_table(run, 'supervised').case)
    assert calls[-1][2] == dict(stage='supervised', case=worst.case[1]) and picture(ui).std() > 20


def test_browser_reads_weights_once(run, monkeypatch):
    made = []
    monkeypatch.setattr(widgets, 'Predictor', lambda *a, **kw: made.append(a) or Predictor(*a, **kw))
    ui = widgets.case_browser(run)
    for _, c in ui.controls['case'].options[:3]:
        ui.controls['case'].value = c
    assert len(made) == 1


def test_browser_of_validation_cases(run):
    r = widgets.load_run(run)
    ui = widgets.case_browser(r, 'valid')
    assert {v for _, v in ui.controls['case'].options} == set(r.cases.case[r.cases.split == 'valid'])


def test_a_file_that_is_gone_is_said_on_the_page(run, tmp_path):
    data = shutil.copytree(run.parent / 'data', tmp_path / 'data')
    r = widgets.load_run(run, data)
    worst = widgets.browse_table(r).case
    next(data.rglob(f'{worst[0]}.png')).unlink()
    ui = widgets.case_browser(r)
    assert ui.picture.value == b'' and f'{worst[0]}.png' in ui.said.value and 'no such file' in ui.said.value
    ui.controls['case'].value = worst[1]
    assert ui.picture.value and ui.said.value == ''


def test_run_and_data_may_move(run, tmp_path):
    shutil.copytree(run, tmp_path / 'elsewhere')
    shutil.copytree(run.parent / 'data', tmp_path / 'data')
    r = widgets.load_run(tmp_path / 'elsewhere', tmp_path / 'data')
    assert all(str(tmp_path) in f for f in r.cases.image) and r.folder == tmp_path / 'elsewhere'
    plt.close(widgets.case_view(r, r.cases.case[0]))


def test_cases_that_were_left_out_stay_out(run, tmp_path):
    "A run with on_bad='warn' has fewer cases than its folder"
    shutil.copytree(run, tmp_path / 'r')
    t = pd.read_csv(run / 'splits.csv')
    gone = t.case[t.split == 'train'].iloc[0]
    t[t.case != gone].to_csv(tmp_path / 'r' / 'splits.csv', index=False)
    assert gone not in set(widgets.load_run(tmp_path / 'r').cases.case)


# --- what reaches the browser ----------------------------------------------------------------------------------------------


def test_pages_can_be_sent(run, heart):
    "Every widget of a page is in what JupyterLab is sent, pictures as PNG"
    for ui in (widgets.shadow_explorer(*heart), widgets.case_browser(run)):
        state = Widget.get_manager_state(widgets=[ui, *ui.children])['state']
        assert (
            {ui.model_id, ui.picture.model_id} <= set(state)
            and ui.picture.format == 'png'
            and ui.picture.value[:4] == b'\x89PNG'
        )
        assert all(c in ui.children for c in (*ui.controls.values(), ui.picture, ui.said))
