"""Studies: what a good one becomes, and what is said of a bad one."""

import dataclasses
import json
import pickle
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from bitfront.energy import EnergyOptions
from bitfront.models import DataConfig, QuantizerConfig, TrainConfig
from bitfront.searchers import Budget
from bitfront.spaces import EnergyTableError, InfeasibleError, Layer, SpaceError, StudyError
from bitfront.studies import InvalidStudyError, StudySpec
from bitfront.studies.checks import price_space
from bitfront.studies.cli import app
from bitfront.studies.trials import planned
from bitfront.studies.yaml_lines import Document

GOOD = """\
study: good
model:
  name: cnn5
  train: {epochs: 1}
data:
  name: digits
  test_images: 100
space:
  weights: [2, 4, 8]
  pins:
    fc2: {weight: 8}
quantizer:
  weight_observer: minmax
energy:
  table: horowitz-45nm
  options: {}
objectives: [accuracy, energy]
strategies:
  - name: uniform
    widths: [8, [4, 8]]
  - name: random
    label: chance
budgets:
  evaluations: 5
  limits: {energy: 0.9}
seeds: [0, 1]
execution: {workers: 0}
tracking: {}
output: results
"""

LAYERS = tuple(
    Layer(name, "linear", 100, 100, 0, 10, 10, 10, 10, source=name) for name in ("fc1", "fc2")
)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Every test starts in a folder of its own, without folders of data or weights."""
    monkeypatch.chdir(tmp_path)
    for name in ("BITFRONT_DATA", "BITFRONT_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)


def write(text: str, name: str = "study.yaml") -> str:
    Path(name).write_text(text)
    return name


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


def test_a_good_study_holds_what_its_file_says():
    spec = StudySpec.load(write(GOOD))
    assert spec.study == "good"
    assert spec.model.train == TrainConfig(epochs=1)
    assert spec.data == DataConfig(test_images=100)
    assert spec.space.weights == (2, 4, 8)
    assert spec.space.pins == {"fc2": {"weight": 8}}
    assert spec.quantizer == QuantizerConfig(weight_observer="minmax")
    assert spec.budgets == (Budget(5, {"energy": 0.9}),)
    assert [s.label for s in spec.strategies] == ["uniform", "chance"]
    assert spec.strategies[0].settings == {"widths": [8, [4, 8]]}
    assert spec.strategies[0].build().widths == (8, (4, 8))
    assert [o.name for o in spec.compared] == ["accuracy", "energy"]
    assert spec.folder == Path("results/good")


def test_what_is_left_out_has_the_defaults_of_the_floors_below():
    text = "study: s\nmodel: {name: cnn5}\ndata: {name: digits}\nstrategies: [{name: random}]\n"
    spec = StudySpec.load(write(text))
    assert spec.data == DataConfig()
    assert spec.model.train == TrainConfig()
    assert spec.quantizer == QuantizerConfig()
    assert spec.energy.options == EnergyOptions()
    assert spec.space.build(LAYERS).weight_choices(0) == (8,)
    assert spec.seeds == (0,)


def test_a_study_survives_json_and_pickling():
    spec = StudySpec.load(write(GOOD))
    assert pickle.loads(pickle.dumps(spec)) == spec
    again = StudySpec.parse(
        Document(json.loads(json.dumps(spec.to_dict())) | {"study": "good"}, {(): "s"}, Path())
    )
    assert again.to_dict() == spec.to_dict()


def test_a_study_cannot_be_changed():
    spec = StudySpec.load(write(GOOD))
    with pytest.raises(ValueError, match="frozen"):
        spec.seeds = (3,)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.data.seed = 3


def test_paths_start_from_the_folder_of_the_study_file(tmp_path, monkeypatch):
    folder = tmp_path / "elsewhere"
    (folder / "images").mkdir(parents=True)
    (folder / "net.safetensors").touch()
    text = changed("{epochs: 1}", "null").replace(
        "  train: null\n", "  checkpoint: net.safetensors\n"
    )
    text = text.replace("  name: digits\n", "  name: mnist\n  root: images\n")
    file = write(text, str(folder / "study.yaml"))
    spec = StudySpec.load(file)
    assert spec.model.checkpoint == str(folder / "net.safetensors")
    assert spec.data.root == str(folder / "images")


def test_data_and_weights_are_found_through_the_environment(tmp_path, monkeypatch):
    (tmp_path / "all/data/pictures").mkdir(parents=True)
    (tmp_path / "all/weights").mkdir()
    (tmp_path / "all/weights/net.pth").touch()
    text = GOOD.replace("  train: {epochs: 1}\n", "  checkpoint: net.pth\n")
    text = text.replace("  name: digits\n", "  name: image-folder\n  root: pictures\n")
    monkeypatch.setenv("BITFRONT_DATA", str(tmp_path / "all/data"))
    spec = StudySpec.load(write(text))
    assert spec.data.root == str(tmp_path / "all/data/pictures")
    assert spec.model.checkpoint == str(tmp_path / "all/weights/net.pth")


def test_overrides_replace_what_the_file_says():
    overrides = {("seeds",): [7], ("execution", "workers"): 3, ("strategies", 1, "label"): "luck"}
    spec = StudySpec.load(write(GOOD), overrides)
    assert spec.seeds == (7,)
    assert spec.execution.workers == 3
    assert spec.strategies[1].label == "luck"


def test_a_bad_override_is_named_by_its_option():
    with pytest.raises(InvalidStudyError) as caught:
        StudySpec.load(write(GOOD), {("execution", "workers"): "many"})
    expected = "option execution.workers: expected a whole number, got text 'many'"
    assert str(caught.value) == expected


BAD = """\
no buffer
- options: {}
+ options: {buffer_bytes: 0}
16: energy.options.buffer_bytes: expected a number above 0, got 0

