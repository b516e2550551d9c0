"""The study file that `bitfront init` writes: every key, with its default and what it means."""

from pathlib import Path

from ..spaces import StudyError

TEMPLATE = """\
# A study of bitfront. Check it with `bitfront validate {file}`, run it with `bitfront run {file}`.
# Lines that are commented out show the defaults. Relative paths start from this file's folder.

study: {name}            # names the folder of results
description: ""

model:
  name: cnn5             # bitfront list models; timm:NAME; package.module:function
  # kwargs: {{}}           # further arguments of the network
  # checkpoint: null     # .safetensors or .pth file with its weights; without it, it is trained:
  train: {{epochs: 20}}    # batch_size, optimizer, lr, weight_decay, schedule, augment, ...
  # seed: 0              # of the initial weights

data:
  name: digits           # bitfront list data
  # root: null           # folder of the files; BITFRONT_DATA if null
  # calibration_images: 256
  # search_images: null  # what strategies select on; null: a fifth of the training part, <= 2000
  # test_images: null    # what is reported on; null: all
  # image_size: null
  # mean: null           # per channel; null: the data set's
  # std: null
  # seed: 0              # of the draw of the splits

# space:
#   weights: [2, 3, 4, 5, 6, 7, 8]       # any of 2 to 8, 16 and 32 (float)
#   activations: [2, 3, 4, 5, 6, 7, 8]
#   granularity: layer                   # or channel
#   first_last: 8                        # width of the first and last layer; null: free
#   pins: {{}}                             # conv2: {{weight: 8, activation: 8}}; patterns as "fc*"
#   choices: {{}}                          # conv2: {{weight: [4, 8]}}
#   ties: []                             # weights=activations, shared-input, [fc1, fc2]
#   forbid: []                           # [weight width, activation width] pairs, as [2, 8]

# quantizer:
#   weight_observer: mse                 # or minmax, output-mse
#   activation_scheme: affine            # or symmetric
#   activation_observer: percentile      # or minmax, mse, kl
#   percentile: 99.99
#   equalization: false                  # make weight ranges of neighbouring layers alike
#   smoothing: null                      # 0 to 1: move spread of activations into weights
#   bias_correction: false
#   rounding: nearest                    # or adaround
#   reconstruction: none                 # of finalists; or brecq, qdrop
#   reconstruction_steps: 400

# adaptation:                            # before an allocation is measured
#   method: none                         # or batch-norm, fine-tune
#   when: evaluations                    # or finalists
#   images: null                         # calibration or training images; null: all
#   epochs: 1                            # of fine-tune, and lr, momentum, weight_decay, batch_size

# energy:
#   table: horowitz-45nm                 # bitfront list tables, or the path of a file
#   also: []                             # further tables: of limits, and to rank finalists under
#   options: {{}}

# objectives: [accuracy, energy]         # also: loss, size, bops, mean_weight_bits, ...

strategies:              # bitfront list strategies; settings stand beside name and label; in a
                         # per-channel space granularity: layer keeps one to its layer-wise corner
  - name: uniform
    widths: [8, 6, 4]
  - name: percentile
  - name: random

budgets:                 # or a list of them; each strategy runs once with each
  evaluations: 30
  # limits: {{energy: 0.6}}                # relative to uniform 8 bit; "energy:TABLE" under a table
                                         # of energy.also; size in bytes; bops; mean_weight_bits;
                                         # mean_activation_bits

seeds: [0, 1, 2]         # each strategy runs once with each, if the seed makes a difference

# execution:
#   workers: 2                           # processes that measure; 0: none but this one
#   threads_per_worker: 1
#   batch_size: 256
#   engine: integer                      # or reference, the slower float simulation
#   gpus_per_worker: 0                   # share of a GPU; needs engine: reference
#   gpus_per_trial: 0                    # the same for trials that train
#   address: null                        # of a running Ray cluster

# tracking:
#   uri: null                            # null: MLFLOW_TRACKING_URI, else a file beside the results
#   experiment: null                     # null: the study's name

# output: bitfront-runs                  # folder for folders of results

# fast:                                  # what `bitfront run {file} --fast` replaces
#   model: {{train: {{epochs: 1}}}}
#   seeds: [0]
"""


def write_template(file: Path, *, force: bool = False) -> None:
    """Write a commented study file named after the file.

    Args:
        file: Where to write it.
        force: Whether a file that is there may be replaced.

    Raises:
        StudyError: If it exists, or cannot be written.
    """
    if file.exists() and not force:
        raise StudyError(f"{file} exists; choose another name, or replace it with --force")
    name = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in file.stem)
    text = TEMPLATE.format(file=file, name=name.strip("-_") or "study")
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StudyError(f"{file} cannot be written: {error.strerror}") from None
