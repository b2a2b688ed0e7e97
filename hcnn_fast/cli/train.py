"""`hcnn-fast train`: a classifier trained by one of the methods of `hcnn_fast.training`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hcnn_fast.cli.train_methods import MethodOptions, method_fields
from hcnn_fast.cli.train_run import TrainRequest, run_train, summary
from hcnn_fast.data import mirrors
from hcnn_fast.training.losses import LossName
from hcnn_fast.training.recipe import Method, Recipe, TrainingPrecision
from hcnn_fast.training.settings import SmoothedOver, Transition

DATA, RECIPE, METHOD, RESULT = "Data and model", "Recipe", "Of one method", "Result"


def train(
    method: Annotated[
        Method,
        typer.Argument(
            metavar="METHOD",
            help="natural: on the images; label-smoothing: with less sure labels; adversarial: on"
            " the worst point of each image's ball; at50: half of each batch attacked; trades:"
            " images, and the same answer in the ball; ccat: confidence falls with the distance;"
            " vat: the same answer in the worst direction; on-manifold: half of each batch moved"
            " along the manifold of its class.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            help="Folder for checkpoint.pt, model.safetensors and its card model.json.",
            rich_help_panel=RESULT,
        ),
    ],
    data: Annotated[
        str, typer.Option(help="Data set to train on.", rich_help_panel=DATA)
    ] = "fashion-mnist",
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the data sets.", rich_help_panel=DATA)
    ] = None,
    download: Annotated[
        bool, typer.Option(help="Fetch a missing data set.", rich_help_panel=DATA)
    ] = False,
    images: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Take the first so many images only; a tenth of them, at most"
            " --validation-images, is held out.",
            rich_help_panel=DATA,
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="small-cnn, compact-resnet, resnet18, wide-resnet-32-10, or module:factory.",
            rich_help_panel=DATA,
        ),
    ] = "small-cnn",
    epochs: Annotated[
        int, typer.Option(min=1, help="Passes over the images.", rich_help_panel=RECIPE)
    ] = 18,
    radius: Annotated[
        float,
        typer.Option(
            help="l_inf radius of the attack, in training (adversarial, at50, trades, ccat) and in"
            " the final test.",
            rich_help_panel=RECIPE,
        ),
    ] = 0.1,
    attack_steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Steps of the attack at the end; if not given 5 (adversarial), 10 (trades) or 40"
            " (at50, ccat, on-manifold).",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    first_attack_steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Steps of the attack in the first epoch, rising over two thirds of all epochs;"
            " --attack-steps throughout if not given.",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    attack_step_size: Annotated[
        float | None,
        typer.Option(
            help="Length of its steps as a share of the radius; 2.5 / steps if not given.",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    radius_warmup_epochs: Annotated[
        float,
        typer.Option(min=0.0, help="Epochs in which the radius grows.", rich_help_panel=RECIPE),
    ] = 0.0,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images of a step.", rich_help_panel=RECIPE)
    ] = 128,
    learning_rate: Annotated[
        float, typer.Option(help="Largest learning rate.", rich_help_panel=RECIPE)
    ] = 0.1,
    weight_decay: Annotated[
        float, typer.Option(help="L2 weight on kernels.", rich_help_panel=RECIPE)
    ] = 2e-4,
    average_decay: Annotated[
        float, typer.Option(help="Of the average of weights; 0: none.", rich_help_panel=RECIPE)
    ] = 0.999,
    flip: Annotated[
        bool | None,
        typer.Option(
            "--flip/--no-flip",
            help="Mirror half of the images; if not given, of all data but digits and letters.",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    shift: Annotated[
        int,
        typer.Option(min=0, help="Move images by up to so many pixels.", rich_help_panel=RECIPE),
    ] = 0,
    validation_images: Annotated[
        int,
        typer.Option(
            min=0, help="Training images held out to choose the epoch.", rich_help_panel=RECIPE
        ),
    ] = 2000,
    patience: Annotated[
        int | None,
        typer.Option(
            min=1, help="Stop after so many epochs without a better one.", rich_help_panel=RECIPE
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything.", rich_help_panel=RECIPE)] = 0,
    precision: Annotated[
        TrainingPrecision,
        typer.Option(
            help="Arithmetic; auto: bfloat16 where the hardware is made for it.",
            rich_help_panel=RECIPE,
        ),
    ] = "auto",
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1; auto: CUDA if any.", rich_help_panel=RECIPE)
    ] = "auto",
    loss: Annotated[
        LossName | None,
        typer.Option(
            help="adversarial: what is least at its largest; cross_entropy if not given.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    entropy_weight: Annotated[
        float | None,
        typer.Option(
            help="adversarial, vat: weight of the predictions' entropy; 0 if not given.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    label_smoothing: Annotated[
        float | None,
        typer.Option(
            help="label-smoothing, natural, adversarial: share of the target taken from the label;"
            " 0.1 for label-smoothing and else 0 if not given.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    smoothed_over: Annotated[
        SmoothedOver | None,
        typer.Option(
            help="label-smoothing: the classes that get it; all if not given.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="label-smoothing over boltzmann; 1 if not given.", rich_help_panel=METHOD
        ),
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(
            help="trades: weight of the divergence; 6 if not given.", rich_help_panel=METHOD
        ),
    ] = None,
    transition: Annotated[
        Transition | None,
        typer.Option(
            help="ccat: how the target falls with the distance; power if not given.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    rho: Annotated[
        float | None,
        typer.Option(
            help="ccat: how fast; 10 (power) or 7 (exponential) if not given.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    l2_radius: Annotated[
        float | None,
        typer.Option(
            help="vat: l2 length of the perturbation; 2 if not given.", rich_help_panel=METHOD
        ),
    ] = None,
    divergence_weight: Annotated[
        float | None,
        typer.Option(help="vat: weight of the divergence; 1 if not given.", rich_help_panel=METHOD),
    ] = None,
    manifold: Annotated[
        str | None,
        typer.Option(
            help="on-manifold: glyphs-easy, glyphs-moderate or glyphs-hard, with that --data,"
            " or the .safetensors file of a learned one; glyphs-hard if not given.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    latent_radius: Annotated[
        float | None,
        typer.Option(
            help="on-manifold: l_inf radius in latent units; 0.3 if not given.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from OUTPUT's checkpoint.", rich_help_panel=RESULT),
    ] = False,
    test_images: Annotated[
        int,
        typer.Option(
            min=0, help="Test images that the result is measured on.", rich_help_panel=RESULT
        ),
    ] = 1000,
    test_restarts: Annotated[
        int, typer.Option(min=1, help="Restarts of PGD-50 on them.", rich_help_panel=RESULT)
    ] = 1,
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard",
            help="Write curves to OUTPUT/tensorboard.",
            rich_help_panel=RESULT,
        ),
    ] = False,
    json_card: Annotated[
        bool,
        typer.Option("--json", help="The card as JSON on standard output.", rich_help_panel=RESULT),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No progress, no summary.", rich_help_panel=RESULT)
    ] = False,
) -> None:
    """Train a classifier by a published method; an option of another method is refused.

    A checkpoint is written between steps, as often as a twentieth of the time allows; after Ctrl-C
    or a crash --resume with the same options goes on from the last one to the same result. The
    epoch that does best under attack on held-out training images is kept, then measured on the
    test set.

    Exit code 0: weights and card written; 1: failed on the way; 2: wrong usage; 130: interrupted.
    """
    if images is not None:
        validation_images = min(validation_images, images // 10)
    options = MethodOptions(
        attack_steps=attack_steps,
        loss=loss,
        entropy_weight=entropy_weight,
        label_smoothing=label_smoothing,
        smoothed_over=smoothed_over,
        temperature=temperature,
        beta=beta,
        transition=transition,
        rho=rho,
        l2_radius=l2_radius,
        divergence_weight=divergence_weight,
        manifold=manifold,
        latent_radius=latent_radius,
    )
    recipe = Recipe(
        **method_fields(method, radius, options),
        first_attack_steps=first_attack_steps,
        attack_ramp_epochs=0 if first_attack_steps is None else max(1, 2 * epochs // 3),
        attack_step_size=attack_step_size,
        radius_warmup_epochs=radius_warmup_epochs,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        average_decay=average_decay,
        flip=mirrors(data) if flip is None else flip,
        shift=shift,
        validation_images=validation_images,
        patience=patience,
        seed=seed,
        precision=precision,
    )
    request = TrainRequest(
        architecture=model,
        data=data,
        data_root=data_root,
        download=download,
        images=images,
        recipe=recipe,
        output=output,
        resume=resume,
        device=device,
        test_images=test_images,
        test_radius=radius,
        test_restarts=test_restarts,
        tensorboard=tensorboard,
        quiet=quiet,
    )
    card = run_train(request)
    if json_card:
        print(json.dumps(card, indent=2))
    elif not quiet:
        print(summary(card, output))