a long label
- label: chance
+ label: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
22: strategies[1].label: expected at most 60 characters, got text 'xxxx

three for a pair
- weights: [2, 4, 8]
+ forbid: [[2, 4, 8]]
9: space.forbid[0]: expected 2 entries or fewer, got 3

a key given twice
- study: good
+ study: good
+ study: again
2: given twice, first on line 1

broken yaml
-   weights: [2, 4, 8]
+   weights: [2, 4, 8
10: not valid YAML

an alias
- seeds: [0, 1]
+ seeds: &s [0, 1]
+ x: *s
27: aliases (*name) are refused

a tag
- study: good
+ study: !!python/name:os.system good
1: study: the tag

not a number
- limits: {energy: 0.9}
+ limits: {energy: .nan}
25: expected a number of at most

a huge number
- evaluations: 5
+ evaluations: 1e300
24: at most 1e+18 in size, got 1e300

a control character
- study: good
+ study: "go\\0od"
1: control characters

an unknown section
- tracking: {}
+ trakcing: {}
28: trakcing: unknown key; did you mean 'tracking'?

a section that is a list
- tracking: {}
+ tracking: []
28: expected a mapping, got a list

a section that is text
- tracking: {}
+ tracking: none
28: expected a mapping, got text 'none'

no name
- study: good
+ # study: good
1: 'study' is missing; write study: ...

a name that leaves the folder
- study: good
+ study: ../good
1: it names a folder; got '../good'

a name that is a number
- study: good
+ study: 5
1: expected text, got 5

an empty output
- output: results
+ output: ''
29: output: expected some text, got text ''

no model name
-   name: cnn5
+   # name: cnn5
2: 'name' is missing; write model.name: ...

an unknown model key
- train: {epochs: 1}
+ trian: {epochs: 1}
4: did you mean 'train'?

an unknown training key
- {epochs: 1}
+ {epoch: 1}
4: model.train.epoch: unknown key; did you mean 'epochs'

no epochs
- {epochs: 1}
+ {epochs: 0}
4: model.train.epochs: train.epochs must be at least 1, got 0

an unknown optimizer
- {epochs: 1}
+ {optimizer: adm}
4: expected 'sgd', 'adam', 'adamw' or 'adadelta'

a missing checkpoint
- train: {epochs: 1}
+ checkpoint: no.safetensors
4: no checkpoint 'no.safetensors': looked for

a model of nowhere
-   name: cnn5
+   name: nowhere.zoo:net
3: cannot import 'nowhere.zoo'

a negative seed
- train: {epochs: 1}
+ seed: -1
4: model.seed: expected a number of at least 0, got -1

an unknown data set
- name: digits
+ name: digit
6: unknown data set 'digit'; did you mean 'digits'?

a missing data folder
- name: digits
+ name: mnist
+   root: nowhere
7: no folder for 'mnist': looked for

no data folder
- name: digits
+ name: cifar10
6: set data.root or the environment variable BITFRONT_DATA

text for a number
- test_images: 100
+ test_images: '100'
7: expected a whole number, got text '100'

a fraction for a number
- test_images: 100
+ test_images: 1.5
7: expected a whole number, got 1.5

truth for a number
- test_images: 100
+ test_images: true
7: expected a whole number, got true

no test images
- test_images: 100
+ test_images: 0
7: test_images must be at least 1, got 0

an unknown data key
- test_images: 100
+ test_image: 100
7: did you mean 'test_images'

an unknown width
- weights: [2, 4, 8]
+ weights: [2, 9]
9: space.weights[1]: a width is one of 2, 3

one width for a list
- weights: [2, 4, 8]
+ weights: 8
9: expected a list, got 8

no widths
- weights: [2, 4, 8]
+ weights: []
9: expected 1 or more entries, got 0

a width given twice
- weights: [2, 4, 8]
+ weights: [2, 2]
9: 2 is given twice

an unknown granularity
- weights: [2, 4, 8]
+ granularity: chanel
9: expected 'layer' or 'channel'

an unknown operand
- fc2: {weight: 8}
+ fc2: {wieght: 8}
11: expected 'weight' or 'activation', got text 'wieght'

a tie of numbers
- weights: [2, 4, 8]
+ ties: [3]
9: space.ties[0]: expected text or a list, got 3

half a forbidden pair
- weights: [2, 4, 8]
+ forbid: [[2]]
9: space.forbid[0]: expected 2 or more entries, got 1

an unknown observer
- weight_observer: minmax
+ weight_observer: max
13: expected 'minmax', 'mse' or 'output-mse'

an unknown quantizer key
- weight_observer: minmax
+ observer: mse
13: quantizer.observer: unknown key; did you mean

a percentile out of range
- weight_observer: minmax
+ percentile: 3
13: quantizer.percentile: percentile must lie in (50, 100]

an unknown table
- table: horowitz-45nm
+ table: horowitz
15: no energy table 'horowitz'; did you mean 'horowitz-45nm'?

a table that is not there
- table: horowitz-45nm
+ table: mine.yaml
15: cannot be read: No such file

an unknown energy option
- options: {}
+ options: {reuze: tiled}
16: did you mean 'reuse'?

an unknown objective
- [accuracy, energy]
+ [accuracy, enery]
17: objectives[1]: no objective 'enery'; did you mean 'energy'?

one objective
- [accuracy, energy]
+ [accuracy]
17: expected 2 or more entries, got 1

an unknown strategy
- name: uniform
+ name: unifrom
19: strategies[0].name: unknown strategy 'unifrom'; did you mean 'uniform'?

an unknown setting
- widths: [8, [4, 8]]
+ width: [8]
20: strategies[0].width: uniform has no setting 'width'; did you mean 'widths'?

a setting of another type
- widths: [8, [4, 8]]
+ widths: eight
20: strategies[0].widths: uniform: setting 'widths' must be

a strategy of nowhere
- name: uniform
+ name: nowhere:Search
19: 'nowhere:Search' cannot be imported

a strategy that is a model
- name: uniform
+ name: bitfront.spaces:Layer
19: is not a subclass of bitfront.searchers.Searcher

a strategy without name
- - name: random
-     label
+ - label
21: strategies[1]: 'name' is missing

a strategy that is text
- - name: random
-     label: chance
+ - random
21: strategies[1]: expected a mapping, got text 'random'

a label given twice
- label: chance
+ label: uniform
19: two strategies are called 'uniform'; give one of them a 'label'

nothing to spend
- evaluations: 5
+ evaluations: 0
23: a budget needs at least 1 evaluation, got 0

a limit on nothing
- {energy: 0.9}
+ {enrgy: 0.9}
25: a budget cannot limit 'enrgy'

a limit on accuracy
- {energy: 0.9}
+ {accuracy: 0.9}
25: a budget cannot limit 'accuracy', only costs known before

a negative limit
- {energy: 0.9}
+ {energy: -1}
25: the limit on energy must be a positive number, got -1

an unknown budget key
- evaluations: 5
+ evaluation: 5
24: did you mean 'evaluations'?

a seed given twice
- seeds: [0, 1]
+ seeds: [1, 1]
26: seeds: 1 is given twice; remove one

a seed that is text
- seeds: [0, 1]
+ seeds: [zero]
26: seeds[0]: expected a whole number, got text 'zero'

workers below none
- workers: 0
+ workers: -1
27: execution.workers: expected a number of at least 0, got -1

too many workers
- workers: 0
+ workers: 5000
27: expected a number of at most 4096, got 5000

a cluster for no workers
- workers: 0
+ workers: 0, address: "127.0.0.1:6379"
27: execution.address: workers 0 measures in this process alone; remove 'address'

an adaptation that is not there
- quantizer:
+ adaptation: {method: batchnorm}
+ quantizer:
12: adaptation.method: expected 'none', 'batch-norm' or 'fine-tune', got text 'batchnorm'

finalists that are fitted in two ways
-   weight_observer: minmax
+   reconstruction: brecq
+ adaptation:
+   method: fine-tune
15: adaptation.method: a finalist is reconstructed or adapted, each to the network as it was

an engine that is not there
- workers: 0
+ engine: float
27: execution.engine: expected 'integer' or 'reference', got text 'float'

integer kernels on GPUs
- workers: 0
+ gpus_per_worker: 0.5
27: execution.gpus_per_worker: integer kernels are for CPUs; with gpus_per_worker, engine: reference

a GPU for no workers
- workers: 0
+ workers: 0, gpus_per_worker: 0.5, engine: reference
27: execution.gpus_per_worker: workers 0 measures on the CPU; remove 'gpus_per_worker'

a GPU for trials without processes
- workers: 0
+ workers: 0, gpus_per_trial: 0.5
27: execution.gpus_per_trial: workers 0 shares out no GPUs; remove 'gpus_per_trial'

more than a GPU
- workers: 0
+ gpus_per_worker: 2, engine: reference
27: execution.gpus_per_worker: expected a number of at most 1.0, got 2
"""


def bad_studies():
    """What is wrong, the text that is replaced (-) and its replacement (+), line: words."""
    for case in BAD.strip().split("\n\n"):
        name, *rows, expected = case.split("\n")
        old, new = ("\n".join(r[2:] for r in rows if r[0] == sign) for sign in "-+")
        line, words = expected.split(": ", 1)
        yield pytest.param(old, new, int(line), words, id=name)


@pytest.mark.parametrize(("old", "new", "line", "words"), list(bad_studies()))
def test_a_bad_study_ends_in_a_sentence_with_its_line(old, new, line, words):
    name = write(changed(old, new), "bad.yaml")
    ended = CliRunner().invoke(app, ["run", name])
    lines = ended.stderr.splitlines()
    assert ended.exit_code == 2
    assert ended.stdout == ""
    assert [
        text for text in lines if text.startswith(f"error: bad.yaml:{line}: ") and words in text
    ]
    assert all(text.startswith("error: bad.yaml:") for text in lines)
    assert "Traceback" not in ended.stderr
    assert "pydantic" not in ended.stderr.lower()
    assert [path.name for path in Path().iterdir()] == ["bad.yaml"]


def test_every_fault_is_told_in_the_order_of_the_file():
    text = GOOD.replace("name: digits", "nam: digits").replace("[2, 4, 8]", "[2, 9]")
    text = text.replace("widths:", "width:").replace("output:", "outptu:")
    with pytest.raises(InvalidStudyError) as caught:
        StudySpec.load(write(text))
    places = [(fault.where, fault.place) for fault in caught.value.faults]
    assert places == [
        ("study.yaml:6", "data.nam"),
        ("study.yaml:9", "space.weights[1]"),
        ("study.yaml:20", "strategies[0].width"),
        ("study.yaml:29", "outptu"),
    ]


def test_a_model_is_not_both_loaded_and_trained():
    Path("net.pth").touch()
    text = changed("  train:", "  checkpoint: net.pth\n  train:")
    with pytest.raises(InvalidStudyError, match=r"study.yaml:5: model.train: a network has a"):
        StudySpec.load(write(text))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("name: cnn5", "name: broken_module:net", "model.name: .*cannot import 'broken_module'"),
        (
            "name: uniform",
            "name: broken_module:Search",
            r"strategies\[0\].name: .*cannot be imported",
        ),
    ],
)
def test_a_module_that_breaks_when_imported_is_told(old, new, words, tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidStudyError, match=rf"{words}.*division by zero"):
        StudySpec.load(write(changed(old, new)))


@pytest.mark.parametrize("source", ["quickstrat", "quickstrat.yaml", "no/such/quickstrat.yaml"])
def test_an_unknown_study_names_the_nearest_ready_one(source):
    with pytest.raises(StudyError, match=r"no such file.*did you mean 'quickstart'\?"):
        StudySpec.load(source)


def test_a_file_comes_before_a_ready_study_of_its_name():
    write(GOOD, "quickstart")
    assert StudySpec.load("quickstart").study == "good"


# What needs the network's layers


def test_a_space_that_names_no_layer_is_placed():
    spec = StudySpec.load(write(changed("fc2: {weight: 8}", "fc3: {weight: 8}")))
    with pytest.raises(
        InvalidStudyError, match=r"study.yaml:11: space.pins.fc3: no layer"
    ) as caught:
        price_space(spec, LAYERS)
    assert isinstance(caught.value.__cause__, SpaceError)


def test_a_budget_below_the_cheapest_names_the_smallest_cost():
    free = changed("weights: [2, 4, 8]", "first_last: null").replace(
        "limits: {energy: 0.9}", "limits: {energy: 0.9, size: 20}"
    )
    spec = StudySpec.load(write(free))
    with pytest.raises(InvalidStudyError) as caught:
        price_space(spec, LAYERS)
    assert isinstance(caught.value.__cause__, InfeasibleError)
    message = str(caught.value)
    assert message.startswith("study.yaml:25: budgets[0].limits.size: no allocation has size <= 20")
    assert "the smallest achievable is" in message


@pytest.mark.parametrize(
    ("space", "energy", "words"),
    [
        (
            "weights: [8, 16], first_last: null",
            "table: mpic",
            "weights of 16 and .*supports weights of 2, 3",
        ),
        (
            "activations: [8, 32], first_last: null",
            "table: mpic",
            "activations of 32 bits; it supports",
        ),
        ("weights: [16], first_last: null", "table: bitfusion", "layer 'fc1'"),
        ("weights: [8]", "options: {mac_scale: 0, memory_scale: 0}", "no price above 0"),
    ],
)
def test_a_table_must_price_all_of_the_space(space, energy, words):
    text = re.sub(r"space:\n(  .*\n)+", f"space: {{{space}}}\nenergy: {{{energy}}}\n", GOOD)
    spec = StudySpec.load(write(re.sub(r"energy:\n(  .*\n)+", "", text)))
    with pytest.raises(InvalidStudyError, match=rf"study.yaml:\d+: energy.*{words}"):
        price_space(spec, LAYERS)


def test_widths_that_no_allocation_combines_need_no_price():
    pairs = "weights: [8, 16]\n  activations: [8]\n  forbid: [[16, 8]]\n  first_last: null"
    text = changed("weights: [2, 4, 8]", pairs).replace("[8, [4, 8]]", "[8]")
    text = text.replace("limits: {energy: 0.9}", "limits: {energy: 1}")
    spec = StudySpec.load(write(text), {("energy", "table"): "mpic"})
    space, pricing = price_space(spec, LAYERS)
    assert space.size == 1
    assert pricing.price(space.uniform(8)) == 1.0


def test_a_strategy_that_asks_for_widths_not_in_the_space_is_placed():
    text = changed("limits: {energy: 0.9}", "limits: {energy: 1}")
    spec = StudySpec.load(write(text))
    with pytest.raises(InvalidStudyError, match=r"study.yaml:20: strategies\[0\].widths: .*4 bits"):
        price_space(spec, LAYERS)  # both layers are pinned to 8 bits


def test_a_space_fits_its_layers():
    text = changed("limits: {energy: 0.9}", "limits: {energy: 1}").replace("[8, [4, 8]]", "[8]")
    space, pricing = price_space(StudySpec.load(write(text)), LAYERS)
    assert space.layers == LAYERS
    assert pricing.energy.table.id == "horowitz-45nm"


def test_an_error_that_knows_its_place_keeps_it():
    spec = StudySpec.load(write(GOOD))
    with (
        pytest.raises(InvalidStudyError, match=r"study.yaml:9: space.weights: weights are odd"),
        spec.at("model"),
        spec.at("space"),
    ):
        raise SpaceError("weights are odd")
    with pytest.raises(ZeroDivisionError), spec.at("energy"):
        raise ZeroDivisionError
    with (
        pytest.raises(InvalidStudyError, match=r"study.yaml:15: energy.table: table is empty"),
        spec.at("energy"),
    ):
        raise EnergyTableError("table is empty")


OWN_BUDGETS = """\
    label: chance
    budgets: [{evaluations: 3}, {evaluations: 4, limits: {energy: LIMIT}}]
"""


def test_a_strategy_may_have_budgets_of_its_own():
    text = changed("    label: chance\n", OWN_BUDGETS.replace("LIMIT", "0.8"))
    spec = StudySpec.load(write(text))
    assert [budget.evaluations for budget in spec.budgets_of(spec.strategies[0])] == [5]
    assert [budget.evaluations for budget in spec.budgets_of(spec.strategies[1])] == [3, 4]
    trials = [(t.strategy.label, t.budget.evaluations) for t in planned(spec) if t.seed == 0]
    assert trials == [("uniform", 5), ("chance", 3), ("chance", 4)]
    again = StudySpec.load(write(yaml.safe_dump(spec.to_dict())))
    assert again.to_dict() == spec.to_dict()


def test_budgets_of_a_strategy_are_checked_where_they_stand():
    text = changed("    label: chance\n", OWN_BUDGETS.replace("LIMIT", "0.001"))
    text = text.replace("  limits: {energy: 0.9}\n", "")
    line = text.splitlines().index(
        "    budgets: [{evaluations: 3}, {evaluations: 4, limits: {energy: 0.001}}]"
    )
    with pytest.raises(InvalidStudyError, match=rf"study.yaml:{line + 1}: .*smallest"):
        price_space(StudySpec.load(write(text)), LAYERS)
